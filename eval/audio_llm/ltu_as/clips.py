"""A model that is asked about the clips of a set: answers, likelihoods of labels, embeddings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from distill.audio_llm.choices import option_scores
from distill.audio_llm.core import set_lora
from distill.audio_llm.data.examples import Example
from distill.audio_llm.data.sequences import answer_ids
from distill.audio_llm.data.states import EncoderStates
from distill.audio_llm.model import AudioLlm
from distill.audio_llm.recipe import PromptTask
from distill.audio_llm.settings import read_settings
from distill.data.audio import AudioError, audio_info, load_audio
from distill.data.manifest import Row
from distill.progress import progress
from eval.audio_llm.cascade import whisper_texts
from eval.audio_llm.ltu_as.readers import Item
from eval.audio_llm.ltu_as.scoring import Embed
from eval.audio_llm.ltu_as.sets import Evaluation
from eval.audio_llm.parts import device_of, load_model


class Asked:
    """
    Attributes:
        unreadable: numbers of clips that cannot be read; nothing is answered there.
    """

    def __init__(self, evaluation: Evaluation, items: Sequence[Item], options: argparse.Namespace):
        self.evaluation, self.options = evaluation, options
        settings = read_settings(options.model)
        self.encoder = EncoderStates(settings.encoder, settings.adapter, Path(), device_of(), False)
        self.model = load_model(options.model, self.encoder)
        self.unreadable: set[int] = set()
        self.examples, self.states = [], []
        task = PromptTask(evaluation.name, evaluation.prompt, "choice")
        for item in progress(items, len(items), f"encoder, {evaluation.name}", "clips"):
            row, states = self._heard(item)
            self.examples.append(Example(row, task, evaluation.prompt, item.references[0], None))
            self.states.append(states)
        if settings.tell_transcript and options.inputs != "audio_only":
            self._tell()
        if options.inputs == "text_only":
            self.states = [each[:0] for each in self.states]

    def _heard(self, item: Item) -> tuple[Row, np.ndarray]:
        try:
            seconds = min(audio_info(item.path)[0], self.evaluation.seconds)
            (states,) = self.encoder.encode([load_audio(item.path, 0.0, seconds)])
        except AudioError as error:
            print(f"{item.path}: {error}", flush=True)
            self.unreadable.add(len(self.states))
            seconds, states = 0.0, np.zeros((0, self.model.settings.width), np.float16)
        return Row(item.id, str(item.path), seconds), states

    def _tell(self) -> None:
        """Transcripts by the encoder's own Whisper."""
        mine = [n for n in range(len(self.examples)) if n not in self.unreadable]
        texts = whisper_texts(self.encoder.teacher, [self.examples[n] for n in mine],
                              self.options.batch_size)
        for n, text in zip(mine, texts, strict=True):
            self.examples[n] = replace(self.examples[n], spoken=text or None)

    def answers(self) -> list[str]:
        """Greedy; empty where a clip cannot be read."""
        found, size = [""] * len(self.examples), self.options.batch_size
        mine = [n for n in range(len(found)) if n not in self.unreadable]
        parts = [mine[at : at + size] for at in range(0, len(mine), size)]
        for part in progress(parts, len(parts), "answers", "batches"):
            texts = self.model.generate(
                [self.states[n] for n in part], [self.examples[n].question for n in part],
                [self.examples[n].spoken for n in part],
                max_new_tokens=self.options.max_new_tokens)
            for n, text in zip(part, texts, strict=True):
                found[n] = text
        return found

    def likeliest(self, labels: Sequence[str]) -> tuple[list[str | None], list[str | None]]:
        """The label with the highest mean log-probability a token as the whole answer, and with the
        highest sum, of each clip; None where it cannot be read."""
        sizes = np.array([len(answer_ids(self.model.tokenizer, self.model.layout, each))
                          for each in labels])
        by_mean: list[str | None] = [None] * len(self.examples)
        by_sum = list(by_mean)
        for n, example in enumerate(progress(self.examples, len(self.examples), "labels",
                                             "clips")):
            if n in self.unreadable:
                continue
            (scores,) = option_scores(self.model, [replace(example, options=tuple(labels))],
                                      [self.states[n]])
            by_mean[n] = labels[int((scores / sizes).argmax())]
            by_sum[n] = labels[int(scores.argmax())]
        return by_mean, by_sum

    def embedder(self, name: str | None) -> Embed:
        """Embeds texts: mean of the last states of a transformers AutoModel, or of the language
        model without LoRA."""
        if name is None:
            return lambda texts: _of_language_model(self.model, texts)
        from transformers import AutoModel, AutoTokenizer

        tokenizer, encoder = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name)
        encoder.eval().to(self.model.device)

        def embed(texts: Sequence[str]) -> np.ndarray:
            found = []
            with torch.no_grad():
                for text in texts:
                    ids = tokenizer(text, return_tensors="pt", truncation=True).to(encoder.device)
                    found.append(encoder(**ids).last_hidden_state[0].mean(0).float().cpu())
            return torch.stack(found).numpy()

        return embed


@torch.no_grad()
def _of_language_model(model: AudioLlm, texts: Sequence[str]) -> np.ndarray:
    set_lora(model.llm, False)
    try:
        found = []
        for text in texts:
            ids = model.tokenizer(text, return_tensors="pt")["input_ids"].to(model.device)
            hidden = model.llm.base_model(input_ids=ids, use_cache=False).last_hidden_state
            found.append(hidden[0].mean(0).float().cpu())
    finally:
        set_lora(model.llm, True)
    return torch.stack(found).numpy()
