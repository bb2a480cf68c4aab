"""Clips in which nobody speaks: what a model that writes speech down must not make words of.

    python -m distill.audio_llm.data.no_speech recipes/demo-llm/no_speech.yaml [key=value ...]
    python -m distill.audio_llm.data.no_speech demo-llm [key=value ...]   the same: of a recipe

writes FLAC files and `<output_dir>/<split>.jsonl`, rows for recipes of method audio_llm with the
answer `<no speech>`. A clip is silence, a noise that is made (white, pink, brown, a fan, breath,
applause), or one of a manifest's recordings: music, sounds. Recordings of which a label or a text
says that somebody speaks are left out and counted. All that is drawn depends on the seed, the
split's name and the clip's number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from omegaconf import MISSING

from distill.config import ConfigError, check, find_recipe, load, manifest_paths
from distill.data.audio import SAMPLE_RATE, load_audio
from distill.data.files import write_atomic, write_jsonl
from distill.data.manifest import Row, counts_text, load_rows
from distill.data.noise.kinds import NO_SPEECH, Noises
from distill.data.sources.output import refuse_other_rows
from distill.data.views.draws import generator
from distill.endings import run

MADE = ("silence", "white", "pink", "brown", "fan", "breathing", "applause")
RECORDED = "recordings"


@dataclass
class NoSpeechSplit:
    clips: int = MISSING  # how many; each kind as often as any other
    recordings: list[str] = field(default_factory=list)  # manifests of sounds without speech,
    # relative to the file this is written in; a recording in two splits is an error


@dataclass
class NoSpeechConfig:
    """Every key of a no_speech.yaml."""

    output_dir: str = MISSING  # clips and manifests are written there
    task: str = MISSING  # of the recipe: the rows' `task`
    splits: dict[str, NoSpeechSplit] = MISSING  # by the manifest's name
    kinds: list[str] = field(default_factory=lambda: [*MADE, RECORDED])  # silence, white, pink,
    # brown, fan, breathing, applause, recordings; one that stands here twice comes twice as often
    seconds: list[float] = field(default_factory=lambda: [1.0, 6.0])  # of a clip, uniform
    level_db: list[float] = field(default_factory=lambda: [-50.0, -15.0])  # of a clip's peak to
    # full scale, uniform; silence is zeros
    speech: str = "speech"  # the label of speech
    seed: int = 0  # of everything that is drawn


def load_config(recipe: str, overrides: list[str]) -> NoSpeechConfig:
    """
    Raises:
        ConfigError: names the key.
    """
    path = find_recipe(recipe, "no_speech.yaml")
    config = load(path, NoSpeechConfig, overrides)
    known = (*MADE, RECORDED)
    unknown = sorted(set(config.kinds) - set(known))
    check(bool(config.kinds) and not unknown, "kinds", f"some of {known}", unknown or "none")
    low, high = config.seconds
    check(0 < low <= high <= 30, "seconds", "two lengths, above 0 and up to 30", config.seconds)
    for name, split in config.splits.items():
        check(split.clips > 0, f"splits.{name}.clips", "> 0", split.clips)
        check(bool(split.recordings) or RECORDED not in config.kinds, f"splits.{name}.recordings",
              "manifests, since `kinds` has recordings", "none")
        split.recordings = manifest_paths(path, f"splits.{name}.recordings", split.recordings)
    return config


def write_no_speech(config: NoSpeechConfig) -> dict[str, Counter]:
    """Write all splits; {split: how many clips of each kind}.

    Raises:
        ValueError: a manifest cannot be used, a recording is in two splits, or what would be
            written over is somebody else's.
        AudioError: a recording cannot be read.
    """
    for name in config.splits:
        refuse_other_rows(Path(config.output_dir) / f"{name}.jsonl", ("kind", "answer"))
    found = {name: _without_speech(name, split, config) for name, split in config.splits.items()}
    whose: dict[str, str] = {}
    for name, rows in found.items():
        for row in rows:
            if whose.setdefault(row.audio_filepath, name) != name:
                raise ConfigError(f"splits: {row.audio_filepath} is in "
                                  f"{whose[row.audio_filepath]!r} and in {name!r}")
    counts = {}
    for name, rows in found.items():
        made = list(_clips(name, config.splits[name].clips, rows, config))
        write_jsonl(Path(config.output_dir) / f"{name}.jsonl", made)
        counts[name] = Counter(row["kind"] for row in made)
    return counts


def _without_speech(name: str, split: NoSpeechSplit, config: NoSpeechConfig) -> list[Row]:
    rows = load_rows(split.recordings)[0] if split.recordings else []
    kept = [row for row in rows if not row.text and config.speech not in (row.labels or ())]
    if len(kept) < len(rows):
        print(f"{name}: left out: {len(rows) - len(kept)} recordings with speech", flush=True)
    if rows and not kept:
        raise ConfigError(f"splits.{name}.recordings: somebody speaks in all {len(rows)}")
    return kept


def _clips(name: str, count: int, recordings: list[Row], config: NoSpeechConfig
           ) -> Iterator[dict[str, Any]]:
    folder = Path(config.output_dir) / name
    noises = Noises(voices=(), music=(), glasses=())  # those that are made need no recordings
    for number in range(count):
        clip = f"{name}-{number:05d}"
        draws = generator(config.seed, f"no_speech/{clip}", 0)
        kind = config.kinds[number % len(config.kinds)]
        size = round(float(draws.uniform(*config.seconds)) * SAMPLE_RATE)
        level = 10 ** (float(draws.uniform(*config.level_db)) / 20)
        if kind == RECORDED:
            wave = _part(recordings[int(draws.integers(len(recordings)))], size, draws)
        else:
            wave = noises.make(kind, f"{config.seed}/{clip}", size)
        peak = float(np.abs(wave).max())
        path = folder / f"{clip}.flac"
        heard = wave / peak * level if peak else wave
        write_atomic(path, lambda temporary, heard=heard: soundfile.write(
            temporary, heard, SAMPLE_RATE, format="FLAC", subtype="PCM_16"))
        yield {"id": f"no_speech/{clip}", "audio_filepath": str(path.resolve()), "offset": 0.0,
               "duration": len(wave) / SAMPLE_RATE, "task": config.task, "answer": NO_SPEECH,
               "heard": "", "labels": [], "kind": kind, "seed": config.seed}


def _part(row: Row, size: int, draws: np.random.Generator) -> np.ndarray:
    """Of a recording, from anywhere in it; short ones are whole."""
    wave = load_audio(row.audio_filepath, row.offset, row.duration)
    first = int(draws.integers(0, max(len(wave) - size, 0) + 1))
    return wave[first : first + size]


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    config = load_config(arguments[0], arguments[1:])
    for name, counts in write_no_speech(config).items():
        print(f"{name}: {sum(counts.values()):,} clips without speech ({counts_text(counts)}): "
              f"{Path(config.output_dir) / name}.jsonl", flush=True)


if __name__ == "__main__":
    run(main)
