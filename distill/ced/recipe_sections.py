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
    allow_overlap: bool = False  # a clip of two splits (the same part of a file, or of another one
    # with the same bytes) is an error unless this is true
    classes: str | None = None  # file with a class a line, relative like manifests; null: all
    # labels of the manifests, sorted; where there are none, the classes of the first member
    clip_seconds: float = 10.0  # length in seconds that longer audio is cut into; the rest is a
    # clip, too
    balance: bool = False  # clips with rare labels come more often, others not in every epoch
    cache_megabytes: int = 1024  # decoded audio that each process keeps; 0: audio is read at every
    # use
    max_unreadable: float = 0.05  # largest share of training clips that may be unreadable; they are
    # printed and counted, and with more of them a stage stops


@dataclass
class MemberConfig:
    """One of the teachers."""

    model: str = MISSING  # folder or Hub id of an AutoModelForAudioClassification, an .onnx file,
    # or package.module:function
    revision: str | None = None  # commit or tag on the Hub
    weight: float = 1.0  # weight in the average
    classes: str | None = None  # file that maps the member's classes to ours; null: classes of the
    # same name
    activation: str = "auto"  # what turns its outputs into probabilities: sigmoid | softmax | none;
    # auto: as its config says


@dataclass
class TeacherConfig:
    members: list[MemberConfig] = field(default_factory=list)  # the teachers; []: learn from the
    # labels alone
    average: str = "probability"  # what is averaged: probability | logit
    mode: str = "store"  # store: the teachers run once and their scores are stored (see scores) |
    # live: they run at every training step
    consistent: bool = True  # teacher and student get the same view. false is an experiment: they
    # get different views of a clip; only the student's is mixed, and scores are mixed with the same
    # weight


@dataclass
class ViewConfig:
    """What is drawn for a clip in an epoch. Each thing has draws of its own."""

    seed: int | None = None  # seed of the views; null: the recipe's. Several students may share
    # views
    shift: float = 0.5  # circular shift, uniform up to this share of the clip either way; 0: none
    shift_probability: float = 0.5  # share of views that are shifted
    gain_db: list[float] = field(default_factory=lambda: [-6.0, 6.0])  # range of the gain in dB,
    # uniform
    noise: list[str] = field(default_factory=lambda: ["white", "pink", "brown"])  # kinds of noise,
    # of which one is drawn
    noise_probability: float = 0.0  # share of views with noise
    snr_db: list[float] = field(default_factory=lambda: [5.0, 30.0])  # range of the signal-to-noise
    # ratio in dB, uniform
    time_masks: int = 1  # masks over time, each of up to time_mask_frames and half of the clip
    time_mask_frames: int = 192  # longest mask over time, in frames of 10 ms
    frequency_masks: int = 1  # masks over frequency, each of up to frequency_mask_bands
    frequency_mask_bands: int = 24  # widest mask over frequency, of the 64 mel bands
    mixup_probability: float = 0.5  # share of views that another clip is mixed into
    mixup_weight: list[float] = field(default_factory=lambda: [0.1, 0.5])  # range of the other
    # clip's weight, uniform; both are made equally loud before


@dataclass
class ScoresConfig:
    """The store of the teachers' scores (teacher.mode: store)."""

    dir: str | None = None  # folder of the store; default: <output_dir>/scores. Several students
    # may learn from it
    epochs: int = 10  # views of each clip; students go through them again and again
    k: int = 20  # classes kept per view
    values: str = "uint8"  # how scores are stored. uint8: steps of 0.07 of the logit | float16:
    # probabilities
    frames: bool = False  # also store scores for every 0.4 s, of the teachers that have them: k
    # bytes each
    batch_size: int = 32  # views scored together
    num_workers: int = 0  # processes that prepare views ahead


@dataclass
class StudentConfig:
    model: str = "tiny"  # size of a new student: tiny | mini | small | base; or a folder or Hub id
    # to start from
    config: dict[str, Any] = field(default_factory=dict)  # changes to the model's configuration,
    # e.g. {num_hidden_layers: 6}


@dataclass
class LossConfig:
    """Binary cross-entropy, mean over classes."""

    fill: str = "tail_mean"  # what classes outside the top k have: zero | tail_mean (the teachers'
    # mean of them)
    label_weight: float = 0.0  # w in w * BCE(labels) + (1 - w) * BCE(scores); EfficientAT uses 0.1
    temperature: float = 1.0  # T: sigmoid(logit / T) on both sides, and the loss times T^2
    confidence_power: float = 0.0  # p: a clip weighs (1 - 2 * disagreement of the members)^p
    frame_weight: float = 0.0  # weight of the cross-entropy to scores.frames, beside that of the
    # clips
    mixed_labels: str = "weighted"  # labels of a mixed view. weighted: as the sounds are mixed |
    # union: all labels of both


@dataclass
class EvaluationConfig:
    batch_size: int = 32  # clips scored together
    num_bootstrap: int = 1000  # resamples for the 95 % intervals


@dataclass
class ExportConfig:
    """What an exported file may lose on the test split (`python -m distill.export`)."""

    max_map_loss: float = 0.01  # absolute: 0.01 is one point of mAP; what loses more is refused
