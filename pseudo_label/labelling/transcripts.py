"""Label windows with a teacher Whisper, shard by shard.

Each shard is decoded as a whole and appears as one file by write, fsync, rename: a killed run loses
the shard it was in and ends, later, with the same bytes. Ranks take whatever shard nobody is at
(`pseudo_label.labelling.leases`) and never wait for each other. While the teacher is at one shard,
a thread reads the audio of the next and computes its features.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from distill.data.files import hash_of
from distill.data.formats.errors import TRANSIENT, AudioError
from distill.data.formats.source import fetch_ahead
from distill.data.speech.windows import Window, load_readable
from distill.data.teacher_store import Record
from distill.data.unreadable import Unreadable, file_fault
from distill.endings import Stopped
from distill.metrics.error_rates import compression_ratio
from distill.progress import progress
from distill.whisper.data.corpus import is_recording, piece_rows
from distill.whisper.data.scoring import open_states, states_columns
from distill.whisper.data.view_source import states_key_of
from distill.whisper.outside import is_outside, whose
from distill.whisper.recipe import WhisperRecipe, keeps_states, label_language, teacher_task
from distill.whisper.recognition.backends import Labelled, load_backend
from distill.whisper.recognition.transcribe import to_text
from distill.whisper.teacher import Teacher
from pseudo_label.labelling.compare import compare, disagreement
from pseudo_label.labelling.leases import Leases
from pseudo_label.labelling.long_audio import label_recordings
from pseudo_label.labelling.memory import GiveBack
from pseudo_label.labelling.shards import drop_row, note_drops, part_path, write_shard
from pseudo_label.outside.http_backend import HttpBackend
from pseudo_label.outside.table_backend import TableBackend
from pseudo_label.plan import LabelPlan, count_windows

T = TypeVar("T")


@dataclass
class Prepared:
    """A shard whose audio was read: windows without the clips that cannot be read, with their
    features (or what else the backend needs of it), in groups for the backend, and what was
    dropped. `recordings` are longer than a window and are read while they are labelled."""

    groups: list[tuple[list[Window], Any]]
    drops: list[dict]
    recordings: list[Window]

    @property
    def is_whole(self) -> bool:
        """Whether all that is missing was dropped for good: what could not be opened is tried
        again by the next run, and its shard with it."""
        return not any(drop["reason"] in TRANSIENT for drop in self.drops)


class Labeller:
    """Turns windows into label rows; holds the teacher."""

    def __init__(self, recipe: WhisperRecipe, teacher: Teacher, settings: dict):
        self.recipe, self.teacher = recipe, teacher
        self.keeps_states = keeps_states(recipe)
        self.settings = hash_of(settings)
        self.backend = _backend(recipe, teacher)

    def prepare(self, windows: list[Window]) -> Prepared:
        """Read a shard's audio and compute its features; needs no model."""
        recordings = [window for window in windows if is_recording(window)]
        prepared, size = Prepared([], _absent(windows), recordings), self.backend.group_size
        if not prepared.is_whole:
            return prepared
        windows = [window for window in windows if not is_recording(window)]
        fetch_ahead(piece.audio_filepath for window in windows for piece in window.pieces)
        for at in range(0, len(windows), size):
            group, audios = [], []
            for window in windows[at : at + size]:
                readable, audio, errors = load_readable(window)
                prepared.drops += [drop_row(window.id, *error) for error in errors]
                if readable is not None:
                    group.append(readable)
                    audios.append(audio)
            if group:
                prepared.groups.append((group, self.backend.inputs(audios)))
        return prepared

    def label(self, prepared: Prepared) -> tuple[list[dict], list[Record]]:
        """Rows, and (when the recipe keeps them) encoder states."""
        rows, records = [], []
        if prepared.recordings:
            found, drops = label_recordings(self.backend, self.recipe, prepared.recordings)
            rows += [self._row(window, labelled) for window, labelled in found]
            prepared.drops += drops
        for group, features in prepared.groups:
            labelled, states = self.backend.label(group, features)
            pairs = list(zip(group, labelled, strict=True))
            prepared.drops += [drop_row(window.id, piece.id, each) for window, each in pairs
                               if isinstance(each, AudioError) for piece in window.pieces]
            new = [self._row(window, each) for window, each in pairs
                   if not isinstance(each, AudioError)]
            if self.keeps_states and states is not None:
                dtype = self.recipe.scores.encoder_states_dtype
                records += [
                    Record(states_key_of(row), states_columns(each[:own], dtype))
                    for row, each, own in zip(new, states, features.positions, strict=True)]
            rows += new
        return rows, records

    def _row(self, window: Window, labelled: Labelled) -> dict:
        hypothesis = labelled.hypothesis
        label = to_text(self.teacher.processor.tokenizer, hypothesis.tokens)
        language = label_language(self.recipe, window.language)
        # what the teacher translated has no error rate: the transcript is in another language
        translated = teacher_task(self.recipe) == "translate"
        reference = None if translated else window.text
        return {
            "id": window.id,
            "pieces": piece_rows(window),
            "duration": round(window.duration, 6),
            "speaker": window.speaker,
            "language": window.language,
            "previous": window.previous,
            "reference": reference,
            **({"transcript": window.text} if translated else {}),
            "label": label,
            "tokens": hypothesis.tokens,
            **compare(reference, label, self.recipe.evaluation.normalizer, language),
            "avg_logprob": _rounded(hypothesis.avg_logprob),
            "no_speech_prob": _rounded(hypothesis.no_speech_prob),
            "compression_ratio": round(compression_ratio(label), 4),
            "truncated": hypothesis.truncated or hypothesis.looped,
            **self._doubts(labelled, label, language),
            "teacher": self._writer(),
            "settings": self.settings,
        }

    def _writer(self) -> dict[str, str | None]:
        """Who wrote the label."""
        if is_outside(self.recipe.pseudo_label):
            name = whose(self.recipe.pseudo_label, "")
            return {"model": name, "revision": None}
        return {"model": self.recipe.teacher.model, "revision": self.teacher.revision}

    def _doubts(self, labelled: Labelled, label: str, language: str | None) -> dict:
        """What the recipe asked for besides: the temperature of a text, a second decoding, the
        language the teacher detected."""
        fields: dict = {}
        if len(self.recipe.pseudo_label.temperatures) > 1:
            fields["temperature"] = labelled.hypothesis.temperature
        if labelled.second is not None:
            second = to_text(self.teacher.processor.tokenizer, labelled.second.tokens)
            name = self.recipe.evaluation.normalizer
            rate = disagreement(label, second, name, language)
            fields |= {"second_label": second, "disagreement": rate}
        if labelled.language is not None:
            fields |= {"detected_language": labelled.language,
                       "detected_language_prob": round(labelled.language_prob, 4)}
        return fields


