"""Losses as pure functions, and what is kept of a teacher's scores. They know no model.

    token_losses   cross-entropy, KL and other divergences over tokens; error of hidden states
    targets        which token ids of a teacher's distribution are stored
    matmul         matrix products of float32 on CPUs

Losses of taggers are in `distill.ced.tag_loss`.
"""
