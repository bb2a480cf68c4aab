"""The one training loop: accumulate, clip, schedule, log, validate, save, resume.

Nothing here knows a method. Run through `accelerate launch -m distill.train RECIPE`.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader, Dataset

from distill.config import TrainConfig
from distill.data.files import read_jsonl, write_jsonl
from distill.data.formats.errors import AudioError
from distill.data.unreadable import UnreadableError
from distill.data.views.batches import RankBatches
from distill.progress import progress
from distill.training.average import Average
from distill.training.checkpoint import Checkpoints, State
from distill.training.sharding import Weights, check
from distill.training.task import Batch, Task


class Interrupted(Exception):
    """A signal asked for an end; everything is saved."""


def learning_rate(config: TrainConfig, step: int) -> float:
    """Learning rate of update `step` (0 is the first)."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    rest = max(config.max_steps - config.warmup_steps, 1)
    done = (step - config.warmup_steps) / rest
    factor = {
        "linear": 1 - done,
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        "constant_with_warmup": 1.0,
    }[config.schedule]
    return config.learning_rate * factor


class _StopRequest:
    """Turns the first SIGINT or SIGTERM into a flag; a second one ends at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> _StopRequest:
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _frame: object) -> None:
        self.asked = True
        print("\nFinishing this step and saving; once more to stop at once.", file=sys.stderr)
        for each, handler in self._before.items():
            signal.signal(each, handler)


def fit(
    task: Task, config: TrainConfig, accelerator: Accelerator, run: Path, settings: str
) -> State:
    """Train `task.model`; leaves checkpoints, metrics.jsonl and the student in `run`.

    Args:
        run: runs/NAME.
        settings: hash of everything that shapes the result; a checkpoint of others is refused.

    Returns:
        the final state: steps done, best score and its step.

    Raises:
        Interrupted: after a signal, with everything saved.
        UnreadableError: audio of the next step cannot be read; everything is saved.
        ValueError: checkpoints of other settings, a loss that is not finite, or what the
            launch cannot do.
    """
    check(config, accelerator)
    checkpoints = Checkpoints(run, settings, config.keep_checkpoints)
    weights = Weights(task.model, config, accelerator, checkpoints.find(accelerator))
    average = Average(weights, config.average_decay) if config.average_decay else None
    state = checkpoints.resume(accelerator, weights, average)
    log = _Log(run / "metrics.jsonl", accelerator, state.step)
    loader = _loader(task, config, accelerator, state.step)
    rank, world = accelerator.process_index, accelerator.num_processes
    steps = progress(
        range(state.step, config.max_steps), config.max_steps, "training", "steps",
        accelerator.is_main_process, state.step,
    )
    with _StopRequest() as stop:
        for step in steps:
            rate = learning_rate(config, step)
            for group in weights.optimizer.param_groups:
                group["lr"] = rate * group.get("rate", 1.0)  # of parts that have their own
            samples = task.batches.micro_batches(step, rank, world)
            batches = [next(loader) for _ in samples]
            try:
                sums, stopping = _update(task, weights, batches, accelerator, config, stop)
            except UnreadableError as fault:
                if state.step > checkpoints.last_step():
                    checkpoints.save(accelerator, state, weights, average)
                raise UnreadableError(f"training stopped after step {state.step}, everything is "
                                      f"saved: {fault}. The same command goes on from there") \
                    from None
            if average:
                average.update()
            state.step = step + 1
            last = state.step == config.max_steps
            log.add(sums)
            if state.step % config.log_every == 0 or last:
                log.write_train(state.step, task.batches.epoch(step), rate)
            if state.step % config.validate_every == 0 or last:
                with weights.shown(average.parts if average else None):
                    _validate(task, accelerator, state, checkpoints, log, config.keep_best)
            if state.step % config.save_every == 0 or last or stopping:
                checkpoints.save(accelerator, state, weights, average)
            if stopping and not last:
                raise Interrupted(f"stopped after step {state.step}, everything is saved")
    return state


def _loader(
    task: Task, config: TrainConfig, accelerator: Accelerator, first_step: int
) -> Iterator[Batch]:
    """This rank's micro-batches from `first_step` to the end, made ahead by worker processes."""
    rank, world = accelerator.process_index, accelerator.num_processes
    # The "dataset" is the identity: what a sample becomes is decided in `collate` alone.
    loader = DataLoader(
        _Identity(),
        batch_sampler=RankBatches(task.batches, first_step, config.max_steps, rank, world),
        collate_fn=_Collate(task.collate),
        num_workers=config.num_workers,
        worker_init_fn=_leave_signals,
        pin_memory=accelerator.device.type == "cuda",
    )
    return iter(loader)


