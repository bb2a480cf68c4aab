"""Scenes of known sounds: one to three labelled recordings mixed at random levels.

    python -m distill.data.scenes recipes/demo-tagger/scenes.yaml [key=value ...]
    python -m distill.data.scenes demo-tagger [key=value ...]        the same: scenes of a recipe

writes FLAC files and `<output_dir>/<set>.jsonl`, whose labels are those of the sounds that were put
in. Recordings come in groups, and each set of scenes draws from one: a recording in two groups is
an error. What is drawn depends on the seed, the set's name and the scene's number alone; a run that
was stopped goes on, and one with other settings or recordings starts anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from omegaconf import MISSING

from distill.config import ConfigError, check, find_recipe, load, to_dict
from distill.data.audio import SAMPLE_RATE, load_audio
from distill.data.files import hash_of, read_json, write_atomic, write_json
from distill.data.formats.places import fingerprints
from distill.data.manifest import Row, counts_text, read_manifest, write_manifest
from distill.data.samples.scene_sounds import ChangeConfig, Draws, change, cross, make_up
from distill.data.sources.output import Outside, refuse_foreign
from distill.data.unreadable import Unreadable
from distill.endings import run
from distill.progress import progress

_SHORT_SECONDS = 1.0  # shorter sounds are heard several times in a scene
_ROUNDED = int(0.05 * SAMPLE_RATE)  # by which a duration may miss the end of its file
_FADE = int(0.01 * SAMPLE_RATE)  # where a longer sound is cut


@dataclass
class SourceConfig:
    manifest: str = MISSING  # JSONL, relative to the file this is written in
    labels: list[str] | None = None  # of all its recordings; null: of the manifest's rows


@dataclass
class SetConfig:
    group: str = MISSING  # of the recordings
    scenes: int = MISSING  # how many
    unlabelled: bool = False  # also recordings without labels, and no labels in the manifest
    sources: list[int] | None = None  # of a scene; null: as below
    spoken: bool | None = None  # true: besides its sources a scene has one recording with a text,
    # whole, and the manifest says the text | false: no recording with a text | null: like others
    changes: ChangeConfig = field(default_factory=ChangeConfig)


@dataclass
class ScenesConfig:
    """Every key of a scenes file."""

    output_dir: str = MISSING  # scenes and manifests are written there
    groups: dict[str, list[SourceConfig]] = MISSING  # recordings, by a name for each group
    sets: dict[str, SetConfig] = MISSING  # scenes to make, by the manifest's name
    seed: int = 0  # of everything that is drawn
    seconds: list[float] = field(default_factory=lambda: [4.0, 10.0])  # of a scene, uniform
    sources: list[int] = field(default_factory=lambda: [1, 3])  # of a scene, uniform
    hits: list[int] = field(default_factory=lambda: [2, 8])  # how often a short sound is heard
    snr_db: list[float] = field(default_factory=lambda: [-10.0, 10.0])  # of the first source to
    # each of the others, where both sound
    level_db: list[float] = field(default_factory=lambda: [-20.0, -1.0])  # of the scene's peak
    noise_db: list[float] = field(default_factory=lambda: [-60.0, -30.0])  # of white noise under
    # everything, to the scene's peak


@dataclass(frozen=True)
class Sound:
    """A recording. `labels` is empty where nobody has said what it is.

    `kind` is drawn before the recording: its labels, or where there are none its manifest.
    """

    id: str
    path: str
    labels: tuple[str, ...]
    kind: tuple[str, ...]
    offset: float = 0.0
    duration: float | None = None  # seconds; None: to its end
    text: str | None = None  # what is said

    def load(self) -> np.ndarray:
        """float32 (samples,) at 16 kHz.

        Raises:
            AudioError: it cannot be read.
        """
        if self.offset or self.duration is None:
            return load_audio(self.path, self.offset, self.duration)
        whole, size = load_audio(self.path), round(self.duration * SAMPLE_RATE)
        # a file that is a row of its own is heard to its last sample, whatever was rounded
        return whole if len(whole) <= size + _ROUNDED else whole[:size]


# Recordings


def read_groups(config: ScenesConfig, folder: Path) -> dict[str, list[Sound]]:
    """{group: its recordings}.

    Raises:
        ConfigError: a recording is in two groups, or an empty group.
    """
    groups: dict[str, list[Sound]] = {}
    group_of: dict[str, str] = {}
    for group, sources in config.groups.items():
        sounds = groups.setdefault(group, [])
        for source in sources:
            rows, drops = read_manifest(folder / source.manifest)
            if drops:
                print(f"groups.{group}: {source.manifest}: left out: {counts_text(drops)}")
            for row in rows:
                if group_of.setdefault(row.audio_filepath, group) != group:
                    raise ConfigError(
                        f"groups: {row.audio_filepath} is in {group_of[row.audio_filepath]!r} and "
                        f"in {group!r}; scenes of one group must not be known from another")
                labels = row.labels if source.labels is None else source.labels
                labels = tuple(labels or ())
                sounds.append(Sound(row.id, row.audio_filepath, labels,
                                    labels or (source.manifest,), row.offset, row.duration,
                                    row.text))
        check(len(sounds) > 0, f"groups.{group}", "manifests with recordings", "none")
    return groups


class Recordings:
    """The recordings that a set draws from; each label is as likely as any other, so that one with
    hundreds of recordings does not fill all scenes. Of recordings without labels each manifest
    counts as one."""

    def __init__(self, sounds: list[Sound], wanted: SetConfig, shortest: float):
        """
        Args:
            shortest: seconds of a scene: speech is heard whole.
        """
        self._by_kind: dict[tuple[str, ...], list[Sound]] = {}
        for sound in sounds:
            is_drawn = wanted.spoken is None or not sound.text
            if is_drawn and (sound.labels or wanted.unlabelled):
                self._by_kind.setdefault(sound.kind, []).append(sound)
        self._kinds = sorted(self._by_kind)
        self._speech = [sound for sound in sounds if sound.text and sound.duration is not None
                        and sound.duration * wanted.changes.speed <= shortest]
        self._audio: dict[Sound, np.ndarray] = {}

    def check(self, name: str, wanted: SetConfig) -> None:
        """
        Raises:
            ConfigError: there is nothing to draw from.
        """
        if wanted.spoken:
            check(len(self._speech) > 0, f"sets.{name}.spoken",
                  "false: no recording with a text is short enough for a scene", wanted.spoken)
        if not wanted.spoken or (wanted.sources or [1])[-1]:
            check(len(self._kinds) > 0, f"sets.{name}.group", "one with recordings that are drawn",
                  wanted.group)

    def draw(self, draws: Draws) -> tuple[np.ndarray, tuple[Sound, ...]]:
        """(samples,) float32 without silence at its ends, and what it is of."""
        of_kind = self._by_kind[self._kinds[draws.integer(0, len(self._kinds) - 1)]]
        sound = of_kind[draws.integer(0, len(of_kind) - 1)]
        return self._load(sound), (sound,)

    def draw_speech(self, draws: Draws) -> tuple[np.ndarray, Sound]:
        """The same of a recording with a text."""
        sound = self._speech[draws.integer(0, len(self._speech) - 1)]
        return self._load(sound), sound

    def _load(self, sound: Sound) -> np.ndarray:
        if sound not in self._audio:
            self._audio[sound] = trim(sound.load())
        return self._audio[sound]


def trim(audio: np.ndarray, floor_db: float = -50.0) -> np.ndarray:
    """Without what is quieter than `floor_db` under its peak at both ends."""
    loud = np.flatnonzero(np.abs(audio) > np.abs(audio).max() * 10 ** (floor_db / 20))
    return audio[loud[0] : loud[-1] + 1] if len(loud) else audio


# Mixing


def make_scene(
    config: ScenesConfig, name: str, number: int, recordings: Recordings
) -> tuple[np.ndarray, dict[str, list[str]], str | None]:
    """Scene `number` of set `name`: float32 (samples,) within [-1, 1], its labels with the ids of
    the recordings that have them, and what is said in it, where that is known."""
    wanted, draws = config.sets[name], Draws(config.seed, f"{name}/{number}")
    changes = wanted.changes
    scene = np.zeros(round(draws.uniform(*config.seconds) * SAMPLE_RATE), dtype=np.float32)
    heard: list[Sound] = []
    text = None
    if wanted.spoken:
        speech, said = recordings.draw_speech(draws)
        placed = place(change(speech, changes, draws), len(scene), [1, 1], draws)
        scene += placed / np.sqrt(np.mean(np.square(placed[placed != 0])))
        heard.append(said)
        text = said.text
    for at in range(draws.integer(*(wanted.sources or config.sources))):
        if draws.chance(changes.made_up):
            sound, known = make_up(draws), ()
        else:
            sound, known = recordings.draw(draws)
            if draws.chance(changes.cross):
                other, more = recordings.draw(draws)
                sound, known = cross(sound, other, draws), (*known, *more)
        sound = change(sound, changes, draws)
        decibels = -draws.uniform(*config.snr_db) if at or wanted.spoken else 0.0
        placed = place(sound, len(scene), config.hits, draws)
        power = np.mean(np.square(placed[placed != 0])) if placed.any() else 1.0
        scene += placed * np.float32(10 ** (decibels / 20) / np.sqrt(power))
        heard += known
    peak = np.abs(scene).max() or 1.0
    generator = np.random.Generator(np.random.Philox(key=draws.key()))
    noise = generator.standard_normal(len(scene), dtype=np.float32)
    scene = scene / peak + noise * 10 ** (draws.uniform(*config.noise_db) / 20)
    scene *= 10 ** (draws.uniform(*config.level_db) / 20) / np.abs(scene).max()
    labels = sorted({label for sound in heard for label in sound.labels})
    return scene.astype(np.float32), {
        label: sorted({sound.id for sound in heard if label in sound.labels})
        for label in labels}, text


def place(sound: np.ndarray, size: int, hits: Sequence[int], draws: Draws) -> np.ndarray:
    """The sound somewhere in `size` samples; a part of a longer one; a short one several times."""
    placed = np.zeros(size, dtype=np.float32)
    if len(sound) >= size:
        first = draws.integer(0, len(sound) - size)
        part = sound[first : first + size].copy()
        fade = np.linspace(0, 1, _FADE, dtype=np.float32)
        part[:_FADE] *= fade
        part[-_FADE:] *= fade[::-1]
        return part
    short = len(sound) < _SHORT_SECONDS * SAMPLE_RATE
    for _ in range(draws.integer(*hits) if short else 1):
        first = draws.integer(0, size - len(sound))
        placed[first : first + len(sound)] += sound
    return placed


# Writing


def write_set(config: ScenesConfig, name: str, sounds: list[Sound]) -> list[Row]:
    """Write the scenes of a set that are not there yet, then its manifest."""
    import soundfile

    wanted, out = config.sets[name], Path(config.output_dir)
    recordings, rows = Recordings(sounds, wanted, config.seconds[0]), []
    recordings.check(name, wanted)
    for number in progress(range(wanted.scenes), wanted.scenes, name, "scenes"):
        scene, labels, text = make_scene(config, name, number, recordings)
        path = out / name / f"{number:06d}.flac"
        if not path.is_file():
            write_atomic(path, lambda temporary, scene=scene: soundfile.write(
                temporary, scene, SAMPLE_RATE, format="FLAC", subtype="PCM_16"))
        rows.append(Row(
            id=f"{name}-{number:06d}", audio_filepath=f"{name}/{path.name}",
            duration=len(scene) / SAMPLE_RATE, text=text,
            labels=None if wanted.unlabelled else list(labels),
            recordings=None if wanted.unlabelled else labels))
    write_manifest(out / f"{name}.jsonl", rows)
    return rows


def write_scenes(config: ScenesConfig, folder: Path) -> None:
    """Write all sets; those that are there are left alone.

    Args:
        folder: that manifests of recordings are relative to.
    """
    groups, out = read_groups(config, folder), Path(config.output_dir)
    for group, sounds in groups.items():  # drawn from by chance: what is missing shapes all scenes
        faults = Unreadable(len(sounds), 1.0, f"mixing scenes of {group!r}")
        faults.stat((sound.id, sound.path) for sound in sounds)
        faults.begin(f"groups.{group}")
    files = fingerprints(sound.path for sounds in groups.values() for sound in sounds)
    _check_output(config, out, groups)
    common = {key: value for key, value in to_dict(config).items()
              if key not in ("groups", "sets", "output_dir")}
    for name, wanted in config.sets.items():
        check(wanted.group in groups, f"sets.{name}.group", f"one of {sorted(groups)}",
              wanted.group)
        sounds = groups[wanted.group]
        has_kinds = wanted.unlabelled or any(sound.labels for sound in sounds)
        check(has_kinds, f"sets.{name}.unlabelled",
              f"true: not one recording of group {wanted.group!r} has a label", wanted.unlabelled)
        settings = {key: value for key, value in to_dict(wanted).items()
                    if key != "spoken" or value is not None}
        said = wanted.spoken is not None
        identity = hash_of([common, settings,
                            [[s.id, s.labels, s.kind, files[s.path], *([s.text] if said else []),
                              *([s.offset, s.duration] if s.offset else [])] for s in sounds]])
        record = out / name / "scenes.json"
        known = read_json(record) if record.is_file() else {}
        manifest = out / f"{name}.jsonl"
        if known.get("identity") != identity:
            manifest.unlink(missing_ok=True)
            for scene in (out / name).glob("[0-9]" * 6 + ".flac"):
                scene.unlink()
            write_json(record, {"identity": identity})
        if manifest.is_file():
            print(f"{name}: {wanted.scenes} scenes are there")
            continue
        rows = write_set(config, name, sounds)
        seconds = sum(row.duration for row in rows)
        print(f"{name}: {len(rows)} scenes, {seconds / 60:.1f} minutes, of {len(sounds)} "
              f"recordings: {manifest}")


def _check_output(config: ScenesConfig, out: Path, groups: dict[str, list[Sound]]) -> None:
    """
    Raises:
        ConfigError: a set's folder or manifest is not ours, or recordings lie in it.
    """
    for name in config.sets:
        is_ours = (out / name / "scenes.json").is_file()
        outside = Outside(out / name)
        try:
            refuse_foreign(out, [name, f"{name}.jsonl"],
                           dict.fromkeys([name, f"{name}.jsonl"] if is_ours else []))
            for sound in (sound for sounds in groups.values() for sound in sounds):
                outside.check(Path(sound.path))
        except ValueError as error:
            raise ConfigError(f"output_dir, sets.{name}: {error}") from None


def check_scenes(config: ScenesConfig) -> None:
    """Raise a ConfigError for values nothing can be drawn from."""
    for key in ("seconds", "sources", "hits", "snr_db", "level_db", "noise_db"):
        ends = getattr(config, key)
        check(len(ends) == 2 and ends[0] <= ends[1], key, "[lowest, highest]", ends)
    check(config.hits[0] >= 1, "hits", ">= 1", config.hits)
    check(config.seconds[0] >= 0.15, "seconds", ">= 0.15", config.seconds)
    for name, wanted in config.sets.items():
        check(wanted.scenes > 0, f"sets.{name}.scenes", "> 0", wanted.scenes)
        ends = wanted.sources or config.sources
        fewest = 0 if wanted.spoken else 1
        ok = len(ends) == 2 and fewest <= ends[0] <= ends[1]
        check(ok, f"sets.{name}.sources", f"[lowest, highest], at least {fewest}", ends)
        changes = wanted.changes
        check(changes.speed >= 1, f"sets.{name}.changes.speed", ">= 1", changes.speed)
        for key in ("reverb", "reverse", "cross", "made_up"):
            value = getattr(changes, key)
            check(0 <= value <= 1, f"sets.{name}.changes.{key}", "in [0, 1]", value)
        ok = wanted.unlabelled or changes.made_up < 1
        check(ok, f"sets.{name}.changes.made_up", "< 1 with labels", changes.made_up)


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    path = find_recipe(arguments[0], "scenes.yaml")
    config = load(path, ScenesConfig, arguments[1:])
    check_scenes(config)
    write_scenes(config, path.parent)


if __name__ == "__main__":
    run(main)
