"""Tables and texts as people have them: encodings, delimiters, JSON, rows that are no clip."""
