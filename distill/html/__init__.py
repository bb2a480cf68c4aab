"""Pages and charts, whatever they show."""
