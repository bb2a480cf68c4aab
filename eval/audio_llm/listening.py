"""Does the model listen? Its loss and answers with the right audio, another clip's, silence, none.

A model that is deaf has the same loss whatever it is given: it answers from what texts are likely.
Many fail so, and their loss curves look healthy. The gap of the loss, another clip's audio minus
the right one's, is measured example by example and has an interval over examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from distill.audio_llm.answers import answer_nll, answers
from distill.audio_llm.data.collate import answer_batch
from distill.audio_llm.data.examples import Example
from distill.audio_llm.model import AudioLlm
from distill.audio_llm.recipe import EvaluationConfig
from distill.audio_llm.validation import others

SMALLEST_GAP = 0.1  # nats a token: length alone tells a deaf model nearly so much
_REFUSALS = ("as an ai", "i'm an ai", "i am an ai", "i cannot", "i can't", "i'm sorry",
             "i am sorry", "unable to", "not able to")


def listen(
    model: AudioLlm, examples: Sequence[Example], states: Sequence[np.ndarray],
    silence: np.ndarray, config: EvaluationConfig, texts: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The entry `listening` of results.json.

    Args:
        states: of each example; silence: states (frames, width) of silence, as long as may be.
        texts: the answers with the right audio, where they are there already.
    """
    wrong = others(examples)
    heard = {
        "right": list(states),
        "other": [states[n] for n in wrong],
        "silence": [np.resize(silence, (len(each), silence.shape[1])) for each in states],
        "none": [each[:0] for each in states],
    }
    nll = {name: answer_nll(model, examples, each, config.batch_size, f"loss, {name} audio")
           for name, each in heard.items()}
    texts = list(texts or answers(model, examples, states, config, "answers"))
    other_texts = answers(model, examples, heard["other"], config, "answers, other audio")
    gaps = {name: gap(nll["right"], nll[name], config.num_bootstrap, seed)
            for name in ("other", "silence", "none")}
    result: dict[str, Any] = {
        "num_examples": len(examples),
        "nll": {name: float(each[:, 0].sum() / each[:, 1].sum()) for name, each in nll.items()},
        "nll_gap": gaps["other"][0], "nll_gap_ci": gaps["other"][1],
        "gap_to_silence": gaps["silence"][0], "gap_to_silence_ci": gaps["silence"][1],
        "gap_to_none": gaps["none"][0], "gap_to_none_ci": gaps["none"][1],
        "answers_changed": _share(a != b for a, b in zip(texts, other_texts, strict=True)),
        "prompt_echoes": _share(
            example.question.strip(" .").lower() in text.lower() and
            example.question.strip(" .").lower() not in example.answer.lower()
            for example, text in zip(examples, texts, strict=True)),
        "refusals": _share(any(each in text.lower() for each in _REFUSALS)
                           and not any(each in example.answer.lower() for each in _REFUSALS)
                           for example, text in zip(examples, texts, strict=True)),
        "empty_answers": _share(not text for text in texts),
        "end_probability": end_probability(model, examples, states, config.batch_size),
        **embedding_signs(model, states),
    }
    return result | verdict(result)


