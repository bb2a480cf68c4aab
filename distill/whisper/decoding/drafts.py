"""Where drafts come from: a student, or an older transcript of the same audio."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distill.whisper.decoding.decoder import Decoder
from distill.whisper.decoding.rules import Rules
from distill.whisper.decoding.sampling import Sampling

_ANCHOR = 2  # tokens that must agree before an old transcript is followed again
_SEARCHED = 24  # tokens of it that are looked at for them


class StudentDraft:
    """Greedy drafts by a student that hears through the teacher's encoder.

    Args:
        model: the student; with `int8` (any CPU) only an int8 copy of its decoder is used, since
            what a draft is made of changes nothing but how often it is right.
        teacher: its decoder; what is equal in both is not held twice.
    """

    def __init__(self, model, int8: bool, teacher: Decoder | None = None):
        self.decoder = Decoder(model, int8, same_bits=False, beside=teacher)
        self.chances: list[Tensor] = []  # of each step of the last drafts, if they were drawn by
        # rejection: (slots, vocabulary)
        self._read: list[list[int]] = []  # tokens that each slot's cache holds

    def begin(self, states: Tensor, rows: int | None = None) -> None:
        """Encoder states (rows, frames, width) of a batch; nothing is read yet.

        Args:
            rows: most of them at a time, with those that `join` later; None: no more than these.
        """
        self.cache, self._read = self.decoder.room(states, rows or len(states)), []
        self.join(states)

    def join(self, states: Tensor) -> None:
        """Rows that take the next slots."""
        self.decoder.listen(self.cache, states)
        self._read += [[] for _ in states]

    def remove(self, slot: int) -> None:
        """A row has left the batch; the last one takes its slot."""
        self.cache.remove(slot)
        self._read[slot] = self._read[-1]
        self._read.pop()

    def __call__(
        self, texts: Sequence[list[int]], prompts: Sequence[int], count: int, rules: Rules,
        sampling: Sampling | None = None, rows: Sequence[int] = (),
    ) -> list[list[int]]:
        """Up to `count` tokens after each text; fewer where a text ends.

        Args:
            texts: of each slot, prompt included.
            prompts: how much of each is prompt and prefix.
            sampling: None takes the likeliest tokens.
            rows: of each slot, as `sampling` numbers them.
        """
        drafts: list[list[int]] = [[] for _ in texts]
        self.chances = []
        hidden = self._catch_up(texts)
        for step in range(count):
            said = [text[prompt:] + draft for text, prompt, draft
                    in zip(texts, prompts, drafts, strict=True)]
            tokens = self._choose(rules(self.decoder.scores(hidden), said), sampling,
                                  [(row, len(each)) for row, each in zip(rows, said, strict=False)])
            for draft, token in zip(drafts, tokens.tolist(), strict=True):
                draft.append(token)
            if step + 1 < count:
                starts = [len(text) + step for text in texts]
                hidden = self.decoder(tokens[:, None], starts, self.cache)[:, 0]
        for read, text, draft in zip(self._read, texts, drafts, strict=True):
            read[:] = [*text, *draft[:-1]]
        return [_until(draft, rules.end) for draft in drafts]

    def _choose(self, scores: Tensor, sampling: Sampling | None, places: list) -> Tensor:
        if sampling is None:
            return scores.argmax(-1)
        if sampling.is_coupled:
            return (scores + sampling.noise(places, scores)).argmax(-1)
        self.chances.append(sampling.chances(scores))
        drawn = [sampling.draw(chances, "draft", *place)
                 for chances, place in zip(self.chances[-1], places, strict=True)]
        return torch.tensor(drawn, device=scores.device)

    def _catch_up(self, texts: Sequence[list[int]]) -> Tensor:
        """Read what is new of each text; the last states (slots, width)."""
        known = [_common(read, text) for read, text in zip(self._read, texts, strict=True)]
        width = max(len(text) - min(n, len(text) - 1)
                    for n, text in zip(known, texts, strict=True))
        starts = [max(len(text) - width, 0) for text in texts]
        new = [text[start:] for start, text in zip(starts, texts, strict=True)]
        tokens = torch.tensor([each + [0] * (width - len(each)) for each in new],
                              device=self.decoder.embeddings.device)
        hidden = self.decoder(tokens, starts, self.cache)
        last = torch.tensor([len(each) - 1 for each in new], device=hidden.device)
        return hidden[torch.arange(len(texts), device=hidden.device), last]

    def seconds(self, tokens: int, starts: Sequence[int], clock) -> float:
        """Of a pass over `tokens` tokens a row, scores included; overwrites nothing that counts,
        because what was drafted is read again."""
        ids = torch.zeros((len(starts), tokens), dtype=torch.long,
                          device=self.decoder.embeddings.device)
        self._read = [read[:start] for read, start in zip(self._read, starts, strict=True)]
        begin = clock()
        self.decoder.scores(self.decoder(ids, starts, self.cache)[:, -1]).argmax(-1).tolist()
        return clock() - begin


class TextDraft:
    """An older transcript of each row, followed as long as the teacher says the same.

    Where it says something else, the place where both agree again is looked for: labelling again
    with a better teacher changes a word here and there.
    """

    def __init__(self, texts: Sequence[Sequence[int]], end: int):
        self.texts = [[*text, end] for text in texts]
        self._next = [0] * len(texts)  # place in the transcript of what is said next
        self._said = [0] * len(texts)  # how much was said when that was found out

    def __call__(self, row: int, said: Sequence[int], count: int) -> list[int]:
        """Up to `count` tokens that may follow; [] where the transcript is at its end.

        Args:
            row: of the batch, as it was given.
            said: by the teacher so far, without prompt and prefix.
        """
        text, place = self.texts[row], self._next[row]
        new = said[self._said[row] :]
        if text[place : place + len(new)] == list(new):
            place += len(new)
        else:
            anchor = list(said[-_ANCHOR:])
            ends = range(max(place, len(anchor)), min(place + _SEARCHED, len(text)))
            found = next((at for at in ends if text[at - len(anchor) : at] == anchor), None)
            if found is None:  # perhaps one token stands for another: no more than a guess
                return text[place + len(new) :][:count]
            place = found
        self._next[row], self._said[row] = place, len(said)
        return text[place : place + count]


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning."""
    count = 0
    for one, two in zip(first, second, strict=False):
        if one != two:
            break
        count += 1
    return count


def _until(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens
