"""Texts of long recordings, shared out among their windows.

A recording of an hour may have a text, its windows have none until the teacher has said where the
words are: the labels of all windows are joined in order and aligned with the text, as for a word
error rate, and each window gets the words that its own label is aligned with. Then its WER says
how good the label is, and filtering works as for short clips.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from itertools import accumulate, chain, groupby
from pathlib import Path

from distill.data.files import read_jsonl, write_jsonl
from distill.data.speech.windows import is_long
from distill.metrics.error_rates import align, error_counts
from distill.metrics.normalize import error_unit
from distill.whisper.data.corpus import LONG, load_clips
from distill.whisper.data.label_files import planned_rows
from distill.whisper.recipe import WhisperRecipe, teacher_task
from pseudo_label.labelling.compare import compare

_MOST_TOKENS = 300  # without a right one among them: the text is another's, any cut will do


def add_references(recipe: WhisperRecipe) -> str:
    """Write `reference` and error counts into the label rows of long recordings.

    Follows from labels and manifests alone: files that have them already stay as they are, and
    processes that do this at the same time write the same.

    Returns:
        a sentence for the user; empty where no long recording has a text.
    """
    if teacher_task(recipe) == "translate":  # the labels are in another language
        return ""
    clips, _ = load_clips(recipe.data.train)
    texts = {row.id: row.text for row in clips if is_long(row, recipe.pseudo_label.window_seconds)}
    if not texts:
        return ""
    parts = sorted(Path(recipe.labels_dir).glob("part-*.jsonl"))
    files = {path: read_jsonl(path) for path in parts}
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in planned_rows(Path(recipe.labels_dir), chain(*files.values())):
        packing, clip = row["id"].rsplit("-", 1)[0], row["pieces"][0]["id"]
        if packing.startswith(LONG) and clip in texts:
            groups.setdefault((packing, clip), []).append(row)
    new = {}
    for (_, clip), rows in groups.items():
        new |= _compared(recipe, texts[clip], rows)
    for path, rows in files.items():
        changed = [row | new.get(row["id"], {}) for row in rows]
        if changed != rows:
            write_jsonl(path, changed)
    count = len({clip for _, clip in groups if texts[clip] is not None})
    return f"Aligned the texts of {count} long recording(s) with their labels" if count else ""


def _compared(recipe: WhisperRecipe, text: str | None, rows: list[dict]) -> dict[str, dict]:
    """New fields of the rows of a recording in one packing, by the row's id."""
    rows = sorted(rows, key=lambda row: row["pieces"][0]["offset"])
    language = rows[0]["language"] or recipe.language
    shares = share_text(text, [row["label"] for row in rows],
                        error_unit(language, text or ""))
    name = recipe.evaluation.normalizer
    return {
        row["id"]: {"reference": share} | compare(share, row["label"], name, language)
        for row, share in zip(rows, shares, strict=True)
    }


def share_text(text: str | None, labels: list[str], unit: str = "word") -> list[str | None]:
    """What of `text` belongs to each label; joined again, the shares are all of it.

    Words that nobody wrote down between two labels are counted against an empty label there, or
    against the one before: a teacher that goes wrong in a window mostly stops too early.

    Args:
        text: None gives each label None.
        labels: in the order of the recording.
        unit: `word`, or `char` where words are written without spaces.
    """
    if text is None:
        return [None] * len(labels)
    pattern = r"\S+" if unit == "word" else r"\S"
    spans = [match.span() for match in re.finditer(pattern, text)]
    reference = [_key(text[start:end], unit) for start, end in spans]
    hypothesis = [[_key(token, unit) for token in re.findall(pattern, label)] for label in labels]
    cuts = _cuts(reference, list(chain(*hypothesis)), list(accumulate(map(len, hypothesis))), unit)
    shares = []
    for first, last in zip([0, *cuts], cuts, strict=False):
        shares.append(text[spans[first][0] : spans[last - 1][1]] if last > first else "")
    return shares


def _cuts(reference: list[str], hypothesis: list[str], ends: list[int], unit: str) -> list[int]:
    """How many of the tokens `reference` come before each of the places `ends` in `hypothesis`."""
    if not reference:
        return [0] * len(ends)
    glue = " " if unit == "word" else ""
    edits = align(glue.join(reference), glue.join(hypothesis), unit)
    # corner points of the alignment: before and after each run of equal or of different tokens
    runs = [(key, list(group)) for key, group in groupby(edits, lambda edit: edit.kind == "equal")]
    s = list(accumulate((sum(len(e.reference) for e in g) for _, g in runs), initial=0))
    h = list(accumulate((sum(len(e.hypothesis) for e in g) for _, g in runs), initial=0))
    cuts = []
    for end, following in zip(ends, [*ends[1:], None], strict=True):
        at = bisect_left(h, end, hi=len(h) - 1)  # the first corner that is not before the place
        if at + 1 < len(h) and h[at] == end and not runs[at][0]:
            at += 1  # a run of different tokens begins here: some may belong before the place
        if at == 0 or runs[at - 1][0]:
            cuts.append(s[at] - (h[at] - end))
            continue
        here, before = reference[s[at - 1] : s[at]], hypothesis[h[at - 1] : end]
        silent = following == end  # the next window has no token
        cut = _end(here, before) if silent else _cut(here, before, hypothesis[end : h[at]])
        cuts.append(max([s[at - 1] + cut, *cuts[-1:]]))
    return cuts


# Tokens that differ from the labels are cut so that both sides look most alike, letter by letter:
# an alignment of whole words takes any word for any other.

def _cut(reference: list[str], before: list[str], after: list[str]) -> int:
    """How many tokens of the reference the labels `before` stand for, or leave out; `after` stands
    for the others."""
    if not after:
        return len(reference)
    count = len(before) + len(after)
    if count > _MOST_TOKENS:
        return len(reference) * len(before) // count
    skipped = max(0, len(reference) - 2 * count - 10)  # more than any label has: left out before
    reference = reference[skipped:]

    def cost(place: int) -> int:
        # what is left out counts twice after the cut: letters find their like in anything
        left_out = len("".join(reference[place:])) - len("".join(after))
        distances = _distance(reference[:place], before) + _distance(reference[place:], after)
        return distances + max(left_out, 0)

    fewest = max(0, len(reference) - 2 * len(after) - 5)  # `after` cannot stand for more
    return skipped + min(range(len(reference), fewest - 1, -1), key=cost)


def _end(reference: list[str], hypothesis: list[str]) -> int:
    """How many tokens of the reference the hypothesis stands for; no label has the others."""
    if len(hypothesis) > _MOST_TOKENS:
        return min(len(reference), len(hypothesis))
    cuts = range(min(len(reference), 2 * len(hypothesis)) + 1)
    return min(cuts, key=lambda place: _distance(reference[:place], hypothesis))


def _distance(reference: list[str], hypothesis: list[str]) -> int:
    return error_counts(" ".join(reference), " ".join(hypothesis), "char").errors


def _key(token: str, unit: str) -> str:
    """A token as it is compared: case and punctuation do not matter; one character stays one."""
    plain = unicodedata.normalize("NFKC", token).casefold()
    kept = "".join(c for c in plain if unicodedata.category(c)[0] in "LNM") or token
    return kept if unit == "word" else kept[0]