class _Identity(Dataset[tuple[int, int]]):
    def __getitem__(self, sample: tuple[int, int]) -> tuple[int, int]:
        return sample


class _Collate:
    """`task.collate`, but audio that cannot be read is given back in the place of a batch: all
    ranks have to know, and what a worker raises does not arrive as it was."""

    def __init__(self, collate: Callable[[list[tuple[int, int]]], Batch]):
        self.collate = collate

    def __call__(self, samples: list[tuple[int, int]]) -> Batch | AudioError:
        try:
            return self.collate(samples)
        except AudioError as error:
            return AudioError(error.reason, error.detail)


def _leave_signals(_worker: int) -> None:
    """Ctrl-C reaches a whole process group; workers go on until the step is finished."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _update(
    task: Task,
    weights: Weights,
    batches: list[Batch],
    accelerator: Accelerator,
    config: TrainConfig,
    stop: _StopRequest,
) -> tuple[dict[str, float], bool]:
    """One optimiser update; returns the global sums of its parts, and whether to stop.

    Raises:
        UnreadableError: on every rank, before anything is computed.
    """
    unread = [batch for batch in batches if isinstance(batch, AudioError)]
    count = 0 if unread else sum(task.count(batch) for batch in batches)
    # One collective tells every rank how many units the update has, whether any has to stop, and
    # whether any lacks audio.
    agreed = torch.tensor([float(count), float(stop.asked), float(len(unread))],
                          device=accelerator.device)
    total, stopping, num_unread = accelerator.reduce(agreed, "sum").tolist()
    if num_unread:
        raise UnreadableError(str(unread[0]) if unread else "another rank cannot read its audio")
    sums: dict[str, torch.Tensor] = {}
    for index, batch in enumerate(batches):
        is_last = index == len(batches) - 1
        with contextlib.nullcontext() if is_last else accelerator.no_sync(weights.model):
            with weights.precision():
                loss_sum, parts = weights.model(send_to_device(batch, accelerator.device))
            # Ranks are averaged by DDP, but the loss is one mean over all tokens of all ranks.
            share = loss_sum * (accelerator.num_processes / max(total, 1.0))
            weights.backward(share, is_last)
        for name, value in {"loss": loss_sum.detach(), **parts}.items():
            sums[name] = sums.get(name, 0.0) + value.detach().double()
    accelerator.clip_grad_norm_(weights.model.parameters(), config.max_grad_norm)
    weights.optimizer.step()
    weights.optimizer.zero_grad(set_to_none=True)
    values = accelerator.reduce(torch.stack(list(sums.values())), "sum").tolist()
    result = dict(zip(sums, values, strict=True)) | {"count": total}
    if not math.isfinite(result["loss"]):
        raise ValueError(
            f"the loss is {result['loss']}: lower train.learning_rate, or use "
            "train.mixed_precision=no; the last checkpoint is intact"
        )
    return result, stopping > 0


def _validate(
    task: Task,
    accelerator: Accelerator,
    state: State,
    checkpoints: Checkpoints,
    log: _Log,
    keep_best: bool,
) -> None:
    """Measure the weights that are shown and keep the student, if asked only the best so far."""
    metrics = task.validate()
    log.write({"split": "validation", "step": state.step, **metrics})
    # Without a validation split the newest student counts as the best.
    score = metrics.get("score", -float(state.step))
    if score < state.best_score or not keep_best:
        if accelerator.is_main_process:
            checkpoints.save_student("best", task.save)
        state.best_score, state.best_step = score, state.step


class _Log:
    """metrics.jsonl and trackers; a resumed run forgets what it had not saved."""

    def __init__(self, path: Path, accelerator: Accelerator, step: int):
        self.path, self.accelerator = path, accelerator
        self.sums: dict[str, float] = {}
        self.since = time.monotonic()
        if accelerator.is_main_process:
            rows = read_jsonl(path, may_be_torn=True) if path.is_file() else []
            write_jsonl(path, [row for row in rows if row["step"] <= step])

    def add(self, sums: dict[str, float]) -> None:
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def write_train(self, step: int, epoch: int, rate: float) -> None:
        now, count = time.monotonic(), self.sums.pop("count")
        means = {name: value / max(count, 1.0) for name, value in self.sums.items()}
        self.write(
            {"split": "train", "step": step, "epoch": epoch, **means, "learning_rate": rate,
             "tokens": int(count), "seconds": round(now - self.since, 3)}
        )
        self.sums, self.since = {}, now

    def write(self, row: dict[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        numbers = {f"{row['split']}/{k}": v for k, v in row.items() if isinstance(v, int | float)}
        self.accelerator.log(numbers, step=row["step"])
