"""Clips of a tagger's manifests and the views that are drawn of them."""
