"""Shards of windows on their way through the teacher: who is at which, what is written, what is
known. """
