"""Milliseconds from audio to text of short clips: `python -m eval.benchmark.latency`."""
