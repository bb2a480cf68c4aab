"""A transcriber that tags: what it hears, what that costs, and that its transcripts are the same.

    found = evaluate_joint(recipe, run)        # added to runs/NAME/eval/results.json by eval

Its tags are measured on `tagger.data.test`, beside a tagger of its own (`tagger.compare_with`). On
clips of `data.test` it transcribes alone and with the head listening, one clip at a time and in
turn: tokens are compared, and times.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from distill.ced.evaluation import EvaluationClips
from distill.ced.recipe_sections import MemberConfig
from distill.ced.teachers.members import load_member
from distill.data.audio import SAMPLE_RATE, WINDOW_SECONDS
from distill.data.files import hash_of, read_json, write_json
from distill.data.model_files import model_stamp
from distill.data.speech.windows import Window, load_window
from distill.methods import manifests_hash
from distill.metrics.tagging import evaluate_tags
from distill.metrics.thresholds import NEVER, f1_of
from distill.progress import progress
from distill.whisper.data.corpus import evaluation_utterances, load_clips, windows_of
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.encoder.audio import audio_features, encode_features
from distill.whisper.encoder.layer_means import LayerMeans
from distill.whisper.encoder.lengths import margin_of
from distill.whisper.recipe import WhisperRecipe
from distill.whisper.recognition.loading import load
from distill.whisper_at.joint import SoundHead, load_head
from eval.machine import this_machine

_BATCH = 8  # clips tagged together
_ROUNDS = 2  # each clip is timed so often, and the faster time counts
_MOST_CLIPS = 40  # that are transcribed twice


def evaluate_joint(recipe: WhisperRecipe, run: Path) -> dict[str, Any]:
    """The four figures, and `sounds` with all others; kept in runs/NAME/eval/sounds.json.

    Raises:
        ValueError: the student has no head, or the test split no labels.
    """
    student, path = run / "student", run / "eval" / "sounds.json"
    other = recipe.tagger.compare_with
    settings = hash_of([model_stamp(student), manifests_hash(recipe.tagger.data.test),
                        manifests_hash(recipe.data.test), recipe.evaluation.num_bootstrap,
                        model_stamp(other) if other and Path(other).is_dir() else other])
    if path.is_file() and (found := read_json(path)).pop("settings") == settings:
        return found
    found = _measure(recipe, student)
    write_json(path, {**found, "settings": settings})
    return found


def _measure(recipe: WhisperRecipe, student: Path) -> dict[str, Any]:
    systems = {"student": _tags(recipe, str(student))}
    if recipe.tagger.compare_with:
        systems["compared"] = _tags(recipe, recipe.tagger.compare_with)
    spoken = _transcripts(recipe, student)
    maps = {name: each["mean_average_precision"] for name, each in systems.items()}
    return {"same_transcripts": spoken["num_different"] == 0, "map": maps["student"],
            "head_map": maps.get("compared"), "time_ratio": spoken["time_ratio"],
            "sounds": {"split": "test", "machine": this_machine(), "systems": systems,
                       "transcripts": spoken}}


def _tags(recipe: WhisperRecipe, model: str) -> dict[str, Any]:
    """What a tagger has of the test split."""
    member = load_member(MemberConfig(model))
    clips = EvaluationClips(recipe.tagger.data.test, WINDOW_SECONDS, "tagger.data.test")
    targets = clips.targets(member.classes)
    if not targets.any():
        raise ValueError("tagger.data.test: not one recording has a label that the head knows "
                         f"({', '.join(member.classes[:5])}, ...)")
    starts = range(0, len(clips), _BATCH)
    found = [member([clips.wave(n) for n in range(at, min(at + _BATCH, len(clips)))],
                    [None] * len(clips))
             for at in progress(starts, len(starts), f"tagging by {Path(model).parent.name}",
                                "batches")]
    scores = clips.pool(np.concatenate(found))
    count, seed = recipe.evaluation.num_bootstrap, recipe.seed
    result = {"num_recordings": len(clips.rows),
              **evaluate_tags(scores, targets, member.classes, count, seed)}
    sounds = load_head(model) if Path(model).is_dir() else None
    if sounds is not None and sounds.settings.thresholds:
        chosen = np.array([sounds.settings.thresholds.get(name, NEVER) for name in member.classes])
        result["at_thresholds"] = f1_of(scores, targets, chosen, member.classes, count, seed)
    return result


def _transcripts(recipe: WhisperRecipe, student: Path) -> dict[str, Any]:
    """Tokens and seconds of test clips, without and with the head."""
    model, processor = load(str(student))
    sounds = load_head(student, model.device)
    if sounds is None:
        raise ValueError(f"{student} has no head that tags: run make NAME.train")
    windows = _clips(recipe)
    decoder = WhisperDecoder(model, processor.tokenizer, recipe.language, recipe.task,
                             on_loop=recipe.evaluation.on_loop)
    ways = {"alone": _way(decoder, processor, None), "with_head": _way(decoder, processor, sounds)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    different, same_states = 0, 0
    for number, window in enumerate(progress(windows, len(windows), "transcribing twice", "clips")):
        audio = load_window(window)
        if number == 0:
            for way in ways.values():
                way(audio)  # untimed: the first pays for kernels and caches
        taken: dict[str, list[float]] = {name: [] for name in ways}
        said: dict[str, tuple[Tensor, list[int]]] = {}
        for turn in range(_ROUNDS):
            for name in list(ways)[:: 1 if (number + turn) % 2 else -1]:
                begun = time.perf_counter()
                said[name] = ways[name](audio)
                taken[name].append(time.perf_counter() - begun)
        for name, each in taken.items():
            seconds[name].append(min(each))
        different += said["alone"][1] != said["with_head"][1]
        same_states += said["alone"][0].equal(said["with_head"][0])
    return {"num_clips": len(windows), "num_different": different,
            "num_with_the_same_states": same_states,
            "seconds": {name: sum(each) for name, each in seconds.items()},
            "time_ratio": sum(seconds["with_head"]) / sum(seconds["alone"]),
            "median_ratio": statistics.median(
                b / a for a, b in zip(seconds["alone"], seconds["with_head"], strict=True)),
            "conditions": "single clips of up to 30 s, one at a time, the faster of "
            f"{_ROUNDS} rounds, samples to tokens and probabilities, greedy, float32"}


def _clips(recipe: WhisperRecipe) -> list[Window]:
    """Single clips of the test split, at most so many, spread over it."""
    rows = [row for row in load_clips(recipe.data.test)[0] if row.duration <= WINDOW_SECONDS]
    windows = windows_of(evaluation_utterances(rows, "test", packed=False)[0])
    step = max(1.0, len(windows) / _MOST_CLIPS)
    return [windows[int(step * n)] for n in range(min(len(windows), _MOST_CLIPS))]


def _way(
    decoder: WhisperDecoder, processor: Any, sounds: SoundHead | None
) -> Callable[[np.ndarray], tuple[Tensor, list[int]]]:
    """Audio -> states and tokens, and tags on the way."""
    model = decoder.model

    def way(audio: np.ndarray) -> tuple[Tensor, list[int]]:
        features = audio_features(processor, [audio], margin_of(model))
        heard = None if sounds is None else LayerMeans()
        states = encode_features(model.get_encoder(), features, heard)
        if sounds is not None:
            sounds(heard[0], len(audio) / SAMPLE_RATE)
        return states, decoder(states, [model.config.max_target_positions])[0].tokens

    return way


def text_of(found: dict[str, Any]) -> str:
    """A few lines for a terminal."""
    sounds, spoken = found["sounds"], found["sounds"]["transcripts"]
    lines = []
    for name, each in sounds["systems"].items():
        ends = each["mean_average_precision_ci"]
        interval = f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if ends else ""
        what = "Tags of the student" if name == "student" else "A tagger of its own"
        lines.append(f"{what}: mAP {100 * each['mean_average_precision']:.1f} %{interval}, test "
                     f"split, {each['num_recordings']} recordings")
    lines.append(f"Transcripts with the head listening: {spoken['num_different']} of "
                 f"{spoken['num_clips']} clips differ; {100 * (found['time_ratio'] - 1):+.1f} % "
                 "time, one clip at a time")
    return "\n".join(lines)
