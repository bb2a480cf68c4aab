"""Silence of frozen encoders on disk: on a CPU it costs as much as some padded clips.

    path = path_for(encoder, voices, folder)      # None: not worth keeping
    tensors = read(path)                          # None: not there

Files are named by the weights and by all that silence is made of, in `silence/` of the cache
(`distill.data.packaged.wheels.cache_folder`); the newest few stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from distill.data.files import write_atomic
from distill.whisper.encoder.int8 import Int8Linear
from distill.whisper.encoder.level import EVERY, LEVEL, VERSION

_WORTH = 5_000_000  # parameters; smaller encoders are quick
_MOST_FILES = 4  # 12 MB each for whisper-base, 131 MB for large-v3, in float32


def path_for(encoder: nn.Module, voices: Sequence[Path], folder: Path) -> Path | None:
    """Where the silence of an encoder is kept; None for small ones, for those that learn, for those
    on a GPU, which makes it at once, and for those in int8, whose weights are no parameters.

    Args:
        encoder: WhisperEncoder.
        voices: files that silence is made with.
        folder: of all files.
    """
    parameters = list(encoder.parameters())
    if any(isinstance(module, Int8Linear) for module in encoder.modules()):
        return None
    if (sum(each.numel() for each in parameters) < _WORTH
            or any(each.requires_grad or each.device.type != "cpu" for each in parameters)):
        return None
    digest = hashlib.blake2b(f"{VERSION} {EVERY} {LEVEL:.6f}".encode(), digest_size=16)
    for voice in voices:
        digest.update(voice.read_bytes())
    for each in parameters:
        digest.update(f"{each.dtype} {tuple(each.shape)}".encode())
        digest.update(each.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
    return folder / f"{digest.hexdigest()}.safetensors"


def read(path: Path) -> dict[str, Tensor] | None:
    """Tensors by name; None: there is no such file, or it is broken."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    """Keep them, and remove the oldest files. A folder that cannot be written to is left alone."""
    from safetensors.torch import save_file

    try:
        write_atomic(path, lambda temporary: save_file(tensors, temporary))
        files = sorted(path.parent.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
        for file in files[:-_MOST_FILES]:
            file.unlink(missing_ok=True)
    except OSError:
        return
