"""Labels by our decoder and by transformers': the same texts, and how long each takes."""

from __future__ import annotations

import statistics
import time
from copy import deepcopy

import torch

from distill.whisper.decoding.near_ties import NEAR
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.encoder.padded import encode
from eval.benchmark.gpu.checks import Check, first_difference, gap, name_of
from eval.benchmark.gpu.material import Material
from eval.memory import PeakMemory

ROUNDS = 3
Rows = list[list[int]]


class Labels:
    """Both ways to label, with one copy of the teacher."""

    def __init__(self, material: Material, dtype: torch.dtype):
        self.material, self.dtype = material, dtype
        self.model = deepcopy(material.teacher.model).to(dtype)
        self.decoder = WhisperDecoder(self.model, material.teacher.processor.tokenizer, "en",
                                      on_loop="keep", max_slots=material.size.batch)
        self.end = self.decoder.special.end
        self.prompt = self.decoder.special.prefix("en", "transcribe", timestamps=False)

    @torch.no_grad()
    def ours(self) -> Rows:
        batches = self.material.features.split(4 * self.material.size.batch)
        limit = self.material.size.limit
        found: Rows = []
        for batch in batches:
            states = torch.cat([encode(self.model, part)
                                for part in batch.split(self.material.size.batch)])
            found += [each.tokens for each in self.decoder(states, [limit] * len(states))]
        return found

    @torch.no_grad()
    def theirs(self) -> Rows:
        from transformers import GenerationConfig, GenerationMixin

        rules, special = self.model.generation_config, self.decoder.special
        times = range(special.timestamp_begin, self.model.config.vocab_size)
        config = GenerationConfig(
            max_new_tokens=self.material.size.limit, max_length=None, do_sample=False, num_beams=1,
            eos_token_id=self.end, pad_token_id=self.end, decoder_start_token_id=special.start,
            suppress_tokens=[*rules.suppress_tokens, *times],
            begin_suppress_tokens=rules.begin_suppress_tokens)
        found: Rows = []
        for batch in self.material.features.split(self.material.size.batch):
            encoded = self.model.model.encoder(batch.to(self.dtype))
            ids = torch.tensor([self.prompt] * len(batch), device=batch.device)
            rows = GenerationMixin.generate(self.model, encoder_outputs=encoded,
                                            decoder_input_ids=ids, generation_config=config)
            found += [self._text(row[len(self.prompt) :]) for row in rows.tolist()]
        return found

    def _text(self, row: list[int]) -> list[int]:
        """Up to its end."""
        return row[: row.index(self.end)] if self.end in row else row

    @torch.no_grad()
    def is_near_tie(self, window: int, ours: list[int], theirs: list[int]) -> bool:
        """Whether rounding may have decided where two texts part."""
        at = first_difference(ours, theirs)
        features = self.material.features[window : window + 1].to(self.dtype)
        ids = torch.tensor([[*self.prompt, *ours[:at]]], device=features.device)
        logits = self.model(input_features=features, decoder_input_ids=ids).logits[0, -1]
        return gap(self.decoder.rules(logits[None], [ours[:at]])[0]) < NEAR


def labels_are_transformers(material: Material) -> Check:
    """In float32, window by window."""
    ways = Labels(material, torch.float32)
    pairs = list(zip(ways.ours(), ways.theirs(), strict=True))
    different = [at for at, (ours, theirs) in enumerate(pairs) if ours != theirs]
    ties = [at for at in different if ways.is_near_tie(at, *pairs[at])]
    return Check("labels as transformers', float32", len(ties) == len(different),
                 f"{len(pairs) - len(different)} of {len(pairs)} windows, {len(ties)} of the "
                 f"others by near ties")


def speed(material: Material, dtype: torch.dtype) -> dict:
    """Medians of rounds in turn, after one that warms up; from features to tokens."""
    ways = Labels(material, dtype)
    seconds: dict[str, list[float]] = {"ours": [], "transformers": []}
    with PeakMemory() as memory:
        for number in range(ROUNDS + 1):
            for name, way in (("ours", ways.ours), ("transformers", ways.theirs)):
                wait_for_device()
                began = time.perf_counter()
                way()
                wait_for_device()
                if number:
                    seconds[name].append(time.perf_counter() - began)
    audio = sum(material.seconds)
    return {"dtype": name_of(dtype), "windows": len(material.seconds), "audio_seconds": audio,
            "seconds": seconds, "peak_memory_bytes": memory.peak_bytes,
            "rtfx": {name: audio / statistics.median(each) for name, each in seconds.items()},
            "ratio_to_transformers": statistics.median(
                b / a for a, b in zip(*seconds.values(), strict=True))}


def wait_for_device() -> None:
    """Until what was begun on it is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
