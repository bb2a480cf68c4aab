"""Losses as pure functions, and what is kept of a teacher's scores. They know no model."""
