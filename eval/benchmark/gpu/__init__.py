"""What a GPU has to do right, and how fast it is: see `eval.benchmark.gpu.__main__`."""
