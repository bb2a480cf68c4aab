"""Taggers on a frozen Whisper encoder (Whisper-AT, arXiv:2307.03183)."""
