"""Student and teacher as one module that returns the summed loss of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from distill.losses.common_tokens import of_common_tokens
from distill.losses.matmul import fast_linears
from distill.losses.token_losses import IGNORE, TeacherScores, agrees, hidden_mse, token_losses
from distill.training.task import Batch, Parts
from distill.whisper.encoder.audio import (
    AudioFeatures,
    encode_each,
    encode_features,
    silence_behind,
)
from distill.whisper.encoder.cross_attention import silence_shared
from distill.whisper.encoder.prompt_reader import entered_states, has_reader
from distill.whisper.encoder.silence import Silence, with_silence
from distill.whisper.recipe import LossConfig

_PART_NAMES = {"forward": "kl", "reverse": "reverse_kl", "total_variation": "total_variation"}


class DistillModule(nn.Module):
    """`module(batch) -> (loss_sum, parts)`.

    The whole step is one forward pass of one module, as DDP and FSDP want it; the logits never
    leave `token_losses`. The teacher is kept out of the module tree: it must not be trained,
    wrapped, or saved.

    Args:
        student: WhisperForConditionalGeneration, float32.
        teacher: the live teacher; None where batches bring its recorded scores.
        output: (vocab, width) output layer of the teacher, for batches that bring its decoder
            states without scores.
        loss: weights and temperature.
        shared_encoder: the student's encoder is frozen and equal to the teacher's.
        inner_layers: see `distill.whisper.data.layers.inner_teacher_layers`; used when
            loss.hidden_weight > 0.
    """

    def __init__(
        self,
        student,
        teacher,
        loss: LossConfig,
        shared_encoder: bool,
        inner_layers: Sequence[int] = (),
        output: Tensor | None = None,
    ):
        super().__init__()
        self.student = student
        self._hidden_from_module_tree = (teacher, output)
        self.loss = loss
        self.shared_encoder = shared_encoder
        self.inner_layers = inner_layers
        self.matches_states = loss.hidden_weight > 0
        encoder = student.model.encoder
        self.encoder_is_frozen = not any(p.requires_grad for p in encoder.parameters())
        # made here, while all weights are in one place; both models get the same one where they
        # share their encoder
        self.silence = silence_behind(student)

    @property
    def teacher(self):
        return self._hidden_from_module_tree[0]

    def forward(self, batch: Batch) -> tuple[Tensor, Parts]:
        """Loss of a batch.

        Args:
            batch: `decoder_input_ids`, `labels` (batch, tokens); `input_features`
                (batch, mel, 3000), or `AudioFeatures` of short audio, or `encoder_states`
                (batch, frames, width), or a list of each; `prompts`, (text tokens, text width) of
                each or None, for an encoder that reads them: its states then are those of
                `states_to_keep`; `teacher_features` if a live teacher hears others than the
                student; `teacher`, if it was asked before: columns over the
                valid tokens, see `distill.whisper.data.recorded`.

        Returns:
            the sum over valid tokens, and the sums of its parts.
        """
        # layers that are computed again while going backward would be so by other products
        checkpointing = self.student.is_activation_checkpointing
        with nullcontext() if checkpointing else fast_linears():
            return self._loss(batch)

    def _loss(self, batch: Batch) -> tuple[Tensor, Parts]:
        states = self._student_states(batch)
        inner_layers = range(1, self.student.config.decoder_layers) if self.matches_states else ()
        hidden, inner = decoder_states(
            self.student, batch["decoder_input_ids"], states, inner_layers, self.silence
        )
        labels = batch["labels"]
        valid = labels != IGNORE
        scores = self._teacher_scores(batch, states, valid)
        student_hidden, asked = _to_autocast_dtype(hidden[valid]), labels[valid]
        taught: Tensor | slice = slice(None)
        if self.loss.teacher_tokens == "agreeing" and scores is not None:
            taught = agrees(scores, asked)
            total, ce, divergence = self._token_losses(
                student_hidden[taught], asked[taught], scores.chunk(taught))
            rest, ce_rest, _ = self._token_losses(student_hidden[~taught], asked[~taught], None)
            total, ce = total + rest, ce + ce_rest
        else:
            total, ce, divergence = self._token_losses(student_hidden, asked, scores)
        parts = {}
        if self.loss.ce_weight or self.loss.kl_weight:
            parts = {"ce": ce, _PART_NAMES[self.loss.divergence]: divergence}
        if self.matches_states:
            distance = hidden_mse(hidden[valid][taught], scores.hidden[taught])
            for student_inner, teacher_inner in zip(inner, scores.inner, strict=True):
                distance = distance + hidden_mse(student_inner[valid][taught],
                                                 teacher_inner[taught])
            parts["hidden"] = distance.detach()
            total = total + self.loss.hidden_weight * distance
        return total, parts

    def _token_losses(self, hidden: Tensor, labels: Tensor, scores: TeacherScores | None
                      ) -> tuple[Tensor, Tensor, Tensor]:
        """See `token_losses`; without scores the labels alone are learned from."""
        weight = self.student.proj_out.weight
        if self.loss.common_tokens is not None and (self.loss.ce_weight or self.loss.kl_weight):
            weight, labels, scores = of_common_tokens(weight, labels, scores,
                                                      self.loss.common_tokens)
        return token_losses(
            hidden,
            weight,
            labels,
            scores,
            ce_weight=self.loss.ce_weight,
            kl_weight=self.loss.kl_weight if scores is not None else 0.0,
            temperature=self.loss.temperature,
            divergence=self.loss.divergence,
        )

    def _student_states(self, batch: Batch) -> Tensor:
        """(batch, frames, width); behind them is silence."""
        if "prompts" in batch:
            return self._read_states(batch)
        if "encoder_states" in batch:
            states = batch["encoder_states"]
            if isinstance(states, Tensor):
                return states.float()
            return with_silence([each.float() for each in states], self.silence,
                                max(map(len, states)))
        encoder, features = self.student.model.encoder, batch["input_features"]
        if self.encoder_is_frozen:
            encoder.eval()  # what does not learn has no dropout: the teacher's has none either
        if isinstance(features, AudioFeatures):
            assert self.encoder_is_frozen, "silence would have to be made anew at every step"
            return encode_features(encoder, features)
        with torch.set_grad_enabled(not self.encoder_is_frozen):
            return encoder(features).last_hidden_state

    def _read_states(self, batch: Batch) -> Tensor:
        """The same of an encoder that reads prompts; all rows pass its reader, so that every rank
        has a gradient for it."""
        encoder, reader = self.student.model.encoder, self.student.prompt_reader
        encoder.eval()
        entered = (batch["encoder_states"] if "encoder_states" in batch
                   else states_to_keep(self.student, batch["input_features"]))
        found = reader.finish_each(encoder, [each.float() for each in entered], batch["prompts"])
        return with_silence(found, self.silence, max(map(len, found)))

    @torch.no_grad()
    def _teacher_scores(self, batch: Batch, states: Tensor, valid: Tensor) -> TeacherScores | None:
        if not (self.loss.kl_weight or self.loss.hidden_weight):
            return None
        if "teacher" in batch:
            columns = dict(batch["teacher"])
            inner = tuple(columns.pop(f"inner{layer}") for layer in self.inner_layers)
            return TeacherScores(
                hidden=_to_autocast_dtype(columns.pop("hidden").float())
                if "hidden" in columns else None,
                weight=self._hidden_from_module_tree[1],
                **columns,
                inner=inner,
            )
        silence = self.silence
        if not self.shared_encoder:
            encoder = self.teacher.model.encoder
            features = batch.get("teacher_features", batch["input_features"])
            short, silence = isinstance(features, AudioFeatures), None
            states = (encode_features(encoder, features) if short
                      else encoder(features).last_hidden_state)
        hidden, inner = decoder_states(
            self.teacher, batch["decoder_input_ids"], states, self.inner_layers, silence
        )
        return TeacherScores(
            hidden=_to_autocast_dtype(hidden[valid]),
            weight=self.teacher.proj_out.weight,
            inner=tuple(each[valid] for each in inner),
        )


def states_to_keep(student, features: AudioFeatures | Tensor) -> list[Tensor]:
    """What stays the same of a frozen encoder, (frames, width) of each clip: its states, or those
    that enter the first layer that reads prompts."""
    if has_reader(student):
        return entered_states(student.model.encoder, features, student.prompt_reader)
    return encode_each(student.model.encoder, features)


def decoder_states(
    model, input_ids: Tensor, states: Tensor, inner: Sequence[int], silence: Silence | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Last decoder states after the final norm, and what enters the layers `inner`.

    Args:
        states: (batch, frames, width).
        silence: what stands behind the states of short audio; the model's own by default.

    Returns:
        (batch, tokens, width), and a list of the same.
    """
    with _encoder_memory(model, states, silence or silence_behind(model)) as memory:
        output = model.model.decoder(
            input_ids=input_ids,
            encoder_hidden_states=memory,
            use_cache=False,
            output_hidden_states=bool(inner),
        )
    return output.last_hidden_state, [output.hidden_states[index] for index in inner]


@contextmanager
def _encoder_memory(model, states: Tensor, silence: Silence | None) -> Iterator[Tensor]:
    """What a decoder's cross-attention looks at: states, and the silence behind them."""
    rows, frames, _ = states.shape
    decoder = model.model.decoder
    has_rest = silence is not None and frames < len(silence.states)
    # layers that are computed again while going backward would be so without what is put in here
    if not has_rest or rows == 1 or model.is_activation_checkpointing or _has_dropout(decoder):
        yield with_silence(states, silence)
        return
    with silence_shared(decoder, silence.states[frames:].to(states.device, states.dtype)):
        yield states


def _has_dropout(decoder) -> bool:
    """Of attention weights."""
    return decoder.training and any(layer.encoder_attn.dropout for layer in decoder.layers)


def _to_autocast_dtype(hidden: Tensor) -> Tensor:
    """Norms put out float32 under autocast; the big product with the output layer need not be."""
    kind = hidden.device.type
    return hidden.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else hidden
