"""Does it matter that teacher and student get the very same view? Several seeds, the same budget.

    python -m eval.benchmark.consistency RECIPE [key=value ...]

For each seed, a student of the recipe is trained twice: from scores of the views that it trains on,
and from scores of other views of the same clips (`teacher.consistent: false`; what the paper calls
inconsistent, arXiv:2308.11957). Both have as many views, steps and calls of the teachers. Neither
has a loss of frames, which needs teachers of the same view. Measures both on the test split and
writes runs/bench/consistency.json: mAP of each run, the mean difference over seeds and its 95 %
interval (Student's t over the seeds' differences).

Takes as long as ten trainings and two stores. It can be stopped at any time: what is there is kept,
and `seeds=[0,1]` makes only these. Only seeds that have both runs count.
"""

from __future__ import annotations

import math
import shutil
import statistics
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from distill.ced.recipe import CedRecipe, load_recipe
from distill.config import ConfigError
from distill.data.files import hash_of, read_json, write_json
from distill.endings import run as run_command
from distill.methods import manifests_hash
from eval.benchmark.result import write_result
from eval.machine import this_machine

OUT = Path("runs/bench")
FOLDER = OUT / "consistency"
SEEDS = (0, 1, 2, 3, 4)
NO_FRAMES = ["loss.frame_weight=0", "scores.frames=false"]
MODES = {"consistent": "true", "inconsistent": "false"}
_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # 1 to 9 degrees


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    name, overrides = arguments[0], [a for a in arguments[1:] if not a.startswith("seeds=")]
    overrides += NO_FRAMES
    seeds = _seeds([a for a in arguments[1:] if a.startswith("seeds=")])
    recipe = load_recipe(name, overrides)
    if not recipe.teacher.members or not recipe.data.test:
        raise ValueError("this needs teacher.members and data.test")
    for seed in seeds:
        for mode in MODES:
            run_one(name, overrides, recipe, mode, seed)
            write_json(OUT / "consistency.json", summarise(recipe))
    result = summarise(recipe)
    write_result(OUT / "consistency.json", result, text(result))


def _seeds(given: list[str]) -> list[int]:
    if not given:
        return list(SEEDS)
    numbers = given[-1].removeprefix("seeds=").strip("[]").split(",")
    if not all(each.strip().isdigit() for each in numbers):
        raise ConfigError(f"expected seeds=[0,1,...], got {given[-1]}")
    return [int(each) for each in numbers]


def run_one(name: str, overrides: list[str], recipe: CedRecipe, mode: str, seed: int) -> None:
    """Scores, student and mAP of one run, unless they are there."""
    home = FOLDER / _budget(recipe)["settings"]  # other settings have other stores
    folder = home / f"{mode}-{seed}"
    keys = [
        *overrides, "teacher.mode=store", f"teacher.consistent={MODES[mode]}",
        f"views.seed={recipe.views.seed}", f"scores.dir={home}/scores-{mode}",
    ]
    done = folder / "result.json"
    run_recipe = load_recipe(name, [*keys, f"seed={seed}", f"output_dir={folder}"])
    budget = _budget(run_recipe)
    if done.is_file() and read_json(done)["budget"] == budget:
        print(f"{mode}, seed {seed}: done already")
        return
    print(f"== {mode}, seed {seed}", flush=True)
    _call("pseudo_label.tag_scores", name, *keys)
    _call("distill.train", name, *keys, f"seed={seed}", f"output_dir={folder}")
    write_json(done, {**measure(run_recipe), "budget": budget, "mode": mode, "seed": seed,
                      "machine": this_machine()})
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _budget(recipe: CedRecipe) -> dict:
    """What runs that are compared have in common: all of the recipe but its seed, its folders and
    whether views are shared, and what its teachers and manifests hold."""
    from distill.ced.teachers.ensemble import ensemble_settings

    values = asdict(recipe)
    for key in ("seed", "output_dir", "num_threads", "hub", "export"):
        del values[key]
    values["scores"] = {k: v for k, v in values["scores"].items()
                        if k not in ("dir", "num_workers")}
    values["teacher"] = ensemble_settings(recipe.teacher)
    values["data"] |= {split: manifests_hash(getattr(recipe.data, split))
                       for split in ("train", "validation", "test")}
    return {"steps": recipe.train.max_steps, "batch": recipe.train.batch_size,
            "epochs": recipe.scores.epochs, "student": recipe.student.model,
            "settings": hash_of(values)}


