"""A random teacher of a size that fits the machine, a corpus of tones, and labels of them.

Nothing is downloaded. Random weights cost what trained ones do; how well anything is recognised,
they do not tell.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from distill.data.speech.windows import load_window, pack
from distill.testing import write_tiny_recipe, write_tiny_teacher
from distill.whisper.data.corpus import load_clips
from distill.whisper.encoder.padded import log_mel
from distill.whisper.recipe import WhisperRecipe, load_recipe
from distill.whisper.teacher import Teacher, load_teacher


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes:
        name: of the shape.
        layers: of the encoder and of the decoder.
        shape: keys of WhisperConfig.
        clips: to label and to train on, of 2 to 9 s.
        batch: windows decoded, or trained on, at the same time.
        limit: most tokens of a window.
        quiet: factor on what the layers in the middle of the decoder add; a student without them
            then often agrees with the teacher, as a trained one would.
    """

    name: str
    layers: tuple[int, int]
    clips: int
    batch: int
    limit: int
    quiet: float = 1.0
    shape: dict[str, int] = field(default_factory=dict)


def _public(width: int, heads: int, mel_bins: int, vocabulary: int) -> dict[str, int]:
    return {"d_model": width, "encoder_attention_heads": heads, "decoder_attention_heads": heads,
            "encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width, "num_mel_bins": mel_bins,
            "vocab_size": vocabulary}


SMALLEST = Size("width 32", (2, 4), clips=24, batch=2, limit=16)
OF_SMALL = Size("whisper-small's shape", (12, 12), 200, 8, 96, 0.1, _public(768, 12, 80, 51_865))
OF_LARGE = Size("whisper-large-v3's shape", (32, 32), 400, 16, 96, 0.1,
                _public(1280, 20, 128, 51_866))
_ROOM_FOR_LARGE = 40e9  # bytes: teacher in float32, and a student of two layers with its optimiser


def fitting() -> Size:
    """For this machine."""
    if not torch.cuda.is_available():
        return SMALLEST
    room = torch.cuda.get_device_properties(0).total_memory
    return OF_LARGE if room >= _ROOM_FOR_LARGE else OF_SMALL


def write_material(folder: Path, size: Size) -> Path:
    """Teacher, corpus and recipe; the recipe's folder."""
    encoder_layers, decoder_layers = size.layers
    teacher = write_tiny_teacher(folder / "teacher", decoder_layers, encoder_layers, **size.shape)
    if size.quiet != 1.0:
        _quieten(teacher, size.quiet)
    return write_tiny_recipe(folder, teacher, train=size.clips, validation=2, test=2)


@torch.no_grad()
def _quieten(folder: Path, factor: float) -> None:
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    for layer in model.model.decoder.layers[1:-1]:
        for module in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
            module.weight *= factor
            module.bias *= factor
    model.save_pretrained(folder)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def num_processes() -> int:
    """One a GPU; on a CPU two, so that several are tried everywhere."""
    return torch.cuda.device_count() or 2


@dataclass
class Material:
    """What is measured with.

    Attributes:
        folder: of everything that is written.
        recipe: for the teacher in float32.
        features: (windows, bands, 3000) of the training split, on the device.
        seconds: of audio of each window.
    """

    size: Size
    folder: Path
    path: Path
    recipe: WhisperRecipe
    teacher: Teacher
    features: Tensor
    seconds: list[float]

    def overrides(self, name: str, **more: str) -> list[str]:
        """Keys of a run of its own, `folder/name`."""
        batch = self.size.batch * num_processes()
        settings = {
            "output_dir": self.folder / name, "scores.dir": self.folder / "scores",
            "pseudo_label.batch_size": self.size.batch, "pseudo_label.shard_size": 4,
            "pseudo_label.timestamps": "false", "views.timestamp_probability": 0,
            "scores.method": "decoder_state", "loss.hidden_weight": 0,
            "train.batch_size": batch, "train.micro_batch_size": self.size.batch,
            "train.max_steps": 5, "train.validate_every": 5, "train.save_every": 5, **more}
        return [f"{key}={value}" for key, value in settings.items()]


def load_material(folder: Path, size: Size) -> Material:
    path = write_material(folder, size)
    recipe = load_recipe(str(path), [])
    teacher = load_teacher(recipe.teacher)
    teacher.model.to(device())
    rows, _ = load_clips(recipe.data.train)
    windows = pack(rows, "gpu", "sequential")
    audios = [load_window(window) for window in windows]
    features = torch.cat([log_mel(teacher.processor, [audio]) for audio in audios])
    return Material(size, folder, path, recipe, teacher, features.to(device()),
                    [window.duration for window in windows])


def run_stage(module: str, path: Path, overrides: list[str], processes: int = 1) -> None:
    """One of the project's commands, as a user starts it.

    Raises:
        ValueError: it failed; with its last line.
    """
    command = [sys.executable, "-m", module]
    if processes > 1:
        command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu",
                   "--num_processes", str(processes), "--mixed_precision", "no",
                   "--main_process_port", "0", "-m", module]
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment["ACCELERATE_USE_CPU"] = "true"
    done = subprocess.run([*command, str(path), *overrides], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        said = [line for line in done.stdout.splitlines() if line.strip()]
        told = next((line for line in said if line.startswith("error:")), said[-1:])
        raise ValueError(f"{module} with {processes} processes failed: {told}")
