"""Keys and values of a batch, which a decoder's passes read and write."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass
class Cache:
    """For each layer the tensors of `decoding.attention`.

    Attributes:
        self_attention: of the tokens read so far; shapes begin with (slots, heads, positions).
        cross_attention: of the encoder states; shapes begin with (slots, heads, frames).
        num_used: slots in use, the first ones.
        frames: of the encoder states, the last ones that slots hold.
        rest: of the silence behind all slots, (heads, frames); None where there is none, or where
            each slot holds it, before its own frames.
        silent_weight: (1, 1, 1, kept silence and frames), added to the logits of cross-attention:
            each kept position of silence stands for several. None without silence.
        is_silent: whether slots that hold silence themselves have it already.
        num_read: one number, shared by views of the same memory: positions of tokens that passes
            have written to, at most.
        beside: slots whose audio has another text, too; of these texts self_attention has rows
            behind those of the slots in use.
    """

    self_attention: list[tuple[Tensor, ...]]
    cross_attention: list[tuple[Tensor, ...]]
    num_used: int
    frames: int
    rest: list[tuple[Tensor, ...]] | None = None
    silent_weight: Tensor | None = None
    is_silent: bool = False
    num_read: list[int] = field(default_factory=lambda: [0])
    beside: list[int] = field(default_factory=list)

    def add(self, count: int) -> None:
        """Use the next slots."""
        for place in reversed(range(len(self.beside))):
            self._copy(self.num_used + place, self.num_used + count + place)
        self.num_used += count

    def remove(self, slot: int) -> None:
        """Free a slot, beside which there is no other text; the sequence of the last slot moves
        there."""
        last = self.num_used - 1
        if slot != last:
            self._copy(last, slot)
            for layer in self.cross_attention:
                for tensor in layer:
                    tensor[slot] = tensor[last]
            self.beside = [slot if each == last else each for each in self.beside]
        for place in range(len(self.beside)):
            self._copy(last + 1 + place, last + place)
        self.num_used = last

    @property
    def has_room(self) -> bool:
        """For another text beside a slot's."""
        slots, rows = len(self.cross_attention[0][0]), len(self.self_attention[0][0])
        return len(self.beside) < rows - slots

    def put_beside(self, slot: int, length: int) -> None:
        """Another text of a slot's audio, the last one, with the same first `length` tokens."""
        self._copy(slot, self.num_used + len(self.beside), 0, length)
        self.beside.append(slot)

    def drop_beside(self, place: int) -> None:
        """A text leaves; the last one moves to its place."""
        last = self.beside.pop()
        if place < len(self.beside):
            self._copy(self.num_used + len(self.beside), self.num_used + place)
            self.beside[place] = last

    def take_beside(self, place: int, first: int, end: int) -> None:
        """Tokens `first` to `end` of a text are those of its slot from now on."""
        self._copy(self.num_used + place, self.beside[place], first, end)

    def _copy(self, source: int, target: int, first: int = 0, end: int | None = None) -> None:
        end = self.num_read[0] if end is None else end
        for layer in self.self_attention:
            for tensor in layer:
                tensor[target, :, first:end] = tensor[source, :, first:end]

    def slots(self, first: int, count: int) -> Cache:
        """Some of the slots, in the same memory."""
        def cut(layers: list) -> list:
            return [tuple(tensor[first : first + count] for tensor in layer) for layer in layers]

        return replace(self, self_attention=cut(self.self_attention), beside=[],
                       cross_attention=cut(self.cross_attention), num_used=count)

    def alone(self, slot: int) -> Cache:
        """A cache for one sequence: the same encoder states, no tokens.

        Args:
            slot: or, beyond those in use, the row of another text.
        """
        if slot >= self.num_used:
            slot = self.beside[slot - self.num_used]
        tokens = [tuple(torch.zeros_like(tensor[:1]) for tensor in layer)
                  for layer in self.self_attention]
        audio = [tuple(tensor[slot : slot + 1] for tensor in layer)
                 for layer in self.cross_attention]
        return replace(self, self_attention=tokens, cross_attention=audio, num_used=1, beside=[])

    def clear(self) -> None:
        """Write zeros: memory that was never written is read faster than any other."""
        for tensor in self._tensors():
            tensor.zero_()

    def part(self, slots: int, frames: int, beside: int = 0) -> Cache | None:
        """An empty cache in the first of its memory, with room for `beside` other texts; None if
        there is not enough."""
        keys, rows = self.cross_attention[0][0], len(self.self_attention[0][0])
        if keys.shape[2] < frames or len(keys) < slots or rows < slots + beside:
            return None
        audio = [tuple(tensor[:slots, :, :frames] for tensor in layer)
                 for layer in self.cross_attention]
        tokens = [tuple(tensor[: slots + beside] for tensor in layer)
                  for layer in self.self_attention]
        return Cache(tokens, audio, 0, frames)

    @property
    def num_bytes(self) -> int:
        """Of the slots; the rest belongs to the decoder."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors())

    def _tensors(self) -> list[Tensor]:
        layers = [*self.self_attention, *self.cross_attention]
        return [tensor for layer in layers for tensor in layer]
