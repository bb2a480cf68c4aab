"""What can be wrong with a label or a translation, and what a filter would keep."""
