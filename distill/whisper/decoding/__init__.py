"""Decoding of a batch of windows, greedy, sampled or speculative; from encoder states, not audio.

    whisper_decoder              WhisperDecoder: settings; a call decodes a batch
    state                        the rounds of a call: sequences take batch slots, grow, and leave
    prompts                      prompts, and detected languages
    drafting                     what is drafted, by whom, and how many tokens
    verification, near_ties      which drafted tokens are accepted
    rules, sampling              which tokens are allowed, and which is chosen
    sequences, report            generated tokens, and counts
    decoder, attention, linear   the network in float or int8, and its caches
"""