def gap(
    right: np.ndarray, other: np.ndarray, num_samples: int, seed: int
) -> tuple[float, tuple[float, float]]:
    """Nats a token that other audio costs, and its interval of 95 % over examples.

    Args:
        right, other: (examples, 2) of `answer_nll`.
    """
    sums, counts = other[:, 0] - right[:, 0], right[:, 1]
    draws = np.random.default_rng(seed).integers(0, len(sums), (num_samples, len(sums)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(sums.sum() / counts.sum()), (float(low), float(high))


@torch.no_grad()
def end_probability(
    model: AudioLlm, examples: Sequence[Example], states: Sequence[np.ndarray], batch_size: int
) -> float:
    """Mean probability that an answer ends before it begins; near 1 the model says nothing."""
    found = []
    for at in range(0, len(examples), batch_size):
        part = list(range(at, min(at + batch_size, len(examples))))
        batch = answer_batch(model, [examples[n] for n in part], [states[n] for n in part])
        lengths = batch["lengths"].to(model.device)
        audio = model.adapter(batch["states"].to(model.device), lengths)
        embedded, labels = model.place(batch["ids"].to(model.device),
                                       batch["labels"].to(model.device), audio, lengths)
        hidden = model.llm.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        first = (labels >= 0).int().argmax(1) - 1  # what the answer's first token is from
        last = hidden[torch.arange(len(part)), first]
        logits = last @ model.llm.get_output_embeddings().weight.T
        found += logits.softmax(-1)[:, model.end].tolist()
    return float(np.mean(found))


@torch.no_grad()
def embedding_signs(model: AudioLlm, states: Sequence[np.ndarray]) -> dict[str, float]:
    """Where a deaf model's adapter went wrong: `audio_to_text_rms`, the size of audio embeddings
    beside the language model's, and `audio_similarity`, the mean cosine between embeddings of
    different clips (1: they all sound the same)."""
    table = model.llm.get_input_embeddings().weight
    heard = model.hear(list(states)[:32], blanks=True)
    vectors = torch.cat(heard)
    means = torch.nn.functional.normalize(
        torch.stack([each.mean(0) for each in heard if len(each)]) - table.mean(0), dim=-1)
    count = len(means)
    alike = (means @ means.T).sum() - count
    return {
        "audio_to_text_rms": float(vectors.pow(2).mean().sqrt() / table.pow(2).mean().sqrt()),
        "audio_similarity": float(alike / max(count * (count - 1), 1)),
    }


def verdict(result: dict[str, Any]) -> dict[str, Any]:
    """`deaf`, and the likely `cause` of it or of other failures in words."""
    low = result["nll_gap_ci"][0]
    if low > SMALLEST_GAP:
        cause = None
        if result["empty_answers"] > 0.5:
            cause = "it listens, and ends its answers at once: raise the end's bias below 0"
        elif result["prompt_echoes"] > 0.2:
            cause = "it listens, and repeats the prompt: train and ask with the same layout"
        return {"deaf": False, "cause": cause}
    ratio = result["audio_to_text_rms"]
    if not 0.3 < ratio < 3:
        cause = (f"audio embeddings are {ratio:.2g} times as large as the language model's: set "
                 "adapter.match_embeddings")
    elif result["audio_similarity"] > 0.95:
        cause = "all clips have nearly the same embedding: the adapter's output has collapsed"
    else:
        cause = ("the adapter does not say what the language model could read: was it trained "
                 "(learning rate not 0), with a warm start by CTC, and for enough steps?")
    return {"deaf": True, "cause": cause}


def _share(flags: Any) -> float:
    values = [bool(each) for each in flags]
    return sum(values) / max(len(values), 1)


def describe(result: dict[str, Any]) -> str:
    """For people."""
    nll, low_high = result["nll"], result["nll_gap_ci"]
    lines = [f"Loss of the reference answers, nats a token ({result['num_examples']} examples):"]
    lines += [f"  {name + ' audio':<16}{value:8.3f}" for name, value in nll.items()]
    lines.append(f"Gap, another clip's audio minus the right one's: {result['nll_gap']:+.3f} "
                 f"[{low_high[0]:+.3f}, {low_high[1]:+.3f}] (95 %, bootstrap over examples)")
    lines.append(f"Answers that change with the audio: {100 * result['answers_changed']:.0f} %; "
                 f"prompt echoes {100 * result['prompt_echoes']:.0f} %, refusals "
                 f"{100 * result['refusals']:.0f} %, empty {100 * result['empty_answers']:.0f} %; "
                 f"probability of an end at once {result['end_probability']:.3f}")
    word = "DEAF" if result["deaf"] else "It listens"
    lines.append(f"{word}." + (f" Likely cause: {result['cause']}." if result["cause"] else ""))
    return "\n".join(lines)
