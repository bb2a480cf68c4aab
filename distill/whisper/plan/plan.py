"""What a Whisper recipe would run: windows, parameters, disk, memory, steps and time. See
`distill.plan`.

Manifests and arithmetic only. While a manifest of the training split is missing,
`data.expected_hours` stands in for it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from distill.data.audio import WINDOW_SECONDS
from distill.data.files import read_json
from distill.data.manifest import made_by
from distill.whisper.data.corpus import load_clips
from distill.whisper.encoder.lengths import positions_of
from distill.whisper.plan import cost
from distill.whisper.plan.outside_plan import plan_outside
from distill.whisper.plan.scale_plan import plan_scale
from distill.whisper.plan.sizes import WhisperSize, find_size, num_parameters
from distill.whisper.plan.store_plan import plan_store
from distill.whisper.plan.time_plan import TOKENS_PER_SECOND, plan_time
from distill.whisper.plan.window_plan import evaluation_window_seconds, plan_training_windows
from distill.whisper.prompting.reader_config import width_of
from distill.whisper.recipe import WhisperRecipe
from distill.whisper.teacher import take_own_margin

# Assumptions; `describe` prints those of speed with what comes of them.
# of windows, of a corpus of mixed clip lengths; alone, clips of 7.5 s
FILL = {"sequential": 0.78, "best_fit": 0.99, "none": 0.25}
_ROW_BYTES, _PIECE_BYTES, _TOKEN_BYTES = 700, 100, 16  # of a label row; a token is id and text


def plan(recipe: WhisperRecipe) -> dict:
    """Everything `describe` shows, as plain numbers; bytes and seconds, fractions for shares.

    A teacher whose architecture is not known here leaves None wherever it matters.

    Raises:
        ValueError: a training manifest is missing and there is no data.expected_hours, or the
            student wants more layers than the teacher has.
    """
    run = Path(recipe.output_dir)
    take_own_margin(recipe.teacher, Path(recipe.teacher.model))  # if it is a folder
    data = {split: _split(recipe, split) for split in ("train", "validation", "test")}
    done = _done(recipe, run, math.ceil(data["train"]["windows"] / recipe.pseudo_label.shard_size))
    training = _training(recipe, done["kept_windows"] or data["train"]["windows"], data["train"])
    result = {
        "name": run.name,
        "data": data,
        "teacher": {"model": recipe.teacher.model, "mode": recipe.teacher.mode},
        "student": {"decoder_layers": None, "encoder_layers": None},
        "training": training,
        "outside": plan_outside(recipe, data["train"]),
        "disk": None, "store": None, "memory": None, "time": None, "scale": None,
        "done": done,
    }
    try:
        size = find_size(recipe.teacher.model)
    except ValueError:  # a model nobody has described here, or a CTranslate2 folder
        return result
    student = _student(recipe, size)
    result["teacher"] |= _numbers(size, size.encoder_layers, size.decoder_layers)
    result["student"] = student
    tokens = TOKENS_PER_SECOND * data["train"]["seconds_per_window"]
    result["disk"] = _disk(recipe, size, student, data["train"], tokens)
    result["store"] = plan_store(recipe, size, training, data["train"], tokens)
    result["memory"] = _memory(recipe, size, student, training, data["train"]["positions"])
    result["time"] = plan_time(recipe, size, student, data, training)
    result["scale"] = plan_scale(recipe, result)
    return result


# Data

def _split(recipe: WhisperRecipe, split: str) -> dict:
    """Clips and windows of a split; None where its manifests would have to be read."""
    paths = getattr(recipe.data, split)
    config, train = recipe.pseudo_label, split == "train"
    limit = config.window_seconds if train else WINDOW_SECONDS
    missing = [path for path in paths if not Path(path).is_file()]
    result = {"clips": None, "hours": None, "long_clips": None, "unheard_clips": None,
              "drops": {}, "windows": None, "fill": None, "seconds_per_window": None,
              "positions": None, "packings": 1,
              "missing": missing, "commands": [_command(path) for path in missing]}
    if train:
        result["packings"] = config.num_packings
    if not paths:
        return result | {"clips": 0, "hours": 0.0, "long_clips": 0, "windows": 0}
    if missing and train:
        return result | _expected(recipe, missing)
    if missing:
        return result
    rows, drops = load_clips(paths)
    if not train:
        rows = [row for row in rows if (row.text or "").strip()]  # as evaluation does
    seconds = sum(row.duration for row in rows)
    long = sum(row.duration > limit for row in rows)
    result |= {"clips": len(rows), "hours": seconds / 3600, "drops": dict(drops),
               "long_clips": long, "unheard_clips": long}
    if not train:
        windows = evaluation_window_seconds(recipe, rows)
        return result | {"windows": len(windows), "positions": _positions(recipe, windows),
                         **_filling(seconds, len(windows), limit)}
    packed, unheard = plan_training_windows(recipe, rows)
    each = [window.duration for window in packed]  # without the silence of long recordings
    return result | {"windows": len(packed), "unheard_clips": unheard,
                     "positions": _positions(recipe, each),
                     **_filling(sum(each), len(packed), limit)}


def _expected(recipe: WhisperRecipe, missing: list[str]) -> dict:
    hours, config = recipe.data.expected_hours, recipe.pseudo_label
    if hours is None:
        raise ValueError(
            f"manifest not found: {missing[0]}; make it with `{_command(missing[0])}`, or set "
            "data.expected_hours for an estimate"
        )
    seconds = hours * 3600 * config.num_packings
    windows = math.ceil(seconds / config.window_seconds / FILL[config.packing])
    filling = _filling(seconds, windows, config.window_seconds)
    return {"hours": hours, "windows": windows, **filling,
            "positions": _positions(recipe, [filling["seconds_per_window"]])}


def _positions(recipe: WhisperRecipe, windows: Sequence[float]) -> float:
    """Mean number that the teacher's encoder computes of windows of so many seconds."""
    margin = recipe.teacher.short_audio_margin
    return fmean(positions_of(seconds, margin) for seconds in windows or [WINDOW_SECONDS])


