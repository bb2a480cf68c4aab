"""Batched greedy decoding of windows; used to label, to validate and to evaluate.

    decoder = GreedyDecoder(model, processor.tokenizer, language="en", task="transcribe")
    states = encode(model, log_mel(processor, audios))
    hypotheses = decoder(states, max_new_tokens=[200] * len(states))

Rows that end leave the batch, rows that loop are stopped, prompts may differ from row to row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

from distill.data.audio import SAMPLE_RATE
from distill.data.windows import Window, load_window
from distill.products import fast_linears
from distill.progress import progress

# A row loops when its last `n` tokens were said this often in a row: short patterns occur in real
# speech ("no, no, no"), long ones do not.
_LOOP_REPEATS = {1: 10, 2: 8, 3: 6, 4: 4} | dict.fromkeys(range(5, 41), 3)
_MAX_BREAKS = 3  # loops broken in a text; the next one ends it
_COMPACT_BELOW = 0.8  # share of live rows below which the caches are copied without the dead ones
MIN_NEW_TOKENS = 24  # the shortest clip may still hold a word in pieces and two timestamps


@dataclass
class Hypothesis:
    """What a model said about a window.

    Attributes:
        tokens: ids without prompt and end of text; timestamps included.
        avg_logprob: mean log-probability (nats) over the tokens and the end of text.
        no_speech_prob: probability of `<|nospeech|>` at the first position.
        truncated: the token limit came before the end of text.
        looped: repeated itself, and was ended or made to go on.
    """

    tokens: list[int]
    avg_logprob: float
    no_speech_prob: float
    truncated: bool
    looped: bool


def log_mel(processor, audios: Sequence[np.ndarray]) -> Tensor:
    """float32 (batch, mel, 3000) from 16 kHz mono audio of up to 30 s each."""
    features = processor.feature_extractor(
        list(audios), sampling_rate=SAMPLE_RATE, return_tensors="pt", padding="max_length"
    )
    return features["input_features"]


@torch.no_grad()
def encode(model, features: Tensor) -> Tensor:
    """Encoder states (batch, 1500, width) of log-mel features (batch, mel, 3000)."""
    encoder = model.get_encoder()
    parameter = next(encoder.parameters())
    with fast_linears():
        return encoder(features.to(parameter.device, parameter.dtype)).last_hidden_state


def token_limit(seconds: float, tokens_per_second: float) -> int:
    """Most tokens a window of this length may get: what is longer is a loop, not speech."""
    return MIN_NEW_TOKENS + int(seconds * tokens_per_second)


def is_looping(tokens: Sequence[int]) -> bool:
    """Whether the end of `tokens` repeats one pattern too often."""
    return loop_size(tokens) > 0


def loop_size(tokens: Sequence[int]) -> int:
    """Length of the pattern that the end of `tokens` repeats too often; 0 if there is none."""
    for size, repeats in _LOOP_REPEATS.items():
        if len(tokens) < size * repeats:
            continue
        pattern = tokens[-size:]
        if all(
            tokens[len(tokens) - size * (k + 1) : len(tokens) - size * k] == pattern
            for k in range(1, repeats)
        ):
            return size
    return 0


class SpecialTokens:
    """Ids that steer Whisper, looked up by name (their order differs between vocabularies)."""

    def __init__(self, tokenizer, generation_config):
        def find(*names: str) -> int:
            for name in names:
                token = tokenizer.convert_tokens_to_ids(name)
                if token is not None and tokenizer.convert_ids_to_tokens(token) == name:
                    return token
            raise ValueError(f"the tokenizer has no {names[0]}: it is not a Whisper tokenizer")

        self.start = find("<|startoftranscript|>")
        self.end = find("<|endoftext|>")
        self.previous = find("<|startofprev|>")
        self.no_speech = find("<|nospeech|>", "<|nocaptions|>")
        self.no_timestamps = find("<|notimestamps|>")
        self.timestamp_begin = self.no_timestamps + 1
        self._find = find
        self.multilingual = bool(getattr(generation_config, "is_multilingual", True))

    def prefix(self, language: str | None, task: str, timestamps: bool) -> list[int]:
        """`<|startoftranscript|><|en|><|transcribe|>[<|notimestamps|>]`.

        Raises:
            ValueError: unknown language, or none for a multilingual model.
        """
        ids = [self.start]
        if self.multilingual:
            if language is None:
                raise ValueError("language must be set for a multilingual teacher, got null")
            ids += [self._find(f"<|{language}|>"), self._find(f"<|{task}|>")]
        return ids if timestamps else [*ids, self.no_timestamps]


@torch.no_grad()
def detect_languages(model, special: SpecialTokens, states: Tensor) -> list[tuple[str, float]]:
    """The likeliest language of each of (batch, frames, width) states and its probability among
    the languages; nothing but `<|startoftranscript|>` is read (arXiv:2212.04356 sec. 2.3)."""
    ids = model.generation_config.lang_to_id
    start = torch.full((len(states), 1), special.start, device=states.device)
    hidden = model.model.decoder(input_ids=start, encoder_hidden_states=states).last_hidden_state
    names = list(ids)
    scores = model.proj_out(hidden[:, -1]).float()[:, [ids[name] for name in names]]
    best, index = scores.softmax(-1).max(-1)
    return [(names[i].strip("<|>"), probability)
            for i, probability in zip(index.tolist(), best.tolist(), strict=True)]


class GreedyDecoder:
    """Greedy decoding with Whisper's own rules (suppressed tokens, timestamps).

    Args:
        model: WhisperForConditionalGeneration.
        tokenizer: its tokenizer.
        language, task: forced, as in `<|en|><|transcribe|>`; rows may have their own language.
        timestamps: let the model write timestamps, by the rules of its generation config.
        on_loop: what to do with a row that repeats itself: `end` it (labels: it is dropped),
            `break` the loop (forbid the token that would go on with it; after three of them the
            row is ended), or `keep` it (plain greedy decoding).
    """

    def __init__(
        self,
        model,
        tokenizer,
        language: str | None,
        task: str = "transcribe",
        timestamps: bool = False,
        on_loop: str = "end",
    ):
        self.model = model
        self.special = SpecialTokens(tokenizer, model.generation_config)
        self.language, self.task, self.timestamps = language, task, timestamps
        self.on_loop = on_loop
        config = model.generation_config
        size = model.config.vocab_size
        self.suppressed = torch.zeros(size, device=model.device)
        self.suppressed[config.suppress_tokens or []] = -torch.inf
        self.suppressed_first = self.suppressed.clone()
        self.suppressed_first[config.begin_suppress_tokens or []] = -torch.inf
        if not timestamps:
            self.suppressed[self.special.timestamp_begin :] = -torch.inf
            self.suppressed_first[self.special.timestamp_begin :] = -torch.inf

    @torch.no_grad()
    def __call__(
        self,
        states: Tensor,
        max_new_tokens: Sequence[int],
        previous: Sequence[Sequence[int]] | None = None,
        languages: Sequence[str | None] | None = None,
    ) -> list[Hypothesis]:
        """Decode a batch.

        Args:
            states: (batch, frames, width) encoder states.
            max_new_tokens: limit for each row; the model's context (448) limits all.
            previous: text tokens said before each row, given as a prompt; [] for none.
            languages: of each row, where it differs from the decoder's.
        """
        batch = len(states)
        context = self.model.config.max_target_positions
        prompts = [
            self._prompt(
                previous[i] if previous else [], languages[i] if languages else None, context
            )
            for i in range(batch)
        ]
        room = [context - len(prompt) for prompt in prompts]
        limits = [min(pair) for pair in zip(max_new_tokens, room, strict=True)]
        rows = _Rows(batch, limits, self.special.end)
        no_speech: list[float] = []
        processor = self._timestamp_rules() if self.timestamps else None
        ids, mask, positions = _left_pad(prompts, self.special.end, states.device)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        live = list(range(batch))  # rows still in the batch
        step = 0
        while True:
            with fast_linears():
                hidden = self.model.model.decoder(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    encoder_hidden_states=states,
                    past_key_values=cache,
                    use_cache=True,
                ).last_hidden_state
                scores = self.model.proj_out(hidden[:, -1]).float()
            if step == 0:
                no_speech = self._no_speech_probabilities(hidden, ids)
            scores += self.suppressed_first if step == 0 else self.suppressed
            if processor is not None:
                # the rules look at what was said since the prefix; all live rows are equally long
                said = torch.tensor([rows.tokens[i] for i in live], device=scores.device)
                scores = processor(said.reshape(len(live), step), scores)
            if self.on_loop == "break":
                rows.break_loops(live, scores)
            best, tokens = scores.max(-1)
            log_probs = (best - scores.logsumexp(-1)).tolist()
            step += 1
            for row, token, log_prob in zip(live, tokens.tolist(), log_probs, strict=True):
                rows.add(row, token, log_prob, self.on_loop == "end")
            keep = [i for i, row in enumerate(live) if not rows.done[row]]
            if not keep:
                break
            if len(keep) < _COMPACT_BELOW * len(live):
                index = torch.tensor(keep, device=states.device)
                cache.batch_select_indices(index)
                states, mask = states[index], mask[index]
                tokens, positions = tokens[index], positions[index]
                live = [live[i] for i in keep]
            ids = tokens[:, None]
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            positions = positions[:, -1:] + 1
        return rows.hypotheses(no_speech)

    def _prompt(self, previous: Sequence[int], language: str | None, context: int) -> list[int]:
        prefix = self.special.prefix(language or self.language, self.task, self.timestamps)
        if not previous:
            return prefix
        kept = list(previous)[-(context // 2 - 1) :]  # as OpenAI: the last 223 tokens
        return [self.special.previous, *kept, *prefix]

    def _no_speech_probabilities(self, hidden: Tensor, ids: Tensor) -> list[float]:
        """From the first pass, (batch, prompt, width), where `<|startoftranscript|>` is read."""
        at_start = hidden[ids == self.special.start]
        scores = self.model.proj_out(at_start).float()
        return (scores[:, self.special.no_speech] - scores.logsumexp(-1)).exp().tolist()

    def _timestamp_rules(self) -> WhisperTimeStampLogitsProcessor:
        return WhisperTimeStampLogitsProcessor(self.model.generation_config, begin_index=0)


class _Rows:
    """Bookkeeping of a batch: what each row said and whether it is done."""

    def __init__(self, batch: int, limits: list[int], end: int):
        self.end = end
        self.tokens: list[list[int]] = [[] for _ in range(batch)]
        self.log_prob = [0.0] * batch
        self.limits = limits
        self.done = [False] * batch
        self.truncated = [False] * batch
        self.looped = [False] * batch
        self.breaks = [0] * batch

    def add(self, row: int, token: int, log_prob: float, end_loops: bool) -> None:
        if self.done[row]:
            self.tokens[row].append(self.end)  # keeps live rows equally long; cut off at the end
            return
        self.log_prob[row] += log_prob
        self.tokens[row].append(token)
        if token == self.end:
            self.done[row] = True
        elif len(self.tokens[row]) >= self.limits[row]:
            self.done[row] = self.truncated[row] = True
        elif (end_loops or self.breaks[row] == _MAX_BREAKS) and is_looping(self.tokens[row]):
            self.done[row] = self.looped[row] = True

    def break_loops(self, live: list[int], scores: Tensor) -> None:
        """Forbid, in place, the token that would go on with a loop; scores (live rows, vocab)."""
        for index, row in enumerate(live):
            size = loop_size(self.tokens[row])
            if size and not self.done[row]:
                scores[index, self.tokens[row][-size]] = -torch.inf
                self.looped[row] = True
                self.breaks[row] += 1

    def hypotheses(self, no_speech: list[float]) -> list[Hypothesis]:
        result = []
        for row, tokens in enumerate(self.tokens):
            said = tokens[: tokens.index(self.end)] if self.end in tokens else tokens
            scored = len(said) + (self.end in tokens and not self.truncated[row])
            result.append(
                Hypothesis(
                    tokens=said,
                    avg_logprob=self.log_prob[row] / max(scored, 1),
                    no_speech_prob=no_speech[row],
                    truncated=self.truncated[row],
                    looped=self.looped[row],
                )
            )
        return result


def _left_pad(
    prompts: list[list[int]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """ids, attention mask and positions, each (batch, longest prompt); padding on the left."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return ids.to(device), mask.to(device), positions.to(device)


