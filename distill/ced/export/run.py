"""Export a run's student for onnxruntime and sherpa-onnx, run it there, publish what passes.

    python -m distill.export RECIPE to=onnx

runs/NAME/export/onnx has the files that passed (see `distill.ced.export.onnx_graph`), and
verification.json says what was measured of all of them on the test split.
"""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from distill.ced.evaluation import EvaluationClips
from distill.ced.model.checkpoint import load_checkpoint
from distill.ced.recipe import CedRecipe
from distill.config import to_dict
from distill.data.files import hash_of, read_json, sync_folder, write_json
from distill.data.model_files import model_stamp
from distill.metrics.tagging import mean_average_precision
from distill.progress import quiet_libraries

PACKAGES = ("onnx", "onnxruntime", "sherpa-onnx")
_PARTIAL = ".partial-"


def export_student(recipe: CedRecipe, kind: str) -> bool:
    """Export runs/NAME/student and measure every file; prints the table.

    Returns:
        whether every file passed and is published.

    Raises:
        ValueError: there is no student, another kind than onnx, no test split, or a package is
            not installed.
    """
    run = Path(recipe.output_dir)
    if kind != "onnx":
        raise ValueError(f"audio taggers are exported to=onnx, got to={kind}")
    if not (run / "student" / "config.json").is_file():
        raise ValueError(f"no student in {run / 'student'}: run `make {run.name}.train` first")
    if not recipe.data.test:
        raise ValueError("export is verified on the test split: data.test is empty")
    quiet_libraries()
    target = run / "export" / kind
    settings = hash_of([model_stamp(run / "student"), to_dict(recipe.export), recipe.data.test,
                        recipe.data.clip_seconds, _versions()])
    path = target / "verification.json"
    before = read_json(path) if path.is_file() else {"settings": None}
    if before["settings"] == settings and _are_there(before["exports"], target):
        print("Exported and verified already.")
    else:
        write_json(path, {**_export(recipe, run, target), "settings": settings})
    results = read_json(path)
    print(text_table(results))
    return not any(entry["refused"] for entry in results["exports"])


def _versions() -> list[str]:
    """Of PACKAGES, before anything that imports them."""
    try:
        return [version(package) for package in PACKAGES]
    except PackageNotFoundError as error:
        raise ValueError(
            f"{error.name} is not installed: pip install 'audio-distill[export]'") from None


def _refused_files(entries: list[dict]) -> set[str]:
    return {entry["file"] for entry in entries if entry["refused"]}


def _are_there(entries: list[dict], target: Path) -> bool:
    """Whether nobody has removed what was published."""
    from distill.ced.export.onnx_graph import FILES, LABELS_FILE

    published = {*FILES, LABELS_FILE} - _refused_files(entries)
    return all((target / name).is_file() for name in published)


def _export(recipe: CedRecipe, run: Path, target: Path) -> dict:
    from distill.ced.export.onnx_graph import FILES, LABELS_FILE, export_tagger
    from distill.ced.export.onnx_verify import reference_scores, verify

    if recipe.num_threads:
        torch.set_num_threads(recipe.num_threads)
    model = load_checkpoint(run / "student")
    classes = [model.config.id2label[index] for index in range(model.config.num_labels)]
    clips = EvaluationClips(recipe.data.test, recipe.data.clip_seconds)
    waves = [clips.wave(index) for index in range(len(clips))]
    targets = clips.targets(classes)
    target.mkdir(parents=True, exist_ok=True)
    for leftover in target.glob(f"{_PARTIAL}*"):  # of a run that was killed
        shutil.rmtree(leftover)
    with TemporaryDirectory(prefix=_PARTIAL, dir=target) as temporary:
        partial = Path(temporary)
        export_tagger(run / "student", partial)
        entries = verify(model, partial, waves, targets, clips.pool, torch.get_num_threads())
        for entry in entries:
            entry["refused"] = _refused(entry, recipe.export.max_map_loss)
        refused = _refused_files(entries)
        for name in (*FILES, LABELS_FILE):
            (target / name).unlink(missing_ok=True)
            if name not in refused:
                shutil.move(partial / name, target / name)
        sync_folder(target)
    reference = mean_average_precision(clips.pool(reference_scores(model, waves)), targets)
    return {
        "kind": "onnx", "student": run.name, "split": "test", "num_recordings": len(targets),
        "num_clips": len(waves), "seconds": sum(map(len, waves)) / 16_000,
        "drops": dict(clips.drops),
        "mean_average_precision": reference[0], "num_classes": reference[1],
        "limits": to_dict(recipe.export), "exports": entries,
    }


def _refused(entry: dict, limit: float) -> list[str]:
    """Reasons. sherpa-onnx as it is, is no reason: its features are half a hop late."""
    if entry["runtime"] == "sherpa-onnx":
        return []
    if entry["map_loss"] > limit:
        return [f"it loses {100 * entry['map_loss']:.2f} points of mAP; export.max_map_loss allows "
                f"{100 * limit:.2f}"]
    return []


def text_table(results: dict) -> str:
    """verification.json for a terminal."""
    from distill.ced.export.onnx_verify import HALF_HOP

    rows = [("file", "runtime", "mAP", "lost", "largest difference", "same best class",
             "ms a clip", "MB", "")]
    for entry in results["exports"]:
        rows.append((
            entry["file"], entry["runtime"], f"{100 * entry['mean_average_precision']:.2f} %",
            f"{100 * entry['map_loss']:+.2f}", f"{entry['max_difference']:.0e}",
            f"{100 * entry['same_best_class']:.1f} %", f"{entry['ms_per_clip']:.1f}",
            f"{entry['bytes'] / 1e6:.1f}", "refused" if entry["refused"] else "passed",
        ))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in rows]
    reasons = [f"REFUSED {entry['file']}, {entry['runtime']}: {reason}"
               for entry in results["exports"] for reason in entry["refused"]]
    return "\n".join([
        lines[0], "-" * len(lines[0]), *lines[1:], "",
        f"test split: {results['num_recordings']} recordings, {results['num_clips']} clips, "
        f"{results['seconds'] / 60:.1f} minutes; mAP of PyTorch "
        f"{100 * results['mean_average_precision']:.2f} % over {results['num_classes']} classes. "
        f"Give sherpa-onnx {HALF_HOP} zeros before the sound.", *reasons])
