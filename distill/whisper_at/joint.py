"""A Whisper that transcribes and tags: a head beside its weights, which listens to the pass of the
encoder that transcribes.

    sounds = load_head("runs/demo-hears/student")          # None: it does not tag
    heard = LayerMeans()
    states = encode_features(encoder, features, heard)     # go on to the decoder, as ever
    steps, clip = sounds(heard[0], seconds=4.0)            # probabilities of each 0.4 s and of all

The head is `tagger.safetensors` and `tagger.json` in the model's folder, so that the model itself
is the same file, tensor for tensor, and whoever does not know of the head reads it as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill.data.audio import SAMPLE_RATE, WINDOW_SECONDS
from distill.data.files import read_json, write_atomic, write_json
from distill.losses.matmul import fast_linears
from distill.whisper.encoder.audio import audio_features, encode_each
from distill.whisper.encoder.layer_means import LayerMeans
from distill.whisper.encoder.lengths import margin_of
from distill.whisper_at.heads import WINDOW_STEPS, make_head
from distill.whisper_at.model import WhisperTagger, from_whisper, num_steps

SETTINGS, WEIGHTS = "tagger.json", "tagger.safetensors"
_HOP = 160  # samples of a log-mel frame


@dataclass
class HeadSettings:
    """What tagger.json says.

    Attributes:
        classes: names of the outputs.
        layers, width: of the encoder: how many of the first layers are listened to.
        thresholds: probability from which a class counts as heard, where that was chosen.
        step_seconds: of the frames.
    """

    classes: list[str]
    layers: int
    width: int
    head_type: str
    head_size: int | None
    thresholds: dict[str, float] = field(default_factory=dict)
    step_seconds: float = 0.4


class SoundHead:
    """A head that is used, not trained.

    Attributes:
        settings: as in tagger.json.
        head: float32, in evaluation mode.
    """

    def __init__(self, settings: HeadSettings, head: nn.Module):
        self.settings, self.head = settings, head.eval().requires_grad_(False)

    @property
    def classes(self) -> list[str]:
        return self.settings.classes

    @torch.no_grad()
    def __call__(self, means: Tensor, seconds: float) -> tuple[Tensor, Tensor]:
        """
        Args:
            means: (layers, steps, width) of `LayerMeans`.
            seconds: of the clip; what is behind it does not count.

        Returns:
            probabilities (steps of the clip, classes) and (classes,).
        """
        steps = num_steps(int(seconds * SAMPLE_RATE) // _HOP)
        with fast_linears():
            frames, clip = self.head(means[None, : self.settings.layers, :steps].float())
        return frames[0].sigmoid(), clip[0].sigmoid()


def save_head(folder: str | Path, head: nn.Module, settings: HeadSettings) -> None:
    """Write the head into a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().float().cpu().contiguous()
             for name, value in head.state_dict().items()}
    write_atomic(folder / WEIGHTS, lambda out: save_file(state, out, {"format": "pt"}))
    write_json(folder / SETTINGS, asdict(settings))


def attach(source: Path, target: Path) -> None:
    """Copy a head into the folder of the model that it listens to, and the code that reads it."""
    for name in (WEIGHTS, SETTINGS):  # the settings last: without them there is no head
        data = (source / name).read_bytes()
        write_atomic(target / name, lambda out, data=data: out.write_bytes(data))


def has_head(folder: str | Path) -> bool:
    return (Path(folder) / SETTINGS).is_file() and (Path(folder) / WEIGHTS).is_file()


def load_head(folder: str | Path, device: Any = "cpu") -> SoundHead | None:
    """The head of a model's folder; None where there is none.

    Raises:
        ValueError: its weights are not those that its settings speak of.
    """
    if not has_head(folder):
        return None
    try:
        settings = HeadSettings(**read_json(Path(folder) / SETTINGS))
        head = make_head(settings.head_type, settings.layers, settings.width, settings.head_size,
                         len(settings.classes), 0.0)
        head.load_state_dict(load_file(Path(folder) / WEIGHTS))
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{folder}: {SETTINGS} and {WEIGHTS} do not fit: "
                         f"{str(error).splitlines()[0]}") from None
    return SoundHead(settings, head.to(device))