def load_labeller(recipe: WhisperRecipe, settings: dict) -> Labeller:
    """A labeller with its teacher, on this rank's GPU where there is one; without the teacher's
    weights where another system writes the labels."""
    from distill.whisper.teacher import load_teacher

    with_weights = not is_outside(recipe.pseudo_label)
    if recipe.num_threads:
        torch.set_num_threads(recipe.num_threads)
    teacher = load_teacher(recipe.teacher, weights=with_weights)
    if with_weights and torch.cuda.is_available():  # in float16
        teacher.model.to(f"cuda:{os.environ.get('LOCAL_RANK', 0)}", torch.float16)
    return Labeller(recipe, teacher, settings)


def _backend(recipe: WhisperRecipe, teacher: Teacher) -> Any:
    """What writes the labels: see `distill.whisper.recognition.backends.Backend`."""
    match recipe.pseudo_label.backend:
        case "table":
            return TableBackend(recipe, teacher)
        case "http":
            return HttpBackend(recipe, teacher)
    return load_backend(recipe, teacher)


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 6)


def label_shards(
    labeller: Labeller, plan: LabelPlan, folder: Path, order: Sequence[int], faults: Unreadable
) -> list[int]:
    """Label those of some shards that are missing and that no other process is at.

    Returns:
        shards that are left for the next run because clips could not be opened: see `faults`.

    Raises:
        UnreadableError: too many clips cannot be read.
        Stopped: Ctrl-C.
    """
    todo = [index for index in order if not part_path(folder, index).is_file()]
    if len(todo) < len(order):
        print(f"{len(order) - len(todo)} of {len(order)} shards are there already", flush=True)
    store = None
    if labeller.keeps_states:
        store = open_states(labeller.recipe, labeller.teacher.revision)
    give_back = GiveBack()
    note_drops(folder, faults)
    with Leases(folder) as leases, _Reader() as reader:

        def taken() -> Iterator[tuple[int, Future[Prepared] | None]]:
            """Shards of ours, their audio being read; None for one that another rank has made."""
            for index in todo:
                path = part_path(folder, index)
                if path.is_file():
                    yield index, None
                elif leases.take(path.stem):
                    yield index, reader.submit(labeller.prepare, plan.shards[index])

        def windows() -> Iterator[None]:
            for index, future in _one_ahead(taken()):
                if future is not None:
                    if not (is_whole := _label_one(labeller, folder, index, future.result(), store,
                                                   faults)):
                        left.append(index)
                    leases.release(part_path(folder, index).stem)
                    give_back()
                    if not is_whole:
                        continue
                yield from [None] * count_windows(plan.shards[index])

        left: list[int] = []
        total = sum(count_windows(plan.shards[index]) for index in order)
        ready = total - sum(count_windows(plan.shards[index]) for index in todo)
        try:
            for _ in progress(windows(), total, "labelling", "windows", True, ready):
                pass
        except KeyboardInterrupt:
            done = sum(part_path(folder, index).is_file() for index in order)
            raise Stopped(f"Stopped; {done} of {len(order)} shards are there, the same command "
                          "goes on.") from None
        if left:  # ranks that are still at something must not be ended by how this one ends
            leases.wait_for_others()
    if description := labeller.backend.describe():
        print(description, flush=True)
    return [index for index in left if not part_path(folder, index).is_file()]


