"""How many encoder positions a clip needs: its own and a margin, rounded up to a few lengths.

    positions_of(2.0, margin=1.0)    # 150 of 1,500: 3 s of 20 ms each

Few lengths mean few shapes: batches fill, and kernels that are compiled or tuned for a shape are
made once. No torch here: plans count with it.
"""

from __future__ import annotations

import math
from typing import Any

POSITIONS_PER_SECOND = 50  # two log-mel frames of 10 ms each
# (up to so many positions, multiples of this): about 5 to 15 % of a clip is rounded up
_STEPS = ((300, 25), (600, 50), (1200, 100))
_FULL_FROM = 0.8  # of all positions: beyond, cutting gains less than the padded encoder's kernels


def positions_of(seconds: float, margin: float | None, most: int = 1500) -> int:
    """Positions that are encoded for a clip; `most` means padded to 30 s, as Whisper was trained.

    Args:
        seconds: length of the clip.
        margin: seconds of silence after it that are encoded with it; None pads every clip.
        most: positions of the encoder.
    """
    if margin is None:
        return most
    wanted = math.ceil((seconds + margin) * POSITIONS_PER_SECOND)
    step = next((step for up_to, step in _STEPS if wanted <= up_to), None)
    if step is None:
        return most
    rounded = math.ceil(wanted / step) * step
    return rounded if rounded < _FULL_FROM * most else most


def margin_of(model_or_config: Any) -> float | None:
    """Seconds of silence that a model needs behind short audio; None pads every clip to 30 s.

    A model's config has it as `short_audio: {margin_seconds: 1.0}`.
    """
    config = getattr(model_or_config, "config", model_or_config)
    found = getattr(config, "short_audio", None)
    return None if not found else float(found["margin_seconds"])


def set_margin(model: Any, margin: float | None) -> None:
    """Write it to a model's config; `save_pretrained` keeps it."""
    model.config.short_audio = None if margin is None else {"margin_seconds": float(margin)}
