"""Convert a student, run every copy in its real runtime, publish what passes.

runs/NAME/export/KIND/verification.json says what was measured, for what passed and what did not;
runs/NAME/export/KIND/WEIGHTS/ holds what passed. A copy appears there whole, after it has passed;
one that does not pass leaves nothing, not even a copy from before. Until then copies and what was
measured of them are in runs/NAME/export/KIND/.partial-SETTINGS; a run that was stopped goes on
there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from distill.config import to_dict
from distill.data.files import hash_of, read_json, sync_folder, write_json
from distill.data.model_files import model_stamp
from distill.kept_lines import append, begin
from distill.progress import quiet_libraries
from distill.whisper.data.corpus import load_clips, test_utterances
from distill.whisper.encoder.lengths import margin_of, set_margin
from distill.whisper.export import ct2, ggml, runtimes, sherpa
from distill.whisper.export.encoder_graph import Sounds
from distill.whisper.export.heads import Heads, choose_heads
from distill.whisper.export.importance import mean_squares
from distill.whisper.export.runtimes import Runtime
from distill.whisper.export.table import text_table
from distill.whisper.export.verify import Test, refusals, student_test, verify
from distill.whisper.prompting.reader_files import refuse_reader
from distill.whisper.recipe import WhisperRecipe

PACKAGES = {
    "ct2": ("ctranslate2", "faster-whisper"),
    "onnx": ("onnx", "onnxruntime", "sherpa-onnx"),
    "ggml": ("pywhispercpp",),
}
PADDED = ("ct2", "ggml")  # their runtimes have encoders of their own, which pad every clip
PARTIAL = ".partial-"
_KEPT = "measured.jsonl"


@dataclass
class Student:
    """What is exported."""

    folder: Path
    model: WhisperForConditionalGeneration
    processor: WhisperProcessor
    heads: Heads | None  # ggml has none
    sounds: Sounds | None = None  # a head that tags; onnx alone has it
    importance: dict[str, np.ndarray] = field(default_factory=dict)  # of inputs; ggml alone has it


def export_student(recipe: WhisperRecipe, kind: str, sounds: Sounds | None = None) -> bool:
    """Export runs/NAME/student as one of PACKAGES; prints the table.

    Args:
        sounds: the head that tags beside it, if there is one.

    Returns:
        whether every copy passed and is published.

    Raises:
        ValueError: there is no student, a runtime is not installed, or it cannot take this student.
    """
    quiet_libraries()
    run = Path(recipe.output_dir)
    if not (run / "student" / "config.json").is_file():
        raise ValueError(f"no student in {run / 'student'}: run `make {run.name}.train` first")
    refuse_reader(run / "student", "export")
    target = run / "export" / kind
    settings = hash_of([model_stamp(run / "student"), to_dict(recipe.export),
                        to_dict(recipe.evaluation), recipe.data.test, recipe.language, recipe.task,
                        runtimes.versions(PACKAGES[kind]),
                        *([ggml.ROUNDING] if kind == "ggml" else [])])
    path = target / "verification.json"
    before = read_json(path) if path.is_file() else {"settings": None}
    if before["settings"] == settings and all(
            any((target / weights).glob("*")) for weights in _published(before["exports"])):
        print("Exported and verified already.")
    else:
        partial = target / f"{PARTIAL}{settings[:16]}"
        write_json(path, {**_export(recipe, run, kind, partial, sounds),
                          "settings": settings})
        shutil.rmtree(partial)
    results = read_json(path)
    print(text_table(results))
    for entry in results["exports"]:
        for reason in entry["refused"]:
            print(f"REFUSED {kind}/{entry['weights']}, {entry['runtime']}: {reason}")
    for weights in _published(results["exports"]):
        print(f"Published: {target / weights}")
    return not _refused(results["exports"])


def _refused(entries: list[dict]) -> set[str]:
    """Weights that did not pass in one of their runtimes."""
    return {entry["weights"] for entry in entries if entry["refused"]}


def _published(entries: list[dict]) -> list[str]:
    return sorted({entry["weights"] for entry in entries} - _refused(entries))


def _export(
    recipe: WhisperRecipe, run: Path, kind: str, partial: Path, sounds: Sounds | None
) -> dict:
    """
    Args:
        partial: where copies are until they have passed; another run may have left some there.
    """
    if recipe.num_threads:
        torch.set_num_threads(recipe.num_threads)
    utterances, drops = test_utterances(recipe)
    student = _load(recipe, run / "student", with_heads=kind != "ggml")
    student.sounds = sounds if kind == "onnx" else None
    if kind in PADDED:  # so do we, to compare
        set_margin(student.model, None)
    for leftover in partial.parent.glob(f"{PARTIAL}*"):  # killed, with other settings
        if leftover != partial:
            shutil.rmtree(leftover)
    try:
        kept = _written(student, kind, partial)
        test = student_test(recipe, utterances, student.model, student.processor,
                            partial / _KEPT, kept)
        entries = list(_verify(recipe, student, kind, partial, test, kept[2:]))
        _publish(partial, partial.parent, {each["weights"] for each in entries}, _refused(entries))
    except OSError:  # a full disk, as a rule: it should not stay full
        shutil.rmtree(partial, ignore_errors=True)
        raise
    results = {"kind": kind, "student": run.name, "drops": drops, **test.facts(),
               "short_audio_margin": margin_of(student.model),
               "limits": to_dict(recipe.export), "exports": entries}
    return results | ({"alignment_heads": asdict(student.heads)} if student.heads else {})


def _load(recipe: WhisperRecipe, folder: Path, with_heads: bool) -> Student:
    processor = WhisperProcessor.from_pretrained(folder)
    model = WhisperForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()  # eager: has weights
    rows = load_clips(recipe.data.train)[0] if recipe.data.train else []
    look = model, processor, rows, recipe.language, recipe.task
    heads = choose_heads(*look) if with_heads else None
    model.set_attn_implementation("sdpa")
    importance = {} if with_heads else mean_squares(*look)
    return Student(folder, model, processor, heads, importance=importance)


def _written(student: Student, kind: str, partial: Path) -> list[dict]:
    """Write the copies, if they are not there, whole.

    Returns:
        what an earlier run kept: that they are written, what we say of the test split, and the
        entry of every runtime that was done.
    """
    path = partial / _KEPT
    if path.is_file() and (kept := begin(path, partial.name)):
        return kept
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    _WRITERS[kind](student, partial)
    begin(path, partial.name)
    append(path, {"written": True})
    return [{"written": True}]


def _verify(
    recipe: WhisperRecipe, student: Student, kind: str, partial: Path, test: Test, kept: list[dict]
) -> Iterator[dict]:
    threads = torch.get_num_threads()
    for number, (weights, load) in enumerate(_RUNTIMES[kind](student, recipe.task, threads)):
        if number < len(kept):
            yield kept[number]
            continue
        folder = partial / weights
        size = sum(path.stat().st_size for path in folder.iterdir())
        entry = {"weights": weights, **verify(load(folder), test, size, threads)}
        entry["refused"] = refusals(entry, recipe.export, test.unit)
        append(partial / _KEPT, entry)
        yield entry


def _publish(partial: Path, target: Path, every: set[str], refused: set[str]) -> None:
    for weights in sorted(every):
        shutil.rmtree(target / weights, ignore_errors=True)
        if weights not in refused:
            for path in (partial / weights).iterdir():
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
            (partial / weights).rename(target / weights)
    sync_folder(target)


def _write_ct2(student: Student, out: Path) -> None:
    for weights in ct2.QUANTIZATIONS:
        ct2.write_ct2(student.folder, out / weights, weights, student.heads.heads)


def _write_onnx(student: Student, out: Path) -> None:
    for weights in ("float32", "int8"):
        (out / weights).mkdir()
    sherpa.write_sherpa(student.model, student.processor.tokenizer, out / "float32",
                        student.heads.heads, student.sounds)
    sherpa.quantise(out / "float32", out / "int8")


def _write_ggml(student: Student, out: Path) -> None:
    for weights in ggml.WEIGHTS:
        (out / weights).mkdir()
        path = out / weights / "ggml-model.bin"
        ggml.write_ggml(student.model, student.processor, path, weights, student.importance)


Loads = Iterator[tuple[str, Callable[[Path], Runtime]]]


def _ct2_runtimes(student: Student, task: str, threads: int) -> Loads:
    # CPUs have no float16 to compute in
    for weights, compute in (("float16", "float32"), ("int8", "int8")):
        yield weights, lambda folder, c=compute: runtimes.faster_whisper(
            folder, c, task, threads, student.processor, student.model.generation_config)


def _onnx_runtimes(student: Student, task: str, threads: int) -> Loads:
    for weights in ("float32", "int8"):
        yield weights, lambda folder, w=weights: runtimes.onnxruntime(
            folder, w, task, threads, student.processor, student.model.generation_config)
        yield weights, lambda folder, w=weights: runtimes.sherpa_onnx(folder, w, task, threads)


def _ggml_runtimes(student: Student, task: str, threads: int) -> Loads:
    context = student.model.config.max_target_positions
    for weights in ggml.WEIGHTS:
        yield weights, lambda folder, w=weights: runtimes.whisper_cpp(
            folder / "ggml-model.bin", w, task, threads, context)


_WRITERS = {"ct2": _write_ct2, "onnx": _write_onnx, "ggml": _write_ggml}
_RUNTIMES = {"ct2": _ct2_runtimes, "onnx": _onnx_runtimes, "ggml": _ggml_runtimes}
