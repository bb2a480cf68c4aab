"""Embeddings of taggers on a Whisper encoder, for `eval.hear`.

What a head makes of the encoder's layers: a weighted sum, or their mean where it is a TLTR, at
positions of 20 ms, of which every other one has a time. Sound is heard 30 s at a time.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from distill.data.audio import SAMPLE_RATE
from distill.data.files import read_json
from distill.losses.matmul import fast_linears
from distill.whisper_at.joint import has_head, tagger_of
from distill.whisper_at.model import WhisperTagger, WhisperTaggerExtractor

_POSITION_MS, _EVERY = 20, 2
_SHORTEST = 400  # samples: below, there is no frame of log-mel


class WhisperHearModel(nn.Module):
    """What HEAR asks of a model.

    Attributes:
        sample_rate: Hz, of the audio it is given.
        scene_embedding_size, timestamp_embedding_size: width of the embeddings.
    """

    def __init__(self, tagger: WhisperTagger):
        super().__init__()
        self.tagger = tagger.eval().requires_grad_(False)
        self.extractor = WhisperTaggerExtractor(feature_size=tagger.config.num_mel_bins)
        self.sample_rate = SAMPLE_RATE
        self.scene_embedding_size = self.timestamp_embedding_size = tagger.config.d_model

    def forward(self, audio: Tensor) -> Tensor:
        """(clips, samples) -> (clips, positions of 20 ms, width); those of the sound, one at
        least."""
        short = max(0, _SHORTEST - audio.shape[1])
        waves = list(nn.functional.pad(audio, (0, short)).float().cpu().numpy())
        features = self.extractor(waves, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        features = features["input_features"].to(self.tagger.device)
        window = 2 * self.tagger.config.max_source_positions
        with fast_linears():
            found = torch.cat([self.tagger.head.mix(self.tagger.layers_of(part))
                               for part in features.split(window, 2)], 1)
        return found[:, : self.count(audio.shape[1])]

    @staticmethod
    def count(samples: int) -> int:
        """Positions of so much sound: 0, 20, ... ms, to its end."""
        return 1 + 1000 * samples // SAMPLE_RATE // _POSITION_MS

    def scenes(self, audio: Tensor) -> Tensor:
        """(clips, width)"""
        return self(audio).mean(1)

    def timestamps(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(clips, times, width), and milliseconds (clips, times): 0, 40, 80, ..."""
        found = self(audio)[:, ::_EVERY]
        times = torch.arange(found.shape[1], device=found.device) * float(_EVERY * _POSITION_MS)
        return found, times.expand(len(audio), -1)


def is_whisper(path: str) -> bool:
    """Whether a folder has a tagger on a Whisper encoder, alone or beside a transcriber."""
    config = Path(path) / "config.json"
    known = config.is_file() and read_json(config).get("model_type") == "whisper_tagger"
    return known or has_head(path)


def load_whisper(path: str) -> WhisperHearModel:
    return WhisperHearModel(tagger_of(path) if has_head(path)
                            else WhisperTagger.from_pretrained(path, dtype=torch.float32))
