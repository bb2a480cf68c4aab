"""What must be right on a GPU, and how fast it is: one command, a few minutes.

    python -m eval.benchmark.gpu        make bench.gpu

Needs no download: weights are random, of whisper-large-v3's shape where 40 GB are there, of
whisper-small's on smaller GPUs, and tiny on a CPU, where the same code runs. Asserts, each with
what it found:

- the KL of a student that is its teacher is exactly 0, in float32 and under bf16;
- speculative decoding gives the tokens of plain decoding in float16 and bfloat16, with counts of
  near ties;
- labels in float32 are those of transformers;
- a step from the store has the loss of a step with a live teacher, in float32, in bf16 and
  compiled; it learns, and the teacher is not trained;
- all GPUs together (two processes on a CPU) train as one does.

Measures RTFx of labelling beside transformers, seconds of steps, and peak memory. Writes
runs/bench/gpu.json; ends with an error if anything asserted does not hold.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from distill.progress import quiet_libraries
from eval.benchmark.gpu import several, training
from eval.benchmark.gpu.checks import Check, drafts_change_nothing, kl_is_zero, name_of
from eval.benchmark.gpu.labelling import labels_are_transformers, speed
from eval.benchmark.gpu.material import Material, Size, device, fitting, load_material
from eval.benchmark.gpu.table import table
from eval.benchmark.result import run_benchmark, write_result

OUT = Path("runs/bench")


def main(arguments: list[str]) -> None:
    if arguments:
        print(__doc__)
        return
    result = run(OUT / "gpu", fitting())
    write_result(OUT / "gpu.json", result, table(result))
    failed = [check["name"] for check in result["checks"] if not check["passed"]]
    if failed:
        raise ValueError(f"{len(failed)} of {len(result['checks'])} checks failed: "
                         + "; ".join(failed))


def run(folder: Path, size: Size) -> dict:
    """Everything, in an empty folder."""
    quiet_libraries()
    shutil.rmtree(folder, ignore_errors=True)
    material = load_material(folder.resolve(), size)
    checks, drafts = in_this_process(material)
    tell("labels and scores")
    several.prepare(material)
    tell("training steps")
    steps = training.all_steps(material)
    checks += training.judge(steps)
    tell("several processes")
    found, processes = several.compare(material)
    shutil.rmtree(folder)
    return {
        "checks": [asdict(check) for check in [*checks, *found]], "size": size.name,
        "device": torch.cuda.get_device_name() if device().type == "cuda" else "cpu",
        "num_gpus": torch.cuda.device_count(), "batch": size.batch,
        "windows": len(material.seconds), "drafts": drafts,
        "labelling": [speed(material, dtype) for dtype in _types_of_labels()],
        "steps": steps, "compile": training.compiling(steps), "processes": processes,
    }


def in_this_process(material: Material) -> tuple[list[Check], dict]:
    """What needs no labels; also counts of drafts, by type."""
    tell("divergence, drafts and labels")
    checks = [kl_is_zero(material, dtype) for dtype in (torch.float32, torch.bfloat16)]
    drafts = {}
    for dtype in (torch.float16, torch.bfloat16):
        found = drafts_change_nothing(material, dtype)
        checks += [check for check, _ in found]
        drafts[name_of(dtype)] = [figures for _, figures in found]
    return [*checks, labels_are_transformers(material)], drafts


def _types_of_labels() -> list[torch.dtype]:
    """Half types on a CPU without products of them say nothing."""
    if device().type == "cpu":
        return [torch.float32]
    return [torch.float32, torch.float16, torch.bfloat16]


def tell(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_benchmark(main)
