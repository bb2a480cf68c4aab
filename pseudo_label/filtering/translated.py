"""Translations of labels as `pseudo_label.translate` left them, put into the labels' rows."""

from __future__ import annotations

from pathlib import Path

from distill.data.files import read_jsonl
from distill.whisper.recipe import WhisperRecipe
from pseudo_label.filtering.translation_filters import length_ratios


def translation_path(part: Path) -> Path:
    """Where the translations of a shard of labels are."""
    return part.with_name(part.name.replace("part-", "translations-"))


def source_text(row: dict, recipe: WhisperRecipe) -> str:
    """What of a label row is translated."""
    if recipe.translation.text == "reference" and (row["reference"] or "").strip():
        return row["reference"].strip()
    return row["label"].strip()


def add_translations(recipe: WhisperRecipe, parts: list[Path], rows: list[dict]) -> None:
    """Put `translation` into label rows of these shards.

    Raises:
        ValueError: a shard is not translated yet, or what was translated is no longer the text.
    """
    missing = [part for part in parts if not translation_path(part).is_file()]
    if missing:
        raise ValueError(f"{len(missing)} of {len(parts)} shards are not translated; run "
                         "`make NAME.label` again")
    found = {row["id"]: row for part in parts for row in read_jsonl(translation_path(part))}
    for row in rows:
        row["translation"] = found[row["id"]]
        if row["translation"]["source"] != source_text(row, recipe):
            raise ValueError(f"label {row['id']} has another text than the one translated; remove "
                             "translations-*.jsonl and run `make NAME.label` again")
    length_ratios(rows)


def swap_texts(row: dict) -> dict:
    """A row to learn from: `label` and `tokens` are the translation, `transcript` what was said."""
    translation = row.pop("translation")
    kept = ("source", "target", "avg_logprob", "length_ratio", "model", "revision")
    return row | {
        "label": translation["text"], "tokens": translation["tokens"], "transcript": row["label"],
        "translation": {key: translation[key] for key in kept},
    }
