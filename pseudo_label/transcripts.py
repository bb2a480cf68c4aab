"""Label windows with a teacher Whisper, shard by shard.

Each shard is decoded as a whole and appears as one file by write, fsync, rename: a killed run loses
the shard it was in and ends, later, with the same bytes. Ranks take shards in turn and never wait
for each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from distill.data.files import hash_of, write_jsonl
from distill.data.teacher_store import Record
from distill.data.windows import Window, load_readable
from distill.progress import progress
from distill.whisper.recipe import WhisperRecipe
from distill.whisper.scoring import open_states, states_record
from distill.whisper.teacher import Teacher
from distill.whisper.transcribe import (
    GreedyDecoder,
    Hypothesis,
    encode,
    log_mel,
    to_text,
    token_limit,
)
from distill.whisper.view_source import states_key_of
from eval.metrics import compression_ratio, error_counts
from eval.normalize import error_unit, normalizer
from pseudo_label.plan import LabelPlan


def part_path(folder: Path, index: int) -> Path:
    return folder / f"part-{index:05d}.jsonl"


class Labeller:
    """Turns windows into label rows; holds the teacher."""

    def __init__(self, recipe: WhisperRecipe, teacher: Teacher, settings: dict):
        self.recipe, self.teacher = recipe, teacher
        self.keeps_states = keeps_states(recipe)
        self.settings = hash_of(settings)
        self.decoder = GreedyDecoder(
            teacher.model,
            teacher.processor.tokenizer,
            recipe.language,
            recipe.task,
            recipe.pseudo_label.timestamps,
        )

    def label_shard(self, windows: list[Window]) -> tuple[list[dict], list[dict], list[Record]]:
        """Rows, drops and (when the recipe keeps them) encoder states."""
        config = self.recipe.pseudo_label
        rows, drops, records = [], [], []
        for at in range(0, len(windows), config.batch_size):
            batch, audios = [], []
            for window in windows[at : at + config.batch_size]:
                readable, audio, errors = load_readable(window)
                drops += [{"window": window.id, "reason": e.reason, "detail": e.detail}
                          for e in errors]
                if readable is not None:
                    batch.append(readable)
                    audios.append(audio)
            if not batch:
                continue
            hypotheses, states = self._decode(batch, audios)
            rows += [self._row(w, h) for w, h in zip(batch, hypotheses, strict=True)]
            if self.keeps_states:
                dtype = self.recipe.scores.encoder_states_dtype
                new = rows[len(rows) - len(batch) :]
                records += [
                    states_record(states_key_of(row), each, dtype)
                    for row, each in zip(new, states, strict=True)
                ]
        return rows, drops, records

    def _decode(
        self, windows: list[Window], audios: list[np.ndarray]
    ) -> tuple[list[Hypothesis], torch.Tensor]:
        states = encode(self.teacher.model, log_mel(self.teacher.processor, audios))
        rate = self.recipe.pseudo_label.max_tokens_per_second
        limits = [token_limit(window.duration, rate) for window in windows]
        return self.decoder(states, limits, languages=[w.language for w in windows]), states

    def _row(self, window: Window, hypothesis: Hypothesis) -> dict:
        label = to_text(self.teacher.processor.tokenizer, hypothesis.tokens)
        language = window.language or self.recipe.language
        return {
            "id": window.id,
            "pieces": [
                {"id": p.id, "offset": round(p.offset, 6), "duration": p.duration,
                 "start": p.start}
                for p in window.pieces
            ],
            "duration": round(window.duration, 6),
            "speaker": window.speaker,
            "language": window.language,
            "previous": window.previous,
            "reference": window.text,
            "label": label,
            "tokens": hypothesis.tokens,
            **compare(window.text, label, self.recipe.evaluation.normalizer, language),
            "avg_logprob": round(hypothesis.avg_logprob, 6),
            "no_speech_prob": round(hypothesis.no_speech_prob, 6),
            "compression_ratio": round(compression_ratio(label), 4),
            "truncated": hypothesis.truncated or hypothesis.looped,
            "teacher": {"model": self.recipe.teacher.model, "revision": self.teacher.revision},
            "settings": self.settings,
        }


def compare(reference: str | None, label: str, name: str, language: str | None) -> dict:
    """WER, CER and word errors of a label, normalised; None without a reference. `unit` says
    which rate counts in this language."""
    keys = ("wer", "cer", "substitutions", "deletions", "insertions", "num_words")
    if reference is None:
        return dict.fromkeys(keys) | {"unit": error_unit(language)}
    normalise = normalizer(name, language)
    texts = normalise(reference), normalise(label)
    words, chars = error_counts(*texts), error_counts(*texts, unit="char")
    rates = [None if c.rate is None else round(c.rate, 6) for c in (words, chars)]
    numbers = (words.substitutions, words.deletions, words.insertions, words.num_reference)
    return dict(zip(keys, (*rates, *numbers), strict=True)) | {"unit": error_unit(language)}


def label_shards(
    recipe: WhisperRecipe,
    teacher: Teacher,
    plan: LabelPlan,
    settings: dict,
    folder: Path,
    rank: int = 0,
    world: int = 1,
) -> None:
    """Label this rank's missing shards."""
    mine = list(range(rank, len(plan.shards), world))
    todo = [index for index in mine if not part_path(folder, index).is_file()]
    if len(todo) < len(mine):
        print(f"{len(mine) - len(todo)} of {len(mine)} shards are there already", flush=True)
    total = sum(len(plan.shards[index]) for index in mine)
    done = total - sum(len(plan.shards[index]) for index in todo)
    labeller = Labeller(recipe, teacher, settings)
    store = open_states(recipe, teacher.revision) if labeller.keeps_states else None

    def windows() -> Iterator[None]:
        for index in todo:
            rows, drops, states = labeller.label_shard(plan.shards[index])
            if states:
                store.add(states)
            write_shard(folder, index, rows, drops)
            yield from [None] * len(plan.shards[index])

    for _ in progress(windows(), total, "labelling", "windows", True, done):
        pass


def write_shard(folder: Path, index: int, rows: list, drops: list) -> None:
    """Everything else first: the part file says that the shard is complete."""
    if drops:
        write_jsonl(folder / f"drops-{index:05d}.jsonl", drops)
    write_jsonl(part_path(folder, index), rows)


def keeps_states(recipe: WhisperRecipe) -> bool:
    """Whether training will want the encoder states that labelling computes anyway."""
    on_disk = recipe.teacher.mode == "store" and recipe.scores.encoder_states == "disk"
    return on_disk and recipe.views.augment.probability < 1  # of sound that was not changed
