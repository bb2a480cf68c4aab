"""Decoding of a batch of windows: caches, rules, drafts, sampling. Needs encoder states, no audio.
"""
