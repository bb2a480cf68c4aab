"""Labels that another system writes: a table of texts, or a server that transcribes. The rows are
those of the teacher's labels, and what comes after them (filters, sweep, scores, training) is the
same.
"""
