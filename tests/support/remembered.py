"""What takes the longest with tiny models, done once: features, tokenizers, teachers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from distill.data.files import hash_of
from distill.whisper.teacher import locate

OURS = {"sampling_rate": 16_000, "return_tensors": "pt", "padding": "max_length"}  # of log_mel
MOST = 300  # windows of 1 MB


def remembered_features(extract: Callable) -> Callable:
    """Of `WhisperFeatureExtractor.__call__`, window by window, as `log_mel` asks."""
    known: dict[tuple[str, bytes], torch.Tensor] = {}

    def remember(self, audios, **options):
        if options != OURS or not all(isinstance(audio, np.ndarray) for audio in audios):
            return extract(self, audios, **options)
        found, settings = [], self.to_json_string()
        for audio in audios:
            key = settings, hashlib.sha256(np.ascontiguousarray(audio)).digest()
            if key not in known:
                known[key] = extract(self, [audio], **options)["input_features"]
            found.append(known[key])
        while len(known) > MOST:
            del known[next(iter(known))]  # the oldest
        return {"input_features": torch.cat(found)}

    return remember


def remembered_processors(load: Callable) -> Callable:
    """Of `WhisperProcessor.from_pretrained`: what is not a local folder is none of ours."""
    known: dict[str, object] = {}

    def remember(folder: Path, **options):
        path = Path(folder) / "tokenizer.json"
        if options or not path.is_file():
            return load(folder, **options)
        key = hash_of([str(folder), path.read_text()])
        if key not in known:
            known[key] = load(folder)
        return known[key]

    return remember


def remembered_teachers(load: Callable) -> Callable:
    """Of `load_teacher`: they are frozen, and so shared."""
    known: dict[tuple, object] = {}

    def remember(config, weights: bool = True):
        folder, revision, _ = locate(config)
        key = str(folder), revision, weights, config.short_audio_margin
        if key not in known:
            known[key] = load(config, weights)
        return known[key]

    return remember
