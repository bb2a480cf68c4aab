"""Training steps: with a live teacher and from the store, in float32 and bf16, compiled or not."""

from __future__ import annotations

import hashlib
import statistics
import time

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device

from distill.training.optimizer import make_optimizer
from distill.whisper.recipe import load_recipe
from distill.whisper.task import WhisperTask
from eval.benchmark.gpu.checks import Check
from eval.benchmark.gpu.labelling import wait_for_device
from eval.benchmark.gpu.material import Material
from eval.memory import PeakMemory

STEPS = 6  # of the same batch; the first one warms up
NEAR = {"no": 1e-3, "bf16": 2e-2}  # relative: states are stored in float16; bf16 has 8 bits
PAYS = 1.05  # compiled: times as fast


class Steps:
    """A student of its own, and its steps on one batch.

    Args:
        mode: live or store, as `teacher.mode`.
        precision: as `train.mixed_precision`.
        compiled: the student's decoder by torch.compile; on a CPU traced, and not translated.
    """

    def __init__(self, material: Material, mode: str, precision: str, compiled: bool = False):
        recipe = load_recipe(str(material.path),
                             material.overrides("labels", **{"teacher.mode": mode}))
        self.on_cpu = not torch.cuda.is_available()
        self.accelerator = Accelerator(cpu=self.on_cpu)
        self.precision = torch.bfloat16 if precision == "bf16" else None
        self.task = WhisperTask(recipe, self.accelerator)
        self.optimizer = make_optimizer(self.task.model, recipe.train)
        self.places = self.task.batches.update(0)[: material.size.batch]
        if compiled:
            self.task.student.model.decoder.compile(
                backend="aot_eager" if self.on_cpu else "inductor")

    def __call__(self) -> float:
        """One update; the mean loss of a token before it."""
        device = self.accelerator.device
        batch = send_to_device(self.task.collate(self.places), device)
        with torch.autocast(device.type, self.precision, enabled=self.precision is not None):
            total, _ = self.task.model(batch)
        loss = total / batch["num_valid"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.task.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())


def measure(material: Material, mode: str, precision: str, compiled: bool = False) -> dict:
    """Losses, seconds and memory of STEPS steps; whether the teacher stayed as it was."""
    with PeakMemory() as memory:
        steps = Steps(material, mode, precision, compiled)
        teacher = steps.task.model.teacher
        before = digest(teacher) if teacher is not None else ""
        losses, seconds = [], []
        for _ in range(STEPS):
            wait_for_device()
            began = time.perf_counter()
            losses.append(steps())
            wait_for_device()
            seconds.append(time.perf_counter() - began)
    after = digest(teacher) if teacher is not None else ""
    return {"mode": mode, "precision": precision, "compiled": compiled, "losses": losses,
            "seconds": seconds[1:], "median_seconds": statistics.median(seconds[1:]),
            "windows_per_second": len(steps.places) / statistics.median(seconds[1:]),
            "peak_memory_bytes": memory.peak_bytes, "teacher_untouched": before == after}


def digest(model: torch.nn.Module) -> str:
    """Of all weights."""
    found = hashlib.sha256()
    for weight in model.parameters():
        found.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy())
    return found.hexdigest()


def all_steps(material: Material) -> list[dict]:
    """Every way, for `judge`."""
    ways = [(mode, precision, False) for mode in ("live", "store") for precision in ("no", "bf16")]
    ways.append(("store", "no" if not torch.cuda.is_available() else "bf16", True))
    return [measure(material, *way) for way in ways]


def judge(steps: list[dict]) -> list[Check]:
    """What the losses have to say of each other, whatever their size."""
    by_way = {(each["mode"], each["precision"], each["compiled"]): each for each in steps}
    exact = by_way["live", "no", False]["losses"][0]
    checks = []
    for (mode, precision, _), found in by_way.items():
        name = describe_way(found)
        first, last = found["losses"][0], found["losses"][-1]
        error = abs(first - exact) / abs(exact)
        checks.append(Check(f"loss as live in float32: {name}", error <= NEAR[precision],
                            f"{error:.1e} of it, at most {NEAR[precision]:g}"))
        checks.append(Check(f"learns: {name}", last < first, f"{first:.4f} -> {last:.4f}"))
        if mode == "live":
            checks.append(Check(f"teacher is not trained: {name}", found["teacher_untouched"],
                                "its weights are the same bytes" if found["teacher_untouched"]
                                else "its weights have changed"))
    return checks


def describe_way(found: dict) -> str:
    precision = {"no": "float32"}.get(found["precision"], found["precision"])
    return f"{found['mode']}, {precision}" + (", compiled" if found["compiled"] else "")


def compiling(steps: list[dict]) -> dict:
    """Whether it pays."""
    compiled = next(each for each in steps if each["compiled"])
    plain = next(each for each in steps if not each["compiled"]
                 and each["mode"] == compiled["mode"]
                 and each["precision"] == compiled["precision"])
    gain = plain["median_seconds"] / compiled["median_seconds"]
    return {"speedup": gain, "pays": gain >= PAYS}
