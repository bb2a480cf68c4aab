"""The report on an audio language model: what it answers, whether it listens, and what that sounds
like."""

from __future__ import annotations

from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

from distill.data.audio import AudioError, load_audio
from distill.data.files import read_json, read_jsonl
from distill.html.charts import Bar, Series, bar_chart, line_chart
from distill.html.page import figure, interval, missing, percent, player, section, table, tiles
from eval.machine import describe
from eval.report.examples import encode
from eval.report.run_folder import (
    EVALUATE,
    TRAIN,
    guarded_section,
    read_if_there,
    training_pictures,
)

TITLE = "report on an audio language model"
NUM_SHOWN = 6  # clips of each task: half of them answered wrong, where there are so many
_INPUTS = (("joint", "Audio and transcript", "student"), ("audio_only", "Audio alone", "teacher"),
           ("text_only", "Transcript alone", "kept"))
_HEARD = (("right", "the right audio"), ("other", "another clip's audio"), ("silence", "silence"),
          ("none", "no audio"))
_STYLES = "abcd"


def facts(config: dict) -> list[str]:
    """For the line below the heading."""
    named = [(config.get(part) or {}).get("model") for part in ("encoder", "language_model")]
    return [f"encoder {named[0]}" if named[0] else "",
            f"language model {named[1]}" if named[1] else ""]


def sections(run: Path, config: dict) -> list[str]:
    """HTML of each part of the page; one whose files are broken says so."""
    results = read_if_there(run / "eval" / "results.json", read_json)
    if results is None:
        parts = [section("Answers", missing("There are no results yet.", EVALUATE))]
    else:
        parts = [section("Answers", _tasks(results)),
                 section("Is it listening?", _listening(results["listening"])),
                 guarded_section("Examples", lambda: _examples(run), _EXAMPLES_INTRO)]
    return [*parts, *_stages(run, config)]


# Figures


def _tasks(results: dict) -> str:
    heads, rows = [], []
    for name, entry in results["tasks"].items():
        heads.append(_head(name, entry))
        rows.append(_row(name, entry))
    if told := results.get("no_speech"):
        heads.append(("Clips without speech", percent(told["answered_so"]),
                      f"of {told['num_without_speech']} are answered <no speech> "
                      f"{interval(told['answered_so_ci'])}"))
    if "joint_minus_best_single" in results:
        ends = [100 * each for each in results["joint_minus_best_single_ci"]]
        heads.append(("Both inputs over the better one",
                      f"{100 * results['joint_minus_best_single']:+.1f} points",
                      f"on questions that need both [{ends[0]:+.1f}, {ends[1]:+.1f}]"))
    shown = [tiles(heads)]
    if rows:
        shown.append(table(("Task", "Model", "Cascade", "Clips"), rows))
    if "accuracy" in results:
        shown.append(_closed(results["accuracy"]))
    shown.append(f'<p class="note">Test split, float32, {escape(describe(results["machine"]))}. '
                 "In brackets: 95 % intervals over clips or questions.</p>")
    return "".join(shown)


def _head(name: str, entry: dict) -> tuple[str, str, str]:
    if "wer" in entry:
        return f"WER, {name}", percent(entry["wer"]), f"95 % {interval(entry['wer_ci'])}"
    if "chrf" in entry:
        detail = ""
        if "chrf_difference" in entry:
            low, high = entry["chrf_difference_ci"]
            detail = f"{entry['chrf_difference']:+.1f} to the cascade [{low:+.1f}, {high:+.1f}]"
        return f"chrF, {name}", f"{entry['chrf']:.1f}", detail
    return f"Right answers, {name}", percent(entry["accuracy"]), ""


def _row(name: str, entry: dict) -> tuple[str, ...]:
    count = f"{entry['num_examples']:,}"
    cascade = "\N{EN DASH}"
    if "wer" in entry:
        if "cascade_wer" in entry:
            cascade = (f"{percent(entry['cascade_wer'])}\n"
                       f"Whisper alone {percent(entry['whisper_wer'])}")
        return (f"{name}\nword error rate", f"{percent(entry['wer'])}\n{interval(entry['wer_ci'])}",
                cascade, count)
    if "chrf" in entry:
        if "cascade_chrf" in entry:
            cascade = f"{entry['cascade_chrf']:.1f}, {entry['cascade_bleu']:.1f}"
        return (f"{name}\nchrF, BLEU", f"{entry['chrf']:.1f}, {entry['bleu']:.1f}", cascade, count)
    return f"{name}\nright answers", percent(entry["accuracy"]), "\N{EN DASH}", count


def _closed(accuracy: dict[str, dict]) -> str:
    """Of closed-ended questions: a chart for each task, and a table of all."""
    charts = []
    for name, entry in accuracy.items():
        title = f"{name}, {entry['num_questions']:,} questions"
        bars = [Bar(label, 100 * entry[key], percent(entry[key]), style,
                    tuple(100 * each for each in entry[f"{key}_ci"]))
                for key, label, style in _INPUTS]
        bars.append(Bar("Chance", 100 * entry["chance"], percent(entry["chance"]), "dropped"))
        charts.append(figure(title, bar_chart(title, bars, "right answers, %"),
                             "Higher is better; whiskers are 95 % intervals."))
    return f'<h3>Closed-ended questions</h3><div class="grid-2">{"".join(charts)}</div>'


