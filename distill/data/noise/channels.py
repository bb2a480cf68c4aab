"""What becomes of speech on its way: rooms, telephones, codecs, clipping, speed.

    audio = CHANNELS["telephone"](speech, "clip-000012")

All take float32 (samples,) at 16 kHz and a key, and return the same; only `slow` and `fast` change
the length.

| name | what it does |
|---|---|
| echo | a room whose sound dies away by 60 dB in 0.6 s, as strong as the direct sound |
| telephone | 300 to 3,400 Hz |
| opus | Opus at 6 kbit/s |
| gsm | GSM 06.10 full rate, 13 kbit/s, at 8 kHz |
| mulaw | 8-bit mu-law (G.711) at 8 kHz |
| clipping | everything above a quarter of the peak is cut off |
| slow, fast | at 0.9 and 1.1 times the speed; the pitch goes with it |
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np

from distill.data.audio import SAMPLE_RATE, resample
from distill.data.views.augment import make_noise, philox

SLOWEST = 0.9  # times the speed
_FASTEST = 1.1
_TELEPHONE_RATE = 8_000
_BAND_HZ = (300.0, 3400.0)
_EDGE_HZ = 50.0  # in which the band ends
_ROOM_SECONDS = 0.6  # until its sound has died away by 60 dB
_CLIP_AT = 0.25  # of the peak


def _echo(speech: np.ndarray, key: str) -> np.ndarray:
    """Noise that dies away, behind the direct sound: no room, but all that an ear needs of one."""
    size = int(_ROOM_SECONDS * SAMPLE_RATE)
    drawn = int(philox(0, f"{key}/echo", 0).random_raw())
    room = make_noise("white", drawn, size) * 10 ** (-3 * np.arange(size) / size)
    room[: SAMPLE_RATE // 200] = 0  # 5 ms: nothing comes back sooner
    room /= np.sqrt(np.square(room).sum())
    room[0] = 1.0
    points = 1 << (len(speech) + size - 1).bit_length()
    heard = np.fft.irfft(np.fft.rfft(speech, points) * np.fft.rfft(room, points), points)
    return heard[: len(speech)].astype(np.float32)


def _telephone(speech: np.ndarray, _key: str) -> np.ndarray:
    points = 1 << (len(speech) + SAMPLE_RATE // 10).bit_length()
    spectrum = np.fft.rfft(speech, points)
    frequencies = np.fft.rfftfreq(points, 1 / SAMPLE_RATE)
    low, high = _BAND_HZ
    inside = np.minimum(frequencies - low, high - frequencies)  # Hz; below zero: outside
    heard = np.fft.irfft(spectrum * np.clip(inside / _EDGE_HZ + 1, 0, 1), points)
    return heard[: len(speech)].astype(np.float32)


def _through(speech: np.ndarray, rate: int, **options: object) -> np.ndarray:
    """Written by libsndfile at a rate, and read again."""
    import soundfile
    import soxr

    at_rate = speech if rate == SAMPLE_RATE else soxr.resample(speech, SAMPLE_RATE, rate)
    file = io.BytesIO()
    soundfile.write(file, np.clip(at_rate, -1, 1), rate, **options)
    file.seek(0)
    heard = resample(soundfile.read(file, dtype="float32")[0], rate)[: len(speech)]
    return np.pad(heard, (0, len(speech) - len(heard)))


def _opus(speech: np.ndarray, _key: str) -> np.ndarray:
    return _through(speech, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=1.0)


def _gsm(speech: np.ndarray, _key: str) -> np.ndarray:
    return _through(speech, _TELEPHONE_RATE, format="WAV", subtype="GSM610")


def _mulaw(speech: np.ndarray, _key: str) -> np.ndarray:
    return _through(speech, _TELEPHONE_RATE, format="WAV", subtype="ULAW")


def _clipping(speech: np.ndarray, _key: str) -> np.ndarray:
    most = _CLIP_AT * float(np.abs(speech).max(initial=0.0))
    return np.clip(speech, -most, most)


def _speed(times: float) -> Callable[[np.ndarray, str], np.ndarray]:
    def change(speech: np.ndarray, _key: str) -> np.ndarray:
        import soxr

        return soxr.resample(speech, times * SAMPLE_RATE, SAMPLE_RATE).astype(np.float32)

    return change


CHANNELS: dict[str, Callable[[np.ndarray, str], np.ndarray]] = {
    "echo": _echo, "telephone": _telephone, "opus": _opus, "gsm": _gsm, "mulaw": _mulaw,
    "clipping": _clipping, "slow": _speed(SLOWEST), "fast": _speed(_FASTEST)}
