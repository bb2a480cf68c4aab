"""Files that libsndfile cannot read."""

from pathlib import Path

import numpy as np
import pytest


def write_m4a(path: Path, samples: np.ndarray) -> None:
    """AAC of mono sound at 16 kHz; skips a test where PyAV is not there."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        packets = av.AudioResampler("fltp", "mono", 16000, stream.frame_size).resample(frame)
        for part in [*packets, None]:
            file.mux(stream.encode(part))
