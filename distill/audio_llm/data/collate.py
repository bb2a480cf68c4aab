"""Examples -> batches: sequences of ids, masks of what is learned, encoder states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from distill.audio_llm.ctc import TokenCtc, needed_frames
from distill.audio_llm.data.examples import Example
from distill.audio_llm.data.sequences import spoken_ids
from distill.audio_llm.data.teacher import Teacher, pad
from distill.audio_llm.model import AudioLlm
from distill.losses.token_losses import IGNORE
from distill.training.task import Batch


def answer_batch(
    model: AudioLlm, examples: Sequence[Example], states: Sequence[np.ndarray],
    whole_text: bool = False,
) -> Batch:
    """Batch of `AudioLlmModule` without CTC's targets and the teacher.

    Args:
        states: (frames, width) of each; no frames: no audio.
    """
    lengths = [model.num_embeddings(len(each)) for each in states]
    sequences = [model.sequence(example.question, length, example.answer, example.spoken,
                                whole_text)
                 for example, length in zip(examples, lengths, strict=True)]
    return {
        "states": pad_states(states), "lengths": torch.tensor(lengths),
        "ids": pad([each.ids for each in sequences], model.end),
        "labels": pad([each.labels for each in sequences], IGNORE),
    }


def teacher_batch(
    teacher: Teacher, examples: Sequence[Example], kept: Mapping[str, np.ndarray] | None
) -> Batch:
    """`is_taught` (clips,), and what the teacher is asked with: `read_ids`, `read_labels` (clips,
    tokens); or its last states `read_states` (tokens of all answers that are taught, width).

    Args:
        kept: its states by id; None: it reads now.
    """
    is_taught = [teacher.teaches(each) for each in examples]
    batch: Batch = {"is_taught": torch.tensor(is_taught)}
    if kept is not None:
        mine = [kept[each.id] for each, taught in zip(examples, is_taught, strict=True) if taught]
        width = teacher.model.llm.get_input_embeddings().weight.shape[1]
        found = np.concatenate(mine) if mine else np.zeros((0, width), np.float32)
        return batch | {"read_states": torch.from_numpy(found)}
    read = [teacher.sequence(each) for each in examples]
    return batch | {"read_ids": pad([each.ids for each in read], teacher.model.end),
                    "read_labels": pad([each.labels for each in read], IGNORE)}


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
