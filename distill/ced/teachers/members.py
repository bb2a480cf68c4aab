"""Members of a teacher ensemble, each with its own front end, sample rate and classes.

`teacher.members[].model` is one of
    a folder or Hub id       of any AutoModelForAudioClassification, or a folder of a Whisper with a
                             head that tags. Our own models see the masked
                             features of a view; others get its wave through their own feature
                             extractor, at its sample rate
    FILE.onnx                input (clips, 64, frames) of features, or (clips, samples) of waves at
                             16 kHz; first output (clips, classes); the names of its classes are in
                             class_labels_indices.csv beside it
    package.module:name      a function, or a class that is made once, called with a list of float32
                             waves at 16 kHz; returns (clips, classes); its attribute `classes`
                             names them
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from distill.ced.data.view_source import pad_features
from distill.ced.recipe_sections import MemberConfig
from distill.data.audio import SAMPLE_RATE
from distill.data.files import read_json
from distill.data.hub_ids import check_hub_id, nearest_path
from distill.data.sources.tables.text import read_text
from distill.losses.matmul import fast_linears

LABELS_FILE = "class_labels_indices.csv"  # AudioSet's form: index, mid, display_name


class Member(Protocol):
    """One teacher.

    Attributes:
        classes: names of its outputs; None: nobody says.
        sees: it reads our features rather than waves.
        step_seconds: of its frames; None: it gives no frames.
        num_parameters, num_bytes: of its weights; None: unknown.
    """

    classes: list[str] | None
    takes_features: bool
    step_seconds: float | None
    num_parameters: int | None
    num_bytes: int | None

    def __call__(self, waves: Sequence[np.ndarray], features: Sequence[Tensor]) -> np.ndarray:
        """Probabilities (clips, its classes) of float32 waves (samples,) at 16 kHz, which are
        features (64, frames) to our own models."""

    def with_frames(
        self, waves: Sequence[np.ndarray], features: Sequence[Tensor]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """As when called, and of each clip (its frames, its classes), a frame of `step_seconds`;
        only where there is one."""


def load_member(config: MemberConfig, device: str = "cpu") -> Member:
    """Load a member; see the head of this file for what there is."""
    if config.model.endswith(".onnx"):
        return OnnxMember(config)
    if _is_callable(config):
        return CallableMember(config)
    if tags_beside(config.model):
        module = importlib.import_module("distill.whisper_at.joint")
        return module.TranscriberMember(config.model, device)
    return TransformersMember(config, device)


def _is_callable(config: MemberConfig) -> bool:
    return ":" in config.model and not Path(config.model).exists()


def tags_beside(model: str) -> bool:
    """Whether a folder is that of a Whisper with a head that tags (`distill.whisper_at.joint`)."""
    return (Path(model) / "tagger.json").is_file()


def class_names(config: MemberConfig) -> list[str] | None:
    """The classes of a member, without its weights where that is possible."""
    if config.model.endswith(".onnx") or _is_callable(config):
        return load_member(config).classes
    if tags_beside(config.model):
        return list(read_json(Path(config.model) / "tagger.json")["classes"])
    return _names_of(_read_config(config))


def content_of(config: MemberConfig) -> str:
    """What tells a member from another one, without loading it: a hash of its files, the commit of
    a Hub id, `content` of a callable or a hash of its source file.

    Raises:
        ValueError: there is no such file or object.
    """
    path = Path(config.model)
    if path.is_dir():
        return _hash_of_files([p for p in sorted(path.iterdir())
                               if p.is_file() and p.name != "README.md"])
    if config.model.endswith(".onnx"):
        labels = path.with_name(LABELS_FILE)
        return _hash_of_files([_existing(path), *([labels] if labels.is_file() else [])])
    if _is_callable(config):
        found = _find_callable(config.model)
        return str(getattr(found, "content", None)
                   or _hash_of_files([Path(str(inspect.getsourcefile(found)))]))
    return str(_read_config(config)._commit_hash)


def _hash_of_files(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0")
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _existing(path: Path) -> Path:
    if not path.is_file():
        near = nearest_path(str(path))
        raise ValueError(f"teacher.members: no file {path}"
                         + (f"; did you mean {near}?" if near else ""))
    return path


def _find_callable(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"teacher.members: {name} cannot be imported ({error}); expected "
                         "package.module:function") from None


def activate(outputs: np.ndarray, activation: str) -> np.ndarray:
    """float64 (..., classes) of a model's outputs: `sigmoid` or `softmax` of them, or as they
    are."""
    values = np.asarray(outputs, np.float64)
    if activation == "sigmoid":
        small = np.exp(-np.abs(values))
        return np.where(values >= 0, 1, small) / (1 + small)
    if activation == "softmax":
        values = np.exp(values - values.max(axis=-1, keepdims=True))
        return values / values.sum(axis=-1, keepdims=True)
    return values


# transformers


def _read_config(config: MemberConfig) -> Any:
    from transformers import AutoConfig

    check_hub_id(config.model, "teacher.members")
    import_models()
    return AutoConfig.from_pretrained(config.model, revision=config.revision)


def import_models() -> None:
    """Make our own models known to transformers' Auto classes."""
    importlib.import_module("distill.ced.model.modeling")
    importlib.import_module("distill.whisper_at.model")


