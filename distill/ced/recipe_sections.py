"""The sections of a tagger's recipe. Every key is used; the comments are its documentation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class DataConfig:
    """Manifests (JSONL), relative to the recipe's folder, or absolute. Rows have `labels`; with a
    teacher, training rows need none."""

    train: list[str] = MISSING  # clips to learn from
    validation: list[str] = field(default_factory=list)  # measured while training
    test: list[str] = field(default_factory=list)  # measured at the end
    allow_overlap: bool = False  # validation and test clips that are training clips, too (the same
    # part of a file, or of another one with the same bytes) are an error unless this is true
    classes: str | None = None  # file with a class a line, relative like manifests; null: the
    # labels of all manifests, sorted, or where they have none those of the first member
    clip_seconds: float = 10.0  # longer audio is cut into clips of this length; what is left over
    # is a clip, too
    balance: bool = False  # clips with rare labels come more often, others not in every epoch
    cache_megabytes: int = 1024  # decoded audio that each process keeps; 0: read at every use
    max_unreadable: float = 0.05  # share of training clips that may be unreadable: they are counted
    # and printed; with more of them a stage ends


@dataclass
class MemberConfig:
    """One of the teachers."""

    model: str = MISSING  # folder or Hub id of an AutoModelForAudioClassification, an .onnx file,
    # or package.module:function
    revision: str | None = None  # of the Hub id: pin it
    weight: float = 1.0  # in the average
    classes: str | None = None  # file that maps its classes to ours; null: by name
    activation: str = "auto"  # what makes its outputs probabilities: sigmoid | softmax | none


@dataclass
class TeacherConfig:
    members: list[MemberConfig] = field(default_factory=list)  # []: learn from the labels alone
    average: str = "probability"  # probability | logit
    mode: str = "store"  # store: asked once; see scores | live: at every step
    consistent: bool = True  # false: an experiment. Teacher and student hear different views of a
    # clip; only the student's is mixed, and scores are mixed with the same weight


@dataclass
class ViewConfig:
    """What is drawn for a clip in an epoch. Each thing has draws of its own."""

    seed: int | None = None  # of the views; null: the recipe's. Several students may share views
    shift: float = 0.5  # circular, uniform up to this share of the clip either way; 0: none
    shift_probability: float = 0.5  # share of views that are shifted
    gain_db: list[float] = field(default_factory=lambda: [-6.0, 6.0])  # uniform
    noise: list[str] = field(default_factory=lambda: ["white", "pink", "brown"])  # one is drawn
    noise_probability: float = 0.0  # share of views with noise
    snr_db: list[float] = field(default_factory=lambda: [5.0, 30.0])  # uniform
    time_masks: int = 1  # of up to time_mask_frames frames of 10 ms, and half of the clip
    time_mask_frames: int = 192  # longest time mask
    frequency_masks: int = 1  # of up to frequency_mask_bands of the 64 mel bands
    frequency_mask_bands: int = 24  # widest frequency mask
    mixup_probability: float = 0.5  # share of views that another clip is mixed into
    mixup_weight: list[float] = field(default_factory=lambda: [0.1, 0.5])  # of it, uniform; both
    # are equally loud before


@dataclass
class ScoresConfig:
    """The store of the teachers' scores (teacher.mode: store)."""

    dir: str | None = None  # default: <output_dir>/scores; several students may learn from it
    epochs: int = 10  # views of each clip; students go through them again and again
    k: int = 20  # classes kept per view
    values: str = "uint8"  # uint8: steps of 0.07 of the logit | float16: probabilities
    frames: bool = False  # also what those teachers that can tell say of every 0.4 s: k bytes each
    batch_size: int = 32  # views scored together
    num_workers: int = 0  # processes that prepare views ahead


@dataclass
class StudentConfig:
    model: str = "tiny"  # tiny | mini | small | base, or a folder or Hub id to start from
    config: dict[str, Any] = field(default_factory=dict)  # of the model, e.g.
    # {num_hidden_layers: 6}


@dataclass
class LossConfig:
    """Binary cross-entropy, mean over classes."""

    fill: str = "tail_mean"  # of classes outside the top k: zero | tail_mean (the teachers' mean)
    label_weight: float = 0.0  # w * BCE(labels) + (1 - w) * BCE(scores); EfficientAT has 0.1
    temperature: float = 1.0  # sigmoid(logit / T) on both sides, the loss times T^2
    confidence_power: float = 0.0  # clips weigh (1 - 2 * disagreement of the members) to the power
    frame_weight: float = 0.0  # of the cross-entropy with scores.frames, beside that of the clips
    mixed_labels: str = "weighted"  # of a mixed view. weighted: as the sound is | union


@dataclass
class EvaluationConfig:
    batch_size: int = 32  # clips scored together
    num_bootstrap: int = 1000  # resamples for the 95 % intervals


@dataclass
class ExportConfig:
    """What an exported file may lose on the test split (`python -m distill.export`)."""

    max_map_loss: float = 0.01  # absolute: 0.01 is one point of mAP; what loses more is refused
