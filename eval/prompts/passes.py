"""Passes over a split: one model, one way to ask. Each is kept as soon as it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from torch import Tensor

from distill.kept_lines import append, begin
from distill.whisper.data.corpus import EvaluationUtterance, windows_of
from distill.whisper.decoding.phrases.trie import PhraseList
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.prompting.compose import LIMIT, prompt_tokens
from distill.whisper.prompting.nearest import nearest
from distill.whisper.prompting.reader_files import texts_of
from distill.whisper.prompting.words import as_list
from distill.whisper.recipe import WhisperRecipe
from distill.whisper.recognition.transcribe import to_text, transcribe
from distill.whisper.student import same_encoder


class KeptPasses:
    """Texts and seconds of passes, in memory and in a file (`distill.kept_lines`)."""

    def __init__(self, path: Path, key: str):
        self.path = path
        self.found = {line["pass"]: line for line in begin(path, key)}

    def __call__(self, name: str, decode: Callable[[], tuple[list[str], float]]) -> list[str]:
        """Texts of a pass, decoded now unless they are kept."""
        if name not in self.found:
            texts, seconds = decode()
            line = {"pass": name, "texts": texts, "seconds": seconds}
            append(self.path, line)
            self.found[name] = line
        return self.found[name]["texts"]

    def seconds(self, name: str) -> float:
        """By the clock."""
        return self.found[name]["seconds"]


class Speaker:
    """One model, asked in many ways; loaded when it is first needed.

    Args:
        role: teacher, student or twin; begins the names of its passes.
        load: returns (model, processor).
        shared: {id of an encoder's model: {window: states}}: models with one encoder encode once.
        reads: its encoder reads prompts, not its decoder.
    """

    def __init__(self, role: str, load: Callable[[], tuple], recipe: WhisperRecipe,
                 utterances: Sequence[EvaluationUtterance], kept: KeptPasses,
                 shared: list[tuple[object, dict[str, Tensor]]], reads: bool = False):
        self.reads = reads
        self.role, self.load, self.recipe = role, load, recipe
        self.utterances, self.kept, self.shared = utterances, kept, shared
        self._made: tuple[object, list[PhraseList]] = None, []  # long lists take a while

    @cached_property
    def _loaded(self) -> tuple[WhisperDecoder, object, dict[str, Tensor]]:
        model, processor = self.load()
        model.eval()
        recipe = self.recipe
        decoder = WhisperDecoder(model, processor.tokenizer, recipe.language, recipe.task,
                                 on_loop=recipe.evaluation.on_loop)
        for other, states in self.shared:
            if same_encoder(other, model):
                return decoder, processor, states
        self.shared.append((model, {}))
        return decoder, processor, self.shared[-1][1]

    @property
    def tokenizer(self):
        return self._loaded[1].tokenizer

    def say(self, name: str, prompts: Callable[[], list[list[int]]] | None = None,
            lists: Callable[[], list[PhraseList]] | None = None,
            texts: Callable[[], list[Tensor | None]] | None = None) -> list[str]:
        """Texts of all utterances.

        Args:
            name: of the pass, without the role.
            prompts: makes the tokens that are read before each.
            lists: makes the phrases that are preferred in each.
            texts: makes what the encoder reads with each.
        """
        def decode() -> tuple[list[str], float]:
            decoder, processor, states = self._loaded
            windows = windows_of(self.utterances)
            size = self.recipe.evaluation.batch_size
            if not states:  # encoded before the clock starts: all passes share it
                transcribe(decoder, processor, windows, size, 1.0, states)
            started = time.perf_counter()
            found = transcribe(
                decoder, processor, windows, size, states_cache=states,
                description=f"{self.role}, {name}",
                previous=self._by_window(prompts), phrases=self._by_window(lists),
                texts=self._by_window(texts))
            seconds = time.perf_counter() - started
            said = [" ".join(to_text(processor.tokenizer, found[w.id].tokens) for w in u.windows)
                    for u in self.utterances]
            return said, seconds

        return self.kept(f"{self.role}/{name}", decode)

    def _by_window(self, make: Callable[[], Sequence] | None) -> Mapping | None:
        if make is None:
            return None
        return {window.id: each for utterance, each in zip(self.utterances, make(), strict=True)
                for window in utterance.windows}

    # Ways to ask

    def styled(self, style: str) -> list[str]:
        """Asked for a style."""
        if self.reads:
            return self.say(f"style/{style}", texts=lambda: texts_of(
                self._loaded[0].model, style, [""]) * len(self.utterances))
        return self.say(f"style/{style}", lambda: [
            prompt_tokens(self.tokenizer, style, "", LIMIT)] * len(self.utterances))

    def prompted(self, name: str, lists: Sequence[Sequence[str]], first: Sequence[str]
                 ) -> list[str]:
        """(a): lists in the prompt; of long ones the words that are nearest to a first text."""
        return self.say(name, lambda: self.list_prompts(lists, first))

    def read(self, name: str, lists: Sequence[Sequence[str]], first: Sequence[str],
             boosted: bool = False) -> list[str]:
        """(b): the same lists, read by the encoder; or (b) and (c)."""
        return self.say(name, lists=(lambda: self._phrases(lists)) if boosted else None,
                        texts=lambda: texts_of(self._loaded[0].model, None, list_contents(
                            lists, first, self.recipe.evaluation.prompts.most_words)))

    def boosted(self, name: str, lists: Sequence[Sequence[str]]) -> list[str]:
        """(c): lists that the decoder prefers, without training."""
        return self.say(name, lists=lambda: self._phrases(lists))

    def both(self, name: str, lists: Sequence[Sequence[str]], first: Sequence[str]) -> list[str]:
        """(a) and (c)."""
        return self.say(name, lambda: self.list_prompts(lists, first),
                        lambda: self._phrases(lists))

    def list_prompts(self, lists: Sequence[Sequence[str]], first: Sequence[str]
                     ) -> list[list[int]]:
        """Tokens of the prompts of (a)."""
        return [prompt_tokens(self.tokenizer, None, content, LIMIT)
                for content in list_contents(lists, first,
                                             self.recipe.evaluation.prompts.most_words)]

    def _phrases(self, lists: Sequence[Sequence[str]]) -> list[PhraseList]:
        boost = self.recipe.evaluation.prompts.boost
        if self._made[0] is not lists:
            self._made = lists, [PhraseList(self.tokenizer, words, boost) for words in lists]
        return self._made[1]


def list_contents(lists: Sequence[Sequence[str]], first: Sequence[str], most: int) -> list[str]:
    """What a prompt of each list says."""
    return [as_list(nearest(text, words, most))
            for text, words in zip(first, lists, strict=True)]
