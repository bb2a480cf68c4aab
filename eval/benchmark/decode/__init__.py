"""Speculative decoding beside plain decoding: `python -m eval.benchmark.decode`."""
