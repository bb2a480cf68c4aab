"""The report on a model of speech: results, training, pseudo-labels and examples."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

from distill.data.files import read_json, read_jsonl
from distill.html.charts import Bar, Series, histogram, line_chart, number
from distill.html.page import figure, missing, percent, plural, table
from distill.metrics.error_rates import ErrorCounts
from distill.metrics.normalize import error_unit, normalizer, normalizer_name
from distill.whisper.data.label_files import planned_rows
from eval.report.clips import render_clips
from eval.report.comparison import render_comparison
from eval.report.examples import render_examples
from eval.report.family import render_family
from eval.report.prompts import render_prompts
from eval.report.robustness import render_robustness
from eval.report.run_folder import (
    EVALUATE,
    TRAIN,
    guarded_section,
    read_if_there,
    training_pictures,
)

LABEL = "python -m pseudo_label RECIPE"

FAMILY = "family/results.json"  # of a run folder

TITLE = "distillation report"
_BIN = 0.05  # width of the histogram's bars, a fraction
_NUM_BINS = 10  # up to 50 %; all that is worse is one bar
_LOSSES = (
    ("loss", "total", "a"), ("ce", "CE", "b"), ("kl", "KL", "c"), ("reverse_kl", "reverse KL", "c"),
    ("total_variation", "total variation", "c"), ("hidden", "hidden", "d"),
)
_REASONS = {
    "wer": "WER above the limit",
    "cer": "CER above the limit",
    "truncated": "label cut at the length limit",
    "no_reference": "no reference text",
}


def facts(config: dict) -> list[str]:
    """For the line below the heading; empty ones are left out."""
    teacher = (config.get("teacher") or {}).get("model")
    return [
        f"method {config['method']}" if config.get("method") else "",
        f"teacher {teacher}" if teacher else "",
        f"language {config.get('language') or 'of an English-only teacher'}" if config else "",
    ]


def sections(run: Path, config: dict) -> list[str]:
    """HTML of each part of the page; one whose files are broken says so."""
    parts = [("Clip by clip", _clips, _has_clips(run)),
             ("Teacher and student", _results, True),
             ("In noise, and where nobody speaks", _robustness, _robustness_file(run).is_file()),
             ("Prompts", _prompts, _prompts_file(run).is_file()),
             ("Family of students", _family, (run / FAMILY).is_file()),
             ("Training", _training, True), ("Pseudo-labels", _labels, True),
             ("Examples", _examples, True)]
    return [guarded_section(title, partial(part, run, config))
            for title, part, is_there in parts if is_there]


def _setting(config: dict, key: str, default: str) -> str:
    return (config.get("evaluation") or {}).get(key, default)


def _language(config: dict) -> str | None:
    """What the texts are in, as `distill.whisper.recipe.written_language`."""
    translates = config.get("task") == "translate"
    return config.get("translation", {}).get("target", "en") if translates else (
        config.get("language"))


def _unit(results: dict, config: dict) -> str:
    """`word` or `char`; results of earlier versions do not record it."""
    return results.get("error_unit") or error_unit(_language(config))


def _results(run: Path, config: dict) -> str:
    results = read_if_there(run / "eval" / "results.json", read_json)
    if results is None:
        return missing("There are no results yet.", EVALUATE)
    return render_comparison(results, _unit(results, config))


def _has_clips(run: Path) -> bool:
    try:
        return "clips" in (read_if_there(run / "eval" / "results.json", read_json) or {})
    except ValueError:
        return False  # the next section says so


def _clips(run: Path, _config: dict) -> str:
    return render_clips(read_json(run / "eval" / "results.json"))


def _family(run: Path, _config: dict) -> str:
    return render_family(read_json(run / FAMILY))


def _prompts_file(run: Path) -> Path:
    return run / "eval" / "prompts.json"


def _prompts(run: Path, _config: dict) -> str:
    return render_prompts(read_json(_prompts_file(run)))


def _robustness_file(run: Path) -> Path:
    return run / "robustness" / "results.json"


def _robustness(run: Path, _config: dict) -> str:
    return render_robustness(read_json(_robustness_file(run)))


# --- Training ----------------------------------------------------------------------------------


def _training(run: Path, config: dict) -> str:
    return training_pictures(run, lambda train, validation: [
        _loss(train), _learning_rate(train), _validation(validation, config),
        _acceptance(validation)])


def _loss(rows: list[dict]) -> str:
    losses = [
        Series(name, [(row["step"], row[key]) for row in rows if key in row], style)
        for key, name, style in _LOSSES
    ]
    losses = [line for line in losses if line.points]
    if not losses:
        return ""
    finite = [y for line in losses for _, y in line.points if 0 < y < math.inf]
    log = bool(finite) and max(finite) > 20 * min(finite)
    picture = line_chart("Training loss", losses, "step", "loss per token", log)
    caption = "Train split; CE and KL in nats, hidden states as squared error"
    return figure("Loss", picture, caption + ("; logarithmic scale." if log else "."))


def _learning_rate(rows: list[dict]) -> str:
    rates = [(row["step"], row["learning_rate"]) for row in rows if "learning_rate" in row]
    if not rates:
        return ""
    picture = line_chart("Learning rate", [Series("learning rate", rates, "a")], "step",
                         "learning rate")
    caption = f"Peak {number(max(y for _, y in rates))}. One step is one optimiser update."
    return figure("Learning rate", picture, caption)


def _validation(rows: list[dict], config: dict) -> str:
    points = [(row["step"], 100 * row["wer"]) for row in rows if row.get("wer") is not None]
    if not points:
        return missing("No validation yet (train.validate_every, data.validation).", TRAIN)
    best = min(points, key=lambda point: point[1])
    clean = normalizer_name(_setting(config, "normalizer", "auto"), _language(config))
    words = rows[-1].get("num_words")
    size = "" if words is None else f", {plural(words, 'reference word')}"
    caption = (
        f"Validation split{size}, {clean} normaliser. Lowest {best[1]:.1f} % at step {best[0]}."
    )
    line = [Series("WER", points, "a", markers=True)]
    return figure("Validation WER", line_chart("Validation WER", line, "step", "WER (%)"), caption)


def _acceptance(rows: list[dict]) -> str:
    rows = [row for row in rows if "acceptance" in row]
    if not rows:
        return ""
    points = [(row["step"], 100 * row["acceptance"]) for row in rows]
    title, line = "Acceptance", [Series("acceptance", points, "a", markers=True)]
    caption = (
        "Share of the teacher's greedy tokens (validation split) that the student predicts too. "
        f"At the last step: {rows[-1]['expected_tokens_per_verify']:.2f} tokens per pass of the "
        "teacher, with 4 drafted tokens."
    )
    return figure(title, line_chart(title, line, "step", "tokens (%)"), caption)


# --- Pseudo-labels -----------------------------------------------------------------------------


def _labels(run: Path, config: dict) -> str:
    folder = Path(config.get("labels_dir") or run / "pseudo_labels")
    shards = sorted(folder.glob("part-*.jsonl"))
    rows = planned_rows(folder, (row for shard in shards for row in read_jsonl(shard)))
    if not rows:
        return missing("There are no pseudo-labels yet.", LABEL)
    kept = read_if_there(folder / "filter.json", read_json)
    unread = read_if_there(folder / "drops.json", read_json) or {}
    counts = f"<h3>Kept and dropped</h3>{_label_table(rows, kept, unread)}"
    picture = _label_histogram(rows, kept)
    return f'<div class="grid-2">{picture}<div class="card">{counts}</div></div>'


def _label_histogram(rows: list[dict], kept: dict | None) -> str:
    rates = [row["wer"] for row in rows if row.get("wer") is not None]
    if not rates:
        return '<div class="card">No window has a reference text, so no label has a WER.</div>'
    limit = (kept or {}).get("filter", {}).get("max_wer")
    counts = [0] * (_NUM_BINS + 2)
    for rate in rates:
        counts[min(math.ceil(rate / _BIN - 1e-9), _NUM_BINS + 1)] += 1
    names = ["0", *(str(round(100 * _BIN * i)) for i in range(1, _NUM_BINS + 1))]
    names.append(f">{round(100 * _BIN * _NUM_BINS)}")
    bars = []
    for index, (name, count) in enumerate(zip(names, counts, strict=True)):
        dropped = limit is not None and index > 0 and (index - 1) * _BIN >= limit - 1e-9
        bars.append(Bar(name, count, str(count), "dropped" if dropped else "kept"))
    # bar 0 is exactly zero, bar i ends at i * _BIN
    threshold = None if limit is None else min(1 + limit / _BIN, _NUM_BINS + 1.5)
    note = "" if limit is None else f"limit {percent(limit, 0)}"
    title = "WER of the labels"
    picture = histogram(title, bars, "WER of a window (%)", "windows", threshold, note)
    caption = (
        f"{plural(len(rates), 'window')} of the train split, teacher against reference. The first "
        "bar is WER 0, every other one goes up to the number below it."
    )
    if limit is not None:
        caption += " Hatched: above the limit, dropped."
    return figure(title, picture, caption)


def _label_table(rows: list[dict], kept: dict | None, unread: dict[str, int]) -> str:
    lines = [("Windows labelled", plural(len(rows), "window"), _hours(rows))]
    for reason, count in unread.items():
        # a clip longer than a window is not lost: its parts are labelled
        split = reason == "split_long"
        what = "Split at silence" if split else f"Never labelled: {_reason(reason)}"
        lines.append((what, plural(count, "clip"), ""))
    if kept:
        lines.append(("Kept for training", _share(kept, "kept", "total"), _of_hours(kept)))
        for reason, count in kept["drops"].items():
            hours = f"{kept['drop_hours'][reason]:.2f} h" if "drop_hours" in kept else ""
            lines.append((f"Dropped: {_reason(reason)}", plural(count, "window"), hours))
    else:
        lines.append(("Filtered", "not yet", ""))
    scored = [row for row in rows if row.get("wer") is not None]
    lines.append(("Without a reference text", plural(len(rows) - len(scored), "window"), ""))
    lines.append(("Label cut at the length limit", _count(rows, "truncated"), ""))
    corpus = sum(
        (ErrorCounts(row["substitutions"], row["deletions"], row["insertions"],
                     num_reference=row["num_words"]) for row in scored),
        start=ErrorCounts(),
    )  # fmt: skip
    words = plural(corpus.num_reference, "reference word")
    lines.append(("WER of all labels", percent(corpus.rate), words))
    return table(("", "Value", "Detail"), lines)


def _reason(word: str) -> str:
    return _REASONS.get(word, word.replace("_", " "))


def _hours(rows: list[dict]) -> str:
    return f"{sum(row['duration'] for row in rows) / 3600:.2f} h"


def _share(counts: dict, part: str, whole: str) -> str:
    return f"{counts[part]:,} of {counts[whole]:,}"


def _of_hours(kept: dict) -> str:
    return f"{kept['kept_hours']:.2f} of {kept['total_hours']:.2f} h"


def _count(rows: list[dict], key: str) -> str:
    return plural(sum(bool(row.get(key)) for row in rows), "window")


# --- Examples ----------------------------------------------------------------------------------


def _examples(run: Path, config: dict) -> str:
    rows = read_if_there(run / "eval" / "predictions.jsonl", read_jsonl)
    if not rows:
        return missing("There are no predictions yet.", EVALUATE)
    results = read_if_there(run / "eval" / "results.json", read_json) or {}
    language = _language(config)
    # the name that was used wins over the recipe, which may have been edited since
    name = results.get("normalizer") or _setting(config, "normalizer", "auto")
    unit = _unit(results, config)
    return render_examples(rows, normalizer(name, language, unit), unit, language)
