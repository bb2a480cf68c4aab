"""Measure a tagger and its teachers, each and together, on the test split.

    python -m eval RECIPE [key=value ...]

Writes runs/NAME/eval/{predictions.jsonl,results.json}, a CSV of all classes for each system, and
runs/NAME/report/index.html.
Every system hears the same clips, no longer than `data.clip_seconds`; a recording's probabilities
are the mean of its clips', by their length. Times are from decoded audio to probabilities. A run
that is stopped goes on: batches that are done are kept in runs/NAME/eval/ until all are.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from distill.ced.recipe import CedRecipe, load_recipe
from distill.ced.recipe_sections import MemberConfig, TeacherConfig
from distill.data.audio import SAMPLE_RATE
from distill.data.files import hash_of, read_json, write_json, write_jsonl
from distill.data.formats.places import fingerprints
from distill.data.manifest import read_manifest
from distill.data.model_files import model_stamp
from distill.kept_lines import append, begin
from distill.methods import check_data, evaluation_settings
from distill.metrics.tagging import evaluate_tags, paired_bootstrap_of_map
from distill.progress import progress, quiet_libraries
from eval.machine import describe, this_machine
from eval.plots import write_plots
from eval.tagging.table import markdown_table, write_class_csv

SPEED_SECONDS = 10.0  # of audio, one at a time
_REPEATS = 5


FEATURES = ("features", 0)
Asked = tuple[tuple[str, int], float, np.ndarray | None]  # of a batch: see `_ask_all`


@dataclass
class Measured:
    """What a system computed, and how long it took.

    Attributes:
        probabilities: (clips, classes) of each batch of clips.
        seconds: for all clips, in batches.
        ms_per_10_s: median time of one clip of 10 s alone.
    """

    probabilities: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0
    ms_per_10_s: float = 0.0


def main(arguments: list[str]) -> None:
    recipe = load_recipe(arguments[0], arguments[1:])
    run = Path(recipe.output_dir)
    results = evaluate(recipe, run)
    write_plots(run)
    from eval.report.write import write_report

    page = write_report(run, "tags")
    print(table(results))
    print(f"Report with pictures and sounds: {page.resolve()}")


def evaluate(recipe: CedRecipe, run: Path) -> dict:
    """results.json of a run, measured now unless nothing has changed since."""
    student = run / "student"
    if not student.is_dir():
        raise ValueError(f"no student in {student}: run `make NAME.train` first")
    if not recipe.data.test:
        raise ValueError("data.test is empty: there is nothing to evaluate on")
    check_data(recipe, "eval")
    trained = run / "student.json"
    settings = evaluation_settings(recipe, read_json(trained) if trained.is_file() else None)
    path = run / "eval" / "results.json"
    found = read_json(path) if path.is_file() else {}
    audio = _audio_hash(recipe)
    if found.get("settings") == settings and found.get("audio") == audio:
        print("Evaluation is done already.")
        return found
    kept = run / "eval" / ".tags.said.jsonl"
    key = hash_of([settings, audio, model_stamp(student)])
    results, predictions = measure(recipe, run, kept, key)
    for name, system in results["systems"].items():
        write_class_csv(run / "eval" / f"classes-{name}.csv", system)
    write_jsonl(run / "eval" / "predictions.jsonl", predictions)
    write_json(path, {**results, "settings": settings, "audio": audio})
    kept.unlink()
    return results


def _audio_hash(recipe: CedRecipe) -> str:
    """Of the test split's files: other sounds may have been put into their place."""
    paths = [row.audio_filepath for path in recipe.data.test for row in read_manifest(path)[0]]
    return hash_of(list(fingerprints(paths).values()))


def table(results: dict) -> str:
    """Systems side by side, for a terminal."""
    systems = results["systems"]
    text = markdown_table(systems) + (
        f"\n{results['split'].capitalize()} split: {results['num_recordings']:,} recordings, "
        f"{results['hours']:.2f} h, in {results['num_clips']:,} clips of up to "
        f"{results['clip_seconds']:g} s. Times: {results['device']}, {results['threads']} "
        f"thread(s), float32, batches of {results['batch_size']}, from decoded audio to "
        "probabilities.\n")
    if machine := results.get("machine"):
        text += f"Machine: {describe(machine)}.\n"
    paired = results.get("paired")
    if not paired:
        return text
    ends = paired["map_difference_ci"]
    interval = f" [{100 * ends[0]:.2f}, {100 * ends[1]:.2f}]" if ends else ""
    return text + (
        f"\nStudent minus teacher, mAP: {100 * paired['map_difference']:+.2f} points{interval}; "
        f"{paired['map_ratio']:.1%} of the teacher's at {paired['speed_ratio']:.1f} times its "
        f"speed ({paired['speed_ratio_10_s']:.1f} times one by one).\n"
    )


