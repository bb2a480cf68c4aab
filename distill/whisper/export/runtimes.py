"""The runtimes that students are exported for, all asked the same: windows of up to 30 s, greedy,
no timestamps, no second try, no text before.

What cannot be made equal stands with each of them, and in verification.json (`differs`).
faster-whisper and whisper.cpp are given silence up to the full window, as training has it; by
themselves they would put zeros, which are no silence, into the log-mel of the rest.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.data.audio import SAMPLE_RATE, WINDOW_SAMPLES
from distill.whisper.encoder.padded import log_mel
from distill.whisper.export.forced import Reader, chosen
from distill.whisper.export.sherpa import SherpaSession
from distill.whisper.export.word_times import Word
from distill.whisper.recognition.transcribe import to_text
from distill.whisper.special import SpecialTokens

# one greedy decoding: no second try, no window left out as silence, no text before it
_PLAIN = dict(beam_size=1, temperature=0.0, condition_on_previous_text=False, vad_filter=False,
              compression_ratio_threshold=None, log_prob_threshold=None, no_speech_threshold=None,
              without_timestamps=True)
_SHERPA_SAMPLES = int(29.49 * SAMPLE_RATE)  # it throws away what comes after frame 2950
_SHERPA_TOKENS_PER_SECOND = 6  # of features; what is longer it cuts
_SHERPA_SHIFT = 80  # samples: its frames begin half a hop later than Whisper's


@dataclass(frozen=True)
class Runtime:
    """A loaded model."""

    name: str  # as on the package index
    compute_type: str
    transcribe: Callable[[np.ndarray, str], str]  # (audio, language) -> text
    max_tokens: int  # a text ends here at the latest
    differs: str  # from our own decoding
    words: Callable[[np.ndarray, str], list[Word]] | None = None  # with their times
    read: Reader | None = None  # log-probabilities of a given text, where it gives them
    suppresses: bool = False  # whether tokens that Whisper must not say have no part in that

    @property
    def version(self) -> str:
        return importlib.metadata.version(self.name)


def faster_whisper(folder: Path, compute_type: str, task: str, threads: int, processor,
                   generation_config) -> Runtime:
    """A folder of `distill.whisper.export.ct2`, on the CPU."""
    package = _package("faster_whisper")
    special = SpecialTokens(processor.tokenizer, generation_config)
    model = package.WhisperModel(
        str(folder), device="cpu", compute_type=compute_type, cpu_threads=threads)

    def segments(audio: np.ndarray, language: str, **more):
        found, _ = model.transcribe(_padded(audio), language=language, task=task, **_PLAIN, **more)
        return [segment for segment in found if segment.seek == 0]  # of this window

    def transcribe(audio: np.ndarray, language: str) -> str:
        return "".join(segment.text for segment in segments(audio, language)).strip()

    def words(audio: np.ndarray, language: str) -> list[Word]:
        found = segments(audio, language, word_timestamps=True)
        return [(w.word, w.start, w.end) for segment in found for w in segment.words or []]

    def read(audio: np.ndarray, language: str, tokens: Sequence[int]) -> np.ndarray:
        frames = model.frames_per_second * 30
        states = model.encode(model.feature_extractor(_padded(audio))[:, :frames])
        (found,) = model.model.align(states, special.prefix(language, task, True),
                                     [list(tokens)], frames // 2)
        with np.errstate(divide="ignore"):
            return np.log(np.array(found.text_token_probs[: len(tokens)], dtype=np.float64))

    return Runtime("faster-whisper", model.model.compute_type, transcribe, model.max_length // 2,
                   "its own log-mel; does not forbid timestamps", words, read)


def whisper_cpp(path: Path, compute_type: str, task: str, threads: int, context: int) -> Runtime:
    """A file of `distill.whisper.export.ggml`."""
    _package("pywhispercpp")
    from pywhispercpp.model import Model

    model = Model(
        str(path), redirect_whispercpp_logs_to=None, n_threads=threads, print_progress=False,
        print_realtime=False, print_timestamps=False, no_context=True, no_timestamps=True,
        single_segment=True, suppress_blank=True, suppress_nst=True, temperature=0.0,
        temperature_inc=0.0, no_speech_thold=1.0, logprob_thold=-1e9, entropy_thold=-1e9,
        greedy={"best_of": 1}, translate=task == "translate")

    def transcribe(audio: np.ndarray, language: str) -> str:
        segments = model.transcribe(_padded(audio), language=language)
        return "".join(segment.text for segment in segments).strip()

    return Runtime("pywhispercpp", compute_type, transcribe, context // 2 - 4,
                   "its own log-mel and list of symbols that are not said")


def sherpa_onnx(folder: Path, compute_type: str, task: str, threads: int) -> Runtime:
    """A folder of `distill.whisper.export.sherpa`, by sherpa-onnx."""
    package = _package("sherpa_onnx")
    loaded: dict[str, object] = {}

    def transcribe(audio: np.ndarray, language: str) -> str:
        if language not in loaded:
            loaded.clear()  # one in memory
            loaded[language] = package.OfflineRecognizer.from_whisper(
                encoder=str(folder / "encoder.onnx"), decoder=str(folder / "decoder.onnx"),
                tokens=str(folder / "tokens.txt"), language=language, task=task,
                num_threads=threads)
        stream = loaded[language].create_stream()
        shifted = np.pad(audio, (_SHERPA_SHIFT, 0))[:_SHERPA_SAMPLES]
        stream.accept_waveform(SAMPLE_RATE, shifted)
        loaded[language].decode_stream(stream)
        return stream.result.text.strip()

    limit = _SHERPA_SAMPLES * _SHERPA_TOKENS_PER_SECOND // SAMPLE_RATE
    return Runtime("sherpa-onnx", compute_type, transcribe, limit,
                   "its own log-mel, 5 ms later, which 5 ms of silence in front makes up for; "
                   "29.5 s of a window; does not forbid timestamps")


def onnxruntime(folder: Path, compute_type: str, task: str, threads: int, processor,
                generation_config) -> Runtime:
    """The same folder, by onnxruntime and our own log-mel."""
    _package("onnxruntime")
    session = SherpaSession(folder, threads)
    special = SpecialTokens(processor.tokenizer, generation_config)

    def transcribe(audio: np.ndarray, language: str) -> str:
        mel = log_mel(processor, [audio]).numpy()
        tokens = session.greedy(mel, special.prefix(language, task, False), special.end)
        return to_text(processor.tokenizer, tokens)

    def read(audio: np.ndarray, language: str, tokens: Sequence[int]) -> np.ndarray:
        mel = log_mel(processor, [audio]).numpy()
        logits = session.read(mel, special.prefix(language, task, False), tokens)
        return chosen(logits[:, : special.end], tokens)

    return Runtime("onnxruntime", compute_type, transcribe, session.context // 2,
                   "does not forbid timestamps", read=read, suppresses=True)


def versions(names: Sequence[str]) -> dict[str, str]:
    """Installed versions of packages.

    Raises:
        ValueError: one is not installed.
    """
    try:
        return {name: importlib.metadata.version(name) for name in names}
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(_MISSING.format(error.name)) from None


_MISSING = "{} is not installed: pip install 'audio-distill[export]'"


def _package(name: str):
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(_MISSING.format(name)) from None


def _padded(audio: np.ndarray) -> np.ndarray:
    audio = audio[:WINDOW_SAMPLES]
    return np.pad(audio, (0, WINDOW_SAMPLES - len(audio))).astype(np.float32)
