"""Folders as people have them: one small function for each layout."""
