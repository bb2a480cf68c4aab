"""What the teacher reads, and what it thinks of it: the same language model without LoRA is given
the transcript in place of the audio, after a few answers to other transcripts if it is shown any.

    teacher = Teacher(model, examples, num_shown=3)
    teacher.sequence(example)          # ids, and labels where it teaches
    teacher.states(examples, folder)   # float32 (tokens of the answer, width) by id, kept on disk

Its last states times the output layer are its scores, all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill.audio_llm.data.examples import Example
from distill.audio_llm.data.sequences import Sequence as Ids
from distill.audio_llm.data.sequences import encode, spoken_ids
from distill.audio_llm.model import AudioLlm
from distill.audio_llm.module import read_without_lora
from distill.data.files import hash_of
from distill.data.views.kept_arrays import load_arrays, save_arrays
from distill.losses.matmul import fast_linears
from distill.losses.token_losses import IGNORE
from distill.progress import progress

_FILE_EXAMPLES = 256  # whose states are computed and kept together
_BATCH_EXAMPLES = 16


class Teacher:
    """The language model that reads.

    Args:
        examples: of the training split, to choose what it is shown from.
        num_shown: pairs of transcript and answer, of the same task, that it reads first: an
            instruction alone makes a small model explain what it was asked for.
        tasks: names of those that it teaches; none: all.
    """

    def __init__(self, model: AudioLlm, examples: Sequence[Example], num_shown: int,
                 tasks: Sequence[str] = ()):
        self.model, self.tasks = model, tasks
        by_task: dict[str, list[Example]] = {}
        for each in examples:
            by_task.setdefault(each.task.name, []).append(each)
        shown = {name: shown_pairs(mine, num_shown) for name, mine in by_task.items()}
        self.shown = {each.id for mine in shown.values() for each in mine}
        self.before = {name: [token for each in mine for token in
                              [*self._turn(each).ids, *encode(model.tokenizer, "\n")]]
                       for name, mine in shown.items()}

    def _turn(self, example: Example) -> Ids:
        return self.model.sequence(
            example.question, spoken_ids(self.model.tokenizer, example.spoken or ""),
            example.answer, example.spoken)

    def teaches(self, example: Example) -> bool:
        """Not where nobody speaks, not what it is shown the answer of, and its tasks alone."""
        return (bool(example.spoken) and example.id not in self.shown
                and (not self.tasks or example.task.name in self.tasks))

    def sequence(self, example: Example) -> Ids:
        """What it reads; without labels where it does not teach."""
        before, turn = self.before.get(example.task.name, []), self._turn(example)
        first = turn.num_prompt if self.teaches(example) else len(turn.ids)
        labels = [IGNORE] * (len(before) + first) + turn.labels[first:]
        return Ids([*before, *turn.ids], labels, len(before) + turn.num_prompt)

    def states(
        self, examples: Sequence[Example], folder: Path, show_progress: bool = False
    ) -> dict[str, np.ndarray]:
        """float32 (tokens of the answer, width) by id, of the examples that it teaches; read from
        `folder` where they are there."""
        mine = sorted({each.id: each for each in examples if self.teaches(each)}.values(),
                      key=lambda each: each.id)
        parts = [mine[at : at + _FILE_EXAMPLES] for at in range(0, len(mine), _FILE_EXAMPLES)]
        found: dict[str, np.ndarray] = {}
        for part in progress(parts, len(parts), "teacher", "files", show_progress):
            sequences = [self.sequence(each) for each in part]
            name = hash_of([self.model.settings.language_model_revision,
                            [[each.ids, each.num_prompt] for each in sequences]])
            path = folder / f"{name}.npz"
            if not path.is_file():
                save_arrays(path, self._compute(sequences))
            found |= {each.id: states
                      for each, states in zip(part, load_arrays(path), strict=True)}
        return found

    def _compute(self, sequences: Sequence[Ids]) -> list[np.ndarray]:
        order = sorted(range(len(sequences)), key=lambda n: len(sequences[n].ids))
        found: list[np.ndarray] = [np.empty(0)] * len(sequences)
        for at in range(0, len(order), _BATCH_EXAMPLES):
            part = order[at : at + _BATCH_EXAMPLES]
            ids = pad([sequences[n].ids for n in part], self.model.end)
            labels = pad([sequences[n].labels for n in part], IGNORE)
            with fast_linears():
                hidden = read_without_lora(self.model, ids.to(self.model.device),
                                           labels.to(self.model.device))
            counts = (labels != IGNORE).sum(1).tolist()
            for n, piece in zip(part, hidden.float().cpu().split(counts), strict=True):
                found[n] = piece.numpy()
        return found


def shown_pairs(examples: Sequence[Example], count: int) -> list[Example]:
    """So many training examples of middle length whose transcript is known."""
    spoken = sorted((each for each in examples if each.spoken),
                    key=lambda each: (len(each.answer), each.id))
    step = max(1, len(spoken) // (count + 1))
    return spoken[step :: step][:count]


def pad(rows: Sequence[list[int]], value: int) -> Tensor:
    """(rows, the longest) with `value` behind the others."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])
