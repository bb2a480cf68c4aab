"""All GPUs together: labels, scores and training as `accelerate launch` starts them."""

from __future__ import annotations

import shutil
import statistics

from safetensors.torch import load_file

from distill.data.files import read_jsonl
from eval.benchmark.gpu.checks import Check
from eval.benchmark.gpu.material import Material, num_processes, run_stage

NEAR = 1e-3  # of losses, relative, and of weights, of their largest


def prepare(material: Material) -> None:
    """Labels and the store, by all processes."""
    overrides = material.overrides("labels")
    run_stage("pseudo_label", material.path, overrides, num_processes())
    run_stage("pseudo_label.scores", material.path, overrides, num_processes())


def train(material: Material, processes: int) -> dict:
    """A run from the store: its losses, and the median seconds of a step."""
    name = f"train-{processes}"
    shutil.copytree(material.folder / "labels" / "pseudo_labels",
                    material.folder / name / "pseudo_labels")
    overrides = material.overrides(name, **{"teacher.mode": "store"})
    run_stage("distill.train", material.path, overrides, processes)
    rows = [row for row in read_jsonl(material.folder / name / "metrics.jsonl")
            if row["split"] == "train"]
    return {"processes": processes, "losses": [row["loss"] for row in rows],
            "median_seconds": statistics.median(row["seconds"] for row in rows[1:])}


def compare(material: Material) -> tuple[list[Check], list[dict]]:
    """One process, and all."""
    runs = [train(material, processes) for processes in (1, num_processes())]
    return judge(material, *runs), runs


def judge(material: Material, one: dict, several: dict) -> list[Check]:
    error = max(abs(a - b) / abs(a)
                for a, b in zip(one["losses"], several["losses"], strict=True))
    students = [load_file(material.folder / f"train-{run['processes']}" / "student" /
                          "model.safetensors") for run in (one, several)]
    apart = max(float((students[0][name] - students[1][name]).abs().max() /
                      students[0][name].abs().max().clamp(min=1e-6)) for name in students[0])
    count = several["processes"]
    return [Check(f"losses of {count} processes as of one", error <= NEAR,
                  f"{error:.1e} apart, at most {NEAR:g}"),
            Check(f"student of {count} processes as of one", apart <= NEAR,
                  f"{apart:.1e} apart, at most {NEAR:g}")]
