"""The teacher in CTranslate2: integers on CPUs, less memory, faster decoding (extra `ct2`).

The teacher is converted once, beside the cache of teachers. On CPUs CTranslate2 only decodes: the
encoder runs in PyTorch, which is faster there (whisper-base, 2 cores of an AMD with AVX-512: 0.39 s
a window in float32 and 0.33 s in int8; CTranslate2 0.49 and 0.47 s). If labelling keeps encoder
states for training, the encoder stays in float32. On GPUs no states are returned: those of other
types are not equal to what training would compute, so scoring runs the encoder again.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill.data.packaged.wheels import cache_folder
from distill.data.speech.windows import Window
from distill.whisper.decoding.sequences import Hypothesis, is_looping
from distill.whisper.encoder.audio import AudioFeatures, audio_features, encode_features
from distill.whisper.encoder.lengths import margin_of
from distill.whisper.encoder.silence import silence_of, with_silence
from distill.whisper.recipe import WhisperRecipe, keeps_states, teacher_task
from distill.whisper.recognition.labelled import Labelled, limits_of, timestamps_of
from distill.whisper.special import SpecialTokens
from distill.whisper.teacher import Teacher, locate

_BESIDE = ("tokenizer.json", "preprocessor_config.json")
_AUTO = {"cpu": "int8_float32", "cuda": "int8_float16"}


def converted(recipe: WhisperRecipe) -> Path:
    """The teacher's CTranslate2 folder; the first process that needs it makes it.

    Raises:
        ValueError: CTranslate2 is not installed.
    """
    _package()
    from ctranslate2.converters import TransformersConverter

    folder, revision, _ = locate(recipe.teacher)
    target = cache_folder() / "ct2" / revision
    if (target / "model.bin").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"Converting the teacher for CTranslate2, once: {target}", flush=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        out = Path(temporary) / "model"
        # files that other runtimes, such as faster-whisper, need beside the weights
        extra = [name for name in _BESIDE if (folder / name).is_file()]
        TransformersConverter(str(folder), copy_files=extra).convert(str(out))
        try:
            out.rename(target)
        except OSError:  # another process was faster; its result is the same
            if not (target / "model.bin").is_file():
                raise
    return target


def _package():
    try:
        import ctranslate2
    except ImportError:
        raise ValueError(
            "pseudo_label.backend=ctranslate2 needs the extra: pip install 'audio-distill[ct2]'"
        ) from None
    return ctranslate2


def _in_integers(encoder: torch.nn.Module) -> torch.nn.Module:
    """A copy whose linear layers have int8 weights, with a scale per channel, and int8 inputs.

    All but `fc2`: the outputs of a GELU have outliers, and one scale for all of them would double
    the error of the encoder states (whisper-base: 20 % with `fc2`, 10 % without).
    """
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    config = {name: per_channel_dynamic_qconfig for name, module in encoder.named_modules()
              if isinstance(module, torch.nn.Linear) and not name.endswith("fc2")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated; torchao has no such kernels for CPUs yet
        return quantize_dynamic(encoder, config, torch.qint8)


class Ct2Backend:
    """CTranslate2 on this process's device, greedy; a slot that is free stays free."""

    def __init__(self, recipe: WhisperRecipe, teacher: Teacher):
        package = _package()
        self.recipe, self.package = recipe, package
        self.group_size = recipe.pseudo_label.batch_size
        device = teacher.model.device
        compute = recipe.pseudo_label.compute_type
        compute = _AUTO[device.type] if compute == "auto" else compute
        supported = package.get_supported_compute_types(device.type)
        if compute not in supported:
            raise ValueError(f"pseudo_label.compute_type: this {device.type} has "
                             f"{', '.join(sorted(supported))}, got {compute}")
        self.model = package.models.Whisper(
            str(converted(recipe)), device=device.type, device_index=device.index or 0,
            compute_type=compute, intra_threads=torch.get_num_threads(), inter_threads=1)
        self.encoder = None  # CTranslate2's own
        if device.type == "cpu":
            self.encoder, self.gives_states = teacher.model.get_encoder(), keeps_states(recipe)
            if compute.startswith("int8") and not self.gives_states:
                self.encoder = _in_integers(self.encoder)
        self.margin = None if self.encoder is None else margin_of(teacher.model)
        self.processor = teacher.processor
        self.special = SpecialTokens(teacher.processor.tokenizer, teacher.model.generation_config)
        self.context = teacher.model.config.max_target_positions

    def inputs(self, audios: list[np.ndarray]) -> AudioFeatures:
        """See `Backend`."""
        return audio_features(self.processor, audios, self.margin)

    def label(
        self, windows: Sequence[Window], features: AudioFeatures
    ) -> tuple[list[Labelled], Tensor | None]:
        """See `Backend`."""
        config = self.recipe.pseudo_label
        states, kept = self.encode(features)
        found = [self._decode(states, windows, each) for each in timestamps_of(config)]
        labelled = [Labelled(*each) for each in zip(*found, strict=True)]
        if config.detect_language:
            for each, guesses in zip(labelled, self.model.detect_language(states), strict=True):
                token, probability = guesses[0]
                each.language, each.language_prob = token.strip("<|>"), probability
        return labelled, kept

    def describe(self) -> str:
        return ""

    def encode(self, features: AudioFeatures):
        """Encoder states for CTranslate2 and, if kept, as a tensor (windows, frames, width)."""
        if self.encoder is None:
            ((_, _, padded),) = features.padded(range(features.num_clips)).groups
            view = self.package.StorageView.from_array(np.ascontiguousarray(padded.numpy()))
            return self.model.encode(view, to_cpu=False), None
        states = encode_features(self.encoder, features)
        whole = states if self.margin is None else with_silence(states, silence_of(self.encoder))
        view = self.package.StorageView.from_array(whole.numpy())
        return view, states if self.gives_states else None

    def _decode(self, states, windows: Sequence[Window], timestamps: bool) -> list[Hypothesis]:
        task, default = teacher_task(self.recipe), self.recipe.language
        prompts = [self.special.prefix(w.language or default, task, timestamps) for w in windows]
        longest = self.context - max(map(len, prompts))
        limits = [min(limit, longest) for limit in limits_of(self.recipe, windows)]
        results = self.model.generate(
            states, prompts, beam_size=1, return_scores=True, return_no_speech_prob=True,
            max_length=2 * (most := max(limits)),  # CTranslate2 takes half of it for new tokens
            max_initial_timestamp_index=50)
        return [hypothesis_of(result, limit, most)
                for result, limit in zip(results, limits, strict=True)]


def hypothesis_of(result, limit: int, most: int) -> Hypothesis:
    """What CTranslate2 gives for a window (with scores) as ours.

    Args:
        limit: tokens of this window.
        most: tokens after which CTranslate2 ended all windows.
    """
    tokens = result.sequences_ids[0]
    num_scored = len(tokens) + (len(tokens) < most)  # and the end of text, if it came
    log_prob = result.scores[0] * len(tokens)  # its score is a mean over the tokens
    tokens = tokens[:limit]
    # A loop cannot be stopped while it runs: it is cut where our decoder would have ended it.
    end = next((n for n in range(1, len(tokens) + 1) if is_looping(tokens[:n])), len(tokens))
    truncated = end == limit
    return Hypothesis(tokens[:end], log_prob / num_scored, result.no_speech_prob, truncated,
                      looped=not truncated and is_looping(tokens[:end]))
