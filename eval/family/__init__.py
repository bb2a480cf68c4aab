"""Several students from one store, and which of them to take: `python -m eval.family`."""
