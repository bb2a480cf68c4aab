"""The seven evaluations of LTU-AS (arXiv:2309.14405, table 3) on whatever sets a user has.

    readers     folders as their publishers ship them -> items
    sets        what is asked about each set, and how answers are scored
    scoring     answers -> labels and numbers: likelihood, aliases, embeddings; accuracy, F1, MAE
    captions    CIDEr-D
    __main__    the command
"""
