"""What the systems of a family make of the clips of a split, each clip by itself.

Clips are encoded once for all students that share the teacher's encoder. What is decoded is kept,
a file a system: a run that is stopped goes on, and another student costs only its own decoding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from distill.data.files import hash_of
from distill.data.model_files import model_stamp
from distill.data.speech.windows import Window
from distill.data.unreadable import Unreadable
from distill.metrics.error_rates import (
    ErrorCounts,
    bootstrap_interval,
    error_counts,
    paired_bootstrap,
    total,
)
from distill.metrics.normalize import check_words, error_unit, normalizer
from distill.progress import progress
from distill.whisper.data.corpus import (
    EvaluationUtterance,
    evaluation_utterances,
    load_clips,
    readable_rows,
)
from distill.whisper.recipe import WhisperRecipe, silence_setting, written_language
from distill.whisper.recognition.transcribe import by_length, to_text, transcribe
from eval.family.models import Models, System
from eval.speech.asr import is_loop
from eval.speech.kept import Kept
from eval.speech.measure import windows_hash

_VERSION = 1  # of what is kept: counts up when decoding, or the encoder, changes


@dataclass(frozen=True)
class Split:
    """Clips of up to 30 s that have a text and can be read.

    Attributes:
        left_out: counts by reason.
        unit: of errors, word or char.
    """

    name: str
    clips: list[EvaluationUtterance]
    left_out: dict[str, int]
    unit: str
    normalise: Callable[[str], str]

    @property
    def windows(self) -> list[Window]:
        return [clip.windows[0] for clip in self.clips]


def load_split(recipe: WhisperRecipe, name: str) -> Split:
    """
    Args:
        name: validation or test.

    Raises:
        ValueError: there is nothing to compare with.
        UnreadableError: too many clips cannot be read, or some cannot be opened now.
    """
    rows, drops = load_clips(getattr(recipe.data, name))
    faults = Unreadable(len(rows), recipe.data.max_unreadable, "evaluation")
    rows = readable_rows(rows, faults, f"data.{name}")
    found, more = evaluation_utterances(rows, name, packed=False)
    clips = [each for each in found if len(each.windows) == 1 and each.seconds is None]
    left_out = drops + Counter(faults.counts) + more
    left_out["longer_than_30_s"] = len(found) - len(clips)
    if not clips:
        raise ValueError(f"data.{name}: no clip of up to 30 s has a text ({dict(+left_out)})")
    language = written_language(recipe)
    unit = error_unit(language, " ".join(clip.reference for clip in clips))
    normalise = normalizer(recipe.evaluation.normalizer, language, unit)
    check_words([clip.reference for clip in clips], normalise, f"data.{name}")
    return Split(name, clips, dict(sorted((+left_out).items())), unit, normalise)


def decode_all(recipe: WhisperRecipe, systems: Sequence[System], split: Split, folder: Path,
               models: Callable[[], Models]) -> dict[str, Kept]:
    """Hypotheses of all systems, by their names.

    Args:
        folder: of the files that are kept.
        models: loads them; called where something is missing.
    """
    said = windows_hash(split.clips)
    kept = {system.name: Kept(folder / f"{system.name}.{split.name}.jsonl",
                              _key(recipe, system, said)) for system in systems}
    size = recipe.evaluation.batch_size
    batches = by_length(split.windows, size)
    todo = [batch for batch in batches
            if any(each.missing([w.id for w in batch]) for each in kept.values())]
    for batch in progress(todo, len(batches), f"clip by clip, {split.name}", "batches",
                          initial=len(batches) - len(todo)):
        states: dict[tuple, dict[str, Tensor]] = {}  # of each encoder, by window
        for system in systems:
            if kept[system.name].missing([window.id for window in batch]):
                cache = states.setdefault(models().encoder_of(system), {})
                found = transcribe(models().decoder(system), models().processor, batch, size,
                                   states_cache=cache)
                kept[system.name].add({name: [each] for name, each in found.items()}, 0.0)
    return kept


def _key(recipe: WhisperRecipe, system: System, said: str) -> str:
    evaluation = recipe.evaluation
    return hash_of([_VERSION, said, system.dtype, model_stamp(system.folder),
                    silence_setting(recipe), evaluation.on_loop, evaluation.batch_size,
                    recipe.language, recipe.task])


def count_errors(split: Split, kept: Kept, tokenizer) -> list[ErrorCounts]:
    """Of each clip."""
    return [error_counts(split.normalise(clip.reference),
                         split.normalise(to_text(tokenizer, kept.found[clip.id][0].tokens)),
                         split.unit) for clip in split.clips]


def count_loops(split: Split, kept: Kept) -> int:
    """Clips whose text repeats itself."""
    return sum(is_loop(kept.found[clip.id][0]) for clip in split.clips)


def summary(recipe: WhisperRecipe, counts: Sequence[ErrorCounts], loops: int,
            teacher: Sequence[ErrorCounts] | None) -> dict:
    """Errors of a system on a split; rates are fractions, intervals 95 % bootstrap over clips.

    Args:
        teacher: errors of the same clips, for the difference; None for the teacher itself.
    """
    samples, seed = recipe.evaluation.num_bootstrap, recipe.seed
    sums = asdict(total(counts))
    found = {"error_rate": total(counts).rate,
             "error_rate_ci": bootstrap_interval(counts, samples, seed),
             **{key: sums[key] for key in ("substitutions", "deletions", "insertions")},
             "looping_clips": loops}
    if teacher is not None:
        paired = paired_bootstrap(teacher, counts, samples, seed)
        found |= {"difference": paired.difference, "difference_ci": paired.interval,
                  "p_value": paired.p_value}
    return found
