"""A student's decoder in CTranslate2, in int8, behind our encoder on short audio.

    decoder = Ct2Decoder(model, tokenizer, converted(folder, kept), "en", "transcribe")
    hypotheses = decoder(states, max_new_tokens=[200] * len(states))
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from distill.data.files import hash_of
from distill.data.model_files import model_stamp
from distill.whisper.decoding.report import Report
from distill.whisper.decoding.sequences import Hypothesis
from distill.whisper.encoder.audio import silence_behind
from distill.whisper.encoder.silence import with_silence
from distill.whisper.recognition.ct2_backend import hypothesis_of
from distill.whisper.special import SpecialTokens

COMPUTE_TYPE = "int8_float32"


def is_installed() -> bool:
    return importlib.util.find_spec("ctranslate2") is not None


def converted(folder: Path, kept: Path) -> Path:
    """The folder of a model with int8 weights for CTranslate2, made once.

    Args:
        folder: in transformers format.
        kept: where it is made; those of other weights of this model go.
    """
    from ctranslate2.converters import TransformersConverter

    name = hash_of(str(folder))
    target = kept / f"ct2-{name}-{hash_of(model_stamp(folder))}"
    if (target / "model.bin").is_file():
        return target
    kept.mkdir(parents=True, exist_ok=True)
    for old in kept.glob(f"ct2-{name}-*"):
        shutil.rmtree(old)
    with tempfile.TemporaryDirectory(dir=kept) as temporary:
        out = Path(temporary) / "model"
        TransformersConverter(str(folder)).convert(str(out), quantization="int8")
        out.rename(target)
    return target


class Ct2Decoder:
    """Called as a `WhisperDecoder`; greedy. Loops are cut when they are over.

    Args:
        model: WhisperForConditionalGeneration, whose encoder makes the states.
        folder: of the same model in CTranslate2's format.
    """

    def __init__(self, model, tokenizer, folder: Path, language: str | None, task: str):
        import ctranslate2

        self.model, self.package, self.report = model, ctranslate2, Report()
        self.language, self.task = language, task
        self.special = SpecialTokens(tokenizer, model.generation_config)
        self.runtime = ctranslate2.models.Whisper(
            str(folder), device="cpu", compute_type=COMPUTE_TYPE,
            intra_threads=torch.get_num_threads(), inter_threads=1)

    @torch.inference_mode()
    def __call__(self, states: Tensor, max_new_tokens: Sequence[int],
                 languages: Sequence[str | None] | None = None) -> list[Hypothesis]:
        """
        Args:
            states: (batch, frames, width) encoder states.
            max_new_tokens: limit for each text.
            languages: of each, where it is not the decoder's.
        """
        silence = silence_behind(self.model)
        whole = states if silence is None else with_silence(states, silence)
        view = self.package.StorageView.from_array(whole.contiguous().numpy())
        prompts = [self.special.prefix(language or self.language, self.task, False)
                   for language in languages or [None] * len(states)]
        longest = self.model.config.max_target_positions - max(map(len, prompts))
        limits = [min(limit, longest) for limit in max_new_tokens]
        results = self.runtime.generate(
            view, prompts, beam_size=1, return_scores=True, return_no_speech_prob=True,
            max_length=2 * (most := max(limits)))  # CTranslate2 takes half of it for new tokens
        return [hypothesis_of(result, limit, most)
                for result, limit in zip(results, limits, strict=True)]
