"""A student for CTranslate2 and faster-whisper.

    WhisperModel("runs/NAME/export/ct2/int8", compute_type="int8").transcribe("audio.wav")

faster-whisper reads more than the weights: `tokenizer.json`, and `preprocessor_config.json`,
without which large-v3's 128 mel bands would be 80. Alignment heads are pairs of layer and head;
those of the teacher point at layers that a student does not have.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

QUANTIZATIONS = ("float16", "int8")


def write_ct2(folder: Path, out: Path, quantization: str, heads: Sequence[Sequence[int]]) -> None:
    """Convert a transformers folder.

    Args:
        out: new folder.
        quantization: of the weights, one of QUANTIZATIONS; what is computed in is for the runtime
            to choose.
        heads: (layer, head) pairs of the student that word timestamps come from.
    """
    from ctranslate2.converters import TransformersConverter
    from transformers import WhisperProcessor

    TransformersConverter(str(folder)).convert(str(out), quantization=quantization)
    shutil.copyfile(folder / "tokenizer.json", out / "tokenizer.json")
    features = WhisperProcessor.from_pretrained(folder).feature_extractor
    _write(out / "preprocessor_config.json", features.to_dict())
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    _write(out / "config.json", config | {"alignment_heads": [list(pair) for pair in heads]})


def _write(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
