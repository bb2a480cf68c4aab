"""Teachers and students that decoding is measured with.

`whisper_base` is the demo's pair. `large_v3_shape` has the decoder of large-v3 (32 layers, width
1280, 20 heads, 51,866 tokens) with random weights: speed depends on shapes alone, except for how
often the student is right. That is set by construction: the student has the teacher's layers 0 and
31, and what layers 1 to 30 add is made so small that both agree as often as wanted.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

LAYERS, WIDTH, HEADS, INNER, VOCABULARY = 32, 1280, 20, 5120, 51866
_ALL, _FEWEST = 48, 4  # seconds of short clips that are decoded in a round, and their number
_LARGEST_BATCH = 16
_MARGIN = 1.0  # seconds of silence encoded behind a short clip
_POSITION_SCALE = 12.0  # each position suggests a token of its own: random text does not loop


@dataclass
class Pair:
    """A teacher, its student, and the encoder states they decode.

    Attributes:
        name: of the setting.
        assistant: the student as transformers wants it: a decoder alone.
        states: (windows, frames, width) encoder states, shared by all.
        long, short: most tokens of a window at batch 1, and at larger batches.
        most: windows decoded in a round, whatever the batch; at least one batch.
        rounds: by batch; a batch that is not there is not measured.
        largest: batch that transformers is measured at, beside a whole cache of ours.
        references: (transcript, its number of windows), in their order, where there are any.
        margin: seconds of silence behind clips that are not padded; None: they are.
        processor: makes features of audio; None: states are random.
    """

    name: str
    teacher: object
    student: object
    assistant: object
    tokenizer: object
    states: Tensor
    prefix: list[int]
    long: int
    short: int
    most: int
    rounds: dict[int, int]
    largest: int
    references: tuple[tuple[str, int], ...] = ()
    margin: float | None = None
    processor: object = None

    def limit(self, batch: int) -> int:
        return self.long if batch == 1 else self.short

    def num_windows(self, batch: int) -> int:
        return max(batch, self.most)

    def transformers(self, states: Tensor, limit: int, assistant) -> list[list[int]]:
        """Its greedy decoding, or with an assistant; from the same states, the same rules."""
        from transformers import GenerationConfig, GenerationMixin
        from transformers.modeling_outputs import BaseModelOutput

        rules = self.teacher.generation_config
        end = rules.eos_token_id[0] if isinstance(rules.eos_token_id, list) else rules.eos_token_id
        config = GenerationConfig(
            max_new_tokens=limit, max_length=None, do_sample=False, num_beams=1,
            eos_token_id=end, pad_token_id=end, decoder_start_token_id=self.prefix[0],
            suppress_tokens=rules.suppress_tokens,
            begin_suppress_tokens=rules.begin_suppress_tokens)
        ids = torch.tensor([self.prefix] * len(states))
        found = GenerationMixin.generate(
            self.teacher, encoder_outputs=BaseModelOutput(last_hidden_state=states),
            decoder_input_ids=ids, generation_config=config, assistant_model=assistant)
        rows = [row[len(self.prefix) :] for row in found.tolist()]
        return [row[: row.index(end)] if end in row else row for row in rows]


def whisper_base(recipe_name: str = "demo", most: int = 16, student: Path | None = None) -> Pair:
    """The demo's teacher and trained student, on the first of its test and validation windows.

    Args:
        student: its folder; None: that of the recipe's run.

    Raises:
        ValueError: there is no student yet.
    """
    from transformers import WhisperForCausalLM, WhisperForConditionalGeneration

    from distill.data.speech.windows import load_window
    from distill.progress import quiet_libraries
    from distill.whisper.data.corpus import evaluation_utterances, load_clips, windows_of
    from distill.whisper.encoder.padded import encode, log_mel
    from distill.whisper.recipe import load_recipe
    from distill.whisper.special import SpecialTokens
    from distill.whisper.teacher import load_teacher

    quiet_libraries()
    recipe = load_recipe(recipe_name, [])
    folder = student or Path(recipe.output_dir) / "student"
    if not folder.is_dir():
        raise ValueError(f"no student in {folder}: run `make {recipe_name}` first")
    teacher = load_teacher(recipe.teacher)
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    assistant = WhisperForCausalLM(model.config).eval()
    assistant.model.decoder, assistant.proj_out = model.model.decoder, model.proj_out
    assistant.generation_config.eos_token_id = teacher.model.generation_config.eos_token_id
    utterances = []
    for split in ("test", "validation"):
        rows, _ = load_clips(getattr(recipe.data, split))
        utterances += evaluation_utterances(rows, split, True)[0]
    windows = windows_of(utterances)[:most]
    states = torch.cat([encode(teacher.model, log_mel(teacher.processor, [load_window(window)]))
                        for window in windows])
    tokenizer = teacher.processor.tokenizer
    special = SpecialTokens(tokenizer, teacher.model.generation_config)
    prefix = special.prefix("en", "transcribe", timestamps=False)
    return Pair("whisper_base", teacher.model, model, assistant, tokenizer, states, prefix,
                long=200, short=200, most=8, rounds=dict.fromkeys((1, 4, 8, 16), 5), largest=16,
                references=tuple((u.reference, len(u.windows)) for u in utterances),
                processor=teacher.processor)


def shortened(pair: Pair, seconds: int) -> Pair:
    """The same models on clips of so many seconds that are not padded: speech of the demo's
    validation split, or random states and 4 tokens a second."""
    from distill.whisper.encoder.lengths import positions_of, set_margin

    most = max(_FEWEST, _ALL // seconds)
    count = max(most, _LARGEST_BATCH)
    if pair.processor is None:
        positions, width = positions_of(seconds, _MARGIN), pair.states.shape[-1]
        states = torch.randn(count, positions, width, generator=torch.Generator().manual_seed(3))
        limit = 4 * seconds
    else:
        from distill.whisper.encoder.audio import encode_audio
        from distill.whisper.recipe import load_recipe
        from eval.benchmark.latency.clips import load_split

        set_margin(pair.teacher, _MARGIN)
        speech = load_split(load_recipe("demo", []).data.validation, "en")
        states = torch.cat([encode_audio(pair.teacher, pair.processor, [clip])
                            for clip in speech.cut(seconds, count)])
        limit = 12 * seconds  # as in labelling; texts end before
    return replace(pair, states=states, long=limit, short=limit, most=most, margin=_MARGIN)


def large_shape(acceptance: float = 0.8, scale: float | None = None) -> tuple[Pair, float]:
    """Large-v3's shape, made to agree with its student so often; and the scale that does it.

    Args:
        scale: of an earlier call; else it is searched for.
    """
    shape = Shape()
    states = torch.randn(16, 1500, WIDTH, generator=torch.Generator().manual_seed(2))
    scale = shape.set_acceptance(acceptance, states[:1], scale)
    rounds = {1: 5, 4: 3, 8: 3, 16: 2}
    return Pair("large_v3_shape", shape.teacher, shape.student, shape.assistant, _Ids(), states,
                [_START, _ENGLISH, _TRANSCRIBE, _NO_TIMES], long=48, short=48, most=1, largest=8,
                rounds=rounds), scale


_END, _START, _ENGLISH, _TRANSCRIBE, _PREVIOUS = 50257, 50258, 50259, 50360, 50362
_NO_SPEECH, _NO_TIMES = 50363, 50364


class _Ids:
    """As much of a tokenizer as decoding needs."""

    names = {"<|endoftext|>": _END, "<|startoftranscript|>": _START, "<|en|>": _ENGLISH,
             "<|transcribe|>": _TRANSCRIBE, "<|startofprev|>": _PREVIOUS,
             "<|nospeech|>": _NO_SPEECH, "<|notimestamps|>": _NO_TIMES}

    def get_vocab(self) -> dict[str, int]:
        return self.names

    def convert_tokens_to_ids(self, name: str) -> int | None:
        return self.names.get(name)

    def convert_ids_to_tokens(self, token: int) -> str:
        return next(name for name, each in self.names.items() if each == token)


def base_shape(acceptance: float = 0.9, scale: float | None = None) -> tuple[Pair, float]:
    """As `large_shape`, of whisper-base's shape, whose student is right about as often as the
    demo's; texts all reach their limit."""
    shape = Shape(6, width=512, heads=8, inner=2048)
    states = torch.randn(16, 1500, 512, generator=torch.Generator().manual_seed(2))
    scale = shape.set_acceptance(acceptance, states[:1], scale)
    return Pair("whisper_base_shape", shape.teacher, shape.student, shape.assistant, _Ids(), states,
                [_START, _ENGLISH, _TRANSCRIBE, _NO_TIMES], long=100, short=100, most=4,
                rounds=dict.fromkeys((1, 4, 8, 16), 5), largest=0), scale


