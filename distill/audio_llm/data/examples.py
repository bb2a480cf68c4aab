"""Manifests -> examples: a clip, what is asked about it, and what the answer is.

A row's `task` names one of the recipe's; rows without one are of the first. `question` stands for
the task's prompt, `answer` for the row's `text`, `spoken` is what is said in the clip (by default
`text` where the task is recognition). `heard` is what CTC learns to say of it, by default what is
spoken; empty: nothing. A clip without speech has the answer NO_SPEECH, and nothing is heard.
`options` are the answers that a closed-ended question has; where several say the same, `means` has
what each of them says, and who says what the answer says is right.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.audio_llm.recipe import AudioLlmRecipe, PromptTask
from distill.data.json_rows import read_rows
from distill.data.manifest import Row, load_rows, open_manifest
from distill.data.noise.kinds import NO_SPEECH

_FIELDS = ("task", "question", "answer", "spoken", "heard")


@dataclass(frozen=True)
class Example:
    """One question about one clip."""

    row: Row
    task: PromptTask
    question: str
    answer: str
    spoken: str | None  # what is said, where it is known
    heard: str | None = None  # what CTC learns to say; "": nothing; None: that is not known
    options: tuple[str, ...] = ()  # of a closed-ended question; the answer is one of them
    means: tuple[str, ...] = ()  # what each option says; none: all say something else

    @property
    def id(self) -> str:
        return self.row.id

    def is_right(self, option: str) -> bool:
        """It says what the answer says."""
        says = dict(zip(self.options, self.means or self.options, strict=True))
        return says[option] == says[self.answer]


def plain(text: str) -> str:
    """Lower case, words alone: numbers stay as they are written."""
    return " ".join(re.findall(r"[\w']+", text.lower()))


def load_examples(
    recipe: AudioLlmRecipe, manifests: Sequence[str], tasks: Sequence[str] = ()
) -> tuple[list[Example], Counter]:
    """Examples of manifests, and what is dropped by reason: `no_answer`, `other_task`, and what
    `load_rows` drops.

    Args:
        tasks: names; empty: all of the recipe.

    Raises:
        ValueError: a manifest cannot be used, or a row names an unknown task.
    """
    rows, drops = load_rows(manifests)
    extras = [extra for path in manifests for extra in _extras(path)]
    known = {task.name: task for task in recipe.tasks}
    found = []
    for row, extra in zip(rows, extras, strict=True):
        name = extra.get("task") or recipe.tasks[0].name
        if name not in known:
            raise ValueError(f"row {row.id}: its task {name!r} is none of the recipe's: "
                             f"{', '.join(known)}")
        task = known[name]
        answer = extra.get("answer") or row.text or ""
        is_speech = answer != NO_SPEECH
        spoken = extra.get("spoken") or (row.text if task.kind == "recognition" else None)
        if recipe.lower_case:
            answer = plain(answer) if task.kind == "recognition" and is_speech else answer
            spoken = spoken and plain(spoken)
        options, means = extra.get("options", ()), extra.get("means", ())
        if task.kind == "choice" and (answer not in options or len(set(options)) < 2):
            raise ValueError(f"row {row.id}: its answer {answer!r} must be one of at least two "
                             f"options, got {list(options)}")
        if means and len(means) != len(options):
            raise ValueError(f"row {row.id}: means must have one text for each of its "
                             f"{len(options)} options, got {list(means)}")
        if not answer.strip():
            drops["no_answer"] += 1
        elif tasks and name not in tasks:
            drops["other_task"] += 1
        else:
            found.append(Example(row, task, extra.get("question") or task.prompt, answer.strip(),
                                 spoken or None, extra.get("heard", spoken or None),
                                 tuple(options), tuple(means)))
    return found, drops


def _extras(path: str) -> list[dict[str, Any]]:
    """What a manifest's kept rows say besides."""
    kept = set(open_manifest(path).places)
    found = []
    for place, raw in read_rows(Path(path).read_bytes(), Path(path)):
        if place in kept:
            assert isinstance(raw, dict)
            values = {key: raw[key] for key in _FIELDS if raw.get(key) is not None}
            if wrong := [key for key, value in values.items() if not isinstance(value, str)]:
                raise ValueError(f"{path}, {place}: {wrong[0]} must be a text, got "
                                 f"{json.dumps(values[wrong[0]])[:60]}")
            for key in ("options", "means"):
                if texts := raw.get(key):
                    if not isinstance(texts, list) or not all(
                            isinstance(each, str) and each.strip() for each in texts):
                        raise ValueError(f"{path}, {place}: {key} must be a list of texts, got "
                                         f"{json.dumps(texts)[:60]}")
                    values[key] = [each.strip() for each in texts]
            found.append(values)
    return found


def repeated(examples: list[Example]) -> list[Example]:
    """Each as often as its task's weight says."""
    return [example for example in examples for _ in range(example.task.weight)]