def measure(recipe: CedRecipe, run: Path, kept: Path, key: str) -> tuple[dict, list[dict]]:
    """Everything in results.json but the settings, and the rows of predictions.jsonl.

    Args:
        kept: file of what is computed so far, under `key` of all that it depends on.
    """
    import torch

    from distill.ced.evaluation import EvaluationClips
    from distill.ced.teachers.ensemble import Ensemble
    from distill.ced.teachers.scoring import resolve_classes

    quiet_libraries()
    if recipe.num_threads:
        torch.set_num_threads(recipe.num_threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clips = EvaluationClips(recipe.data.test, recipe.data.clip_seconds)
    classes = resolve_classes(recipe)
    targets = clips.targets(classes)
    if not targets.any():
        raise ValueError(f"data.test: none of the {len(clips.rows)} recordings has a label, so mAP "
                         "cannot be computed; use a manifest with `labels`")
    print(f"Evaluating on {len(clips.rows)} recordings ({len(clips)} clips, "
          f"{sum(clip.num_samples for clip in clips.clips) / SAMPLE_RATE / 60:.1f} minutes); left "
          f"out: {dict(clips.drops) or 'nothing'}", flush=True)
    student = TeacherConfig([MemberConfig(str(run / "student"), activation="sigmoid")])
    ensembles = {"student": Ensemble(student, classes, device)}
    if recipe.teacher.members:
        ensembles["teacher"] = Ensemble(recipe.teacher, classes, device)
    measured = _measure_all(ensembles, clips, recipe.evaluation.batch_size, kept, key)
    systems, pooled = {}, {}
    for name, which, probabilities, parts in _systems(ensembles, measured):
        pooled[name] = clips.pool(probabilities)
        systems[name] = {
            **evaluate_tags(pooled[name], targets, classes, recipe.evaluation.num_bootstrap,
                            recipe.seed),
            **_cost(ensembles[which[0]], which, measured[FEATURES], parts, len(clips)),
        }
    results = {
        "split": "test", "num_recordings": len(clips.rows), "num_clips": len(clips),
        "hours": sum(clip.num_samples for clip in clips.clips) / SAMPLE_RATE / 3600,
        "drops": dict(clips.drops), "clip_seconds": recipe.data.clip_seconds,
        "batch_size": recipe.evaluation.batch_size, "device": device,
        "threads": torch.get_num_threads(), "machine": this_machine(),
        "average": recipe.teacher.average, "systems": systems,
    }
    if "teacher" in systems:
        results["paired"] = _paired(recipe, pooled, targets, systems)
    return results, _predictions(clips, classes, pooled)


def _measure_all(
    ensembles: dict, clips, batch_size: int, kept: Path, key: str
) -> dict[tuple[str, int], Measured]:
    """What each member of each ensemble computes of all clips, and its times.

    Args:
        kept: file of the batches that are done; with the same key they are not computed again.

    Returns:
        by (ensemble, number of its member); the features that members share are FEATURES.
    """
    measured = {FEATURES: Measured()} | {
        (name, number): Measured() for name, ensemble in ensembles.items()
        for number in range(len(ensemble.members))}
    long = np.resize(clips.wave(0), round(SPEED_SECONDS * SAMPLE_RATE))
    alone = [{each: seconds for each, seconds, _ in _ask_all(ensembles, [long])}
             for _ in range(1 + _REPEATS)]  # the first one warms up
    for each, member in measured.items():
        member.ms_per_10_s = 1000 * float(np.median([times[each] for times in alone[1:]]))
    batches = {line["start"]: _read_batch(line) for line in begin(kept, key)}
    starts = range(0, len(clips), batch_size)
    todo = [start for start in starts if start not in batches]
    for start in progress(todo, len(starts), "evaluating", "batches",
                          initial=len(starts) - len(todo)):
        waves = [clips.wave(n) for n in range(start, min(start + batch_size, len(clips)))]
        batches[start] = list(_ask_all(ensembles, waves))
        append(kept, _written_batch(start, batches[start]))
    for start in starts:
        for each, seconds, probabilities in batches[start]:
            measured[each].seconds += seconds
            if probabilities is not None:
                measured[each].probabilities.append(probabilities)
    return measured


def _ask_all(ensembles: dict, waves: Sequence[np.ndarray]) -> Iterator[Asked]:
    """(ensemble and number of its member, seconds, its probabilities) of some clips; the shared
    features first, without probabilities."""
    import torch

    from distill.ced.model.frontend import log_mel

    begun = time.perf_counter()
    features = [log_mel(torch.from_numpy(wave)) for wave in waves]
    yield FEATURES, time.perf_counter() - begun, None
    for name, ensemble in ensembles.items():
        for number in range(len(ensemble.members)):
            begun = time.perf_counter()
            probabilities = ensemble.ask(number, waves, features)
            yield (name, number), time.perf_counter() - begun, probabilities


def _written_batch(start: int, asked: Sequence[Asked]) -> dict:
    """A batch as a line of JSON; arrays as .npy in base64, to the last bit."""
    return {"start": start, "asked": [
        [*which, seconds, None if probabilities is None else _to_text(probabilities)]
        for which, seconds, probabilities in asked]}


def _read_batch(line: dict) -> list[Asked]:
    return [((name, number), seconds, None if text is None else _from_text(text))
            for name, number, seconds, text in line["asked"]]


def _to_text(array: np.ndarray) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _from_text(text: str) -> np.ndarray:
    return np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)


