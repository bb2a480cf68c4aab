"""The ensemble that a tagger learns from: its members, what they say of a view, how that is kept.
"""
