"""Examples -> batches: sequences of ids, masks of what is learned, encoder states."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distill.audio_llm.ctc import TokenCtc, needed_frames
from distill.audio_llm.data.examples import Example
from distill.audio_llm.data.sequences import spoken_ids
from distill.audio_llm.model import AudioLlm
from distill.losses.token_losses import IGNORE
from distill.training.task import Batch


def answer_batch(
    model: AudioLlm, examples: Sequence[Example], states: Sequence[np.ndarray],
    whole_text: bool = False, reads: bool = False,
) -> Batch:
    """Batch of `AudioLlmModule` without CTC's targets.

    Args:
        states: (frames, width) of each; no frames: no audio.
        reads: the teacher's sequences as well, with the transcript in place of the audio; without
            labels where nobody speaks.
    """
    lengths = [model.num_embeddings(len(each)) for each in states]
    sequences = [model.sequence(example.question, length, example.answer, example.spoken,
                                whole_text)
                 for example, length in zip(examples, lengths, strict=True)]
    batch = {
        "states": pad_states(states), "lengths": torch.tensor(lengths),
        "ids": _pad([each.ids for each in sequences], model.end),
        "labels": _pad([each.labels for each in sequences], IGNORE),
    }
    if reads:
        read = [model.sequence(example.question,
                               spoken_ids(model.tokenizer, example.spoken or ""),
                               example.answer, example.spoken, whole_text)
                for example in examples]
        batch["read_ids"] = _pad([each.ids for each in read], model.end)
        batch["read_labels"] = _pad([
            _only_answer(each.labels, each.num_prompt if example.spoken else len(each.labels))
            for each, example in zip(read, examples, strict=True)], IGNORE)
    return batch


def _only_answer(labels: list[int], num_hidden: int) -> list[int]:
    return [IGNORE] * num_hidden + labels[num_hidden:]


def ctc_batch(
    model: AudioLlm, ctc: TokenCtc, examples: Sequence[Example], states: Sequence[np.ndarray]
) -> Batch:
    """`targets` and `sizes` of `TokenCtc.loss`; no loss where it is not known what is heard, where
    CTC knows no token of it, and of clips too short for it."""
    targets, sizes = [], []
    for example, each in zip(examples, states, strict=True):
        wanted = ctc.targets(spoken_ids(model.tokenizer, example.heard or ""))
        if needed_frames(wanted) > model.num_embeddings(len(each)):
            wanted = []
        targets += wanted
        sizes.append(len(wanted) or (0 if example.heard == "" and len(each) else -1))
    return {"targets": torch.tensor(targets, dtype=torch.int64), "sizes": torch.tensor(sizes)}


def pad_states(states: Sequence[np.ndarray]) -> Tensor:
    """float32 (clips, frames of the longest, width), zeros behind the others."""
    frames, width = max(len(each) for each in states), states[0].shape[1]
    found = torch.zeros(len(states), frames, width)
    for row, each in zip(found, states, strict=True):
        row[: len(each)] = torch.from_numpy(np.asarray(each, np.float32))
    return found


def _pad(rows: Sequence[list[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])
