"""Does a copy still give the same probabilities? Both read our own text of a window, a token after
the other, and give the likelihood of each.

Texts that are decoded freely go apart at the first token that differs, and say no more after that;
on a split of some minutes their error rates differ by chance alone. Here every token counts, and
the probability of one does not depend on what a copy chose before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from distill.whisper.decoding.sequences import is_looping
from distill.whisper.encoder.audio import complete, encode_audio
from distill.whisper.special import SpecialTokens

# (audio, language, text tokens) -> log-probability of each token among all text tokens, nats
Reader = Callable[[np.ndarray, str, Sequence[int]], np.ndarray]
_DRAWS = 2000
_NEVER = -100.0  # nats: what is impossible, or no number, in a copy


def student_reader(model, processor, task: str) -> Callable[..., np.ndarray]:
    """The student itself: a `Reader` that also takes whether suppressed tokens are possible.

    Audio is encoded at its own length where the model's config says so.
    """
    special = SpecialTokens(processor.tokenizer, model.generation_config)
    never = [token for token in model.generation_config.suppress_tokens or []
             if token < special.end]

    @torch.inference_mode()
    def read(
        audio: np.ndarray, language: str, tokens: Sequence[int], suppresses: bool
    ) -> np.ndarray:
        prefix = special.prefix(language, task, timestamps=False)
        ids = torch.tensor([[*prefix, *tokens]])[:, :-1]
        states = complete(model, encode_audio(model, processor, [audio]))
        logits = model(encoder_outputs=(states,), decoder_input_ids=ids).logits
        logits = logits[0, len(prefix) - 1 :, : special.end].float().numpy()
        if suppresses:
            logits[:, never] = -np.inf
        return chosen(logits, tokens)

    return read


def chosen(logits: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    """Log-probabilities of tokens, from logits (tokens, vocabulary); -inf is what is forbidden."""
    logits = logits.astype(np.float64)
    most = logits.max(-1, keepdims=True)
    total = most[:, 0] + np.log(np.exp(logits - most).sum(-1))
    return logits[np.arange(len(tokens)), list(tokens)] - total


def without_loop(tokens: Sequence[int]) -> list[int]:
    """Without the loop at its end: a loop goes on in any copy, and would hide what is before it."""
    kept = list(tokens)
    while is_looping(kept):
        kept.pop()
    return kept


def compare(student: Sequence[np.ndarray], runtime: Sequence[np.ndarray], seed: int) -> dict:
    """How much less likely a copy finds our tokens, in nats a token, with a 95 % interval over
    windows; None without tokens."""
    losses = [a - np.nan_to_num(b, nan=_NEVER, neginf=_NEVER)
              for a, b in zip(student, runtime, strict=True) if len(a)]
    if not losses:
        return {"token_loss": None, "token_loss_ci": None, "num_read_tokens": 0}
    table = np.array([(loss.sum(), len(loss)) for loss in losses])
    found = {"token_loss": float(table[:, 0].sum() / table[:, 1].sum()),
             "token_loss_ci": None, "num_read_tokens": int(table[:, 1].sum())}
    if len(table) > 1:
        rows = np.random.default_rng(seed).integers(len(table), size=(_DRAWS, len(table)))
        sums = table[rows].sum(1)
        low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
        found["token_loss_ci"] = [float(low), float(high)]
    return found