def _systems(ensembles: dict, measured: dict):
    """(name, (ensemble, number of its member or None), probabilities, what it is made of)."""
    for name, ensemble in ensembles.items():
        members = [measured[name, number] for number in range(len(ensemble.members))]
        each = np.stack([np.concatenate(member.probabilities) for member in members])
        yield name, (name, None), ensemble.combine(each).probabilities, members
        if name == "teacher" and len(members) > 1:
            for number, member in enumerate(members):
                # a class that it does not know counts as absent
                yield (f"member{number + 1}", (name, number), np.nan_to_num(each[number]),
                       [member])


def _cost(ensemble, which: tuple, front: Measured, parts: Sequence[Measured], num: int) -> dict:
    """Speed and size of a system; features are counted where one of its models needs them."""
    members = ensemble.members if which[1] is None else [ensemble.members[which[1]]]
    names = ensemble.names if which[1] is None else [ensemble.names[which[1]]]
    shared = [front] if any(member.takes_features for member in members) else []
    seconds = sum(each.seconds for each in (*shared, *parts))
    sizes = [(member.num_parameters, member.num_bytes) for member in members]
    known = [all(size is not None for size in column) for column in zip(*sizes, strict=True)]
    return {
        "models": names,
        "clips_per_second": num / seconds,
        "ms_per_10_s": sum(each.ms_per_10_s for each in (*shared, *parts)),
        "parameters": sum(size for size, _ in sizes) if known[0] else None,
        "bytes": sum(size for _, size in sizes) if known[1] else None,
    }


def _paired(recipe: CedRecipe, pooled: dict, targets: np.ndarray, systems: dict) -> dict:
    found = paired_bootstrap_of_map(pooled["teacher"], pooled["student"], targets,
                                    recipe.evaluation.num_bootstrap, recipe.seed)
    teacher, student = systems["teacher"], systems["student"]
    key = "mean_average_precision"
    return {
        "map_difference": found.difference,
        "map_difference_ci": list(found.interval) if found.interval else None,
        "p_value": found.p_value,
        "map_ratio": student[key] / teacher[key],
        "speed_ratio": student["clips_per_second"] / teacher["clips_per_second"],
        "speed_ratio_10_s": teacher["ms_per_10_s"] / student["ms_per_10_s"],
    }


def _predictions(clips, classes: Sequence[str], pooled: dict) -> list[dict]:
    """A line per recording: labels, and each system's probability of every class, in order."""
    first: dict[str, object] = {}
    seconds: dict[str, float] = {}
    for clip in clips.clips:
        first.setdefault(clip.row, clip)
        seconds[clip.row] = seconds.get(clip.row, 0.0) + clip.num_samples / SAMPLE_RATE
    return [
        {"id": row, "audio_filepath": first[row].path,
         "offset": round(first[row].start / SAMPLE_RATE, 6), "duration": round(seconds[row], 6),
         "labels": list(first[row].labels),
         **{name: [float(f"{p:.6g}") for p in values[number]] for name, values in pooled.items()}}
        for number, row in enumerate(clips.rows)
    ]