def _label_one(labeller: Labeller, folder: Path, index: int, prepared: Prepared, store,
               faults: Unreadable) -> bool:
    """Label a shard and write it down; False if some of it could not be opened: then nothing is
    written."""
    rows, states = labeller.label(prepared) if prepared.is_whole else ([], [])
    for drop in prepared.drops:
        faults.add(drop["clip"], AudioError(drop["reason"], drop["detail"]))
    if not prepared.is_whole:  # `label` reads recordings
        faults.check()
        return False
    if states:
        store.add(states)
    write_shard(folder, index, rows, prepared.drops)
    if prepared.drops:
        note_drops(folder, faults)  # those of other ranks: the limit is one of the whole stage
        faults.check()
    return True


class _Reader(ThreadPoolExecutor):
    """A thread that reads ahead; what it has not begun is left when the work ends early."""

    def __init__(self) -> None:
        super().__init__(1)

    def __exit__(self, *_: object) -> None:
        self.shutdown(cancel_futures=True)


def _absent(windows: Sequence[Window]) -> list[dict]:
    """Clips whose files are not there, as rows of a drops file: known before anything is read."""
    found = [(window.id, piece.id, file_fault(piece.audio_filepath))
             for window in windows for piece in window.pieces]
    return [drop_row(window, clip, error) for window, clip, error in found if error is not None]


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each asked for before the one ahead of it is worked on."""
    ahead: deque[T] = deque()
    for item in items:
        ahead.append(item)
        if len(ahead) > 1:
            yield ahead.popleft()
    yield from ahead
