"""Teacher and student on the test split, one after the other, with the same decoder.

Plain greedy decoding to the model's context, as any other runtime does it; or, where the recipe
says so (`evaluation.on_loop`), a text that repeats itself is ended or made to go on. Both models
are decoded alike, nothing is repaired afterwards, and texts that loop are counted.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from distill.data.audio import AudioError
from distill.data.speech.windows import Window
from distill.metrics.error_rates import (
    ErrorCounts,
    bootstrap_interval,
    error_counts,
    insertions_per_1000_words,
    repeated_ngrams_per_1000_words,
    total,
)
from distill.progress import progress
from distill.whisper.data.corpus import EvaluationUtterance, is_recording, windows_of
from distill.whisper.decoding.sequences import Hypothesis, is_looping
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.recipe import WhisperRecipe
from distill.whisper.recognition.assistant import load_assistant
from distill.whisper.recognition.sequential import LongAudio, recording_of, transcribe_long
from distill.whisper.recognition.transcribe import by_length, to_text, transcribe
from eval.memory import PeakMemory
from eval.speech.kept import Kept


@dataclass
class Measured:
    """A model's transcripts of all utterances, and what they cost."""

    texts: list[str]
    seconds: float  # audio decoding, features, encoder and decoder; after a warm-up
    peak_memory_bytes: int
    facts: dict  # model, dtype, parameters, file size


def measure(
    load: Callable[[], tuple],
    utterances: Sequence[EvaluationUtterance],
    recipe: WhisperRecipe,
    name: str,
    path: Path,
    kept: Kept,
    with_assistant: bool = False,
) -> Measured:
    """Transcribe all utterances with one model, apart from what an earlier run has kept.

    Args:
        load: returns (model, processor); the memory it takes counts.
        name: shown with the progress bar and stored.
        path: folder of the weights, for their size on disk.
        kept: what is decoded already, and where the rest is kept.
        with_assistant: let `decoding.assistant` draft for it.
    """
    if kept.facts is None:
        kept.finish(_measure(load, utterances, recipe, name, path, kept, with_assistant))
    facts = dict(kept.facts)
    return Measured(facts.pop("texts"), kept.seconds, facts.pop("peak_memory_bytes"), facts)


def _measure(load: Callable[[], tuple], utterances: Sequence[EvaluationUtterance],
             recipe: WhisperRecipe, name: str, path: Path, kept: Kept,
             with_assistant: bool) -> dict:
    """Transcribe what is missing; facts of the model, its peak memory and all texts."""
    gc.collect()
    with PeakMemory() as memory:
        model, processor = load()
        model.eval()
        decoder = WhisperDecoder(
            model,
            processor.tokenizer,
            recipe.language,
            recipe.task,
            on_loop=recipe.evaluation.on_loop,
            student=load_assistant(recipe, model) if with_assistant else None,
            exact=recipe.decoding.exact,
            max_slots=recipe.evaluation.batch_size,
        )
        windows = windows_of(utterances)
        size = recipe.evaluation.batch_size
        # Untimed: the first batch pays for threads, kernels and caches.
        first = [window for window in windows if not is_recording(window)][:1]
        transcribe(decoder, processor, first, 1, max_tokens_per_second=1.0)
        synchronise(model.device)
        _transcribe_all(decoder, processor, windows, size, f"transcribing, {name}", kept)
    found = kept.found
    texts = [
        " ".join(to_text(processor.tokenizer, h.tokens) for w in u.windows for h in found[w.id])
        for u in utterances
    ]
    facts = {
        "model": name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "parameters": sum(p.numel() for p in model.parameters()),
        "decoder_parameters": sum(p.numel() for p in model.model.decoder.parameters()),
        "file_bytes": weights_bytes(path),
        **loop_counts([[h for w in u.windows for h in found[w.id]] for u in utterances]),
    }
    if decoder.drafter is not None:
        facts["speculation"] = str(decoder.report)
    return facts | {"texts": texts, "peak_memory_bytes": memory.peak_bytes}


