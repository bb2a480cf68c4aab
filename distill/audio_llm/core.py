"""A language model that is given audio: adapter, LoRA, sequences, generation. No file is read here.

Nothing of ours is imported but modules that are copied beside published weights, see `remote.code`.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Sequential
from contextlib import nullcontext
from threading import Thread
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distill.audio_llm.adapters import EmbeddingScale, make_adapter
from distill.audio_llm.ctc import TokenCtc
from distill.audio_llm.data.layouts import LAYOUTS
from distill.audio_llm.data.sequences import AUDIO, IGNORE, Sequence, build, end_id


class AudioAdapter(nn.Module):
    """Encoder states -> embeddings where the language model expects them; and CTC's blank."""

    def __init__(self, config: Any, width: int, layers: int, embeddings: Tensor,
                 blank: Tensor, encoder_ms: int = 20):
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.body = make_adapter(config, width, layers, embeddings.shape[1], encoder_ms)
        self.scale = EmbeddingScale(embeddings)
        self.matches = config.match_embeddings
        self.blank = nn.Parameter(blank.detach().clone())  # begins as the embedding of a space

    def forward(self, states: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(clips, frames, width) -> (clips, embeddings, llm_width).

        Args:
            lengths: (clips,) embeddings of each; None: no clip is padded.
        """
        found = self.body(self.dropout(states), lengths)
        return self.scale(found) if self.matches else found


class AudioLlmCore(nn.Module):
    """Adapter and language model; `llm` has LoRA in it.

    Args:
        llm: transformers' causal language model, with LoRA's layers already injected.
        settings: a `Settings`, or whatever has its attributes.
    """

    fast: Any = nullcontext  # while the language model answers

    def __init__(self, llm: Any, tokenizer: Any, settings: Any):
        super().__init__()
        self.llm, self.tokenizer, self.settings = llm, tokenizer, settings
        self.layout = LAYOUTS[settings.layout]
        self.end = end_id(tokenizer, self.layout)
        embeddings = llm.get_input_embeddings().weight
        space = tokenizer(" ", add_special_tokens=False)["input_ids"][:1] or [self.end]
        self.adapter = AudioAdapter(settings.adapter, settings.width, settings.layers, embeddings,
                                    embeddings[space[0]], getattr(settings, "encoder_ms", 20))
        self.ctc = TokenCtc(self.adapter, embeddings, settings.tokens)
        self.eval()

    # What is trained

    def lora_layers(self) -> dict[str, nn.Module]:
        """LoRA's factors by their place in the language model."""
        return {name: module for name, module in self.llm.named_modules()
                if name.endswith((".lora_A.default", ".lora_B.default"))}

    def trained_state(self) -> dict[str, Tensor]:
        """Weights that are saved, by name."""
        state = {f"adapter.{name}": each for name, each in self.adapter.state_dict().items()}
        for name, layer in self.lora_layers().items():
            state[f"lora.{name}.weight"] = layer.weight.detach()
        return {name: each.contiguous() for name, each in state.items()}

    def load_trained(self, state: dict[str, Tensor], where: str) -> None:
        """
        Raises:
            ValueError: not exactly the weights of this model.
        """
        own = self.trained_state()
        missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
        shapes = [name for name in own if name in state and own[name].shape != state[name].shape]
        if missing or extra or shapes:
            raise ValueError(f"{where}: not the weights of this model: missing {missing[:3]}, "
                             f"unexpected {extra[:3]}, wrong shape {shapes[:3]}")
        with torch.no_grad():
            for name, each in own.items():
                each.copy_(state[name])

    # Sequences

    def sequence(self, prompt: str, audio: int | list[int], answer: str | None = None,
                 transcript: str | None = None, whole_text: bool = False) -> Sequence:
        """Ids of a question about so many embeddings of audio."""
        told = transcript if self.settings.tell_transcript else None
        return build(self.tokenizer, self.layout, prompt, told, audio, answer, whole_text)

    def num_embeddings(self, frames: int) -> int:
        """Of a clip with so many frames of the encoder."""
        return frames // self.adapter.body.stack

    @property
    def device(self) -> torch.device:
        return self.llm.get_input_embeddings().weight.device

    def embed(self, ids: Tensor, audio: Tensor) -> Tensor:
        """Embeddings of sequences, with audio in its slots.

        Args:
            ids: (clips, tokens) int64; AUDIO in the slots.
            audio: (slots of all clips in order, llm_width).
        """
        slots = ids == AUDIO
        embedded = self.llm.get_input_embeddings()(ids.clamp(min=0))
        return embedded.masked_scatter(slots[..., None], audio.to(embedded.dtype))

    def place(self, ids: Tensor, labels: Tensor, audio: Tensor, lengths: Tensor
              ) -> tuple[Tensor, Tensor]:
        """Embeddings (clips, tokens, llm_width) of sequences with audio in its slots, and their
        labels; slots of blanks are taken out where the adapter drops them.

        Args:
            ids, labels: (clips, tokens), padded on the right.
            audio: (clips, n, llm_width) of the adapter; lengths: (clips,) of each.
        """
        used = torch.arange(audio.shape[1], device=audio.device) < lengths[:, None]
        embedded = self.embed(ids, audio[used])
        if self.settings.adapter.drop_blanks is None:
            return embedded, labels
        keep = torch.ones_like(ids, dtype=torch.bool)
        keep[ids == AUDIO] = self.shown(audio)[used]
        return _compact(embedded, labels, keep)

    @torch.no_grad()
    def shown(self, audio: Tensor) -> Tensor:
        """Which embeddings (clips, n) of the adapter the language model is shown."""
        limit = self.settings.adapter.drop_blanks
        if limit is None:
            return torch.ones(audio.shape[:2], dtype=torch.bool, device=audio.device)
        return self.ctc.log_probabilities(audio)[..., 0].exp() <= limit

    def hear(self, states: Sequential[np.ndarray | Tensor], blanks: bool = False) -> list[Tensor]:
        """Embeddings (n, llm_width) of each clip from its encoder states (frames, width): those
        that are shown, or with `blanks` all."""
        found = []
        for each in states:
            each = torch.as_tensor(each).to(self.device, torch.float32)[None]
            heard = self.adapter(each)
            found.append(heard[0] if blanks else heard[self.shown(heard)])
        return found

    # Answers

    @torch.no_grad()
    def generate(
        self, states: Sequential[np.ndarray], prompts: Sequential[str],
        transcripts: Sequential[str | None] | None = None, *, max_new_tokens: int = 96,
        num_beams: int = 1, end_bias: float = 0.0, streamer: Any = None,
    ) -> list[str]:
        """Answers to a question about each clip.

        Args:
            states: encoder states (frames, width); no frames: no audio.
            transcripts: told as text, where the model was trained so.
            end_bias: added to the log-probability of the end; below 0 answers end later.
            streamer: of transformers, for one clip.
        """
        told = transcripts or [None] * len(prompts)
        audio = self.hear(states)
        sequences = [self.sequence(prompt, len(each), transcript=transcript)
                     for prompt, each, transcript in zip(prompts, audio, told, strict=True)]
        return self.answer(sequences, audio, max_new_tokens, num_beams, end_bias, streamer)

    def stream(self, states: np.ndarray, prompt: str, **options: Any) -> Iterator[str]:
        """Pieces of one clip's answer as they are found; `options` as of `generate`.

        Whoever stops early lets the answer end unheard.
        """
        from transformers import TextIteratorStreamer

        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=False, skip_special_tokens=True)
        failed: list[BaseException] = []

        def run() -> None:
            try:
                self.generate([states], [prompt], streamer=streamer, **options)
            except BaseException as error:  # raised again where it is read
                failed.append(error)
                streamer.end()

        thread = Thread(target=run, daemon=True)
        thread.start()
        yield from filter(None, streamer)
        thread.join()
        if failed:
            raise failed[0]

    def answer(
        self, sequences: Sequential[Sequence], audio: Sequential[Tensor], max_new_tokens: int,
        num_beams: int = 1, end_bias: float = 0.0, streamer: Any = None,
    ) -> list[str]:
        """Texts that follow sequences without an answer, padded on the left to one length.

        Raises:
            ValueError: question and answer are longer than the language model reads.
        """
        longest = max(len(each.ids) for each in sequences)
        most = getattr(self.llm.config, "max_position_embeddings", None)
        if most is not None and longest + max_new_tokens > most:
            raise ValueError(f"a question of {longest} tokens, audio included, and an answer of up "
                             f"to {max_new_tokens} are more than the {most} that the language "
                             "model reads: ask something shorter")
        ids = torch.tensor([[self.end] * (longest - len(s.ids)) + s.ids for s in sequences],
                           device=self.device)
        mask = torch.tensor([[0] * (longest - len(s.ids)) + [1] * len(s.ids) for s in sequences],
                            device=self.device)
        heard = torch.cat(list(audio)) if audio else ids.new_zeros(0)
        options: dict[str, Any] = {}
        if end_bias:
            options["sequence_bias"] = [[[self.end], end_bias]]
        with torch.no_grad(), self.fast():
            tokens = self.llm.generate(
                inputs_embeds=self.embed(ids, heard), attention_mask=mask, do_sample=False,
                max_new_tokens=max_new_tokens, num_beams=num_beams, eos_token_id=self.end,
                pad_token_id=self.end, streamer=streamer, use_cache=True, **options)
        return [text.strip() for text in
                self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def _compact(embedded: Tensor, labels: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Without what is not kept; what is left moves to the front of its row."""
    order = (~keep).int().argsort(dim=1, stable=True)[:, : int(keep.sum(1).max())]
    behind = torch.arange(order.shape[1], device=keep.device) >= keep.sum(1)[:, None]
    moved = embedded.gather(1, order[..., None].expand(-1, -1, embedded.shape[2]))
    return moved, labels.gather(1, order).masked_fill(behind, IGNORE)


def inject_lora(llm: Any, settings: Any) -> Any:
    """Put LoRA's layers into a language model, whose own weights stay frozen.

    Raises:
        ValueError: no layer has one of the names.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha,
                        lora_dropout=settings.dropout, target_modules=list(settings.targets),
                        bias="none")
    return inject_adapter_in_model(config, llm)


def set_lora(llm: Any, enabled: bool) -> None:
    """Turn LoRA on or off; off, the language model is as it was."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in llm.modules():
        if isinstance(module, BaseTunerLayer):
            # not enable_adapters(): it would also make the factors trainable
            module._disable_adapters = not enabled
