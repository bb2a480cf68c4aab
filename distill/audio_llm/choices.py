"""Which of a closed-ended question's options a model takes for the answer: the likeliest one.

    scores = option_scores(model, examples, states)      # a float64 array (options,) for each
    right = [bool(each) for each in chosen_right(examples, scores)]

What is scored is an option as the whole answer, its end included; what stands before it runs once
for all options. Nothing has to be parsed, and no answer is lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from distill.audio_llm.data.examples import Example
from distill.audio_llm.data.sequences import answer_ids
from distill.audio_llm.model import AudioLlm
from distill.losses.matmul import fast_linears


@torch.no_grad()
def option_scores(
    model: AudioLlm, examples: Sequence[Example], states: Sequence[np.ndarray],
    tells: bool = True,
) -> list[np.ndarray]:
    """Log-probabilities (options,), in nats, of each example's options.

    Args:
        states: encoder states (frames, width) of each; no frames: no audio.
        tells: the transcript is told as text, where the model was trained so.
    """
    found = []
    without_audio: dict[tuple, np.ndarray] = {}  # many are asked the same, and hear nothing
    with fast_linears():
        for example, each in zip(examples, states, strict=True):
            told = example.spoken if tells else None
            asked = (example.question, told, example.options)
            scores = None if len(each) else without_audio.get(asked)
            if scores is None:
                scores = _of_one(model, example, each, told)
            if not len(each):
                without_audio[asked] = scores
            found.append(scores)
    return found


def _of_one(
    model: AudioLlm, example: Example, states: np.ndarray, told: str | None
) -> np.ndarray:
    (audio,) = model.hear([states])
    prompt = model.sequence(example.question, len(audio), transcript=told)
    ids = torch.tensor([prompt.ids], device=model.device)
    before = model.llm.base_model(inputs_embeds=model.embed(ids, audio), use_cache=True)
    options = [answer_ids(model.tokenizer, model.layout, each) for each in example.options]
    longest = max(map(len, options))
    wanted = torch.tensor([[*each, *[model.end] * (longest - len(each))] for each in options],
                          device=model.device)
    hidden = before.last_hidden_state[:, -1:].expand(len(options), -1, -1)
    if longest > 1:
        cache = before.past_key_values
        cache.batch_repeat_interleave(len(options))
        # padding is on the right, where causal attention does not see it
        after = model.llm.base_model(input_ids=wanted[:, :-1], past_key_values=cache,
                                     use_cache=True)
        hidden = torch.cat([hidden, after.last_hidden_state], dim=1)
    logits = hidden @ model.llm.get_output_embeddings().weight.T
    chances = logits.log_softmax(-1).gather(2, wanted[..., None])[..., 0].double().cpu().numpy()
    return np.array([row[: len(each)].sum() for row, each in zip(chances, options, strict=True)])


def chosen(examples: Sequence[Example], scores: Sequence[np.ndarray]) -> list[str]:
    """The likeliest option of each."""
    return [example.options[int(each.argmax())]
            for example, each in zip(examples, scores, strict=True)]


def chosen_right(examples: Sequence[Example], scores: Sequence[np.ndarray]) -> np.ndarray:
    """bool (examples,): the likeliest option is the answer, or says the same."""
    return np.array([example.is_right(taken) for example, taken in
                     zip(examples, chosen(examples, scores), strict=True)], dtype=bool)


def chance(examples: Sequence[Example]) -> float:
    """Share of right answers of who guesses."""
    return float(np.mean([1 / len(set(each.means or each.options)) for each in examples]))
