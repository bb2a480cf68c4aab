"""The ensemble that a tagger learns from: its members, their scores of a view, how these are kept.
"""
