"""The report on a tagger: is the student as good as its teachers, on which classes, and what does
it find in a clip? Of clips longer than SHOWN_SECONDS, only the beginning is drawn."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np

from distill.data.audio import SAMPLE_RATE, AudioError, load_audio
from distill.data.files import read_json, read_jsonl
from distill.html.charts import Bar, Series, bar_chart, line_chart, number
from distill.html.page import (
    figure,
    interval,
    missing,
    percent,
    player,
    plural,
    section,
    table,
    tiles,
)
from eval.report.examples import encode
from eval.report.run_folder import EVALUATE, guarded_section, read_if_there, training_pictures
from eval.report.spectrogram import tagged_spectrogram

TITLE = "report on a tagger"
NUM_SHOWN = 2  # clips of each kind
SHOWN_SECONDS = 12.0
_MOST_CLASSES = 6  # drawn under a clip
_MAP = "mean_average_precision"
_STYLES = {"student": "student", "teacher": "teacher"}


def facts(config: dict) -> list[str]:
    """For the line below the heading."""
    members = (config.get("teacher") or {}).get("members") or []
    return [f"{len(members)} teachers" if members else "learns from labels"]


def sections(run: Path, config: dict) -> list[str]:
    """HTML of each part of the page; one whose files are broken says so."""
    results = read_if_there(run / "eval" / "results.json", read_json)
    if results is None:
        parts = [section("Student and teachers", missing("There are no results yet.", EVALUATE))]
    else:
        parts = [
            section("Student and teachers", _systems(results)),
            section("Classes", _classes(results)),
            guarded_section("Examples", lambda: _examples(run, results), _EXAMPLES_INTRO)]
    return [*parts, guarded_section("Training", lambda: _training(run))]


# Figures


def _named(results: dict) -> list[tuple[str, str, dict]]:
    """(key, what a reader calls it, results) of each system; the student first."""
    found = []
    for key, system in results["systems"].items():
        models = ", ".join(system.get("models") or [])
        label = {"student": "Student", "teacher": "Teachers together"}.get(
            key, f"Teacher {key.removeprefix('member')}: {models}")
        found.append((key, label, system))
    return found


def _systems(results: dict) -> str:
    paired, systems = results.get("paired"), _named(results)
    heads = []
    if paired:
        ends = interval(paired["map_difference_ci"])
        heads = [
            ("Of the teachers' mAP", percent(paired["map_ratio"]),
             f"{100 * paired['map_difference']:+.1f} points {ends}".strip()),
            ("Speed", f"{paired['speed_ratio']:.1f}\u00a0\N{MULTIPLICATION SIGN}",
             "clips per second, against all teachers together"),
        ]
    student = results["systems"]["student"]
    if student.get("parameters"):
        heads.append(("Parameters", f"{student['parameters'] / 1e6:.2f}\u00a0M", "of the student"))
    bars = []
    for key, label, system in systems:
        ends = system.get(f"{_MAP}_ci")
        scaled = None if ends is None else (100 * ends[0], 100 * ends[1])
        text = f"{percent(system[_MAP])} {interval(ends)}".strip()
        bars.append(Bar(label, 100 * system[_MAP], text, _STYLES.get(key, "kept"), scaled))
    count = f"{plural(results['num_recordings'], 'recording')}, {results['hours']:.2f} h"
    caption = (f"Split {results['split']}, {count}; mean over "
               f"the {student['num_classes_with_positives']:,} classes with positives. "
               "Whiskers: 95 % bootstrap intervals over recordings. They do not hold errors that "
               "many recordings share, such as those of one source. Higher is better.")
    picture = figure("Mean average precision", bar_chart("mAP", bars, "mAP (%)"), caption)
    return tiles(heads) + f'<div class="grid-2">{picture}{_speed(results)}</div>' + _table(systems)


def _speed(results: dict) -> str:
    bars = [
        Bar(label, system["clips_per_second"], f"{system['clips_per_second']:.1f}",
            _STYLES.get(key, "kept"))
        for key, label, system in _named(results) if system.get("clips_per_second")
    ]
    if not bars:
        return ""
    caption = (f"Batches of {results['batch_size']}, float32, {results['device']}, "
               f"{plural(results['threads'], 'thread')}, from decoded audio to probabilities. "
               "Higher is better.")
    return figure("Speed", bar_chart("Speed", bars, "clips per second"), caption)


def _table(systems: list[tuple[str, str, dict]]) -> str:
    def both(system: dict, key: str) -> str:
        value = system.get(key)
        ends = interval(system.get(f"{key}_ci"), 2)
        return percent(value, 2) + (f"\n{ends}" if ends else "")

    def plain(system: dict, key: str, size: float = 1, digits: int = 2) -> str:
        value = system.get(key)
        return "\N{EN DASH}" if value is None else f"{value / size:,.{digits}f}"

    rows = [
        (label, both(s, _MAP), both(s, "auc"), plain(s, "d_prime_of_mean_auc"),
         plain(s, "mean_d_prime"), both(s, "lwlrap"), percent(s.get("ece"), 2),
         plain(s, "parameters", 1e6), plain(s, "bytes", 1e6, 1), plain(s, "ms_per_10_s", 1, 0))
        for _, label, s in systems
    ]
    head = ("", "mAP", "AUC", "d\u2032 of the mean AUC", "mean d\u2032", "lwlrap",
            "calibration error", "parameters, M", "size, MB", "ms for 10 s alone")
    known = [at for at in range(len(head))  # what no system has is no column
             if at == 0 or any(row[at] != "\N{EN DASH}" for row in rows)]
    head, rows = ([[line[at] for at in known] for line in lines] for lines in ([head], rows))
    return f'<div class="card">{table(head[0], rows)}</div>'


def _classes(results: dict) -> str:
    systems = results["systems"]
    student = systems["student"]["classes"]
    teacher = systems.get("teacher", {}).get("classes")
    rows = []
    for index, ours in enumerate(student):
        theirs = teacher[index] if teacher else {}
        values = [ours.get("average_precision"), theirs.get("average_precision")]
        if not teacher:
            shown = [percent(values[0])]
        elif None in values:
            shown = [percent(values[0]), percent(values[1]), "\N{EN DASH}"]
        else:
            shown = [percent(values[0]), percent(values[1]),
                     f"{100 * (values[0] - values[1]):+.1f}"]
        auc = percent(ours.get("auc"))
        rows.append((ours["name"], f"{ours['num_positives']:,}", *shown, auc))
    rows.sort(key=lambda row: row[0].lower())
    middle = ("AP, student", "AP, teachers", "difference, points") if teacher else ("AP",)
    return ('<div class="card">'
            + table(("Class", "recordings with it", *middle, "AUC, student"), rows) + "</div>")


def _chosen(run: Path) -> str:
    trained = read_if_there(run / "student.json", read_json)
    return f" The student is that of step {trained['best_step']:,}." if trained else ""


def _training(run: Path) -> str:
    return training_pictures(run, lambda train, validation: [
        _loss(train), _validation(validation, run)])


def _loss(rows: list[dict]) -> str:
    losses = _losses(rows)
    if not losses:
        return ""
    picture = line_chart("Loss", losses, "step", "BCE per class, nats")
    return figure("Training loss", picture, "Train split; one step is one optimiser update.")


def _validation(rows: list[dict], run: Path) -> str:
    maps = [(row["step"], 100 * row["map"]) for row in rows if row.get("map") is not None]
    if not maps:
        return ""
    picture = line_chart("Validation mAP", [Series("mAP", maps, "a", markers=True)], "step",
                         "mAP (%)")
    best = max(maps, key=lambda point: point[1])
    return figure("Validation mAP", picture,
                  f"Highest {number(best[1])} % at step {best[0]:,}.{_chosen(run)}")


def _losses(rows: list[dict]) -> list[Series]:
    """The parts of the loss, or where there is only one the loss itself."""
    parts = {"scores of clips": "soft_bce", "of every 0.4 s": "frame_bce", "labels": "label_bce"}
    lines = [Series(name, [(row["step"], row[key]) for row in rows if key in row], style)
             for (name, key), style in zip(parts.items(), "abc", strict=True)]
    lines = [line for line in lines if line.points]
    if len(lines) < 2:
        points = [(row["step"], row["loss"]) for row in rows if "loss" in row]
        lines = [Series("loss", points, "a")] if points else []
    return lines


# Clips

_EXAMPLES_INTRO = (
    "The student's best and worst clips of the test split. Spectrograms show 0 to 8 kHz on the mel "
    "scale. The bars below are the student's probabilities of every 160 ms: the stronger, the more "
    "likely. \N{BLACK CIRCLE} marks the labels of the clip."
)


def _examples(run: Path, results: dict) -> str:
    rows = read_if_there(run / "eval" / "predictions.jsonl", read_jsonl) or []
    rows = [row for row in rows if row["labels"]]
    if not rows or not (run / "student").is_dir():
        return missing("There are no predictions yet.", EVALUATE)
    names = [each["name"] for each in results["systems"]["student"]["classes"]]
    scored = [(_precision(row, names), len(row["labels"]), row) for row in rows]
    best = sorted(scored, key=lambda item: (-item[0], -item[1], item[2]["id"]))[:NUM_SHOWN]
    worst = sorted(scored, key=lambda item: (item[0], item[2]["id"]))[:NUM_SHOWN]
    tagger = _FrameTagger(run / "student", names)
    parts = []
    for title, chosen in (("Best, with the most classes", best), ("Worst", worst)):
        cards = "".join(_example(row, names, tagger) for _, _, row in chosen)
        parts.append(f'<h3>{title}</h3><div class="grid-2">{cards}</div>')
    return "".join(parts)


def _precision(row: dict, names: list[str]) -> float:
    """Mean precision at the ranks of a clip's labels; 1 if they are the likeliest classes."""
    probabilities = np.array(row["student"])
    true = np.array([name in row["labels"] for name in names])
    order = np.argsort(-probabilities, kind="stable")
    hits = true[order]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