class Shape:
    """A random decoder, by default of large-v3's shape; `set_acceptance` before use."""

    def __init__(self, layers: int = LAYERS, seed: int = 0, width: int = WIDTH, heads: int = HEADS,
                 inner: int = INNER):
        from transformers import (
            GenerationConfig,
            WhisperConfig,
            WhisperForCausalLM,
            WhisperForConditionalGeneration,
        )

        from eval.benchmark.random_whisper import random_whisper

        self.config = WhisperConfig(
            vocab_size=VOCABULARY, d_model=width, decoder_layers=layers,
            encoder_layers=2,  # as the student: transformers counts its caches by them
            encoder_attention_heads=heads, decoder_attention_heads=heads, encoder_ffn_dim=width,
            decoder_ffn_dim=inner, num_mel_bins=128)
        self.teacher = random_whisper(self.config, seed)
        decoder = self.teacher.model.decoder
        drawn = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            suggested = decoder.embed_tokens.weight[torch.randperm(50_000, generator=drawn)[:448]]
            decoder.embed_positions.weight.copy_(_POSITION_SCALE * suggested)
        self.middle = [layer for layer in decoder.layers[1 : layers - 1]]
        self._parts = [m for layer in self.middle
                       for m in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2)]
        self._scale = 1.0
        self.teacher.generation_config = GenerationConfig(
            is_multilingual=True, eos_token_id=_END, pad_token_id=_END,
            decoder_start_token_id=_START,
            # nothing ends before its limit, so that all ways decode as many tokens
            suppress_tokens=list(range(_END, VOCABULARY)), begin_suppress_tokens=[])
        self.student = self._make_student(WhisperForConditionalGeneration)
        self.assistant = self._make_student(WhisperForCausalLM)

    def _make_student(self, kind):
        """Shares every tensor with the teacher."""
        config = type(self.config).from_dict({**self.config.to_dict(), "decoder_layers": 2})
        with torch.device("meta"):
            student = kind(config)
        if hasattr(student.model, "encoder"):
            student.model.encoder = self.teacher.model.encoder
        decoder, source = student.model.decoder, self.teacher.model.decoder
        decoder.embed_tokens, decoder.embed_positions = source.embed_tokens, source.embed_positions
        decoder.layer_norm = source.layer_norm
        chosen = (source.layers[0], source.layers[-1])
        for layer, original in zip(decoder.layers, chosen, strict=True):
            layer.load_state_dict(original.state_dict(), assign=True)
        student.proj_out = self.teacher.proj_out
        student.generation_config.eos_token_id = _END
        return student.eval()

    def set_acceptance(self, wanted: float, states: Tensor, scale: float | None = None,
                       tokens: int = 200) -> float:
        """Scale the middle layers' outputs until teacher and student agree so often.

        Args:
            states: (1, frames, width); agreement is counted on random text with this audio.
            scale: found before; else it is searched for.

        Returns:
            the scale.
        """
        if scale is not None:
            self._rescale(scale)
            return scale
        text = torch.randint(0, 50_000, (1, tokens), generator=torch.Generator().manual_seed(1))
        low, high, found = 0.0, 0.25, 1.0
        while found > wanted and high < 1e4:
            high *= 4
            self._rescale(high)
            found = self.agreement(text, states)
        for _ in range(12):
            middle = (low + high) / 2
            self._rescale(middle)
            found = self.agreement(text, states)
            low, high = (middle, high) if found > wanted else (low, middle)
            if abs(found - wanted) < 0.01:
                break
        print(f"  agreement {found:.3f} where {wanted} is wanted", file=sys.stderr, flush=True)
        return self._scale

    def _rescale(self, scale: float) -> None:
        with torch.no_grad():
            for module in self._parts:
                module.weight *= scale / self._scale
                module.bias *= scale / self._scale
        self._scale = scale

    @torch.no_grad()
    def agreement(self, text: Tensor, states: Tensor) -> float:
        best = [m.proj_out(m.model.decoder(input_ids=text, encoder_hidden_states=states,
                                           use_cache=False).last_hidden_state).argmax(-1)
                for m in (self.teacher, self.student)]
        return (best[0] == best[1]).float().mean().item()
