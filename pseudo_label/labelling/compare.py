"""Labels against texts: error counts in a label's row, and counting again by another normaliser.

What counts as the same word (`evaluation.normalizer`) is often known only when the first labels
were looked at; so it may be changed at any time, and nothing is labelled again.
"""

from __future__ import annotations

from pathlib import Path

from distill.data.files import hash_of, read_json, read_jsonl, write_json, write_jsonl
from distill.metrics.error_rates import error_counts
from distill.metrics.normalize import error_unit, normalizer
from distill.whisper.recipe import WhisperRecipe, label_language

_KEYS = ("wer", "cer", "substitutions", "deletions", "insertions", "num_words")


def compare(reference: str | None, label: str, name: str, language: str | None) -> dict:
    """WER, CER and word errors of a label, normalised; None without a reference. `unit` says
    which rate counts for this script."""
    unit = error_unit(language, label if reference is None else reference)
    if reference is None:
        return dict.fromkeys(_KEYS) | {"unit": unit}
    normalise = normalizer(name, language, unit)
    texts = normalise(reference), normalise(label)
    words, chars = error_counts(*texts), error_counts(*texts, unit="char")
    rates = [None if c.rate is None else round(c.rate, 6) for c in (words, chars)]
    numbers = (words.substitutions, words.deletions, words.insertions, words.num_reference)
    return dict(zip(_KEYS, (*rates, *numbers), strict=True)) | {"unit": unit}


def disagreement(label: str, second: str, name: str, language: str | None) -> float:
    """Error rate of a second decoding against the label; without words in the label 0 if there are
    none in either, else 1."""
    found = compare(label, second, name, language)
    rate = found["cer" if found["unit"] == "char" else "wer"]
    return float(found["insertions"] > 0) if rate is None else rate


def recount(recipe: WhisperRecipe) -> None:
    """Bring the error counts of a label folder up to the recipe's normaliser.

    Several processes may do this at the same time, and one that was killed is made good by the
    next: the settings change last.
    """
    folder, name = Path(recipe.labels_dir), recipe.evaluation.normalizer
    path = folder / "settings.json"
    if not path.is_file() or (settings := read_json(path)).get("normalizer", name) == name:
        return
    print("Comparing labels with transcripts again: evaluation.normalizer was "
          f"{settings['normalizer']}, is {name}", flush=True)
    settings["normalizer"] = name
    for part in sorted(folder.glob("part-*.jsonl")):
        rows = [_counted(row, name, label_language(recipe, row["language"]), hash_of(settings))
                for row in read_jsonl(part)]
        write_jsonl(part, rows)
    write_json(path, settings)


def _counted(row: dict, name: str, language: str | None, settings: str) -> dict:
    row |= compare(row["reference"], row["label"], name, language)
    if "second_label" in row:
        row["disagreement"] = disagreement(row["label"], row["second_label"], name, language)
    return row | {"settings": settings}
