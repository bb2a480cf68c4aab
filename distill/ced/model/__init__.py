"""The tagger itself: front end, layers, its form as a transformers model, its files."""
