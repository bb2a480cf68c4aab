"""A tagger over files of any length, window by window.

    tagger = load_tagger("runs/mine/student")
    for window in windows_of(path, window=10.0, hop=10.0): ...
    rows = tagger([(window, window.samples()), ...])       # probabilities of each, with times
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.ced.teachers.label_sets import LabelSet
from distill.data.audio import audio_info, load_audio

STEP_SECONDS = 0.16  # of the frame-level tags of our models


@dataclass(frozen=True)
class Window:
    """A part of a file, in seconds; `new` is where what no earlier window has begins."""

    path: Path
    start: float
    end: float
    new: float

    def samples(self) -> np.ndarray:
        """float32 (samples,) at 16 kHz.

        Raises:
            AudioError: the file cannot be read there.
        """
        return load_audio(self.path, self.start, self.end - self.start)


@dataclass(frozen=True)
class Row:
    """Probabilities (classes,) of a stretch; `weight` seconds of it are in no other row."""

    start: float
    end: float
    weight: float
    scores: np.ndarray


def windows_of(path: Path, window: float, hop: float) -> list[Window]:
    """Windows that hold all of a file. The last one is moved back to be whole.

    Raises:
        AudioError: it is no audio.
    """
    seconds, _ = audio_info(path)
    found, start, end = [], 0.0, 0.0
    while end < seconds - 1e-6:
        start = max(0.0, min(len(found) * hop, seconds - window))
        found.append(Window(path, start, min(start + window, seconds), end))
        end = found[-1].end
    return found


class Tagger:
    """Any model that `distill.ced.teachers.members` loads.

    Attributes:
        classes: names of its outputs.
    """

    def __init__(self, member, name: str, frames: bool = False, labels: LabelSet | None = None):
        self.member, self.name, self.frames, self.labels = member, name, frames, labels
        if member.classes is None:
            raise ValueError(f"--model {name} does not name its classes: "
                             "an .onnx file needs class_labels_indices.csv beside it")
        if frames and not (member.takes_features and hasattr(member, "model")):
            raise ValueError(f"--frames needs a CED model (a folder or Hub id), and {name} is not")
        self.classes: list[str] = member.classes
        if labels is not None:
            labels.columns(member.classes)
            self.classes = labels.names

    def __call__(self, windows: Sequence[tuple[Window, np.ndarray]]) -> list[list[Row]]:
        """For each window its row, or one for every 160 ms of what is new in it."""
        import torch

        from distill.ced.model.frontend import log_mel

        if not windows:
            return []
        waves = [wave for _, wave in windows]
        features = [log_mel(torch.from_numpy(wave)) if self.member.takes_features else None
                    for wave in waves]
        if self.frames:
            return self._steps([window for window, _ in windows], features)
        scores = self._mapped(self.member(waves, features))
        return [[Row(window.start, window.end, window.end - window.new, each)]
                for (window, _), each in zip(windows, scores, strict=True)]

    def _mapped(self, scores: np.ndarray) -> np.ndarray:
        """(..., the member's classes) -> (..., those of the label set)."""
        return scores if self.labels is None else self.labels(scores, self.member.classes)

    def _steps(self, windows: Sequence[Window], features: Sequence) -> list[list[Row]]:
        import torch

        from distill.ced.data.view_source import pad_features
        from distill.ced.teachers.members import activate
        from distill.losses.matmul import fast_linears

        model = self.member.model
        batch = {name: each.to(model.device) for name, each in pad_features(features).items()}
        with fast_linears(), torch.no_grad():
            output = model(**batch)
        scores = self._mapped(activate(output.frame_logits.float().cpu().numpy(),
                                       self.member.activation))
        counts = output.frame_mask.sum(1).tolist()
        found = []
        for window, probabilities, count in zip(windows, scores, counts, strict=True):
            rows = []
            for step, each in enumerate(probabilities[:count]):
                is_last = step == count - 1  # it has what is left over, too
                end = window.end if is_last else window.start + (step + 1) * STEP_SECONDS
                if is_last or end > window.new + STEP_SECONDS / 2:
                    start = rows[-1].end if rows else window.new
                    rows.append(Row(start, end, end - start, each))
            found.append(rows)
        return found


def load_tagger(name: str, activation: str = "auto", frames: bool = False,
                labels: LabelSet | None = None) -> Tagger:
    """Load a folder, a Hub id, an .onnx file or a `package.module:function`.

    Args:
        labels: another set of classes than its own.

    Raises:
        ValueError: there is no such tagger, or its activation is not known.
    """
    import torch

    from distill.ced.recipe_sections import MemberConfig
    from distill.ced.teachers.members import load_member
    from distill.progress import quiet_libraries

    quiet_libraries()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        member = load_member(MemberConfig(model=name, activation=activation), device)
    except (OSError, ValueError) as error:
        raise ValueError(f"--model {name}: {error}") from None
    return Tagger(member, name, frames, labels)
