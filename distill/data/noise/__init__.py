"""What may lie under speech, and what may become of it on its way: mixed and changed by draws."""
