"""Answers of a model: found, and scored.

What CTC reads in the adapter's output is a second answer where a clip is written down, and does not
paraphrase; a language model does, and knows how words are spelt. The better one is taken by the sum
of both scores, as in joint CTC and attention decoding (Watanabe et al., 2017).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from distill.audio_llm.ctc import needed_frames
from distill.audio_llm.data.collate import answer_batch
from distill.audio_llm.data.examples import Example, plain
from distill.audio_llm.data.sequences import spoken_ids
from distill.audio_llm.model import AudioLlm
from distill.audio_llm.module import states_before
from distill.audio_llm.recipe import EvaluationConfig
from distill.data.noise.kinds import NO_SPEECH
from distill.losses.matmul import fast_linears
from distill.losses.token_losses import IGNORE
from distill.progress import progress

_UNKNOWN_NATS = 10.0  # of a token that CTC cannot say


def answers(
    model: AudioLlm, examples: Sequence[Example], states: Sequence[np.ndarray],
    config: EvaluationConfig, description: str | None = None,
) -> list[str]:
    """The model's answer to each example; clips of like length together.

    Args:
        description: of a bar that says how far it is; None: it is part of something that has one.
    """
    found = [""] * len(examples)
    for part in _parts(states, config.batch_size, description):
        texts = model.generate(
            [states[n] for n in part], [examples[n].question for n in part],
            [examples[n].spoken for n in part],
            max_new_tokens=_limit(config, max(examples[n].row.duration for n in part)),
            num_beams=config.num_beams, end_bias=config.end_bias)
        for n, text in zip(part, texts, strict=True):
            found[n] = text
    return second_opinions(model, examples, states, found, config)


def _parts(
    states: Sequence[np.ndarray], size: int, description: str | None
) -> Iterator[list[int]]:
    """Places of states of like length."""
    order = sorted(range(len(states)), key=lambda n: len(states[n]))
    parts = [order[at : at + size] for at in range(0, len(order), size)]
    return progress(parts, len(parts), description or "", "batches", description is not None)


def _limit(config: EvaluationConfig, seconds: float) -> int:
    """Most tokens of an answer about so much audio."""
    if config.max_tokens_per_second is None:
        return config.max_new_tokens
    return min(config.max_new_tokens, 16 + int(seconds * config.max_tokens_per_second))


@torch.no_grad()
def answer_nll(
    model: AudioLlm, examples: Sequence[Example], states: Sequence[np.ndarray],
    batch_size: int = 16, description: str | None = None,
) -> np.ndarray:
    """float64 (examples, 2): nats of the reference answer, its end included, and its tokens."""
    found = np.zeros((len(examples), 2))
    for part in _parts(states, batch_size, description):
        batch = answer_batch(model, [examples[n] for n in part], [states[n] for n in part])
        batch = {name: each.to(model.device) for name, each in batch.items()}
        with fast_linears():
            audio = model.adapter(batch["states"], batch["lengths"])
            hidden, labels = states_before(
                model, *model.place(batch["ids"], batch["labels"], audio, batch["lengths"]))
            logits = hidden @ model.llm.get_output_embeddings().weight.T
        nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none").double().cpu()
        counts = (batch["labels"][:, 1:] != IGNORE).sum(1).tolist()
        for n, piece in zip(part, nll.split(counts), strict=True):
            found[n] = float(piece.sum()), len(piece)
    return found


def second_opinions(
    model: AudioLlm, examples: Sequence[Example], states: Sequence[np.ndarray],
    texts: Sequence[str], config: EvaluationConfig,
) -> list[str]:
    """The answers, or of transcripts what CTC reads, where both scores together prefer it."""
    weight, found = config.ctc_weight, list(texts)  # NO_SPEECH is no transcript: it stands
    if weight is None:
        return found
    mine = [n for n, each in enumerate(examples)
            if each.task.kind == "recognition" and len(states[n]) and texts[n] != NO_SPEECH]
    read = {n: ctc_text(model, states[n]) for n in mine}
    mine = [n for n in mine if plain(read[n]) not in ("", plain(texts[n]))]
    if not mine:
        return found
    scores = [opinion_scores(model, [examples[n] for n in mine], [states[n] for n in mine],
                             each, config.batch_size)
              for each in ([texts[n] for n in mine], [read[n] for n in mine])]
    answered, by_ctc = (each @ np.array([1 - weight, weight]) for each in scores)
    for n, better in zip(mine, by_ctc > answered, strict=True):
        found[n] = read[n] if better else found[n]
    return found


def opinion_scores(
    model: AudioLlm, examples: Sequence[Example], states: Sequence[np.ndarray],
    texts: Sequence[str], batch_size: int,
) -> np.ndarray:
    """float64 (examples, 2): log-probabilities, in nats, of a text for each, by the language model
    and by CTC."""
    asked = [replace(example, answer=text or " ")
             for example, text in zip(examples, texts, strict=True)]
    by_llm = -answer_nll(model, asked, states, batch_size)[:, 0]
    by_ctc = [ctc_score(model, each, text) for each, text in zip(states, texts, strict=True)]
    return np.stack([by_llm, by_ctc], axis=1)


def ctc_text(model: AudioLlm, states: np.ndarray) -> str:
    """CTC's best path through one clip."""
    with torch.no_grad():
        return model.tokenizer.decode(model.ctc.read(model.hear([states], blanks=True)[0])).strip()


def ctc_score(model: AudioLlm, states: np.ndarray, text: str) -> float:
    """Nats; -inf for a text that the clip is too short for."""
    ids = spoken_ids(model.tokenizer, plain(text))
    targets = model.ctc.targets(ids)
    with torch.no_grad():
        (vectors,) = model.hear([states], blanks=True)
        if needed_frames(targets) > len(vectors):
            return -float("inf")
        log_probs = model.ctc.log_probabilities(vectors[None]).transpose(0, 1)
        loss = torch.nn.functional.ctc_loss(
            log_probs, torch.tensor([targets], dtype=torch.int64), torch.tensor([len(vectors)]),
            torch.tensor([len(targets)]), reduction="sum")
    return -float(loss) - _UNKNOWN_NATS * (len(ids) - len(targets))