def find_head(name: str, device: Any = "cpu") -> SoundHead | None:
    """As `load_head`, also of a model on the Hub."""
    from transformers.utils import cached_file

    if Path(name).is_dir():
        return load_head(name, device)
    places = [cached_file(name, file, _raise_exceptions_for_missing_entries=False,
                          _raise_exceptions_for_connection_errors=False)
              for file in (SETTINGS, WEIGHTS)]
    return load_head(Path(places[0]).parent, device) if all(places) else None


class TranscriberStates:
    """What the layers of a transcriber give of clips, as it hears them when it transcribes.

    Args:
        model: WhisperForConditionalGeneration; its `short_audio` decides how much is padded.
        layers: how many of the first ones are wanted; None: all.
    """

    def __init__(self, model: Any, processor: Any, layers: int | None = None):
        self.model, self.processor, self.layers = model, processor, layers

    def __call__(self, waves: Sequence[np.ndarray]) -> list[Tensor]:
        """(layers, steps, width) of clips of any length, 30 s at a time; what is behind a clip is
        cut off."""
        size = int(WINDOW_SECONDS * SAMPLE_RATE)
        parts = [(clip, wave[at : at + size]) for clip, wave in enumerate(waves)
                 for at in range(0, max(len(wave), 1), size)]
        features = audio_features(self.processor, [part for _, part in parts],
                                  margin_of(self.model))
        heard, found = LayerMeans(), [[] for _ in waves]
        encode_each(self.model.get_encoder(), features, heard)
        for number, (clip, part) in enumerate(parts):
            last = number + 1 == len(parts) or parts[number + 1][0] != clip
            steps = num_steps(len(part) // _HOP) if last else WINDOW_STEPS
            found[clip].append(heard[number][: self.layers, :steps])
        return [torch.cat(each, 1) for each in found]


def tagger_of(folder: str | Path) -> WhisperTagger:
    """A transcriber's encoder and head as a tagger of its own, which hears clips alone.

    Raises:
        ValueError: it has no head.
    """
    from transformers import WhisperForConditionalGeneration

    sounds = load_head(folder)
    if sounds is None:
        raise ValueError(f"{folder} has no {SETTINGS} and {WEIGHTS}")
    kept = sounds.settings
    whisper = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    tagger = from_whisper(whisper, kept.classes, kept.layers, head_type=kept.head_type,
                          head_size=kept.head_size)
    tagger.head.load_state_dict(sounds.head.state_dict())
    return tagger.eval()


class TranscriberMember:
    """A transcriber with a head, as a teacher or for `audio-distill tag`: waves -> probabilities.
    See `distill.ced.teachers.members.Member`."""

    takes_features, step_seconds = False, 0.4

    def __init__(self, folder: str | Path, device: str = "cpu"):
        from transformers import WhisperForConditionalGeneration, WhisperProcessor

        model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.sounds = load_head(folder, device)
        if self.sounds is None:
            raise ValueError(f"{folder} has no {SETTINGS} and {WEIGHTS}")
        self.states = TranscriberStates(model.to(device).eval().requires_grad_(False),
                                        WhisperProcessor.from_pretrained(folder))
        self.classes = self.sounds.classes
        counted = [*model.model.encoder.parameters(), *self.sounds.head.parameters()]
        self.num_parameters = sum(each.numel() for each in counted)
        self.num_bytes = sum(each.numel() * each.element_size() for each in counted)

    def __call__(self, waves: Sequence[np.ndarray], features: Sequence | None = None) -> np.ndarray:
        """float64 (clips, classes)."""
        return np.stack([clip for clip, _ in self._ask(waves)])

    def with_frames(
        self, waves: Sequence[np.ndarray], features: Sequence | None = None
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """As when called, and (steps, classes) of each clip."""
        found = self._ask(waves)
        return np.stack([clip for clip, _ in found]), [frames for _, frames in found]

    def _ask(self, waves: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        found = []
        for means, wave in zip(self.states(waves), waves, strict=True):
            frames, clip = self.sounds(means, len(wave) / SAMPLE_RATE)
            found.append((clip.double().cpu().numpy(), frames.double().cpu().numpy()))
        return found
