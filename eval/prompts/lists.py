"""Lists of words for measuring: what is said in a clip, among words that are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distill.data.views.draws import generator
from distill.whisper.prompting.words import Listed

SIZES = (0, 10, 100, 1000)  # distractors


@dataclass(frozen=True)
class ClipList:
    """What a clip's lists are made of.

    Attributes:
        said: phrases that its reference has.
        others: distractors in the order in which longer lists take them.
    """

    said: tuple[str, ...]
    others: tuple[str, ...]

    def of(self, size: int, key: str) -> list[str]:
        """All that is said among so many others, in an order that says nothing."""
        words = [*self.said, *self.others[:size]]
        return [words[at] for at in generator(0, f"list {key}", size).permutation(len(words))]


def clip_lists(
    references: Sequence[str], ids: Sequence[str], phrases: Sequence[str], seed: int
) -> list[ClipList]:
    """The lists of each clip.

    Args:
        phrases: rare words and names, of which references have some.

    Raises:
        ValueError: no reference has any of them.
    """
    listed, found = Listed(phrases), []
    for reference, name in zip(references, ids, strict=True):
        said = listed.find(reference)
        order = generator(seed, f"distractors {name}", 0).permutation(len(listed.phrases))
        others = [listed.phrases[at] for at in order if listed.phrases[at] not in said]
        found.append(ClipList(tuple(said), tuple(others[: max(SIZES)])))
    if not any(clip.said for clip in found):
        raise ValueError("evaluation.prompts.words: no text of the split has any of its words")
    return found
