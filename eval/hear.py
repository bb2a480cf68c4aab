"""A tagger's embeddings through the interface of HEAR (hearbenchmark.com, arXiv:2203.03022).

    model = load_model("runs/mine/student")                       # or a published checkpoint
    get_scene_embeddings(audio, model)                            # (clips, width)
    get_timestamp_embeddings(audio, model)                        # (clips, times, width), ms

    TAGGER=runs/mine/student python -m heareval.embeddings.runner eval.hear --tasks-dir tasks

Audio is (clips, samples) at 16 kHz, of any length. A scene is the mean over its steps of 160 ms.
For timestamps the sound is heard four times, each 40 ms later, so that steps come every 40 ms and
each knows the 10 s around it; a time is the middle of its step.

Of a tagger on a Whisper encoder, and of a transcriber that tags, an embedding is what its head
makes of the layers (`eval.hear_whisper`): every 40 ms, each knowing its window of 30 s.

The public validator needs tensorflow for models of that kind only, and tensorflow an older h5py
than we do: `pip install --no-deps hearvalidator`, and tests/eval/tagging/test_hear.py.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from distill.ced.model.checkpoint import load_checkpoint
from distill.ced.model.frontend import HOP, PATCH, SAMPLE_RATE, log_mel
from eval.hear_whisper import WhisperHearModel, is_whisper, load_whisper

SHIFTS = 4
STEP = PATCH * HOP  # samples
_HOP_MS = 1000 * STEP / SHIFTS / SAMPLE_RATE


class HearModel(nn.Module):
    """What HEAR asks of a model.

    Attributes:
        sample_rate: Hz, of the audio it is given.
        scene_embedding_size, timestamp_embedding_size: width of the embeddings.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.sample_rate = SAMPLE_RATE
        self.scene_embedding_size = self.timestamp_embedding_size = encoder.config.hidden_size

    def forward(self, audio: Tensor):
        """(clips, samples) -> embeddings of clips and of their steps."""
        device = next(self.parameters()).device
        features = torch.stack([log_mel(clip.float().cpu()) for clip in audio])
        return self.encoder(features.to(device))


def load_model(model_file_path: str = "") -> HearModel | WhisperHearModel:
    """The encoder of a tagger.

    Args:
        model_file_path: folder or file that `load_checkpoint` reads, or folder of a tagger on a
            Whisper encoder; "": the environment variable TAGGER, since HEAR's own tools may give
            none.

    Raises:
        ValueError: neither is given, or it is no tagger.
    """
    path = model_file_path or os.environ.get("TAGGER", "")
    if not path:
        raise ValueError("no tagger: give load_model a path, or set TAGGER to one")
    if is_whisper(path):
        return load_whisper(path)
    return HearModel(load_checkpoint(path).encoder)


@torch.no_grad()
def get_scene_embeddings(audio: Tensor, model: HearModel | WhisperHearModel) -> Tensor:
    """(clips, samples), -1 to 1 -> float32 (clips, width)."""
    _check(audio)
    if isinstance(model, WhisperHearModel):
        return model.scenes(audio)
    return model(audio).pooler_output


@torch.no_grad()
def get_timestamp_embeddings(
    audio: Tensor, model: HearModel | WhisperHearModel
) -> tuple[Tensor, Tensor]:
    """(clips, samples), -1 to 1 -> float32 (clips, times, width) and milliseconds (clips, times).

    Times are 0, 40, 80, ... to the end of the clip.
    """
    _check(audio)
    if isinstance(model, WhisperHearModel):
        return model.timestamps(audio)
    count = 1 + int(1000 * audio.shape[1] / SAMPLE_RATE / _HOP_MS)
    passes = -(-count // SHIFTS)  # steps of each
    found = []
    for shift in range(SHIFTS):
        # a frame is about its place, so the middle of the first step is at 7.5 hops: put 0, 40, 80
        # or 120 ms of the sound there
        before = (PATCH - 1) * HOP // 2 - shift * STEP // SHIFTS
        after = (PATCH * passes - 1) * HOP - before - audio.shape[1]
        shifted = nn.functional.pad(audio, (max(0, before), max(0, after)))[:, max(0, -before) :]
        found.append(model(shifted).last_hidden_state[:, :passes])
    embeddings = torch.stack(found, 2).flatten(1, 2)[:, :count]
    times = _HOP_MS * torch.arange(count, device=embeddings.device)
    return embeddings, times.expand(len(audio), -1)


def _check(audio: Tensor) -> None:
    if audio.ndim != 2 or 0 in audio.shape:
        raise ValueError(f"audio must be (clips, samples), got {tuple(audio.shape)}")
