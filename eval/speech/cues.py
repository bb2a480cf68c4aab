"""Words with their times as subtitle cues, as broadcasters want them.

    for cue in cues(segments):
        print(cue.start, cue.end, *cue.lines, sep="\\n")

Netflix's Timed Text Style Guides (partnerhelp.netflixstudios.com) and the BBC's Subtitle Guidelines
(bbc.github.io/subtitle-guidelines): at most two lines of 42 characters, or of 16 where they are
full-width; a cue lasts 5/6 s to 7 s, and as long as reading it takes where nobody goes on speaking.
It ends with a sentence or where somebody pauses, otherwise after a comma, or before a conjunction,
and never between an article and its noun if that can be helped; so does the first line, which is
the shorter one. Two cues have two frames between them, or half a second.

All ways of cutting are weighed against each other (dynamic programming over the words). No word is
divided, lost or said twice: one that is longer than a line has a line of its own, that long.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from distill.whisper.recognition.sequential import Segment
from eval.speech.cue_words import (
    Piece,
    clings,
    ends_clause,
    ends_sentence,
    is_conjunction,
    pieces_of,
)

LINE_WIDTH = 42  # columns
FULL_WIDTH_LINE = 32  # columns of lines of full-width characters, which take two each
MAX_SECONDS, MIN_SECONDS = 7.0, 5 / 6
PAUSE, LONG_PAUSE = 0.3, 1.0  # seconds: worth a cut, never inside a cue
READ_PER_SECOND, READ_WIDE_PER_SECOND = 17.0, 9.0  # characters, as adults do
GAP = 2 / 24  # seconds between two cues; longer ones below _CLOSED are made as short
_CLOSED = 0.5
_SHORTEST = 0.2  # seconds that a cue has at least, however fast the words come
_LEAD = 0.5  # seconds that a cue may come before its words, to be long enough

# what a cut costs: after a sentence nothing
_AT_PAUSE, _AT_COMMA, _AT_CONJUNCTION, _ANYWHERE, _AT_CLING = 2.0, 3.0, 6.0, 10.0, 20.0
_CUE, _SENTENCE_INSIDE, _TOO_SHORT, _FRAGMENT = 6.0, 5.0, 40.0, 4.0
_LINE = 0.5  # of what the same cut between two cues costs
_IMPOSSIBLE = 1e6
_UNEVEN = 10.0  # for lines of which one is empty; half as much again where that is the lower one


@dataclass(frozen=True)
class Cue:
    """What is shown at once: seconds, and one or two lines."""

    start: float
    end: float
    lines: tuple[str, ...]


def cues(segments: Sequence[Segment], seconds: float | None = None) -> list[Cue]:
    """Cues of a recording, by rising times, without overlap.

    Args:
        segments: with words; where a segment has none, its text is spread over its time.
        seconds: length of the recording, which no cue outlasts; None: not known.
    """
    pieces = _rising([piece for segment in segments for piece in pieces_of(segment)])
    if not pieces:
        return []
    wide = sum(piece.num_wide for piece in pieces)
    is_wide = 2 * wide > sum(len(piece.text) for piece in pieces)
    text = _Text(pieces, is_wide)
    ends = _best_cuts(text)
    parts = [(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
    speed = READ_WIDE_PER_SECOND if is_wide else READ_PER_SECOND
    return _timed([(pieces[i].start, max(p.end for p in pieces[i:j]), _lines(text, i, j))
                   for i, j in parts], speed, seconds)


class _Text:
    """Pieces, their widths, and what a cut before each of them costs (the last: at the end)."""

    def __init__(self, pieces: list[Piece], is_wide: bool):
        self.pieces = pieces
        self.limit = FULL_WIDTH_LINE if is_wide else LINE_WIDTH
        # where lines are narrow, a full-width character takes as much of one as it does there
        wide = 2.0 if is_wide else LINE_WIDTH / (FULL_WIDTH_LINE / 2)
        widths = [p.width + p.num_wide * (wide - 1) + p.has_space for p in pieces]
        self.until = [0.0, *accumulate(widths)]
        self.costs = [0.0, *(_cut_cost(a, b) for a, b in zip(pieces, pieces[1:], strict=False)),
                      0.0]
        pauses = [b.start - a.end for a, b in zip(pieces, pieces[1:], strict=False)]
        self.is_pause = [True, *(pause >= LONG_PAUSE for pause in pauses), True]
        sentences = [ends_sentence(a, b) for a, b in zip(pieces, pieces[1:], strict=False)]
        self.sentences = [0, 0, *accumulate(sentences)]  # that end before the piece

    def width(self, begin: int, end: int) -> float:
        """Of a line, columns."""
        return self.until[end] - self.until[begin] - self.pieces[begin].has_space

    def fits(self, begin: int, end: int) -> bool:
        """Whether two lines hold it; a single piece always fits."""
        room = self.until[begin] + self.pieces[begin].has_space + self.limit
        middle = max(bisect_right(self.until, room) - 1, begin + 1)
        if middle >= end:
            return True
        return end - middle == 1 or self.width(middle, end) <= self.limit

    def line(self, begin: int, end: int) -> str:
        parts = [" " * (piece.has_space and n > 0) + piece.text
                 for n, piece in enumerate(self.pieces[begin:end])]
        return "".join(parts)


def _cut_cost(before: Piece, after: Piece) -> float:
    pause = after.start - before.end
    if pause >= LONG_PAUSE or ends_sentence(before, after):
        return 0.0
    if pause >= PAUSE:
        return _AT_PAUSE
    if ends_clause(before):
        return _AT_COMMA
    if clings(before):
        return _AT_CLING
    return _AT_CONJUNCTION if is_conjunction(after) else _ANYWHERE


def _rising(pieces: list[Piece]) -> list[Piece]:
    """With times that do not go back."""
    found, last = [], 0.0
    for piece in pieces:
        start = max(piece.start, last)
        found.append(replace(piece, start=start, end=max(piece.end, start)))
        last = start
    for at in range(len(found) - 1):  # nor does a word go on while the next is said
        found[at] = replace(found[at], end=min(found[at].end, found[at + 1].start))
    return found


def _best_cuts(text: _Text) -> list[int]:
    """Index after the last piece of each cue: the cheapest way through the text."""
    pieces, size = text.pieces, len(text.pieces)
    costs, origin = [0.0] + [float("inf")] * size, [0] * (size + 1)
    for end in range(1, size + 1):
        for begin in range(end - 1, -1, -1):
            alone = end - begin == 1
            if not alone and (text.is_pause[begin + 1] or not text.fits(begin, end)
                              or pieces[end - 1].end - pieces[begin].start > MAX_SECONDS):
                break
            cost = costs[begin] + _cue_cost(text, begin, end)
            if cost < costs[end]:
                costs[end], origin[end] = cost, begin
    ends, at = [], size
    while at > 0:
        ends.append(at)
        at = origin[at]
    return ends[::-1]


def _cue_cost(text: _Text, begin: int, end: int) -> float:
    cost = _CUE + text.costs[end]
    cost += _SENTENCE_INSIDE * (text.sentences[end] - text.sentences[begin + 1])
    if end < len(text.pieces):
        room = text.pieces[end].start - text.pieces[begin].start
        cost += _TOO_SHORT * max(0.0, 1 - room / MIN_SECONDS)
    width = text.width(begin, end)
    if width > text.limit and end - begin > 1:
        cost += _best_line(text, begin, end)[0]
    elif text.costs[begin]:  # the end of a sentence, alone
        cost += _FRAGMENT * (1 - width / text.limit)
    return cost


def _best_line(text: _Text, begin: int, end: int) -> tuple[float, int]:
    """What it costs to show it in two lines, the first of them the shorter, and where it is cut."""
    whole, best = text.until[end] - text.until[begin], (float("inf"), end)
    for at in range(begin + 1, end):
        first = text.until[at] - text.until[begin]
        uneven = (2 * first - whole) / text.limit
        cost = _LINE * text.costs[at] + _UNEVEN * max(-uneven, 1.5 * uneven) / 2
        for left, right in ((begin, at), (at, end)):
            if right - left > 1 and text.width(left, right) > text.limit:
                cost = _IMPOSSIBLE
        best = min(best, (cost, at))
    return best


def _lines(text: _Text, begin: int, end: int) -> tuple[str, ...]:
    """One line if it fits; else two, cut where it costs least, the first one the shorter."""
    if end - begin == 1 or text.width(begin, end) <= text.limit:
        return (text.line(begin, end),)
    at = _best_line(text, begin, end)[1]
    return text.line(begin, at), text.line(at, end)


def _timed(
    parts: list[tuple[float, float, tuple[str, ...]]], speed: float, seconds: float | None
) -> list[Cue]:
    """Cues as long as they need to be and the others let them."""
    found: list[Cue] = []
    free = 0.0  # where the cue before lets this one begin
    for number, (start, end, lines) in enumerate(parts):
        start = max(start, free)
        following = parts[number + 1][0] if number + 1 < len(parts) else None
        latest = seconds if following is None else following
        latest = float("inf") if latest is None else latest
        wanted = max(MIN_SECONDS, sum(map(len, lines)) / speed)
        if latest - start < MIN_SECONDS:  # it may come before its words
            start = max(min(start, latest - MIN_SECONDS), start - _LEAD, free, 0.0)
        end = min(max(end, start + wanted), start + MAX_SECONDS)
        if following is not None:
            if latest - end < _CLOSED and latest - start <= MAX_SECONDS + GAP:
                end = latest - GAP
            end = min(end, latest - GAP)
        elif end > latest:
            end = max(latest, start)
        end = max(end, start + _SHORTEST)
        found.append(Cue(start, end, lines))
        free = end + GAP if following is not None and following >= end + GAP else end
    return found
