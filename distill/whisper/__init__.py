"""Whisper teachers and students."""
