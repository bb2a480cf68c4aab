"""From audio to encoder states: log-mel features, and short audio at its own price.

May import data, losses.matmul and torch; nothing of decoding or recognition.
"""
