"""Texts read aloud by a small synthesiser: words that a corpus lacks, for a teacher to label.

    python -m distill.data.speech.read_aloud recipes/demo-two-layers/read_aloud.yaml [key=value ...]
    python -m distill.data.speech.read_aloud demo-two-layers [key=value ...]   the same: of a recipe

writes FLAC files and `<output_dir>/read.jsonl`, a manifest. The voices are those of Pico, the
engine of early Androids (Apache License 2.0): `pip install ttspico`, which needs a C compiler. It
reads two hours in a minute. Voice, rate and pitch are drawn for each text and depend on the seed
and the text alone. What was read by a run that was stopped is not read again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from omegaconf import MISSING

from distill.config import ConfigError, check, find_recipe, load
from distill.data.audio import SAMPLE_RATE
from distill.data.files import hash_of, write_atomic
from distill.data.manifest import Row, counts_text, read_manifest, write_manifest
from distill.data.views.draws import generator
from distill.endings import run
from distill.progress import progress

VOICES = {"de": ["de-DE"], "en": ["en-US", "en-GB"], "es": ["es-ES"], "fr": ["fr-FR"],
          "it": ["it-IT"]}
_VOLUME = 50  # percent; at 100 its loudest samples are clipped
_LIMITS = {"rate": (20, 500), "pitch": (50, 200)}  # of the engine
_MANIFEST, _CLIPS, _SPEAKER = "read.jsonl", "read", "pico "


@dataclass
class ReadAloudConfig:
    """Every key of a read_aloud.yaml."""

    output_dir: str = MISSING  # clips and their manifest are written there
    texts: str = MISSING  # a file with a text on each line, relative to this one
    language: str = "en"  # de, en (two voices), es, fr or it
    rate: list[int] = field(default_factory=lambda: [85, 120])  # percent of the voice's, uniform
    pitch: list[int] = field(default_factory=lambda: [75, 125])  # the same of its pitch
    seed: int = 0  # of everything that is drawn


def load_config(recipe: str, overrides: list[str]) -> ReadAloudConfig:
    """
    Raises:
        ConfigError: names the key.
    """
    path = find_recipe(recipe, "read_aloud.yaml")
    config = load(path, ReadAloudConfig, overrides)
    check(config.language in VOICES, "language", f"one of {sorted(VOICES)}", config.language)
    for key, (lowest, highest) in _LIMITS.items():
        found = getattr(config, key)
        check(len(found) == 2 and lowest <= found[0] <= found[1] <= highest, key,
              f"two whole numbers from {lowest} to {highest}", found)
    config.texts = str(path.parent / config.texts)
    check(Path(config.texts).is_file(), "texts", "a file with a text on each line", config.texts)
    return config


def read_aloud(config: ReadAloudConfig) -> tuple[list[Row], Counter]:
    """Rows of all clips, and why lines have none: `empty_text`, `no_sound`.

    Raises:
        ValueError: no line has a text or none gives a sound, the file is not UTF-8, ttspico is not
            installed, or the manifest that would be written over is somebody else's.
    """
    folder = Path(config.output_dir)
    _refuse_others(folder / _MANIFEST)
    try:
        lines = Path(config.texts).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{config.texts}: not UTF-8: {error}") from None
    texts = [(number, " ".join(line.split())) for number, line in enumerate(lines, 1)]
    drops = Counter(empty_text=sum(not text for _, text in texts))
    texts = [(number, text) for number, text in texts if text]
    if not texts:
        raise ConfigError(f"texts: {config.texts} has no text in it")
    found = list(progress(_clips(texts, config), len(texts), "reading aloud", "texts"))
    rows = [row for row in found if row.duration]
    if not rows:
        raise ConfigError(f"texts: nothing in {config.texts} can be spoken in the language "
                          f"{config.language}: no text gave a sound")
    drops["no_sound"] = len(found) - len(rows)
    write_manifest(folder / _MANIFEST, rows)
    return rows, +drops


def _refuse_others(path: Path) -> None:
    """A manifest of clips that nobody read aloud is the user's."""
    if path.is_file() and any(not (row.speaker or "").startswith(_SPEAKER)
                              for row in read_manifest(path)[0]):
        raise ValueError(f"{path} is there already and was not made by this command, which would "
                         "write over it: say another output_dir")


def left_from_before(folder: Path, rows: list[Row]) -> int:
    """Clips in the folder that no row names: of texts or settings that were changed since."""
    named = {Path(row.audio_filepath).name for row in rows}
    return sum(path.name not in named for path in (folder / _CLIPS).glob("*.flac"))


def _clips(texts: list[tuple[int, str]], config: ReadAloudConfig) -> Iterator[Row]:
    """One of each text; its file is named by all that decides how it sounds."""
    voices = VOICES[config.language]
    for number, text in texts:
        draws = generator(config.seed, f"read aloud/{text}", 0)
        voice = voices[int(draws.integers(len(voices)))]
        rate = int(draws.integers(config.rate[0], config.rate[1] + 1))
        pitch = int(draws.integers(config.pitch[0], config.pitch[1] + 1))
        name = f"{number:05d}-{hash_of([text, voice, rate, pitch])[:8]}"
        path = Path(config.output_dir) / _CLIPS / f"{name}.flac"
        if path.is_file():
            samples = soundfile.info(path).frames
        else:
            samples = _write(path, speak(text, voice, rate, pitch))
        yield Row(id=f"read-{number:05d}", audio_filepath=f"{_CLIPS}/{path.name}",
                  duration=samples / SAMPLE_RATE, text=text, speaker=_SPEAKER + voice,
                  language=config.language)


def _write(path: Path, wave: np.ndarray) -> int:
    """Its number of samples; a file without any would not be FLAC, and is not written."""
    if len(wave):
        write_atomic(path, lambda temporary: soundfile.write(
            temporary, wave, SAMPLE_RATE, format="FLAC", subtype="PCM_16"))
    return len(wave)


def speak(text: str, voice: str, rate: int, pitch: int) -> np.ndarray:
    """int16 (samples,) at 16 kHz.

    Args:
        rate, pitch: percent of the voice's own.

    Raises:
        ValueError: ttspico is not installed.
    """
    try:
        from ttspico import TtsEngine
    except ImportError as error:
        raise ValueError("texts are read aloud by ttspico, which is not installed: "
                         "pip install ttspico (it needs a C compiler)") from error
    # an engine goes on with its noise where it was: a new one (1 ms) depends on the text alone
    engine = TtsEngine(voice)
    engine.volume, engine.rate, engine.pitch = _VOLUME, rate, pitch
    spoken = text.replace("<", " ").replace(">", " ")  # they would begin a command to it
    return np.frombuffer(engine.speak(spoken) or b"", np.int16)


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    config = load_config(arguments[0], arguments[1:])
    rows, drops = read_aloud(config)
    folder = Path(config.output_dir)
    left_out = f"; without a clip: {counts_text(drops)}" if drops else ""
    print(f"{len(rows):,} texts read aloud, {sum(row.duration for row in rows) / 60:.1f} minutes"
          f"{left_out}: {folder / _MANIFEST}")
    if old := left_from_before(folder, rows):
        print(f"Files of an earlier run, with other texts or settings, are in {folder / _CLIPS} "
              f"as well ({old:,}): the manifest does not name them, they may be deleted")


if __name__ == "__main__":
    run(main)
