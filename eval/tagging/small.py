"""A copy of a tagger with those outputs alone that a label set needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from distill.ced.teachers.label_sets import LabelSet

_LAST = ("outputlayer.1", "head.out", "head.mlp_layer.1")  # of CED, and of taggers on Whisper


def write_small(model: str, labels: LabelSet, folder: Path) -> tuple[int, int]:
    """Write it with its feature extractor; the outputs that are left say what they said.

    Returns:
        outputs that it has, and that the model had.

    Raises:
        ValueError: the model is none of ours, which are a folder or Hub id, or the folder is there.
    """
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    from distill.ced.teachers.members import import_models

    if folder.exists():
        raise ValueError(f"--small: {folder} is there already")
    import_models()
    if model.endswith(".onnx") or (Path(model) / "tagger.json").is_file():
        raise ValueError(f"--small: {model} is no folder of a CED model or a tagger on Whisper")
    tagger = AutoModelForAudioClassification.from_pretrained(model)
    name = next((each for each in _LAST if _has(tagger, each)), None)
    if name is None:
        raise ValueError(f"--small: {model} is no CED model and no tagger on Whisper")
    classes = [tagger.config.id2label[n] for n in range(tagger.config.num_labels)]
    kept = sorted({column for group in labels.columns(classes) for column in group})
    last: Any = tagger.get_submodule(name)
    smaller = nn.Linear(last.in_features, len(kept))
    smaller.weight.data, smaller.bias.data = last.weight.data[kept], last.bias.data[kept]
    parent, _, attribute = name.rpartition(".")
    setattr(tagger.get_submodule(parent), attribute, smaller)
    tagger.config.id2label = {number: classes[column] for number, column in enumerate(kept)}
    tagger.config.label2id = {each: number for number, each in tagger.config.id2label.items()}
    tagger.save_pretrained(folder)
    AutoFeatureExtractor.from_pretrained(model).save_pretrained(folder)
    return len(kept), len(classes)


def _has(module: nn.Module, name: str) -> bool:
    try:
        module.get_submodule(name)
    except AttributeError:
        return False
    return True