def _call(module: str, *arguments: str) -> None:
    """Another process: what it trains, and how it is stopped, is its own affair."""
    ended = subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode
    if ended:
        raise ValueError(f"python -m {module} {' '.join(arguments)} ended with {ended}")


def measure(recipe: CedRecipe) -> dict:
    """mAP of a run's student on the test split, over how many classes and recordings.

    Raises:
        ValueError: no recording has a label.
    """
    import numpy as np
    import torch

    from distill.ced.evaluation import EvaluationClips, student_probabilities
    from distill.ced.model.modeling import CedForAudioClassification
    from distill.ced.teachers.scoring import resolve_classes
    from distill.metrics.tagging import mean_average_precision

    model = CedForAudioClassification.from_pretrained(
        Path(recipe.output_dir) / "student", dtype=torch.float32).eval()
    clips = EvaluationClips(recipe.data.test, recipe.data.clip_seconds)
    size = recipe.evaluation.batch_size
    batches = [range(at, min(at + size, len(clips))) for at in range(0, len(clips), size)]
    probabilities = np.concatenate(
        [student_probabilities(model, clips.features(batch)) for batch in batches])
    targets = clips.targets(resolve_classes(recipe))
    if not targets.any():
        raise ValueError("data.test: not one recording has a label")
    value, num_classes = mean_average_precision(clips.pool(probabilities), targets)
    return {"map": value, "num_classes": num_classes, "num_recordings": len(targets)}


def summarise(recipe: CedRecipe) -> dict:
    """Everything that is there of this budget."""
    budget = _budget(recipe)
    runs = [read_json(path) for path in sorted(FOLDER.glob("*/*/result.json"))]
    runs = [run for run in runs if run["budget"] == budget]
    maps = {(run["mode"], run["seed"]): run["map"] for run in runs}
    seeds = sorted({seed for _, seed in maps if all((mode, seed) in maps for mode in MODES)})
    differences = [maps["consistent", s] - maps["inconsistent", s] for s in seeds]
    result = {
        "budget": budget, "split": "test", "seeds": seeds,
        "num_recordings": runs[0].get("num_recordings") if runs else None,
        "num_classes": runs[0].get("num_classes") if runs else None,
        "map": {mode: [maps[mode, seed] for seed in seeds] for mode in MODES},
        "difference": statistics.mean(differences) if seeds else None, "difference_ci": None,
    }
    if 1 < len(seeds) <= len(_T_95) + 1:
        half = _T_95[len(seeds) - 2] * statistics.stdev(differences) / math.sqrt(len(seeds))
        result["difference_ci"] = [result["difference"] - half, result["difference"] + half]
    return result


def text(result: dict) -> str:
    lines = [f"split {result['split']}: {result['num_recordings']} recordings, mAP over "
             f"{result['num_classes']} classes with positives"] if result["seeds"] else []
    lines += [f"seed {seed}: consistent {100 * a:.2f} %, inconsistent {100 * b:.2f} % mAP"
             for seed, a, b in zip(result["seeds"], result["map"]["consistent"],
                                   result["map"]["inconsistent"], strict=True)]
    if result["difference"] is not None:
        ends = result["difference_ci"]
        sure = f" [{100 * ends[0]:.2f}, {100 * ends[1]:.2f}]" if ends else ""
        lines.append(f"consistent minus inconsistent: {100 * result['difference']:+.2f} points"
                     f"{sure}, {len(result['seeds'])} seeds")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