def _names_of(model_config: Any) -> list[str]:
    return [model_config.id2label[index] for index in range(model_config.num_labels)]


class TransformersMember:
    """An AutoModelForAudioClassification, ours or another."""

    def __init__(self, config: MemberConfig, device: str):
        from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

        model_config = _read_config(config)
        self.model = AutoModelForAudioClassification.from_pretrained(
            config.model, revision=config.revision, dtype=torch.float32
        ).to(device).eval()
        self.classes = _names_of(model_config)
        self.takes_features = model_config.model_type == "ced"
        self.num_parameters = sum(p.numel() for p in self.model.parameters())
        self.num_bytes = sum(p.numel() * p.element_size() for p in self.model.parameters())
        self.activation = _activation_of(model_config, config)
        self.step_seconds = getattr(self.model, "step_seconds", None)
        if not self.takes_features:
            self.extractor = AutoFeatureExtractor.from_pretrained(
                config.model, revision=config.revision)

    def __call__(self, waves: Sequence[np.ndarray], features: Sequence[Tensor]) -> np.ndarray:
        if self.takes_features:
            batch = pad_features(features)
            return self._run({name: each.to(self.model.device) for name, each in batch.items()})
        # as transformers' pipeline does: what pads, and how, is the extractor's affair
        return by_shape([self._extract(wave) for wave in waves], self._run)

    def with_frames(
        self, waves: Sequence[np.ndarray], features: Sequence[Tensor]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        if self.takes_features:
            batch = pad_features(features)
            outputs = self._run_frames({name: x.to(self.model.device) for name, x in batch.items()})
        else:
            outputs = each_by_shape([self._extract(wave) for wave in waves], self._run_frames)
        return np.stack([clip for clip, _ in outputs]), [frames for _, frames in outputs]

    @torch.no_grad()
    def _run(self, batch: dict[str, Tensor]) -> np.ndarray:
        with fast_linears():
            logits = self.model(**batch).logits
        return self._activate(logits)

    @torch.no_grad()
    def _run_frames(self, batch: dict[str, Tensor]) -> list[tuple[np.ndarray, np.ndarray]]:
        with fast_linears():
            output = self.model(**batch)
        counts = output.frame_mask.sum(1).tolist()
        return [(clip, frames[:count]) for clip, frames, count in zip(
            self._activate(output.logits), self._activate(output.frame_logits), counts,
            strict=True)]

    def _activate(self, logits: Tensor) -> np.ndarray:
        return activate(logits.float().cpu().numpy(), self.activation)

    def _extract(self, wave: np.ndarray) -> dict[str, Tensor]:
        rate = self.extractor.sampling_rate
        if rate != SAMPLE_RATE:
            import soxr

            wave = soxr.resample(wave, SAMPLE_RATE, rate)
        inputs = self.extractor(wave, sampling_rate=rate, return_tensors="pt")
        return {name: each.to(self.model.device) for name, each in inputs.items()}


def _activation_of(model_config: Any, config: MemberConfig) -> str:
    if config.activation != "auto":
        return config.activation
    kinds = {"multi_label_classification": "sigmoid", "single_label_classification": "softmax"}
    if model_config.problem_type in kinds:
        return kinds[model_config.problem_type]
    raise ValueError(
        f"teacher.members: {config.model} does not say what its outputs are (problem_type is "
        f"{model_config.problem_type!r}); say activation: sigmoid for a tagger, softmax for a "
        "model that gives a clip one class"
    )


def by_shape(
    inputs: Sequence[dict[str, Tensor]], run: Callable[[dict[str, Tensor]], np.ndarray]
) -> np.ndarray:
    """Run inputs (1, ...) of equal shape together, so that nothing has to be padded."""
    return np.stack(each_by_shape(inputs, run))


def each_by_shape(
    inputs: Sequence[dict[str, Tensor]], run: Callable[[dict[str, Tensor]], Sequence]
) -> list:
    """What `run` says of each input, in their order."""
    groups: dict[tuple, list[int]] = {}
    for number, each in enumerate(inputs):
        shapes = tuple((name, tuple(value.shape)) for name, value in each.items())
        groups.setdefault(shapes, []).append(number)
    found: dict[int, Any] = {}
    for numbers in groups.values():
        batch = {name: torch.cat([inputs[n][name] for n in numbers]) for name in inputs[numbers[0]]}
        found |= dict(zip(numbers, run(batch), strict=True))
    return [found[number] for number in range(len(inputs))]


# ONNX


class OnnxMember:
    """A file that onnxruntime runs."""

    step_seconds = None

    def __init__(self, config: MemberConfig):
        import onnxruntime

        path = _existing(Path(config.model))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(path), options)
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) not in (2, 3):
            raise ValueError(f"{path}: expected one input (clips, 64, frames) or (clips, samples), "
                             f"got {', '.join(f'{i.name} {i.shape}' for i in inputs)}")
        self.name, self.takes_features = inputs[0].name, len(inputs[0].shape) == 3
        self.activation = "none" if config.activation == "auto" else config.activation
        labels = path.with_name(LABELS_FILE)
        self.classes = read_labels(labels) if labels.is_file() else None
        self.num_parameters, self.num_bytes = None, path.stat().st_size

    def __call__(self, waves: Sequence[np.ndarray], features: Sequence[Tensor]) -> np.ndarray:
        given = features
        if not self.takes_features:
            given = [torch.from_numpy(np.array(wave)) for wave in waves]
        return by_shape([{self.name: each[None]} for each in given], self._run)

    def _run(self, batch: dict[str, Tensor]) -> np.ndarray:
        outputs = self.session.run(None, {name: x.numpy() for name, x in batch.items()})[0]
        return activate(outputs, self.activation)


