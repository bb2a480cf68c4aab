"""Phrases (names, terms) that a decoder prefers: the list as a trie, and its use in a call."""
