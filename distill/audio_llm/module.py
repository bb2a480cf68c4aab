"""What the training loop trains: adapter and LoRA, and the loss of a stage.

The language model is kept out of the module tree: its weights are not trained, not wrapped, and not
in checkpoints. LoRA's factors are in the tree and in the language model at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distill.audio_llm.core import set_lora
from distill.audio_llm.ctc import TokenCtc
from distill.audio_llm.model import AudioLlm
from distill.audio_llm.recipe import LossConfig
from distill.losses.matmul import fast_linears
from distill.losses.token_losses import IGNORE, TeacherScores, token_losses
from distill.training.task import Batch, Parts


class AudioLlmModule(nn.Module):
    """`module(batch) -> (loss_sum, parts)`.

    Args:
        model: whose parts are trained.
        trains: some of adapter, lora.
        kind: ctc | answer | text, see `StageConfig.loss`.
        adapter_rate: the adapter's learning rate, as a multiple of the loop's.

    Raises:
        AssertionError: something else is trained than `trains` says.
    """

    def __init__(self, model: AudioLlm, trains: Sequence[str], kind: str, loss: LossConfig,
                 adapter_rate: float = 1.0):
        super().__init__()
        self.kind, self.loss = kind, loss
        self._model = (model,)
        self.adapter = model.adapter
        layers = model.lora_layers()
        self.lora = nn.ModuleDict({name.replace(".", "/"): layer for name, layer in layers.items()})
        model.requires_grad_(False)
        self.adapter.requires_grad_("adapter" in trains)
        if "projection" in trains:
            self.adapter.body.out.requires_grad_(True)
        self.lora.requires_grad_("lora" in trains)
        uses_ctc = kind == "ctc" or loss.ctc_weight > 0
        self.adapter.blank.requires_grad_("adapter" in trains and uses_ctc)
        self.relative_rates = {"adapter.": adapter_rate}
        self._check(trains)
        self.train()

    def train(self, mode: bool = True) -> AudioLlmModule:
        """Dropout of the adapter and of LoRA; the language model stays in evaluation mode."""
        super().train(mode)
        for name, module in self.model.llm.named_modules():
            if "lora_dropout" in name:
                module.train(mode)
        return self

    @property
    def model(self) -> AudioLlm:
        return self._model[0]

    @property
    def ctc(self) -> TokenCtc:
        return self.model.ctc

    def trained(self) -> dict[str, int]:
        """Trained weights by name, and how many each has."""
        return {name: weight.numel() for name, weight in self.named_parameters()
                if weight.requires_grad}

    def _check(self, trains: Sequence[str]) -> None:
        names = {"projection": "adapter.body.out."}
        wanted = tuple(names.get(each, f"{each}.") for each in trains)
        found = self.trained()
        others = [name for name in found if not name.startswith(wanted)]
        idle = [part for part in wanted if not any(name.startswith(part) for name in found)]
        assert not others and not idle, f"trained besides {trains}: {others[:3]}; not: {idle}"
        own = {id(weight) for weight in self.parameters() if weight.requires_grad}
        others = [name for name, weight in self.model.named_parameters()
                  if weight.requires_grad and id(weight) not in own]
        assert not others, f"weights of the language model are trained: {others[:3]}"

    def forward(self, batch: Batch) -> tuple[Tensor, Parts]:
        """Loss of a batch.

        Args:
            batch: `states` (clips, frames, width), zero behind the clips' `lengths` (clips,), which
                count embeddings; `ids`, `labels` (clips, tokens); `targets`, `sizes` for CTC, see
                `TokenCtc.loss`; with a teacher what `teacher_batch` gives.
        """
        with fast_linears():
            audio = self.adapter(batch["states"], batch["lengths"])
            parts: Parts = {}
            total = audio.new_zeros(())
            if self.kind == "ctc" or self.loss.ctc_weight:
                ctc = self.ctc.loss(audio, batch["lengths"], batch["targets"], batch["sizes"])
                parts["ctc"] = ctc.detach()
                total = total + ctc * (1.0 if self.kind == "ctc" else self.loss.ctc_weight)
            if self.kind != "ctc":
                answer, more = self._answer(batch, audio)
                total, parts = total + answer, parts | more
        return total, parts

    def _answer(self, batch: Batch, audio: Tensor) -> tuple[Tensor, Parts]:
        model = self.model
        hidden, labels = states_before(
            model, *model.place(batch["ids"], batch["labels"], audio, batch["lengths"]))
        head = model.llm.get_output_embeddings().weight
        if not self.loss.kl_weight:
            loss, ce, _ = token_losses(hidden, head, labels, None, ce_weight=1.0, kl_weight=0.0,
                                       temperature=1.0)
            return loss, {"ce": ce}
        read = batch["is_taught"].repeat_interleave((batch["labels"] != IGNORE).sum(1))
        loss, ce, kl = token_losses(
            hidden[read], head, labels[read], self._teacher_scores(batch), ce_weight=1.0,
            kl_weight=self.loss.kl_weight, temperature=self.loss.temperature)
        if not read.all():  # nobody speaks there: the teacher has nothing to read
            more, more_ce, _ = token_losses(hidden[~read], head, labels[~read], None,
                                            ce_weight=1.0, kl_weight=0.0, temperature=1.0)
            loss, ce = loss + more, ce + more_ce
        return loss, {"ce": ce, "kl": kl}

    def _teacher_scores(self, batch: Batch) -> TeacherScores:
        """Of the same language model without LoRA, which reads the transcript."""
        model, hidden = self.model, batch.get("read_states")
        if hidden is None:
            hidden = read_without_lora(model, batch["read_ids"], batch["read_labels"])
        return TeacherScores(hidden=hidden, weight=model.llm.get_output_embeddings().weight)


def states_before(model: AudioLlm, embedded: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Last states (tokens, width) that labelled tokens are predicted from, and these (tokens,).

    Padding is on the right, where causal attention does not see it.
    """
    hidden = model.llm.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    wanted = labels[:, 1:]
    learned = wanted != IGNORE
    return hidden[:, :-1][learned], wanted[learned]


@torch.no_grad()
def read_without_lora(model: AudioLlm, ids: Tensor, labels: Tensor) -> Tensor:
    """Last states (tokens, width) of texts (clips, tokens), by the language model as it was."""
    set_lora(model.llm, False)
    try:
        return states_before(model, model.llm.get_input_embeddings()(ids), labels)[0]
    finally:
        set_lora(model.llm, True)
