"""What a tagger's recipe would run: clips, views, bytes and time. Part of `distill.plan`.

Reads manifests and arithmetic only: no model is loaded and no audio is read.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path

from distill.ced.data.clips import find_classes, load_clips
from distill.ced.data.views import view_type
from distill.ced.recipe import CedRecipe, uses_store
from distill.ced.teachers.frames import num_steps
from distill.data.audio import SAMPLE_RATE
from distill.data.files import read_json
from distill.data.unreadable import file_fault
from distill.progress import clock

WIDTHS = {"tiny": 192, "mini": 256, "small": 384, "base": 768}
_DEPTH, _PATCH, _SLOTS, _BANDS = 12, 16, 63, 4  # layers; frames and bands a patch; positions
_HOP = 160
CORE_FLOPS = 60e9  # float32 matrix products on AVX2; about half of it in layers this small
_UTILISATION = 0.5
_BLOCK_BYTES, _FILE_BYTES = 65 / 128, 7_000  # the store's own, a view and a file


def num_parameters(width: int, depth: int, num_classes: int) -> int:
    """Trained parameters of a CED model."""
    blocks = depth * (12 * width**2 + 13 * width)
    patches, positions = (_PATCH**2 + 1) * width, (_SLOTS + _BANDS) * width
    head = 2 * width + width * num_classes + num_classes
    return blocks + patches + positions + 2 * width + head + 2 * 64


def view_bytes(recipe: CedRecipe, num_classes: int) -> float:
    """Bytes of the store a view, with its share of the bookkeeping but for that of files."""
    k = min(recipe.scores.k, num_classes)
    each = (1 if num_classes <= 256 else 2) + (1 if recipe.scores.values == "uint8" else 2)
    if recipe.scores.frames:
        each += num_steps(round(recipe.data.clip_seconds * SAMPLE_RATE))
    return k * each + 3 + view_type(recipe.views).itemsize + _BLOCK_BYTES


def describe(recipe: CedRecipe) -> str:
    """The plan as text.

    Raises:
        ValueError: a manifest is missing.
    """
    lines, splits = [f"Plan of {Path(recipe.output_dir).name}", "", "Data"], {}
    for split in ("train", "validation", "test"):
        manifests = getattr(recipe.data, split)
        clips, drops = load_clips(manifests, recipe.data.clip_seconds)
        splits[split] = clips
        hours = sum(clip.num_samples for clip in clips) / SAMPLE_RATE / 3600
        lines.append(f"  {split:<12}{len(clips):,} clips, {hours:.2f} h" if clips else
                     f"  {split:<12}none")
        lines += [f"  {'':<12}left out: {count:,} {why}" for why, count in sorted(drops.items())]
        faults = {path: file_fault(path) for path in {clip.path for clip in clips}}
        gone = Counter(faults[clip.path].reason for clip in clips if faults[clip.path])
        lines += [f"  {'':<12}cannot be opened now: {count:,} {why}"
                  for why, count in sorted(gone.items())]
    classes = find_classes(recipe)
    lines.append(f"  {'classes':<12}{len(classes) if classes else 'those of the first teacher'}")
    num_classes = len(classes) if classes else 527
    return "\n".join([*lines, "", *_work(recipe, splits["train"], num_classes), "",
                      *_done(recipe)])


def _work(recipe: CedRecipe, clips: list, num_classes: int) -> list[str]:
    """Models, views, bytes and time."""
    train = recipe.train
    frames = sum(clip.num_samples for clip in clips) / max(len(clips), 1) / _HOP
    tokens = max(1, frames // _PATCH) * _BANDS
    cores = recipe.num_threads or os.cpu_count() or 1
    flops = cores * CORE_FLOPS * _UTILISATION
    views = train.max_steps * train.batch_size
    lines = ["Training"]
    size = _student_size(recipe, num_classes)
    lines.append(f"  {'student':<12}{recipe.student.model}"
                 + (f", {size / 1e6:.2f} M parameters" if size else ""))
    lines.append(f"  {'steps':<12}{train.max_steps:,} of {train.batch_size} clips, "
                 f"{views / max(len(clips), 1):.1f} epochs")
    if size:
        seen = tokens * (1 - recipe.student.config.get("patch_drop_rate", 0))
        work = 6 * size * seen * views + _muon_flops(recipe) * _UTILISATION  # large products
        lines.append(f"  {'time':<12}about {clock(work / flops)} on {cores} cores")
    members = recipe.teacher.members
    if not members:
        return [*lines, "", "No teachers: from the labels alone"]
    epochs = min(recipe.scores.epochs, math.ceil(views / max(len(clips), 1)))
    count = epochs * len(clips) if uses_store(recipe) else views
    sizes = [_size_on_disk(member.model) for member in members]
    lines += ["", "Teachers"]
    lines += [f"  {member.model}" + (f", {size / 1e6:.1f} M parameters" if size else "")
              for member, size in zip(members, sizes, strict=True)]
    if uses_store(recipe):
        each = view_bytes(recipe, num_classes)
        lines.append(f"  {'scores':<12}{count:,} views ({epochs} of each clip), {each:.1f} bytes a "
                     f"view, {(count * each + _FILE_BYTES) / 1e6:,.1f} MB in {recipe.scores.dir}")
    else:
        lines.append(f"  {'live':<12}{count:,} views, at every step")
    if all(sizes):
        work = 2 * sum(sizes) * tokens * count
        lines.append(f"  {'time':<12}about {clock(work / flops)} on {cores} cores, if they look at "
                     "as much as a CED model does")
    return lines


def _muon_flops(recipe: CedRecipe) -> float:
    """Of all updates, beyond AdamW's: see `distill.training.optimizer.orthogonal`."""
    if recipe.train.optimizer != "muon":
        return 0.0
    config = recipe.student.config
    width = config.get("hidden_size", WIDTHS.get(recipe.student.model, 0))
    squares, wide = 4 * 19, 2 * 25  # attention's and the MLP's matrices, products of width^3 each
    each = 2 * (squares + wide) * width**3 * config.get("num_hidden_layers", _DEPTH)
    return float(each * recipe.train.max_steps)


def _student_size(recipe: CedRecipe, num_classes: int) -> int | None:
    config = recipe.student.config
    width = config.get("hidden_size", WIDTHS.get(recipe.student.model))
    if width is None:
        return _size_on_disk(recipe.student.model)
    return num_parameters(width, config.get("num_hidden_layers", _DEPTH), num_classes)


def _size_on_disk(model: str) -> int | None:
    """Parameters of a float32 model, from the sizes of its files."""
    path = Path(model)
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    return sum(file.stat().st_size for file in files) // 4 or None


def _done(recipe: CedRecipe) -> list[str]:
    run, lines = Path(recipe.output_dir), ["Done already"]
    index, trained = Path(recipe.scores.dir) / "index.json", run / "student.json"
    if uses_store(recipe):
        stored = f"{read_json(index)['rows']:,} views" if index.is_file() else "none"
        lines.append(f"  {'scores':<12}{stored}")
    lines.append(f"  {'student':<12}"
                 + (f"{read_json(trained)['steps']:,} steps" if trained.is_file() else "not yet"))
    results = (run / "eval" / "results.json").is_file()
    lines.append(f"  {'evaluation':<12}{'there' if results else 'not yet'}")
    return lines
