"""Prompts: how a text should be written, and what it is about; no torch in here."""
