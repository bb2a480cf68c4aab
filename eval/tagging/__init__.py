"""Sounds: taggers on a test split and on files, tables."""
