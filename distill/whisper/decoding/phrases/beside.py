"""Texts without the phrases that they have begun, read in the same passes.

A beginning that a boost chose may have to be undone, and what comes instead would be read in passes
of its own. A decoder on a CPU waits for memory: one row more costs a pass little. So while a phrase
is open, the text without it goes on beside its sequence, and takes its place if the phrase does not
come. It is a sequence like others and follows the same rules, so texts are the same; where there is
no room for it, or drafts are read, what is undone costs its passes.
"""

from __future__ import annotations

from dataclasses import dataclass

from distill.whisper.decoding.cache import Cache
from distill.whisper.decoding.phrases.boosts import Back, Boosts
from distill.whisper.decoding.sequences import Sequences

_SLOTS = 4  # of which one may have a text beside it; few are inside of a phrase at a time


def rows_beside(slots: int) -> int:
    """Most texts beside so many sequences."""
    return -(-slots // _SLOTS)


@dataclass
class _Beside:
    """A text beside a sequence.

    Attributes:
        number: its own, as a sequence.
        back: where it leaves the other one.
    """

    number: int
    back: Back


class TextsBeside:
    """Of the sequences of a call.

    Args:
        cache: has room for them.
        sequences: get them, as sequences of their own.
        boosts: say which phrases are open.
        end_loops: sequences that repeat themselves end.
    """

    def __init__(self, cache: Cache, sequences: Sequences, boosts: Boosts, end_loops: bool):
        self.cache, self.sequences, self.boosts = cache, sequences, boosts
        self.end_loops = end_loops
        self._of: dict[int, _Beside] = {}
        self._undone: set[int] = set()  # in this pass

    def replaces(self, sequence: int) -> bool:
        """Whether a text takes the sequence's place after this pass, now that its phrase has not
        come."""
        if sequence in self._of:
            self._undone.add(sequence)
        return sequence in self._of

    def begin(self) -> None:
        """Before a pass over one token of each: begin texts beside sequences with an open
        phrase."""
        for slot, sequence in enumerate(self.sequences.slots):
            back = self.boosts.open(sequence)
            if (back is not None and back.plain is not None and sequence not in self._of
                    and self.cache.has_room):
                self._of[sequence] = self._begin(slot, back)

    def _begin(self, slot: int, back: Back) -> _Beside:
        sequences = self.sequences
        number = sequences.split(sequences.slots[slot], back.length, back.log_prob)
        self.boosts.split(sequences.slots[slot], back.length)
        sequences.add(number, *back.plain, self.end_loops)
        if not sequences.done[number]:
            self.cache.put_beside(slot, sequences.length(number) - 1)
            sequences.beside.append(number)
        return _Beside(number, back)

    def settle(self) -> None:
        """After a pass: texts take the place of those whose phrase did not come, and leave where
        it did."""
        for sequence, beside in list(self._of.items()):
            if sequence in self._undone:
                self._take(sequence, beside)
            elif self.sequences.done[sequence] or self.boosts.open(sequence) is not beside.back:
                self._drop(sequence)
            elif self.sequences.done[beside.number]:
                self._free(beside.number)
        self._undone.clear()

    def drop_all(self) -> None:
        """Before a pass over drafts."""
        for sequence in list(self._of):
            self._drop(sequence)

    def _take(self, sequence: int, beside: _Beside) -> None:
        sequences, number = self.sequences, beside.number
        sequences.take(sequence, number)
        self.boosts.take(sequence, number)
        if number in sequences.beside:
            first = len(sequences.prompts[sequence]) + beside.back.length
            self.cache.take_beside(sequences.beside.index(number), first,
                                   sequences.length(sequence) - 1)
        self._drop(sequence)

    def _drop(self, sequence: int) -> None:
        self._free(self._of.pop(sequence).number)

    def _free(self, number: int) -> None:
        """Its row, if it has one."""
        beside = self.sequences.beside
        if number in beside:
            place, last = beside.index(number), beside.pop()
            self.cache.drop_beside(place)
            if place < len(beside):
                beside[place] = last
