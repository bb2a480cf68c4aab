"""What subtitles are cut into: words and, where no spaces are written, what may stand alone; and
where a cut is good."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from distill.whisper.recognition.sequential import Segment

_SENTENCE, _CLAUSE = ".!?\u2026。！？｡؟۔।॥։።", ",;:\u2013\u2014、，；：､،؛"
_CLOSING = "\"'”’»›)]}」』）】〉》”"
# no line begins with these (JIS X 4051 and W3C's JLReq), nor with vowels that follow their letter
_NOT_FIRST = frozenset(_SENTENCE + _CLAUSE + _CLOSING + "・ー～〜々%％ะาำๅๆฯະາຳໆ"
                       "ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ")
_NOT_LAST = frozenset("「『（【〈《“‘([{«‹¿¡$¥￥เแโใไເແໂໃໄ")  # ... or ends with these
_LONGEST_WORD, _LONGEST_PART = 8, 12  # characters
_UNSPACED = re.compile("[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff]")  # Thai to Khmer
_ABBREVIATIONS = {"mr.", "mrs.", "ms.", "dr.", "prof.", "st.", "vs.", "no.", "jr.", "etc.", "e.g.",
                  "i.e.", "z.b.", "d.h.", "bzw.", "nr.", "hr.", "fr.", "mme.", "sra.", "sr.",
                  "ud.", "sig.", "dott."}
# words that begin a part of a sentence, and words that belong to the one after them
_CONJUNCTIONS = {
    "en": "and or but so because that which who when where while if than then as although unless",
    "de": "und oder aber denn dass weil wenn als ob der die das wo wie während damit sondern",
    "fr": "et ou mais donc car que qui quand si où comme parce lorsque puisque",
    "es": "y e o u pero porque que quien cuando donde si como aunque sino",
    "it": "e o ma perché che chi quando dove se come anche però mentre",
    "pt": "e ou mas porque que quem quando onde se como embora",
    "nl": "en of maar want dat die omdat als toen waar terwijl zodat",
}
_CLINGING = {
    "en": "a an the of to in on at by for from with my your his her its our their this these those "
          "is are was were be been has have had will would can could should not no very",
    "de": "ein eine einen einem einer eines der die das den dem des in im an am auf zu zum zur von "
          "vom mit bei für nicht kein keine mein dein sein ihr unser ist sind war hat haben",
    "fr": "un une le la les l' de du des d' à au aux en dans sur pour par avec ce cette ces mon ma "
          "mes ton ta son sa ses ne est sont a ont",
    "es": "un una el la los las de del a al en con por para mi tu su no es son ha han",
    "it": "un una uno il lo la i gli le di del della a al alla in con per mio tuo suo non è sono",
    "pt": "um uma o a os as de do da em no na com por para meu seu não é são",
    "nl": "een de het van in op aan te met voor bij mijn zijn haar niet is was heeft",
}
_CONJUNCTIONS = {key: frozenset(words.split()) for key, words in _CONJUNCTIONS.items()}
_CLINGING = {key: frozenset(words.split()) for key, words in _CLINGING.items()}


@dataclass(frozen=True)
class Piece:
    """What is never divided.

    Attributes:
        text: without spaces around it.
        has_space: whether there is one before it, unless it begins a line.
        start, end: seconds.
        language: of the segment.
    """

    text: str
    has_space: bool
    start: float
    end: float
    language: str | None

    @property
    def width(self) -> int:
        """Characters; marks that stand over others take no room."""
        return sum(not unicodedata.category(c).startswith(("M", "Cf")) for c in self.text)

    @property
    def num_wide(self) -> int:
        """Full-width characters."""
        return sum(unicodedata.east_asian_width(c) in "WF" for c in self.text)


def pieces_of(segment: Segment) -> list[Piece]:
    """Pieces of a segment; joined they are its text. Their times are those of its words or, where
    these say something else or nothing, the segment's, shared out among the characters."""
    text = " ".join(segment.text.split())
    words = [("".join(word.text.split()), word.start, word.end) for word in segment.words]
    if "".join(word for word, _, _ in words) != text.replace(" ", ""):
        words = [(text.replace(" ", ""), segment.start, segment.end)]
    timed = [char for word in words for char in _spread(*word)]
    found, at = [], 0
    for token in text.split(" "):
        chars = timed[at : at + len(token)]
        at += len(token)
        for number, part in enumerate(_apart(chars)):
            found.append(Piece("".join(char.text for char in part), number == 0,
                               part[0].start, part[-1].end, segment.language))
    return [piece for piece in found if piece.text]