class _FrameTagger:
    """The student: probabilities of every 160 ms."""

    def __init__(self, folder: Path, names: list[str]):
        import torch

        from distill.ced.model.modeling import CedForAudioClassification

        self.model = CedForAudioClassification.from_pretrained(folder, dtype=torch.float32).eval()
        outputs = [self.model.config.id2label[n] for n in range(self.model.config.num_labels)]
        self.columns = [outputs.index(name) for name in names]

    def __call__(self, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features (64, frames), and probabilities (steps, classes)."""
        import torch

        from distill.ced.model.frontend import log_mel

        features = log_mel(torch.from_numpy(wave))
        with torch.inference_mode():
            frames = self.model(features[None]).frame_logits[0].sigmoid()
        return features.numpy(), frames[:, self.columns].double().numpy()


def _example(row: dict, names: list[str], tagger: _FrameTagger) -> str:
    title = f"<h3><code>{escape(row['id'])}</code>, {row['duration']:.1f} s</h3>"
    try:
        wave = load_audio(row["audio_filepath"], row["offset"],
                          min(row["duration"], SHOWN_SECONDS))
    except AudioError as error:
        return (f'<article class="card example">{title}<p class="note">No audio: '
                f"{escape(error.reason)}.</p></article>")
    features, frames = tagger(wave)
    probabilities = np.array(row["student"])
    likely = [names[n] for n in np.argsort(-probabilities, kind="stable")]
    shown = (row["labels"] + [name for name in likely if name not in row["labels"]])[:_MOST_CLASSES]
    shown.sort(key=likely.index)
    picture = tagged_spectrogram(f"Spectrogram of {row['id']}", features,
                                 frames[:, [names.index(name) for name in shown]], shown,
                                 row["labels"])
    sound, _ = encode(wave[: round(SHOWN_SECONDS * SAMPLE_RATE)])
    lines = []
    for name in shown:
        cells = [percent(probabilities[names.index(name)], 0)]
        if "teacher" in row:
            cells.append(percent(row["teacher"][names.index(name)], 0))
        lines.append((("\N{BLACK CIRCLE} " if name in row["labels"] else "") + name, *cells))
    head = ("Whole clip", "student", "teachers") if "teacher" in row else ("Whole clip", "student")
    return (f'<article class="card example">{title}{player(sound, row["id"])}{picture}'
            f"{table(head, lines)}</article>")