def _filling(seconds: float, windows: int, limit: float) -> dict:
    mean = seconds / windows if windows else 0.0
    return {"seconds_per_window": mean, "fill": mean / limit}


def _command(path: str) -> str:
    """What makes a manifest; SOURCE is in the recipe's README."""
    path = Path(os.path.relpath(Path(path).resolve()))
    return (made_by(path)
            or f"python -m distill.data.hub_dataset SOURCE {path.parent} name={path.stem}")


# Models

def _numbers(size: WhisperSize, encoder_layers: int, decoder_layers: int, extra: int = 0) -> dict:
    count = num_parameters(size, encoder_layers, decoder_layers) + extra
    return {
        "encoder_layers": encoder_layers, "decoder_layers": decoder_layers, "parameters": count,
        "float32_bytes": 4 * count, "float16_bytes": 2 * count,
    }


def _student(recipe: WhisperRecipe, size: WhisperSize) -> dict:
    config = recipe.student
    layers = (
        _num_layers(config.encoder_layers, size.encoder_layers, "student.encoder_layers"),
        _num_layers(config.decoder_layers, size.decoder_layers, "student.decoder_layers"),
    )
    frozen = (
        config.freeze_encoder,
        config.freeze_embeddings,
        config.freeze_positions,
        config.freeze_feed_forward,
    )
    trained = cost.num_trained(size, *layers, *frozen)
    reader, extra = config.prompt_reader, 0
    if reader.layers:
        width = width_of(reader.model) or size.d_model  # of most models: a guess
        extra = cost.num_reader_parameters(size, reader.layers, width)
        trained = trained * reader.train_decoder + extra
    found = _numbers(size, *layers, extra) | {"trained_parameters": trained}
    if reader.layers:
        found["reader"] = (f"{extra / 1e6:.1f} M parameters behind {reader.layers} of the "
                           f"encoder's layers; text: {reader.model or 'its own embeddings'}")
    return found


def _num_layers(choice: int | list[int] | None, total: int, key: str) -> int:
    if choice is None:
        return total
    count = choice if isinstance(choice, int) else len(choice)
    if count > total:
        raise ValueError(f"{key} must be at most {total}, the layers of the teacher, got {choice}")
    return count


# Steps, disk and memory