def _listening(found: dict) -> str:
    low, high = found["nll_gap_ci"]
    verdict = "It does not listen" if found["deaf"] else "It listens"
    cause = f": {escape(found['cause'])}" if found["cause"] else ""
    heads = [("Another clip's audio costs", f"{found['nll_gap']:+.2f} nats",
              f"a token [{low:+.2f}, {high:+.2f}]"),
             ("Answers change", percent(found["answers_changed"], 0), "with another clip's audio"),
             ("The prompt is repeated", percent(found["prompt_echoes"], 0), "of answers"),
             ("Refusals", percent(found["refusals"], 0), "of answers")]
    title = "Loss of the reference answers"
    bars = [Bar(f"with {label}", found["nll"][key], f"{found['nll'][key]:.2f}",
                "student" if key == "right" else "teacher") for key, label in _HEARD]
    return (f"<p>{verdict}{cause}. {found['num_examples']:,} examples.</p>{tiles(heads)}"
            + figure(title, bar_chart(title, bars, "nats a token"),
                     "A deaf model has the same loss with all of them."))


# Stages


def _stages(run: Path, config: dict) -> list[str]:
    """Each stage's training; the last one's log is the run's own."""
    names = [stage["name"] for stage in config.get("stages") or []]
    folders = sorted((path for path in (run / "stages").glob("*") if path.is_dir()),
                     key=lambda path: path.stat().st_mtime)
    found = [*folders, run] if (run / "metrics.jsonl").is_file() else folders
    if not found:
        return [section("Training", missing("There is no metrics.jsonl yet.", TRAIN))]
    last = names[-1] if names else "last stage"
    return [guarded_section(f"Training: {last if path == run else path.name}",
                            lambda path=path: training_pictures(path, _pictures)) for path in found]


def _pictures(train: list[dict], validation: list[dict]) -> list[str]:
    parts = [key for key in ("ce", "ctc", "kl") if any(key in row for row in train)]
    keys = ["loss", *parts] if len(parts) > 1 else ["loss"]  # one part is the loss itself
    losses = [Series(key, [(row["step"], row[key]) for row in train if key in row], _STYLES[n])
              for n, key in enumerate(keys)]
    drawn = []
    if train:
        drawn.append(figure("Loss", line_chart("Loss", losses, "step", "nats a token"),
                            f"Of {' and '.join(parts)}; mean over the steps between two lines of "
                            "the log."))
    for start, title, label in (("wer_", "Validation: word error rate", "fraction"),
                                ("accuracy_", "Validation: right answers", "fraction"),
                                ("chrf_", "Validation: chrF", "0 to 100")):
        keys = sorted({key for row in validation for key in row if key.startswith(start)})
        for at in range(0, len(keys), len(_STYLES)):
            lines = [Series(key.removeprefix(start), [(row["step"], row[key]) for row in validation
                                                      if key in row], _STYLES[n])
                     for n, key in enumerate(keys[at : at + len(_STYLES)])]
            caption = ", ".join(line.name for line in lines)  # one line has no legend
            drawn.append(figure(title, line_chart(title, lines, "step", label), caption))
    return drawn


# Examples

_EXAMPLES_INTRO = ("Of each task some that are answered wrong, and some that are not, in the order "
                   "of the test split.")


def _examples(run: Path) -> str:
    rows = read_if_there(run / "eval" / "predictions.jsonl", read_jsonl)
    if rows is None:
        return missing("There is no predictions.jsonl yet.", EVALUATE)
    parts = []
    for name in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == name]
        counts = Counter(_is_right(row) for row in mine)
        parts.append(f"<h3>{escape(name)}: {counts[True]} of {len(mine)} as the reference</h3>")
        num_wrong = max(NUM_SHOWN // 2, NUM_SHOWN - counts[True])
        wrong = [row for row in mine if not _is_right(row)][:num_wrong]
        right = [row for row in mine if _is_right(row)][: NUM_SHOWN - len(wrong)]
        parts += [_example(row) for row in [*wrong, *right]]
    return "".join(parts)


def _is_right(row: dict) -> bool:
    if "is_right" in row:  # options may say the same in other words
        return row["is_right"]
    return row["answer"].strip().lower() == row["reference"].strip().lower()


def _example(row: dict) -> str:
    said = [("Question", row["question"])]
    if row.get("options"):
        said.append(("Options", " | ".join(row["options"])))
    if row.get("spoken") and row["spoken"] != row["reference"]:
        said.append(("Spoken", row["spoken"]))
    said += [("Reference", row["reference"]), ("Answer", row["answer"])]
    for key, label in (("audio_only", "Answer to the audio alone"),
                       ("text_only", "Answer to the transcript alone"),
                       ("cascade", "Cascade"), ("whisper", "Whisper alone")):
        if key in row:
            said.append((label, row[key]))
    texts = "".join(f'<dt>{name}</dt><dd dir="auto">{_text(value)}</dd>' for name, value in said)
    mark = "<ins>right</ins>" if _is_right(row) else "<del>other than the reference</del>"
    return (f'<article class="card example"><h3><code>{escape(row["id"])}</code>, '
            f"{row['duration']:.1f} s, {mark}</h3>{_sound(row)}<dl>{texts}</dl></article>")


def _text(value: Any) -> str:
    return escape(value) if value else "<i>nothing</i>"


def _sound(row: dict) -> str:
    try:
        data, _ = encode(load_audio(row["audio_filepath"], row["offset"], row["duration"]))
    except AudioError as error:
        return f'<p class="note">No audio: {escape(error.reason)}.</p>'
    return player(data, row["id"])
