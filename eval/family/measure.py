"""A family measured: errors on validation and test, times, sizes, and the student to take."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import torch

from distill.data.files import hash_of, read_json, write_json
from distill.metrics.error_rates import ErrorCounts, total
from distill.metrics.normalize import normalizer_name
from distill.progress import quiet_libraries
from distill.whisper.recipe import WhisperRecipe, written_language
from distill.whisper.teacher import load_teacher, locate
from eval.family.choose import Candidate, as_good_and_faster, choose, is_within
from eval.family.ct2 import is_installed
from eval.family.errors import Split, count_errors, count_loops, decode_all, load_split, summary
from eval.family.members import Member, family_folder
from eval.family.models import CT2, TEACHER, Models, System
from eval.family.times import NUM_CLIPS, key_of, milliseconds, time_all, time_alone
from eval.machine import this_machine
from eval.speech.weight_bytes import shapes_of, weight_bytes

SPLITS = ("validation", "test")
_MEGA = 1e6


def measure(recipe: WhisperRecipe, members: Sequence[Member]) -> dict:
    """The results of a family, as they are written to results.json: measured now, apart from what
    is kept. Rates are fractions, times milliseconds, sizes megabytes.

    Raises:
        ValueError: a split has no clips to measure.
        UnreadableError: too many clips of a split cannot be read.
    """
    quiet_libraries()
    if recipe.num_threads:
        torch.set_num_threads(recipe.num_threads)
    folder = family_folder(recipe)
    systems = _systems(recipe, members)
    splits = {name: load_split(recipe, name) for name in SPLITS}
    models = cache(lambda: Models(recipe, folder / "kept"))
    kept = {name: decode_all(recipe, systems, split, folder / "kept", models)
            for name, split in splits.items()}
    seconds = time_all(recipe, systems, splits["validation"], folder / "kept" / "times.jsonl",
                       models)
    tokenizer = load_teacher(recipe.teacher, weights=False).processor.tokenizer
    counts = {(name, system.name): count_errors(split, kept[name][system.name], tokenizer)
              for name, split in splits.items() for system in systems}
    entries = {system.name: _entry(recipe, system, splits, kept, counts, seconds)
               for system in systems}
    results = _about(recipe, splits) | {
        "teacher": {"model": recipe.teacher.model, **entries[systems[0].name]},
        "students": [_student(member, systems, entries) for member in members]}
    candidates = [Candidate(system.name, entries[system.name]["milliseconds"],
                            entries[system.name]["megabytes"], counts["validation", system.name])
                  for system in systems if system.model != TEACHER]
    results |= _choice(recipe, candidates, {system.name: system for system in systems},
                       splits["validation"], models, key_of(recipe, systems))
    return results


def _systems(recipe: WhisperRecipe, members: Sequence[Member]) -> list[System]:
    """The teacher in float32, then every student in all types that this machine computes in."""
    dtypes = ["float32"]
    if not torch.cuda.is_available():
        dtypes += ["int8", *([CT2] if is_installed() else [])]
    return [System(TEACHER, locate(recipe.teacher)[0], "float32"),
            *(System(member.name, member.folder, dtype) for dtype in dtypes for member in members)]


def _about(recipe: WhisperRecipe, splits: dict[str, Split]) -> dict:
    evaluation = recipe.evaluation
    return {
        "normalizer": normalizer_name(evaluation.normalizer, written_language(recipe)),
        "error_unit": splits["test"].unit,
        "num_bootstrap": evaluation.num_bootstrap,
        "on_loop": evaluation.on_loop,
        "batch_size": evaluation.batch_size,
        "splits": {name: _size(split) for name, split in splits.items()},
        "timed_clips": {"count": NUM_CLIPS, "seconds": recipe.family.budget.clip_seconds,
                        "split": "validation"},
        "machine": this_machine(),
        "budget": asdict(recipe.family.budget),
    }


def _size(split: Split) -> dict:
    references = [split.normalise(clip.reference) for clip in split.clips]
    return {
        "num_clips": len(split.clips),
        "num_words": sum(len(text.split()) for text in references),
        "mean_seconds": statistics.fmean(clip.duration for clip in split.clips),
        "left_out": split.left_out,
    }


def _entry(
    recipe: WhisperRecipe, system: System, splits: dict[str, Split], kept: dict,
    counts: dict[tuple[str, str], list[ErrorCounts]], seconds: dict[str, list[float]],
) -> dict:
    teacher = None if system.model == TEACHER else f"{TEACHER}.float32"
    return {
        "milliseconds": milliseconds(seconds[system.name]),
        "megabytes": weight_bytes(shapes_of(system.folder), system.dtype) / _MEGA,
        **{name: summary(recipe, counts[name, system.name],
                         count_loops(split, kept[name][system.name]),
                         teacher and counts[name, teacher]) for name, split in splits.items()},
    }


def _student(member: Member, systems: Sequence[System], entries: dict[str, dict]) -> dict:
    return {"name": member.name, "decoder_layers": list(member.layers),
            "folder": str(member.folder),
            "ways": {system.dtype: entries[system.name] for system in systems
                     if system.model == member.name}}


def _choice(recipe: WhisperRecipe, candidates: Sequence[Candidate], systems: dict[str, System],
            split: Split, models: Any, timed: str) -> dict:
    """The entries `chosen` and `as_good_and_faster`. The chosen one is timed again, by itself,
    unless the same one was already."""
    budget, path = recipe.family.budget, family_folder(recipe) / "kept" / "again.json"
    best = choose(candidates, budget)
    if best is None:
        nearest = min(candidates, key=lambda each: each.milliseconds)
        return {"chosen": None, "as_good_and_faster": None, "fastest": _told(nearest, systems)}
    key = hash_of([timed, best.name])
    found = read_json(path) if path.is_file() else {}
    if found.get("key") != key:
        found = {"key": key,
                 "milliseconds": time_alone(recipe, systems[best.name], split, models)}
        write_json(path, found)
    again = {"milliseconds": found["milliseconds"],
             "is_within_budget": is_within(found["milliseconds"], best.megabytes, budget)}
    other = as_good_and_faster(candidates, best, budget, recipe.evaluation.num_bootstrap,
                               recipe.seed)
    return {"chosen": _told(best, systems) | {"again": again},
            "as_good_and_faster": other and _told(other, systems)}


def _told(candidate: Candidate, systems: dict[str, System]) -> dict:
    system = systems[candidate.name]
    return {"name": system.model, "dtype": system.dtype, "folder": str(system.folder),
            "milliseconds": candidate.milliseconds, "megabytes": candidate.megabytes,
            "validation_error_rate": total(candidate.counts).rate}