@dataclass(frozen=True)
class _Char:
    text: str
    start: float
    end: float
    begins_word: bool


def _spread(word: str, start: float, end: float) -> Iterator[_Char]:
    """Characters, with an equal share of a word's time each."""
    step = (end - start) / max(len(word), 1)
    is_sentence = len(word) > _LONGEST_WORD  # where no spaces are written, nobody knows its words
    for at, char in enumerate(word):
        last = at == len(word) - 1
        yield _Char(char, start + step * at, end if last else start + step * (at + 1),
                    at == 0 or is_sentence)


def _apart(chars: list[_Char]) -> list[list[_Char]]:
    """Cut what is written without spaces: between words, otherwise where a line may end, otherwise
    between any two characters; each only as far as a line asks for it."""
    parts = [chars] if chars else []
    if not any(_is_unspaced(char.text) for char in chars):
        return parts
    for is_cut in (_is_word_end, _is_line_end, _is_character_end):
        found = []
        for part in parts:
            if is_cut is not _is_word_end and len(part) <= _LONGEST_PART:
                found.append(part)
                continue
            cuts = [at for at in range(1, len(part)) if is_cut(part[at - 1], part[at])]
            found += [part[a:b] for a, b in zip([0, *cuts], [*cuts, len(part)], strict=True)]
        parts = found
    return parts


def _is_unspaced(char: str) -> bool:
    is_wide = unicodedata.east_asian_width(char) in "WF"
    return _UNSPACED.match(char) is not None or (is_wide and not "\uac00" <= char <= "\ud7a3")


def _is_character_end(before: _Char, after: _Char) -> bool:
    return not unicodedata.category(after.text).startswith("M") and after.text != "\u200d"


def _is_line_end(before: _Char, after: _Char) -> bool:
    return (_is_character_end(before, after) and after.text not in _NOT_FIRST
            and before.text not in _NOT_LAST
            and (_is_unspaced(before.text) or _is_unspaced(after.text)))


def _is_word_end(before: _Char, after: _Char) -> bool:
    katakana = all("\u30a0" <= each.text <= "\u30ff" for each in (before, after))
    return after.begins_word and not katakana and _is_line_end(before, after)


def ends_sentence(before: Piece, after: Piece) -> bool:
    """Whether a sentence ends between two pieces."""
    text = before.text.rstrip(_CLOSING)
    if not text.endswith(tuple(_SENTENCE)):
        return False
    if text.endswith("."):  # Mr. Smith, J. S. Bach, 3. Mai
        is_short = text.lower() in _ABBREVIATIONS or re.fullmatch(r"\w\.|\d+\.", text)
        return not is_short and not after.text[:1].islower()
    return True


def ends_clause(piece: Piece) -> bool:
    """Whether a comma or the like follows it."""
    return piece.text.rstrip(_CLOSING).endswith(tuple(_CLAUSE))


def is_conjunction(piece: Piece) -> bool:
    """Whether it begins a part of a sentence."""
    return _word(piece) in _CONJUNCTIONS.get(piece.language or "en", ())


def clings(piece: Piece) -> bool:
    """Whether it belongs to the word after it: an article, a preposition, a title."""
    text = piece.text.lower()
    return (_word(piece) in _CLINGING.get(piece.language or "en", ()) or text in _ABBREVIATIONS
            or text.endswith(("'", "’")))


def _word(piece: Piece) -> str:
    return piece.text.lower().strip(_CLOSING + "¿¡([{«“‘-")
