"""The drafts that a recipe's `decoding` section names: a student, or labels of an earlier run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distill.data.files import read_jsonl
from distill.data.hub_ids import nearest_path
from distill.data.speech.windows import Window
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.recipe import WhisperRecipe


def load_assistant(recipe: WhisperRecipe, teacher_model):
    """The student of `decoding.assistant`, on the teacher's device and in its type; None if null.

    Raises:
        ValueError: there is no model in that folder.
    """
    if recipe.decoding.assistant is None:
        return None
    from transformers import WhisperForConditionalGeneration

    folder = Path(recipe.decoding.assistant)
    if not (folder / "config.json").is_file():
        near = None if folder.is_dir() else nearest_path(str(folder))
        raise ValueError(f"decoding.assistant: no model in {folder}"
                         + (f"; did you mean {near}?" if near else ""))
    student = WhisperForConditionalGeneration.from_pretrained(folder, dtype=teacher_model.dtype)
    return student.eval().requires_grad_(False).to(teacher_model.device)


class OldLabels:
    """Tokens of an earlier run's labels, found by the pieces of their windows.

    Raises:
        ValueError: there are no labels in the folder.
    """

    def __init__(self, folder: str):
        parts = sorted(Path(folder).glob("part-*.jsonl"))
        if not parts:
            raise ValueError(f"decoding.old_labels: no labels (part-*.jsonl) in {folder}")
        self.tokens = {
            tuple((piece["id"], piece["offset"]) for piece in row["pieces"]): row["tokens"]
            for part in parts for row in read_jsonl(part)
        }

    def __call__(self, windows: Sequence[Window], decoder: WhisperDecoder) -> list[list[int]]:
        """Drafts for windows, without timestamps if the decoder writes none; [] where the earlier
        run had no window of the same pieces."""
        begin = decoder.special.timestamp_begin
        found = [self.tokens.get(tuple((p.id, round(p.offset, 6)) for p in window.pieces), [])
                 for window in windows]
        return [[t for t in tokens if decoder.timestamps or t < begin] for tokens in found]
