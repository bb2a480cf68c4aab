"""What is measured while training: errors of each task, and whether the model listens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.audio_llm.answers import answer_nll, answers
from distill.audio_llm.choices import chosen_right, option_scores
from distill.audio_llm.data.examples import Example
from distill.audio_llm.model import AudioLlm
from distill.audio_llm.module import AudioLlmModule
from distill.audio_llm.recipe import EvaluationConfig
from distill.data.noise.kinds import NO_SPEECH
from distill.metrics.error_rates import error_counts, error_rate
from distill.metrics.normalize import normalizer
from distill.metrics.thresholds import share_interval

_DOCTOR_CLIPS = 24  # in a validation; the doctor's own command takes all


def others(examples: Sequence[Example]) -> list[int]:
    """For each example one with another clip and another answer, of like length where there is:
    its neighbour in order of length."""
    order = sorted(range(len(examples)), key=lambda n: (examples[n].row.duration, examples[n].id))
    place = {n: at for at, n in enumerate(order)}
    found = []
    for n, example in enumerate(examples):
        choices = [order[(place[n] + step) % len(order)] for step in range(1, len(order))]
        fits = (m for m in choices if examples[m].answer != example.answer
                and examples[m].row.audio_filepath != example.row.audio_filepath)
        found.append(next(fits, n))
    return found


class Validation:
    """Metrics of the validation split.

    Args:
        examples: of it; states: of each.
        has_ctc: the stage trains CTC alone: what is measured is its best path.
    """

    def __init__(self, examples: Sequence[Example], states: Sequence[np.ndarray],
                 config: EvaluationConfig, has_ctc: bool):
        self.config, self.has_ctc = config, has_ctc
        kept, counts = [], {}
        for number, example in enumerate(examples):
            name = example.task.name
            counts[name] = counts.get(name, 0) + 1
            if config.max_validation_clips is None or counts[name] <= config.max_validation_clips:
                kept.append(number)
        self.examples = [examples[n] for n in kept]
        self.states = [states[n] for n in kept]

    def __call__(self, module: AudioLlmModule) -> dict[str, float]:
        """`wer`, `chrf` or `accuracy` of each task, `no_speech` where there are such clips, `nll`,
        `nll_gap`; `score` chooses."""
        model = module.model
        module.eval()
        try:
            return self._of_ctc(module) if self.has_ctc else self._of_answers(model)
        finally:
            module.train()

    def _of_ctc(self, module: AudioLlmModule) -> dict[str, float]:
        model, result, scores = module.model, {}, []
        spoken = [n for n, example in enumerate(self.examples) if example.heard]
        for name in dict.fromkeys(self.examples[n].task.name for n in spoken):
            mine = [n for n in spoken if self.examples[n].task.name == name]
            texts = [model.tokenizer.decode(module.ctc.read(vectors)) for vectors in
                     _heard(model, [self.states[n] for n in mine])]
            value = _error_rate([self.examples[n].heard or "" for n in mine], texts)
            result[f"wer_{name}"] = value
            scores.append(value)
        return {**result, "num_clips": len(spoken), "score": float(np.mean(scores or [0.0]))}

    def _of_answers(self, model: AudioLlm) -> dict[str, float]:
        result: dict[str, float] = {}
        errors = []
        for name in dict.fromkeys(example.task.name for example in self.examples):
            mine = [n for n, example in enumerate(self.examples) if example.task.name == name]
            examples, states = [self.examples[n] for n in mine], [self.states[n] for n in mine]
            if examples[0].task.kind == "choice":
                right = chosen_right(examples, option_scores(model, examples, states))
                metric, value = "accuracy", float(right.mean())
                error = 1 - value
            else:
                texts = answers(model, examples, states, self.config)
                references = [each.answer for each in examples]
                told = no_speech(references, texts)
                if told["num_without_speech"]:
                    result[f"no_speech_{name}"] = told["answered_so"]
                    errors.append(1 - told["answered_so"])
                said = [n for n, each in enumerate(references) if each != NO_SPEECH]
                if not said:
                    continue
                metric, value, error = measure(examples[0].task.kind,
                                               [references[n] for n in said],
                                               [texts[n] for n in said])
            result[f"{metric}_{name}"] = value
            errors.append(error)
        some = list(range(min(_DOCTOR_CLIPS, len(self.examples))))
        chosen = [self.examples[n] for n in some]
        right = answer_nll(model, chosen, [self.states[n] for n in some])
        wrong = answer_nll(model, chosen, [self.states[n] for n in others(chosen)])
        gap = (wrong[:, 0].sum() - right[:, 0].sum()) / right[:, 1].sum()
        return {**result, "nll": right[:, 0].sum() / right[:, 1].sum(), "nll_gap": float(gap),
                "num_clips": len(self.examples), "score": float(np.mean(errors))}


def _heard(model: AudioLlm, states: Sequence[np.ndarray]) -> list[Tensor]:
    with torch.no_grad():
        return model.hear(states, blanks=True)


def measure(kind: str, references: Sequence[str], texts: Sequence[str]) -> tuple[str, float, float]:
    """(name of the metric, its value, an error from 0: what chooses between checkpoints)."""
    if kind == "recognition":
        value = _error_rate(references, texts)
        return "wer", value, value
    if kind == "translation":
        value = chrf(references, texts)
        return "chrf", value, 1 - value / 100
    right = float(np.mean([_same(a, b) for a, b in zip(references, texts, strict=True)]))
    return "accuracy", right, 1 - right


def no_speech(references: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    """How often NO_SPEECH is the answer where nobody speaks, and where somebody does; shares with
    Wilson's intervals of 95 %."""
    found: dict[str, Any] = {}
    for silent, count, share in ((True, "num_without_speech", "answered_so"),
                                 (False, "num_with_speech", "speech_answered_so")):
        mine = [text == NO_SPEECH for reference, text in zip(references, texts, strict=True)
                if (reference == NO_SPEECH) == silent]
        found[count] = len(mine)
        if mine:
            found[share] = sum(mine) / len(mine)
            found[f"{share}_ci"] = share_interval(sum(mine), len(mine))
    return found


def _same(reference: str, text: str) -> bool:
    clean: Any = normalizer("basic", None)
    return clean(reference) == clean(text)


def _error_rate(references: Sequence[str], texts: Sequence[str]) -> float:
    clean: Any = normalizer("english", "en")
    found = error_rate([error_counts(clean(a), clean(b))
                        for a, b in zip(references, texts, strict=True)])
    return 1.0 if found is None else found


def chrf(references: Sequence[str], texts: Sequence[str]) -> float:
    """chrF of a corpus, 0 to 100."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().corpus_score(list(texts), [list(references)]).score)
