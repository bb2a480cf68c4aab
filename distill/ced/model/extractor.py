"""Sound -> what a tagger reads: any sample rate, clips of any lengths, padded together with a mask.

    inputs = CedFeatureExtractor()(waves, sampling_rate=44_100, return_tensors="pt")
    inputs["input_values"], inputs["attention_mask"]     # (clips, 64, frames), (clips, frames)

Importing this registers it with transformers' AutoFeatureExtractor for models of type "ced".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, BatchFeature, SequenceFeatureExtractor

from distill.ced.model.configuration import CedConfig
from distill.ced.model.frontend import NUM_BANDS, SAMPLE_RATE, log_mel


class CedFeatureExtractor(SequenceFeatureExtractor):
    """See the module. It has no settings: all taggers get the same features."""

    model_input_names = ["input_values", "attention_mask"]

    def __init__(self, **kwargs: Any):
        # the port on the Hub writes its front end down; a different one would be another model
        fixed = {"feature_size": NUM_BANDS, "sampling_rate": SAMPLE_RATE, "n_fft": 512,
                 "win_size": 512, "hop_size": 160, "f_min": 0, "f_max": 8000, "center": True}
        for name, value in fixed.items():
            if (got := kwargs.pop(name, value)) not in (value, None):
                raise ValueError(f"preprocessor_config.json: {name} must be {value}, got {got}: "
                                 "CED models with another front end cannot be used")
        kwargs.pop("padding_value", None)
        super().__init__(NUM_BANDS, SAMPLE_RATE, padding_value=0.0, **kwargs)

    def __call__(
        self, raw_speech: np.ndarray | torch.Tensor | Sequence[Any],
        sampling_rate: int | None = None, return_tensors: str | None = None, **kwargs: Any,
    ) -> BatchFeature:
        """Features of one clip or of a list of clips.

        Args:
            raw_speech: a wave (samples,), full scale is 1, or a list of them.
            sampling_rate: of the waves, Hz; they are resampled to 16 kHz. Default: 16 kHz.

        Returns:
            `input_values` float32 (clips, 64, frames), dB; `attention_mask` int64 (clips, frames).

        Raises:
            ValueError: several channels, whole numbers instead of floats, or no samples.
        """
        waves = raw_speech
        is_array = isinstance(waves, np.ndarray | torch.Tensor)
        if not is_array and len(waves) == 0:
            raise ValueError("expected a clip or a list of clips, got none")
        if is_array or np.isscalar(waves[0]):
            waves = [waves]
        features = [log_mel(_wave(wave, sampling_rate or SAMPLE_RATE)) for wave in waves]
        lengths = [each.shape[1] for each in features]
        values = np.zeros((len(features), NUM_BANDS, max(lengths)), np.float32)
        mask = np.zeros((len(features), max(lengths)), np.int64)
        for number, (each, length) in enumerate(zip(features, lengths, strict=True)):
            values[number, :, :length] = each.numpy()
            mask[number, :length] = 1
        return BatchFeature({"input_values": values, "attention_mask": mask},
                            tensor_type=return_tensors)


def _wave(wave: Any, rate: int) -> torch.Tensor:
    """float32 (samples,) at 16 kHz"""
    wave = np.asarray(wave)
    if wave.ndim != 1:
        raise ValueError(f"a clip must be one channel, (samples,), got {wave.shape}: average the "
                         "channels of one clip, or give several clips as a list")
    if not np.issubdtype(wave.dtype, np.floating):
        raise ValueError(f"samples must be floats from -1 to 1, got {wave.dtype}: divide 16-bit "
                         "samples by 32768")
    if rate != SAMPLE_RATE and len(wave):
        try:  # a published model's code must not need it for 16 kHz
            import soxr
        except ImportError as error:
            raise ImportError(f"audio at {rate} Hz needs soxr (pip install soxr), or give "
                              f"{SAMPLE_RATE} Hz") from error
        wave = soxr.resample(wave.astype(np.float32), rate, SAMPLE_RATE)
    return torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))


AutoFeatureExtractor.register(CedConfig, CedFeatureExtractor, exist_ok=True)
