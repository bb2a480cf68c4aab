"""The HTML page about a run: results, training, labels and examples, as its method gives them."""
