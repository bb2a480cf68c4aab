"""One optimiser update of a two-layer student, three ways, on the same windows.

- `usual`: as the published Distil-Whisper scripts do it (arXiv:2311.00430 sec. 4), written plainly:
  the shared frozen encoder once a step, the teacher's decoder live, targets padded to 448 tokens,
  softmax over the whole vocabulary. Features are computed beforehand and not timed.
- `unpadded`: the same, with targets padded to the longest of the batch only.
- `ours`: from the teacher store. Reading it is timed.

All train the same parameters with the same optimiser and the same threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.data.teacher_store import TeacherStore
from distill.losses.token_losses import IGNORE
from distill.progress import progress
from distill.training.optimizer import make_optimizer
from distill.whisper.data.scoring import Scorer, open_states, scores_folder
from distill.whisper.data.view_source import ViewSource
from distill.whisper.recipe import WhisperRecipe
from distill.whisper.task import WhisperTask
from distill.whisper.teacher import load_teacher

WAYS = ("usual", "unpadded", "ours")
CONTEXT = 448  # decoder positions: what the published collator pads to
Places = Sequence[tuple[int, int]]


class Stepper:
    """A student of its own that makes updates in one of the ways.

    Args:
        task: a WhisperTask; with a live teacher for all ways but ours.
    """

    def __init__(self, task: WhisperTask, way: str):
        self.task, self.way = task, way
        self.optimizer = make_optimizer(task.model, task.recipe.train)
        self.features: dict[tuple[int, int], Tensor] = {}

    def prepare(self, places: Places) -> None:
        """What the usual way has on disk already: log-mel features."""
        if self.way == "ours":
            return
        for place in places:
            if place not in self.features:
                self.features[place] = self.task.source.features([self.task.source.view(*place)])[0]

    def __call__(self, places: Places, learning_rate: float) -> float:
        """One update; returns the mean loss per token."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        loss = self._ours(places) if self.way == "ours" else self._usual(places)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.task.model.parameters(),
                                       self.task.recipe.train.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def _ours(self, places: Places) -> Tensor:
        batch = self.task.collate(list(places))
        total, _ = self.task.model(batch)
        return total / batch["num_valid"]

    def _usual(self, places: Places) -> Tensor:
        student, teacher = self.task.student, self.task.model.teacher
        inputs, labels = self._targets(places)
        features = torch.stack([self.features[place] for place in places])
        with torch.no_grad():
            states = student.model.encoder(features).last_hidden_state
        outputs = student(encoder_outputs=(states,), decoder_input_ids=inputs, use_cache=False)
        with torch.no_grad():
            theirs = teacher(encoder_outputs=(states,), decoder_input_ids=inputs, use_cache=False)
        loss, temperature = self.task.recipe.loss, self.task.recipe.loss.temperature
        ce = F.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
        log_q = F.log_softmax(outputs.logits / temperature, dim=-1)
        p = F.softmax(theirs.logits / temperature, dim=-1)
        divergence = F.kl_div(log_q, p, reduction="none")
        valid = labels != IGNORE
        kl = (divergence * valid[..., None]).sum() / valid.sum() * temperature**2
        return loss.ce_weight * ce + loss.kl_weight * kl

    def _targets(self, places: Places) -> tuple[Tensor, Tensor]:
        source = self.task.source
        rows = [source.tokens(source.view(*place)) for place in places]
        longest = max(len(row.inputs) for row in rows)
        width = CONTEXT if self.way == "usual" else longest
        inputs = torch.full((len(rows), width), source.rules.special.end)
        labels = torch.full((len(rows), width), IGNORE)
        for at, row in enumerate(rows):
            inputs[at, : len(row.inputs)] = torch.tensor(row.inputs)
            labels[at, : len(row.labels)] = torch.tensor(row.labels)
        return inputs, labels


def make_stepper(recipe: WhisperRecipe, way: str) -> Stepper:
    """A stepper with a new student."""
    from copy import deepcopy

    from accelerate import Accelerator

    recipe = deepcopy(recipe)
    recipe.teacher.mode = "store" if way == "ours" else "live"
    return Stepper(WhisperTask(recipe, Accelerator(cpu=not torch.cuda.is_available())), way)


def fill_store(recipe: WhisperRecipe, clock: Callable[[], float]) -> dict:
    """Fill the stores of a recipe from nothing; seconds of each part.

    `write` and `score` are what comes on top of labelling, which encodes every window anyway.
    """
    teacher = load_teacher(recipe.teacher)
    model = teacher.model
    source = ViewSource(recipe, teacher.processor, model.generation_config,
                        model.config.max_target_positions)
    states = open_states(recipe, teacher.revision)
    scorer = Scorer(recipe, teacher, source, states)
    store = TeacherStore(scores_folder(recipe), scorer.settings, create=True)
    views = sorted(source.views_of_run(), key=source.length)
    seconds = dict.fromkeys(("encode", "write", "score"), 0.0)
    groups = [views[at : at + 8] for at in range(0, len(views), 8)]
    for group in progress(groups, len(groups), "filling the store", "groups", True):
        started = clock()
        records = scorer.encode(group)
        encoded = clock()
        states.add(records)
        written = clock()
        store.add(scorer.records(group))
        seconds["encode"] += encoded - started
        seconds["write"] += written - encoded
        seconds["score"] += clock() - written
    states.seal()
    store.seal()
    return {"windows": len({view.id for view in views}), "views": len(views),
            "seconds": seconds, "bytes": {"scores": store.num_bytes, "states": states.num_bytes}}