def transcribe(
    decoder: GreedyDecoder,
    processor,
    windows: Sequence[Window],
    batch_size: int,
    max_tokens_per_second: float | None = None,
    states_cache: dict[str, Tensor] | None = None,
    description: str | None = None,
) -> dict[str, Hypothesis]:
    """Decode windows in batches of like length; {window id: hypothesis}.

    Args:
        max_tokens_per_second: cap of a row's length; None decodes up to the model's context.
        states_cache: {window id: encoder states} to read and fill, for a frozen encoder.
        description: shown with a progress bar; None shows none.

    Raises:
        AudioError: a window cannot be read.
    """
    ordered = sorted(windows, key=lambda window: -window.duration)
    batches = [ordered[at : at + batch_size] for at in range(0, len(ordered), batch_size)]
    results: dict[str, Hypothesis] = {}
    shown = progress(batches, len(batches), description or "", "batches", description is not None)
    for batch in shown:
        limits = [decoder.model.config.max_target_positions] * len(batch)
        if max_tokens_per_second is not None:
            limits = [token_limit(window.duration, max_tokens_per_second) for window in batch]
        states = _states(decoder.model, processor, batch, states_cache)
        languages = [window.language for window in batch]
        found = decoder(states, limits, languages=languages)
        results |= {w.id: hypothesis for w, hypothesis in zip(batch, found, strict=True)}
    return results


def _states(model, processor, windows: Sequence[Window], cache: dict | None) -> Tensor:
    if cache is not None and all(window.id in cache for window in windows):
        return torch.stack([cache[window.id] for window in windows])
    states = encode(model, log_mel(processor, [load_window(window) for window in windows]))
    if cache is not None:
        cache |= {window.id: each for window, each in zip(windows, states, strict=True)}
    return states


def to_text(tokenizer, tokens: Sequence[int]) -> str:
    """Plain text of a hypothesis, without timestamps or other special tokens."""
    return tokenizer.decode(list(tokens), skip_special_tokens=True).strip()