def _transcribe_all(
    decoder: WhisperDecoder, processor, windows: Sequence[Window], size: int, description: str,
    kept: Kept,
) -> None:
    """Decode the windows that are not kept yet, and keep their hypotheses: one of a window, those
    of all its windows of a whole recording (`evaluation.long_audio` sequential)."""
    batches = by_length([window for window in windows if not is_recording(window)], size)
    todo = [batch for batch in batches if kept.missing([window.id for window in batch])]
    start = time.perf_counter()
    for batch in progress(todo, len(batches), description, "batches",
                          initial=len(batches) - len(todo)):
        hypotheses = transcribe(decoder, processor, batch, size)
        synchronise(decoder.model.device)
        kept.add({name: [hypothesis] for name, hypothesis in hypotheses.items()},
                 time.perf_counter() - start)
        start = time.perf_counter()
    long = [w for w in windows if is_recording(w) and kept.missing([w.id])]
    if long:
        found = {window.id: [] for window in long}
        start = time.perf_counter()

        def finished(audio: LongAudio, _segments: list, error: AudioError | None) -> None:
            nonlocal start
            if error is not None:
                raise error
            kept.add({audio.name: found[audio.name]}, time.perf_counter() - start)
            start = time.perf_counter()

        with_times = WhisperDecoder(decoder.model, processor.tokenizer, decoder.language,
                                    decoder.task, timestamps=True, on_loop="keep",
                                    exact=decoder.exact, share_weights_with=decoder)
        with_times.report = decoder.report  # both count as one
        transcribe_long(
            with_times, processor, [recording_of(window) for window in long], size,
            previous_text=False, description=f"{description}, long",
            on_window=lambda audio, _start, _seconds, text: found[audio.name].append(text),
            on_finished=finished)


def loop_counts(units: Sequence[Sequence[Hypothesis]]) -> dict[str, int]:
    """How many units of the split loop, and how many do no more since a window of theirs was
    decoded in halves."""
    loops = [any(map(is_loop, each)) for each in units]
    halved = [any(hypothesis.in_halves for hypothesis in each) for each in units]
    return {"looping_units": sum(loops),
            "halved_units": sum(cut and not loop for cut, loop in zip(halved, loops, strict=True))}


def is_loop(hypothesis: Hypothesis) -> bool:
    """Whether a text was ended for repeating itself, or ran into the context doing so."""
    return hypothesis.looped or (hypothesis.truncated and is_looping(hypothesis.tokens))


def synchronise(device: torch.device) -> None:
    """Wait for a GPU before looking at the clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def weights_bytes(folder: Path) -> int:
    """Size of the weight files of a folder, in bytes."""
    return sum(os.path.getsize(path) for path in folder.glob("*.safetensors"))


def error_table(
    utterances: Sequence[EvaluationUtterance], texts: Sequence[str], normalise: Callable[[str], str]
) -> dict[str, list[ErrorCounts]]:
    """Error counts per utterance: {wer, cer, wer_orthographic, cer_orthographic}."""
    pairs = [(utterance.reference, text) for utterance, text in zip(utterances, texts, strict=True)]
    clean = [(normalise(reference), normalise(text)) for reference, text in pairs]
    return {
        "wer": [error_counts(*pair) for pair in clean],
        "cer": [error_counts(*pair, unit="char") for pair in clean],
        "wer_orthographic": [error_counts(*pair) for pair in pairs],
        "cer_orthographic": [error_counts(*pair, unit="char") for pair in pairs],
    }


def summarise(
    measured: Measured,
    table: dict[str, list[ErrorCounts]],
    normalised_texts: Sequence[str],
    audio_seconds: float,
    num_bootstrap: int,
    seed: int,
) -> dict:
    """The `teacher` or `student` entry of results.json; rates are fractions."""
    result: dict = dict(measured.facts)
    for key, counts in table.items():
        result[key] = total(counts).rate
        interval = bootstrap_interval(counts, num_bootstrap, seed)
        result[f"{key}_ci"] = list(interval) if interval else None
    words = asdict(total(table["wer"]))
    result |= {k: words[k] for k in ("substitutions", "deletions", "insertions")}
    result |= {
        "insertions_per_1000_words": insertions_per_1000_words(table["wer"]),
        "repeated_5grams_per_1000_words": repeated_ngrams_per_1000_words(normalised_texts),
        "rtfx": audio_seconds / measured.seconds,
        "transcribe_seconds": measured.seconds,
        "peak_memory_bytes": measured.peak_memory_bytes,
    }
    return result