def _training(recipe: WhisperRecipe, windows: int, data: dict) -> dict:
    """A step is one optimiser update; a view is a window as it is drawn for an epoch."""
    train, views = recipe.train, recipe.views
    batch, micro = float(train.batch_size), float(train.micro_batch_size)
    if train.batch_tokens is not None:
        tokens = TOKENS_PER_SECOND * data["seconds_per_window"]
        batch = max(1.0, train.batch_tokens / tokens)
        micro = max(1.0, (train.micro_batch_tokens or train.batch_tokens) / tokens)
    total = round(train.max_steps * batch)
    epochs = total / windows
    timestamps, previous = views.timestamp_probability, views.previous_text_probability
    # a variant of probability p is drawn at least once in n epochs with 1 - (1 - p)^n
    drawn = sum(1 - (1 - p * q) ** epochs for p in (timestamps, 1 - timestamps)
                for q in (previous, 1 - previous))
    distinct = min(total, windows * drawn)
    # a changed sound and a prompt never come twice
    def shares(augmented: float) -> float:
        return 1 - (1 - augmented) * (1 - views.prompts.probability)

    changed = shares(views.augment.probability)
    heard = shares(0.0) if views.teacher_hears == "clean" else changed  # by who scores it
    return {
        "windows": windows, "steps": train.max_steps, "batch_size": round(batch),
        "micro_batches_per_step": max(1, round(batch / micro)),
        "views": total, "distinct_views": round(changed * total + (1 - changed) * distinct),
        "scored_views": round(heard * total + (1 - heard) * distinct),
        "epochs": epochs,
        "validations": math.ceil(train.max_steps / train.validate_every),
    }


def _disk(
    recipe: WhisperRecipe, size: WhisperSize, student: dict, data: dict, tokens: float
) -> dict:
    """Bytes by what is written."""
    train, config, windows = recipe.train, recipe.pseudo_label, data["windows"]
    clips = (data["clips"] or 4 * windows) * config.num_packings
    rows = windows * (_ROW_BYTES + tokens * _TOKEN_BYTES) + clips * _PIECE_BYTES
    checkpoint = 4 * student["parameters"] + 8 * student["trained_parameters"]
    checkpoint += 4 * student["trained_parameters"] * (train.average_decay > 0)
    return {
        "labels": round(2 * rows),  # all of them, and the kept ones again
        "checkpoint": checkpoint,
        "checkpoints": (train.keep_checkpoints + 1) * checkpoint,  # the next, before one goes
        "best": 4 * student["parameters"],
        "student": 4 * student["parameters"],
    }


def _memory(
    recipe: WhisperRecipe, size: WhisperSize, student: dict, training: dict, positions: float
) -> dict:
    """Bytes a training process needs at least, before activations."""
    trained = student["trained_parameters"]
    copies = 3 + (recipe.train.average_decay > 0)  # gradient, two AdamW states, the average
    teacher = num_parameters(size) if recipe.teacher.mode == "live" else 0
    kept = recipe.teacher.mode == "store" and recipe.scores.encoder_states == "memory"
    states = min(training["windows"], training["views"]) * cost.states_bytes(
        size, positions=positions)
    short = recipe.teacher.short_audio_margin is not None
    return {
        "models": 4 * (teacher + student["parameters"] + copies * trained),
        "encoder_states": round(states * kept),
        "silence": {dtype: cost.silence_bytes(size, dtype) * short
                    for dtype in ("float32", "float16")},
    }


# What is there already

def _done(recipe: WhisperRecipe, run: Path, num_shards: int) -> dict:
    labels, checkpoints = Path(recipe.labels_dir), run / "checkpoints"
    settings, report = labels / "settings.json", labels / "filter.json"
    steps = [int(m[1]) for path in checkpoints.glob("step-*")
             if (m := re.fullmatch(r"step-(\d+)", path.name))]
    trained = run / "student.json"
    return {
        "shards": len(list(labels.glob("part-*.jsonl"))),
        "num_shards": read_json(settings)["num_shards"] if settings.is_file() else num_shards,
        "kept_windows": read_json(report)["kept"] if report.is_file() else None,
        "checkpoint_step": max(steps, default=None),
        "student_steps": read_json(trained)["steps"] if trained.is_file() else None,
        "evaluation": (run / "eval" / "results.json").is_file(),
    }
