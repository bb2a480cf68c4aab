"""A runtime's texts of the test split against our own decoding of the same windows.

What a loop says, and for how long, depends on the last bit. So loops at the end of a text are cut
on both sides. Windows in which either of them loops are counted; they have a part in the error
rates, but not in the share of tokens that are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.data.audio import SAMPLE_RATE
from distill.data.speech.windows import Window, load_window
from distill.kept_lines import append
from distill.metrics.error_rates import (
    ErrorCounts,
    bootstrap_interval,
    error_counts,
    error_rate,
    paired_bootstrap,
    total,
)
from distill.metrics.normalize import error_unit, normalizer, normalizer_name
from distill.progress import progress
from distill.whisper.data.corpus import EvaluationUtterance, windows_of
from distill.whisper.decoding.sequences import is_looping
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.export.forced import compare, student_reader, without_loop
from distill.whisper.export.runtimes import Runtime
from distill.whisper.export.word_times import check_word_times
from distill.whisper.recipe import WhisperRecipe, written_language
from distill.whisper.recipe_sections import ExportConfig
from distill.whisper.recognition.transcribe import to_text, transcribe


@dataclass
class Test:
    """The test split, and what our own decoder says of it."""

    recipe: WhisperRecipe
    utterances: Sequence[EvaluationUtterance]
    windows: list[Window]
    audio: list[np.ndarray]
    tokenizer: object
    tokens: list[list[int]]  # of each window, ours
    seconds: float  # our own decoding
    read: Callable[..., np.ndarray]  # ours, of a given text: `student_reader`

    @property
    def unit(self) -> str:
        references = " ".join(utterance.reference for utterance in self.utterances)
        return error_unit(written_language(self.recipe), references)

    @property
    def audio_seconds(self) -> float:
        return sum(len(audio) for audio in self.audio) / SAMPLE_RATE

    def facts(self) -> dict:
        """What is the same for all runtimes, for verification.json."""
        name = normalizer_name(self.recipe.evaluation.normalizer, written_language(self.recipe))
        return {
            "split": "test", "normalizer": name, "error_unit": self.unit,
            "num_units": len(self.utterances), "num_windows": len(self.windows),
            "hours": self.audio_seconds / 3600,
            "conditions": "windows of up to 30 s one by one, greedy, no timestamps, no second try, "
            "no text before; a loop at the end of a text is cut",
            "own_rtfx": self.audio_seconds / self.seconds,
        }


def student_test(
    recipe: WhisperRecipe, utterances: Sequence[EvaluationUtterance], model, processor,
    kept: Path, lines: Sequence[dict],
) -> Test:
    """Decode the test split with the student itself, plain greedy.

    Args:
        kept: file that is told what it said.
        lines: those of that file; the second is what it said in an earlier run.
    """
    windows = windows_of(utterances)
    if len(lines) < 2:
        said = _student_says(recipe, windows, model, processor)
        append(kept, said)
    else:
        said = lines[1]
    return Test(recipe, utterances, windows, [load_window(window) for window in windows],
                processor.tokenizer, said["tokens"], said["seconds"],
                student_reader(model, processor, recipe.task))


def _student_says(recipe: WhisperRecipe, windows: Sequence[Window], model, processor) -> dict:
    decoder = WhisperDecoder(model, processor.tokenizer, recipe.language, recipe.task,
                            on_loop="keep")
    start = time.perf_counter()
    found = transcribe(decoder, processor, windows, recipe.evaluation.batch_size,
                       description="transcribing, ours")
    seconds = time.perf_counter() - start
    return {"tokens": [found[window.id].tokens for window in windows], "seconds": seconds}


def verify(runtime: Runtime, test: Test, num_bytes: int, threads: int) -> dict:
    """Transcribe the split with a runtime and compare: an entry of verification.json."""
    languages = [window.language or test.recipe.language or "en" for window in test.windows]
    runtime.transcribe(test.audio[0], languages[0])  # untimed: the first pays for kernels
    runtime_texts = []
    start = time.perf_counter()
    inputs = list(zip(test.audio, languages, strict=True))
    for audio, language in progress(inputs, len(inputs), f"transcribing, {runtime.name}",
                                    "windows"):
        runtime_texts.append(runtime.transcribe(audio, language))
    seconds = time.perf_counter() - start
    texts = [to_text(test.tokenizer, tokens[: runtime.max_tokens]) for tokens in test.tokens]
    entry = {"runtime": runtime.name, "version": runtime.version,
             "compute_type": runtime.compute_type, "differs": runtime.differs, "threads": threads,
             "bytes": num_bytes, "seconds": seconds, "rtfx": test.audio_seconds / seconds}
    entry |= _compare(test, texts, runtime_texts)
    entry |= _read(runtime, test, languages)
    if runtime.words is not None:
        known = list(zip(test.windows, test.audio, languages, runtime_texts, strict=True))
        entry["word_times"] = check_word_times(
            runtime.words, progress(known, len(known), f"timing words, {runtime.name}", "windows"),
            test.unit)
    return entry


def _read(runtime: Runtime, test: Test, languages: list[str]) -> dict:
    """Log-probabilities of our texts by the runtime, against our own."""
    if runtime.read is None:
        return {"token_loss": None, "token_loss_ci": None, "num_read_tokens": 0}
    student_losses, runtime_losses = [], []
    end = test.tokenizer.convert_tokens_to_ids("<|endoftext|>")  # what is above it is no text
    inputs = list(zip(test.audio, languages, test.tokens, strict=True))
    description = f"reading our texts, {runtime.name}"
    for audio, language, tokens in progress(inputs, len(inputs), description, "windows"):
        text = without_loop([t for t in tokens[: runtime.max_tokens] if t < end])
        if text:
            student_losses.append(test.read(audio, language, text, runtime.suppresses))
            runtime_losses.append(runtime.read(audio, language, text))
    return compare(student_losses, runtime_losses, test.recipe.seed)


def _compare(test: Test, texts: list[str], runtime_texts: list[str]) -> dict:
    """Error rates of both, their paired difference, and how many tokens are the same."""
    student_tokens, student_loops = _without_last_loops(test.tokenizer, texts)
    runtime_tokens, runtime_loops = _without_last_loops(test.tokenizer, runtime_texts)
    recipe, unit = test.recipe, test.unit
    clean = normalizer(recipe.evaluation.normalizer, written_language(recipe), unit)

    def counts(tokens: list[list[int]]) -> list:
        texts = iter([to_text(test.tokenizer, each) for each in tokens])
        joined = [" ".join(next(texts) for _ in u.windows) for u in test.utterances]
        return [error_counts(clean(u.reference), clean(text), unit)
                for u, text in zip(test.utterances, joined, strict=True)]

    student_counts, runtime_counts = counts(student_tokens), counts(runtime_tokens)
    draws, seed = recipe.evaluation.num_bootstrap, recipe.seed
    paired = paired_bootstrap(student_counts, runtime_counts, draws, seed)
    steady = [not (a or b) for a, b in zip(student_loops, runtime_loops, strict=True)]
    windows = student_tokens, runtime_tokens
    each = [error_counts(" ".join(map(str, a)), " ".join(map(str, b)))
            for a, b, counts_too in zip(*windows, steady, strict=True) if counts_too]
    same, apart = total(each), bootstrap_interval(each, draws, seed)
    at = iter(steady)
    kept = [all([next(at) for _ in u.windows]) for u in test.utterances]
    left = paired_bootstrap([c for c, keep in zip(student_counts, kept, strict=True) if keep],
                            [c for c, keep in zip(runtime_counts, kept, strict=True) if keep],
                            draws, seed)
    return {
        "wer": error_rate(runtime_counts),
        "wer_ci": bootstrap_interval(runtime_counts, draws, seed),
        "own_wer": error_rate(student_counts),
        "own_wer_ci": bootstrap_interval(student_counts, draws, seed),
        "wer_difference": paired.difference if paired else None,
        "wer_difference_ci": paired.interval if paired else None,
        "num_words": total(student_counts).num_reference,
        "wer_difference_without_loops": left.difference if left else None,
        "num_units_without_loops": sum(kept),
        "token_agreement": _agreement(same, student_tokens == runtime_tokens and all(steady)),
        "token_agreement_ci": apart and [max(0.0, 1 - end) for end in reversed(apart)],
        "num_tokens": same.num_reference,
        "identical_windows": sum(a == b for a, b in zip(*windows, strict=True)),
        "looping_windows": sum(runtime_loops), "own_looping_windows": sum(student_loops),
    }


def _agreement(same: ErrorCounts, is_silence: bool) -> float | None:
    """None where nothing could be compared."""
    if same.rate is None:
        return 1.0 if is_silence else None
    return max(0.0, 1 - same.rate)


def _without_last_loops(
    tokenizer, texts: Sequence[str]
) -> tuple[list[list[int]], list[bool]]:
    """Tokens of texts without the loops that they end in, and whether they loop anywhere."""
    found, loops = [], []
    for text in texts:
        tokens = tokenizer(text, add_special_tokens=False).input_ids
        loops.append(any(is_looping(tokens[:end]) for end in range(1, len(tokens) + 1)))
        while is_looping(tokens):
            tokens.pop()
        found.append(tokens)
    return found, loops


def _most(entry: dict) -> float:
    """The share of tokens that may be the same, at best."""
    ends = entry["token_agreement_ci"]
    return ends[1] if ends else entry["token_agreement"]


def _ends(ends: Sequence[float] | None, scale: float, style: str) -> str:
    return f" [{', '.join(f'{scale * end:{style}}' for end in ends)}]" if ends else ""


def refusals(entry: dict, limits: ExportConfig, unit: str) -> list[str]:
    """Why an export may not be used, with the numbers; empty if it may.

    Args:
        unit: of the error rate, `word` or `char`.
    """
    reasons, rate = [], "CER" if unit == "char" else "WER"
    worse, ends = entry["wer_difference"], entry["wer_difference_ci"]
    if worse is not None and (ends[0] if ends else worse) > limits.max_wer_increase:
        reasons.append(
            f"{rate} {100 * entry['wer']:.2f} % where ours is {100 * entry['own_wer']:.2f} %: "
            f"{100 * worse:+.2f} points{_ends(ends, 100, '+.2f')}, export.max_wer_increase allows "
            f"{100 * limits.max_wer_increase:+.2f}")
    loss, ends = entry["token_loss"], entry["token_loss_ci"]
    if loss is not None and not (ends[0] if ends else loss) <= limits.max_token_loss:
        reasons.append(
            f"it finds our {entry['num_read_tokens']} tokens {loss:.3f} nats less likely"
            f"{_ends(ends, 1, '.3f')}, export.max_token_loss allows {limits.max_token_loss:g}")
    if entry["token_agreement"] is None:
        if limits.min_token_agreement:
            reasons.append("all windows loop, here or there, so that no tokens can be compared; "
                           "export.min_token_agreement=0 does without")
    elif _most(entry) < limits.min_token_agreement:
        ends = _ends(entry["token_agreement_ci"], 100, ".1f")
        reasons.append(
            f"{100 * entry['token_agreement']:.1f} %{ends} of {entry['num_tokens']} tokens "
            "are ours, "
            f"export.min_token_agreement asks for {100 * limits.min_token_agreement:.1f} %")
    times, most = entry.get("word_times") or {}, limits.max_word_time_error
    error = times.get("median_error_seconds")
    if most is not None and times and error is None and times["num_in_texts"]:
        reasons.append(f"no word times: {times['num_in_texts']} clips begin with a word that is in "
                       "the texts, and none of them is among the words that have times; "
                       "export.max_word_time_error=null does without")
    ends = times.get("median_error_ci_seconds")
    if most is not None and error is not None and (ends[0] if ends else error) > most:
        reasons.append(f"words begin {error:.2f} s{_ends(ends, 1, '.2f')} off where clips begin "
                       f"(median of {times['num_recognised']}), "
                       f"export.max_word_time_error allows {most:g} s")
    return reasons
