"""Labels from a table: nobody is asked, a window has the texts of its clips."""

from __future__ import annotations

from collections.abc import Sequence

from distill.data.manifest import Row
from distill.data.speech.windows import Piece, Window, join_texts
from distill.whisper.data.corpus import load_clips
from distill.whisper.recipe import WhisperRecipe
from distill.whisper.recognition.labelled import Labelled
from distill.whisper.teacher import Teacher
from pseudo_label.outside.table import Said, texts_of
from pseudo_label.outside.writing import Segment, Writer

_SAME = 1e-3  # seconds by which a piece may differ from its clip and still be all of it


class TableBackend:
    """See `distill.whisper.recognition.backends.Backend`. The audio is read like any other, so that
    clips that cannot be are found now, but nothing is computed of it."""

    margin = None

    def __init__(self, recipe: WhisperRecipe, teacher: Teacher):
        rows = load_clips(recipe.data.train)[0]
        self.clips = {row.id: row for row in rows}
        self.said = texts_of(recipe.pseudo_label, rows).said
        self.write = Writer(recipe, teacher)
        self.group_size = recipe.pseudo_label.shard_size

    def inputs(self, audios: Sequence) -> None:
        """Nothing is needed."""

    def label(self, windows: Sequence[Window], _: None) -> tuple[list[Labelled], None]:
        """Labels of windows; no encoder states."""
        return [Labelled(self.write(window, [self._segment(piece, window.language)
                                             for piece in window.pieces]))
                for window in windows], None

    def describe(self) -> str:
        return ""

    def _segment(self, piece: Piece, language: str | None) -> Segment:
        return segment_of(piece, self.clips[piece.id], self.said[piece.id], language)


def segment_of(piece: Piece, clip: Row, said: Said, language: str | None) -> Segment:
    """What is said in a clip, or in a part of one: the words whose middle lies in it."""
    first = piece.offset - clip.offset  # where the piece begins in its clip
    is_whole = abs(first) < _SAME and piece.duration > clip.duration - _SAME
    last = first + piece.duration
    words = [word for word in said.words or ()
             if is_whole or first <= (word[1] + word[2]) / 2 < last]
    text = said.text if is_whole else join_texts([word for word, *_ in words], language)
    start, end = piece.start, piece.start + piece.duration
    if words:
        start, end = (min(max(start + seconds - first, start), end)
                      for seconds in (words[0][1], words[-1][2]))
    return Segment(text, start, end, said.logprob)
