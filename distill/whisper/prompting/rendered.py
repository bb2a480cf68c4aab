"""Transcripts written in a style after they were recognised: exact, by any model.

    segments = rendered("upper", segments)      # the words stay, and so do their times

A model that is asked for a style by a prompt chooses other tokens, and may choose other words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from distill.whisper.prompting.styles import ENGLISH, render
from distill.whisper.recognition.sequential import Segment
from distill.whisper.recognition.words import Word


def rendered(style: str, segments: Sequence[Segment], task: str = "transcribe") -> list[Segment]:
    """Segments in a style; those that nothing is left of are dropped. English numbers are looked
    for in English text only."""
    found = []
    for segment in segments:
        is_english = task == "translate" or segment.language in (None, "en")
        if style in ENGLISH and not is_english:
            found.append(segment)
            continue
        text = render(style, segment.text)
        if text:
            found.append(replace(segment, text=text, words=_words(segment.words, text)))
    return found


def _words(words: Sequence[Word], text: str) -> list[Word]:
    """The words of a text, with the times of those that they were before."""
    before, after = [_bare(word.text) for word in words], text.split()
    matched = SequenceMatcher(None, before, [_bare(each) for each in after], autojunk=False)
    found: list[Word] = []
    for _, first, last, begin, end in matched.get_opcodes():
        old, new = words[first:last], after[begin:end]
        if len(old) == len(new):
            found += [replace(word, text=f" {each}") for word, each in zip(old, new, strict=True)]
        elif old and new:  # one hundred and five: 105
            mean = sum(word.probability for word in old) / len(old)
            found.append(replace(old[0], text=" " + " ".join(new), end=old[-1].end,
                                 probability=mean))
        elif new and found:
            found[-1] = replace(found[-1], text=" ".join([found[-1].text, *new]))
    return found


def _bare(word: str) -> str:
    return "".join(filter(str.isalnum, word.casefold()))
