"""Students for other runtimes, run there and compared before they are published.

    run                 begin here: writes a copy, runs it, keeps it if it passes
    ct2, sherpa, ggml   the writers
    vocabulary          what tokens stand for, in bytes, for the writers
    heads               alignment heads, from which runtimes take the times of words
    runtimes            the runtimes, all asked the same
    verify              what a copy loses, and the limits
    forced              how likely a copy finds our own text
    word_times          whether the times of words are right
    table               the result for a terminal
"""
