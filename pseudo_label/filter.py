"""Which labels are good enough to learn from. Instant, apart from labelling, every drop counted.

    python -m pseudo_label.filter RECIPE pseudo_label.max_wer=0.2

Keeps windows whose label has a WER of at most `pseudo_label.max_wer` against the reference
(arXiv:2311.00430 sec. 3; the reference scripts also drop those exactly at the threshold), CER where
words are written without spaces. Writes
`kept.jsonl`, with the previous window's text for prompts, and `filter.json`.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from distill.config import ConfigError
from distill.data.files import read_json, read_jsonl, write_json, write_jsonl
from distill.whisper.recipe import PseudoLabelConfig, load_recipe


def drop_reason(row: dict, config: PseudoLabelConfig) -> str | None:
    """Why a row is not used, None if it is."""
    if row["truncated"]:
        return "truncated"
    if not row["label"]:
        return "empty_label"
    if row["reference"] is None:
        return None if config.keep_unreferenced else "no_reference"
    rate = row["cer"] if row["unit"] == "char" else row["wer"]
    if rate is None:
        return "empty_reference"
    if config.max_wer is not None and rate > config.max_wer:
        return "wer" if row["unit"] == "word" else "cer"
    return None


def filter_rows(rows: list[dict], config: PseudoLabelConfig) -> tuple[list[dict], Counter]:
    """Kept rows with `prompt` (token ids of the previous window's label, [] if it is not kept:
    a bad label is a bad prompt), and drops by reason."""
    drops: Counter = Counter()
    kept: dict[str, dict] = {}
    for row in rows:
        reason = drop_reason(row, config)
        if reason is None:
            kept[row["id"]] = row
        else:
            drops[reason] += 1
    for row in kept.values():
        before = kept.get(row["previous"])
        row["prompt"] = list(before["tokens"]) if before else []
    return list(kept.values()), drops


def read_labels(folder: Path) -> list[dict]:
    """All label rows of a complete folder, in shard order.

    Raises:
        ValueError: nothing is labelled yet, or shards are missing.
    """
    settings = folder / "settings.json"
    if not settings.is_file():
        raise ValueError(f"no labels in {folder}: run `make NAME.label` first")
    parts = sorted(folder.glob("part-*.jsonl"))
    total = read_json(settings)["num_shards"]
    if len(parts) < total:
        raise ValueError(
            f"{folder}: {len(parts)} of {total} shards are labelled; run `make NAME.label` again"
        )
    return [row for part in parts for row in read_jsonl(part)]


def run_filter(folder: Path, config: PseudoLabelConfig) -> dict:
    """Filter a label folder; returns what it wrote to filter.json."""
    rows = read_labels(folder)
    kept, drops = filter_rows(rows, config)
    report = {
        "max_wer": config.max_wer,
        "keep_unreferenced": config.keep_unreferenced,
        "kept": len(kept),
        "kept_hours": round(sum(row["duration"] for row in kept) / 3600, 4),
        "total": len(rows),
        "total_hours": round(sum(row["duration"] for row in rows) / 3600, 4),
        "drops": dict(sorted(drops.items())),
    }
    write_jsonl(folder / "kept.jsonl", kept)
    write_json(folder / "filter.json", report)
    return report


def describe(report: dict) -> str:
    """One sentence for the user."""
    drops = ", ".join(f"{count} {reason}" for reason, count in report["drops"].items()) or "none"
    limit = "any WER" if report["max_wer"] is None else f"WER <= {report['max_wer']:.0%}"
    return (
        f"Kept {report['kept']} of {report['total']} windows ({report['kept_hours'] * 60:.1f} of "
        f"{report['total_hours'] * 60:.1f} minutes; {limit}); dropped: {drops}."
    )


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    recipe = load_recipe(arguments[0], arguments[1:])
    folder = Path(recipe.labels_dir)
    print(describe(run_filter(folder, recipe.pseudo_label)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ConfigError, ValueError) as error:
        sys.exit(f"error: {error}")
