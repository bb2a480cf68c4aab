"""Which labels are good enough to learn from. Instant, apart from labelling, every drop counted.

    python -m pseudo_label.filter RECIPE filter.max_wer=0.2

The section `filter` of a recipe says what is dropped, `pseudo_label/filtering/filters.py` what that
means; translations have filters of their own besides
(`pseudo_label/filtering/translation_filters.py`). On its own, a WER of at most 10 % against the
reference is asked for (arXiv:2311.00430 sec. 3; the reference scripts also drop those exactly at
the threshold), CER where words are written without spaces. Writes `kept.jsonl`, with the previous
window's text for prompts, and `filter.json`.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from distill.data.files import read_json, write_json, write_jsonl
from distill.endings import run, writing_to
from distill.whisper.recipe import FilterConfig, TranslationConfig, WhisperRecipe, load_recipe
from pseudo_label.filtering.filters import drop_reason
from pseudo_label.filtering.translated import add_translations, swap_texts
from pseudo_label.filtering.translation_filters import translation_drop_reason
from pseudo_label.labelling.compare import recount
from pseudo_label.labelling.shards import label_parts, read_labels

_HINT = (" Most labels are dropped: make NAME.sweep shows what other thresholds keep, and "
         "evaluation.normalizer decides which words count as equal. Neither needs new labels.")


def filter_rows(
    rows: list[dict],
    config: FilterConfig,
    language: str | None,
    translation: TranslationConfig | None = None,
) -> tuple[list[dict], dict[str, list[dict]]]:
    """Kept rows with `prompt` (token ids of the previous window's label, [] if it is not kept:
    a bad label is a bad prompt), and what is dropped, by reason.

    Args:
        language: of labels whose rows do not say theirs.
        translation: of rows with a `translation`; what is kept of them has it as its label.
    """
    drops: dict[str, list[dict]] = {}
    kept: dict[str, dict] = {}
    for row in rows:
        reason = drop_reason(row, config, row["language"] or language)
        if translation is not None:
            reason = reason or translation_drop_reason(row, translation)
        if reason is not None:
            drops.setdefault(reason, []).append(row)
        else:
            kept[row["id"]] = row if translation is None else swap_texts(row)
    for row in kept.values():
        before = kept.get(row["previous"])
        row["prompt"] = list(before["tokens"]) if before else []
    return list(kept.values()), dict(sorted(drops.items()))


def run_filter(recipe: WhisperRecipe) -> dict:
    """Filter the labels of a recipe; returns what it wrote to filter.json, and if there
    are any `unread`: clips that never got to the teacher, by reason."""
    folder = Path(recipe.labels_dir)
    recount(recipe)
    rows = read_labels(folder)
    translation = recipe.translation if recipe.translation.model else None
    if translation is not None:
        add_translations(recipe, label_parts(folder), rows)
    kept, drops = filter_rows(rows, recipe.filter, recipe.language, translation)
    report = {
        "filter": asdict(recipe.filter),
        **({"translation": asdict(translation)} if translation else {}),
        "kept": len(kept),
        "kept_hours": _hours(kept),
        "total": len(rows),
        "total_hours": _hours(rows),
        "drops": {reason: len(lost) for reason, lost in drops.items()},
        "drop_hours": {reason: _hours(lost) for reason, lost in drops.items()},
    }
    write_jsonl(folder / "kept.jsonl", kept)
    write_json(folder / "filter.json", report)
    unread = read_json(path) if (path := folder / "drops.json").is_file() else {}
    unread.pop("split_long", None)  # not lost
    return report | ({"unread": unread} if unread else {})


def _hours(rows: list[dict]) -> float:
    return round(sum(row["duration"] for row in rows) / 3600, 4)


def describe(report: dict) -> str:
    """One sentence for the user."""
    drops = ", ".join(
        f"{count} {reason} ({report['drop_hours'][reason] * 60:.1f} minutes)"
        for reason, count in report["drops"].items()
    )
    unread = ", ".join(f"{count} {reason}" for reason, count in report.get("unread", {}).items())
    return (
        f"Kept {report['kept']} of {report['total']} windows ({report['kept_hours'] * 60:.1f} of "
        f"{report['total_hours'] * 60:.1f} minutes; {_limits(report['filter'])}); "
        f"dropped: {drops or 'none'}."
        + f" Clips that are in no window: {unread}." * bool(unread)
        + _HINT * (2 * report["kept"] < report["total"])
    )


def _limits(config: dict) -> str:
    """`WER <= 10%, min_avg_logprob -1`: what was asked of a label."""
    limits = ["any WER" if config["max_wer"] is None else f"WER <= {100 * config['max_wer']:g}%"]
    for key, value in config.items():
        is_on = value is not None and value is not False  # 0 is a threshold
        if is_on and key not in ("max_wer", "keep_unreferenced"):
            limits.append(key if value is True else f"{key} {value:g}")
    return ", ".join(limits)


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    recipe = load_recipe(arguments[0], arguments[1:])
    with writing_to(recipe.labels_dir):
        print(describe(run_filter(recipe)))


if __name__ == "__main__":
    run(main)
