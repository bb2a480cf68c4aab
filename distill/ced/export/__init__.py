"""Taggers for other runtimes, and the proof that they still say the same there."""
