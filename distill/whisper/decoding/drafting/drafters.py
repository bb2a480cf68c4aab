"""Drafts, by a draft model or by an older transcript of the same audio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distill.whisper.decoding.decoder import Decoder
from distill.whisper.decoding.phrases.boosts import Boosts
from distill.whisper.decoding.rules import LogitsRules
from distill.whisper.decoding.sampling import Sampling

_ANCHOR = 2  # tokens that must agree before an old transcript is followed again
_SEARCHED = 24  # tokens of the transcript that are searched for them
_COMPARED = 24  # tokens of a text that say how often a student is right


@dataclass
class Draft:
    """Proposed tokens of one sequence.

    Attributes:
        tokens: that may come next.
        probabilities: for each token, the probabilities (vocabulary,) that it was drawn from;
            [] where tokens were not drawn, or drawn with common random numbers.
    """

    tokens: list[int]
    probabilities: list[Tensor] = field(default_factory=list)


class StudentDrafter:
    """Drafts by a draft model: the student, which uses the encoder states of the target model.

    Args:
        model: the student.
        int8: use an int8 copy of its decoder, and nothing else of the model (any CPU): drafts need
            not be exact, they are verified.
        target: the target model's decoder; weights that are equal in both are held once.
    """

    def __init__(self, model, int8: bool, target: Decoder | None = None):
        self.decoder = Decoder(model, int8, same_bits=False, share_weights_with=target,
                               silence=target and target.silence)
        self._read: list[list[int]] = []  # tokens that each slot's cache holds

    def start(self, states: Tensor, max_slots: int | None = None) -> None:
        """Begin a call: encoder states (sequences, frames, width) of the first slots.

        Args:
            max_slots: most slots, with those that `add` fills later; None: no more than these.
        """
        self.cache = self.decoder.allocate_cache(states, max_slots or len(states))
        self._read = []
        self.add(states)

    def add(self, states: Tensor) -> None:
        """Encoder states of sequences that take the next slots."""
        self.decoder.fill_cross_attention(self.cache, states)
        self._read += [[] for _ in states]

    def remove(self, slot: int) -> None:
        """Free a slot; the sequence of the last slot moves there."""
        self.cache.remove(slot)
        self._read[slot] = self._read[-1]
        self._read.pop()

    def __call__(
        self, texts: Sequence[list[int]], prompt_lengths: Sequence[int], count: int,
        rules: LogitsRules, sampling: Sampling | None = None, sequences: Sequence[int] = (),
        boosts: Boosts | None = None,
    ) -> list[Draft]:
        """Up to `count` tokens after each text; fewer where a text ends.

        Args:
            texts: of each slot, prompt included.
            prompt_lengths: tokens of each prompt.
            sampling: None takes the likeliest tokens.
            sequences: the sequence in each slot, as `sampling` and `boosts` number them.
            boosts: prefer phrases, as the target model does.
        """
        generated = [text[length:] for text, length in zip(texts, prompt_lengths, strict=True)]
        drawn_from: list[Tensor] = []  # of each step (slots, vocabulary), by rejection
        hidden = self._catch_up(texts)
        for step in range(count):
            logits = rules(self.decoder.logits(hidden), generated)
            if boosts is not None:
                boosts.add(logits, sequences, generated, [len(tokens) for tokens in generated])
            positions = [(sequence, len(tokens))
                         for sequence, tokens in zip(sequences, generated, strict=False)]
            tokens = self._choose(logits, sampling, positions, drawn_from)
            for text, token in zip(generated, tokens.tolist(), strict=True):
                text.append(token)
            if step + 1 < count:
                starts = [len(text) + step for text in texts]
                hidden = self.decoder(tokens[:, None], starts, self.cache)[:, 0]
        drafts = [tokens[len(tokens) - count :] for tokens in generated]
        for read, text, draft in zip(self._read, texts, drafts, strict=True):
            read[:] = [*text, *draft[:-1]]
        return [Draft(_until(draft, rules.end), [each[slot] for each in drawn_from])
                for slot, draft in enumerate(drafts)]

    @staticmethod
    def _choose(logits: Tensor, sampling: Sampling | None, positions: list[tuple[int, int]],
                drawn_from: list[Tensor]) -> Tensor:
        """Tokens (slots,); by rejection, their probabilities are added to `drawn_from`."""
        if sampling is None:
            return logits.argmax(-1)
        if sampling.is_coupled:
            return (logits + sampling.noise(positions, logits)).argmax(-1)
        drawn_from.append(sampling.probabilities(logits))
        drawn = [sampling.draw(probabilities, "draft", *position)
                 for probabilities, position in zip(drawn_from[-1], positions, strict=True)]
        return torch.tensor(drawn, device=logits.device)

    def _catch_up(self, texts: Sequence[list[int]]) -> Tensor:
        """Read the tokens that are not in the cache; the last states (slots, width)."""
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

    def agreement(
        self, text: list[int], prompt_length: int, rules: LogitsRules,
        sampling: Sampling | None = None, sequence: int = 0, boosts: Boosts | None = None,
    ) -> tuple[float, int]:
        """How many of a text's last tokens it would have drafted after those before them.

        The text is read in one pass, into the first slot's cache.

        Args:
            text: prompt included; one generated token or more.
            prompt_length: tokens of the prompt.
            sampling: None takes the likeliest tokens.
            sequence: as `sampling` and `boosts` number it.
            boosts: prefer phrases, as the target model does.

        Returns:
            (tokens that it would have drafted, tokens that were looked at). By rejection the
            first is the sum of their probabilities, of which more would be accepted.
        """
        generated = text[prompt_length:]
        count = min(len(generated), _COMPARED)
        before = list(range(len(generated) - count, len(generated)))
        device = self.decoder.embeddings.device
        hidden = self.decoder(torch.tensor([text[:-1]], device=device), [0], self.cache)[0, -count:]
        logits = rules(self.decoder.logits(hidden), [generated] * count, before)
        if boosts is not None:
            boosts.add(logits, [sequence] * count, [generated] * count, before)
        tokens = torch.tensor(generated[-count:], device=device)
        self._read[0] = text[:-1]
        if sampling is not None and not sampling.is_coupled:
            found = sampling.probabilities(logits).gather(1, tokens[:, None]).sum()
        else:
            if sampling is not None:
                logits = logits + sampling.noise([(sequence, at) for at in before], logits)
            found = (logits.argmax(-1) == tokens).sum()
        return float(found), count


class TranscriptDrafter:
    """Drafts by an older transcript of each sequence.

    A transcript is followed as long as the target model generates the same. After a difference,
    the position where both agree again is searched: a better teacher changes a word here and
    there.
    """

    def __init__(self, texts: Sequence[Sequence[int]], end: int):
        self.texts = [[*text, end] for text in texts]
        self._next = [0] * len(texts)  # position in the transcript of the next token
        self._known = [0] * len(texts)  # how many generated tokens led to that position

    def __call__(self, sequence: int, generated: Sequence[int], count: int) -> list[int]:
        """Up to `count` tokens that may come next; [] at the end of the transcript.

        Args:
            sequence: its number in the call.
            generated: its tokens so far, without the prompt.
        """
        text, position = self.texts[sequence], self._next[sequence]
        # tokens may have been taken back, and another one added
        known = min(self._known[sequence], max(len(generated) - 1, 0))
        position = max(position - (self._known[sequence] - known), 0)
        new = generated[known:]
        if text[position : position + len(new)] == list(new):
            position += len(new)
        else:
            anchor = list(generated[-_ANCHOR:])
            ends = range(max(position, len(anchor)), min(position + _SEARCHED, len(text)))
            found = next((at for at in ends if text[at - len(anchor) : at] == anchor), None)
            if found is None:  # a guess: as many tokens were replaced as are new
                return text[position + len(new) :][:count]
            position = found
        self._next[sequence], self._known[sequence] = position, len(generated)
        return text[position : position + count]


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
