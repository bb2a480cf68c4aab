"""Closed-ended questions: accuracy with audio and transcript, with one of the two, and by chance.

LTU-AS (arXiv:2309.14405) hears and reads. What each is worth is seen by taking the other away; on
questions that need both, neither alone should do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distill.audio_llm.choices import chance, chosen, option_scores
from distill.audio_llm.data.examples import Example
from distill.audio_llm.model import AudioLlm

NEEDS_BOTH = "joint"  # the task whose difference stands in results.json by itself
INPUTS = ("joint", "audio_only", "text_only")


def choices(
    model: AudioLlm, examples: Sequence[Example], states: Sequence[np.ndarray], inputs: str
) -> list[str]:
    """The option that is taken of each question, with the inputs of INPUTS."""
    heard = [each[:0] for each in states] if inputs == "text_only" else states
    scores = option_scores(model, examples, heard, inputs != "audio_only",
                           f"choices, {inputs.replace('_', ' ')}")
    return chosen(examples, scores)


def measure_closed(
    model: AudioLlm, examples: Sequence[Example], states: Sequence[np.ndarray],
    num_samples: int, seed: int, parts: Callable[[str, Callable[[], Any]], Any],
) -> dict[str, Any]:
    """`accuracy` of each task, `joint_minus_best_single` of the one that needs both, and `choices`,
    the option that is taken of each question, by inputs.

    Args:
        parts: keeps what was measured, by name; see `eval.audio_llm.measure`.
    """
    told = [n for n, each in enumerate(examples) if each.spoken]
    some, heard = [examples[n] for n in told], [states[n] for n in told]
    taken = {"joint": parts("choices, joint", lambda: choices(model, examples, states, "joint"))}
    taken["audio_only"] = list(taken["joint"])  # where there is no transcript
    without = parts("choices, audio_only", lambda: choices(model, some, heard, "audio_only"))
    for n, option in zip(told, without, strict=True):
        taken["audio_only"][n] = option
    taken["text_only"] = parts("choices, text_only", lambda: choices(
        model, examples, states, "text_only"))
    right = {inputs: np.array([each.is_right(a) for a, each in zip(of, examples, strict=True)])
             for inputs, of in taken.items()}
    names = [example.task.name for example in examples]
    result: dict[str, Any] = {"accuracy": {}, "choices": taken}
    for name in dict.fromkeys(names):
        mine = np.array([n for n, each in enumerate(names) if each == name])
        entry = of_task({inputs: each[mine] for inputs, each in right.items()}, num_samples, seed)
        result["accuracy"][name] = {**entry, "chance": chance([examples[n] for n in mine])}
    if NEEDS_BOTH in result["accuracy"]:
        both = result["accuracy"][NEEDS_BOTH]
        result |= {key: both[key]
                   for key in ("joint_minus_best_single", "joint_minus_best_single_ci")}
    return result


def of_task(right: dict[str, np.ndarray], num_samples: int, seed: int) -> dict[str, Any]:
    """Accuracies with intervals of 95 % over questions, and how much both inputs are worth more
    than the better one alone, of the same questions.

    Args:
        right: bool (questions,) for each of INPUTS.
    """
    count = len(right["joint"])
    draws = np.random.default_rng(seed).integers(0, count, (num_samples, count))
    entry: dict[str, Any] = {"num_questions": count}
    for inputs, each in right.items():
        entry[inputs] = float(each.mean())
        entry[f"{inputs}_ci"] = _interval(each[draws].mean(1))
    best = max(("audio_only", "text_only"), key=lambda inputs: entry[inputs])
    entry["best_single"] = best
    entry["joint_minus_best_single"] = entry["joint"] - entry[best]
    entry["joint_minus_best_single_ci"] = _interval(
        right["joint"][draws].mean(1) - right[best][draws].mean(1))
    return entry


def _interval(values: np.ndarray) -> list[float]:
    return np.quantile(values, [0.025, 0.975]).tolist()


def table(result: dict[str, Any]) -> list[str]:
    """For people."""
    lines = ["Accuracy on closed-ended questions, % [95 %]: audio and transcript | audio | "
             "transcript | chance"]
    for name, entry in result["accuracy"].items():
        cells = [f"{100 * entry[inputs]:5.1f} [{100 * entry[f'{inputs}_ci'][0]:.0f}, "
                 f"{100 * entry[f'{inputs}_ci'][1]:.0f}]" for inputs in INPUTS]
        lines.append(f"  {name:<10}{' | '.join(cells)} | {100 * entry['chance']:.1f} "
                     f"({entry['num_questions']} questions)")
    if "joint_minus_best_single" in result:
        low, high = result["joint_minus_best_single_ci"]
        lines.append(f"{NEEDS_BOTH}: {100 * result['joint_minus_best_single']:+.1f} points "
                     f"[{100 * low:+.1f}, {100 * high:+.1f}] to the better input alone")
    return lines
