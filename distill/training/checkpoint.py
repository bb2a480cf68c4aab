"""Checkpoints that are whole or absent, and the way back from them.

`runs/NAME/checkpoints/step-000500/` holds everything a run needs to go on bit for bit (accelerate's
state of model, optimiser, scaler and random generators on every rank, our own state.json);
`checkpoints/best/` holds the best student so far (the last one without `train.keep_best`), ready
to publish.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from distill.data.files import read_json, write_json
from distill.training.average import Average
from distill.training.sharding import Weights


@dataclass
class State:
    """Where a run is."""

    step: int = 0
    best_score: float = math.inf
    best_step: int = 0


class Checkpoints:
    """The checkpoints folder of a run.

    Args:
        run: runs/NAME.
        settings: hash of everything that shapes the result.
        keep: newest checkpoints to keep.
    """

    def __init__(self, run: Path, settings: str, keep: int):
        self.folder = run / "checkpoints"
        self.settings, self.keep = settings, keep

    def steps(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        found = self.folder.glob("step-*") if self.folder.is_dir() else []
        return sorted(path for path in found if re.fullmatch(r"step-\d+", path.name))

    def last_step(self) -> int:
        """Of the newest complete checkpoint; 0 if there is none."""
        found = self.steps()
        return int(found[-1].name.removeprefix("step-")) if found else 0

    def save(
        self, accelerator: Accelerator, state: State, weights: Weights, average: Average | None
    ) -> None:
        """Write `step-NNNNNN` under another name, make it durable, rename it, drop old ones."""
        target = self.folder / f"step-{state.step:06d}"
        temporary = self.folder / f".{target.name}.tmp"
        if accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        accelerator.wait_for_everyone()
        weights.save(temporary)
        averaged = average.state_dict() if average else None
        if accelerator.is_main_process:
            if averaged:
                torch.save(averaged, temporary / "average.pt")
            write_json(temporary / "state.json", {**asdict(state), "settings": self.settings})
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _publish(temporary, target)
            for old in self.steps()[: -self.keep]:
                shutil.rmtree(old)
        accelerator.wait_for_everyone()

    def find(self, accelerator: Accelerator) -> Path | None:
        """The newest checkpoint; leftovers of killed runs are removed.

        Raises:
            ValueError: it was made with other settings.
        """
        if accelerator.is_main_process and self.folder.is_dir():
            for leftover in self.folder.glob(".*.tmp"):
                shutil.rmtree(leftover)
        accelerator.wait_for_everyone()
        found = self.steps()
        if not found:
            return None
        if read_json(found[-1] / "state.json")["settings"] != self.settings:
            raise ValueError(
                f"{found[-1]} was trained with other settings or labels; remove "
                f"{self.folder} to start over, or choose another output_dir"
            )
        return found[-1]

    def resume(
        self, accelerator: Accelerator, weights: Weights, average: Average | None
    ) -> State:
        """Load the newest checkpoint into what was prepared; a fresh State if there is none."""
        found = self.find(accelerator)
        if not found:
            return State()
        saved = read_json(found / "state.json")
        del saved["settings"]
        weights.load(found)
        if average:
            average.load_state_dict(
                torch.load(found / "average.pt", map_location=accelerator.device.type))
        accelerator.print(f"Resuming from {found}")
        return State(**saved)

    def save_student(self, name: str, save: Callable[[Path], None]) -> Path:
        """Write a publishable student to `checkpoints/<name>`; call on the main process only."""
        target = self.folder / name
        temporary = self.folder / f".{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save(temporary)
        _publish(temporary, target)
        return target


def _publish(temporary: Path, target: Path) -> None:
    """fsync every file, then take the place of `target`."""
    for path in temporary.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    if target.exists():
        # rename cannot replace a folder that is not empty; a kill in between leaves the old one
        # under a name that the next run removes, and the new one is made again.
        old = target.with_name(f".{target.name}.old.tmp")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old)
    else:
        temporary.rename(target)