def read_labels(path: Path) -> list[str]:
    """Names of classes from a file like AudioSet's class_labels_indices.csv.

    Raises:
        ValueError: other columns, or indices that do not count from 0.
    """
    rows = list(csv.DictReader(read_text(path).split("\n")))
    ok = rows and {"index", "display_name"} <= set(rows[0])
    if not ok or [row["index"] for row in rows] != [str(n) for n in range(len(rows))]:
        raise ValueError(f"{path}: expected the columns index, mid, display_name, and indices that "
                         "count from 0")
    return [row["display_name"] for row in rows]


# Python


class CallableMember:
    """A function, or an instance of a class."""

    step_seconds = None

    def __init__(self, config: MemberConfig):
        found = _find_callable(config.model)
        self.function = found() if inspect.isclass(found) else found
        classes = getattr(self.function, "classes", None)
        self.classes = None if classes is None else list(classes)
        self.takes_features, self.num_bytes = False, None
        self.num_parameters = getattr(self.function, "num_parameters", None)
        self.activation = "none" if config.activation == "auto" else config.activation

    def __call__(self, waves: Sequence[np.ndarray], features: Sequence[Tensor]) -> np.ndarray:
        outputs = self.function([np.array(wave) for wave in waves])  # its own, to do as it likes
        if isinstance(outputs, Tensor):
            outputs = outputs.detach().cpu().numpy()
        return activate(outputs, self.activation)
