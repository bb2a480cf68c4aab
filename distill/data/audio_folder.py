"""Clips of a folder or a table, and which columns mean what: the door to `distill.data.sources`."""

from distill.data.sources.clips import Clip, Columns
from distill.data.sources.folder import find_clips

__all__ = ["Clip", "Columns", "find_clips"]
