"""A stage of an audio language model's training, as a task of the training loop."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from distill.audio_llm.ctc import needed_frames
from distill.audio_llm.data.collate import answer_batch, ctc_batch, pad_states, teacher_batch
from distill.audio_llm.data.examples import Example, load_examples, repeated
from distill.audio_llm.data.sequences import spoken_ids
from distill.audio_llm.data.states import EncoderStates
from distill.audio_llm.data.teacher import Teacher
from distill.audio_llm.language_model import load_language_model
from distill.audio_llm.model import AudioLlm, read_weights
from distill.audio_llm.module import AudioLlmModule
from distill.audio_llm.recipe import AudioLlmRecipe, states_folder, teacher_folder
from distill.audio_llm.settings import read_settings, settings_of
from distill.audio_llm.validation import Validation
from distill.data.files import hash_of
from distill.data.manifest import Row, counts_text
from distill.data.unreadable import Unreadable
from distill.data.views.batches import FixedBatches, TokenBatches
from distill.data.views.draws import generator
from distill.losses.token_losses import IGNORE
from distill.training.task import Batch

_SHOWN = 3  # trained weights that are named


class AudioLlmTask:
    """See `distill.training.task.Task`. The recipe has one stage, see `recipe.stages_of`."""

    def __init__(self, recipe: AudioLlmRecipe, accelerator: Accelerator):
        self.recipe, self.accelerator = recipe, accelerator
        check_whole(accelerator)
        (self.stage,) = recipe.stages
        self.is_ctc = self.stage.loss == "ctc"
        encoder = EncoderStates(recipe.encoder, recipe.adapter, states_folder(recipe),
                                accelerator.device, accelerator.is_main_process)
        self.encoder_source = encoder.source
        # every row's, of all stages: what is encoded together is kept together
        every, self.states, self.drops = self._read(encoder, "train")
        self.examples = self._of_stage(every)
        validation, validation_states, self.validation_drops = self._read(encoder, "validation")
        validation = self._of_stage(validation)
        width = next(iter(self.states.values())).shape[1]
        found = load_language_model(recipe.language_model)
        self.source, tokenizer = found.source, found.tokenizer
        torch.manual_seed(recipe.seed)
        settings = settings_of(recipe, encoder.revision, width, encoder.layers, found.revision,
                               self._tokens(tokenizer, every), encoder.frame_ms)
        self.student = AudioLlm.new(found, settings)
        self.started = self._start(settings)
        self.student.to(accelerator.device)
        self.model = AudioLlmModule(
            self.student, self.stage.trains, self.stage.loss, recipe.loss, self.stage.adapter_rate)
        self._check_spoken()
        self.examples = self._fit_for_ctc(self.examples)
        self.lengths = [self._length(example) for example in self.examples]
        self.batches = self._batches()
        self.teacher, self.teacher_states = self._teacher(every)
        self.validation = Validation(validation, [validation_states[e.id] for e in validation],
                                     recipe.evaluation, self.is_ctc)

    # Data

    def _read(
        self, encoder: EncoderStates, split: str
    ) -> tuple[list[Example], dict[str, np.ndarray], Counter]:
        """Examples of a split that can be read, and their states by id."""
        recipe = self.recipe
        examples, drops = load_examples(recipe, getattr(recipe.data, split))
        rows = [example.row for example in examples]
        share = recipe.data.max_unreadable if split == "train" else 1.0
        faults = faults_of(split, rows, share)
        states = encoder(split, rows, faults, drops)
        return [each for each in examples if each.id in states], states, drops

    def _tokens(self, tokenizer: Any, examples: list[Example]) -> list[int]:
        """Ids that are said in the examples of all stages; none where nothing uses CTC."""
        config = self.recipe
        if not (self.is_ctc or config.loss.ctc_weight or config.adapter.drop_blanks):
            return []
        texts = {example.heard for example in examples if example.heard}
        return sorted({each for text in texts for each in spoken_ids(tokenizer, text)})

    def _teacher(
        self, every: list[Example]
    ) -> tuple[Teacher | None, dict[str, np.ndarray] | None]:
        """The language model that reads, if it is asked for; and its states, if they are kept."""
        config = self.recipe.loss
        if self.is_ctc or not config.kl_weight:
            return None, None
        teacher = Teacher(self.student, every, config.teacher_shown, config.teacher_tasks)
        if not config.keep_teacher:
            return teacher, None
        with self.accelerator.main_process_first():
            return teacher, teacher.states(self.examples, teacher_folder(self.recipe),
                                           self.accelerator.is_main_process)

    def _of_stage(self, examples: list[Example]) -> list[Example]:
        wanted = self.stage.tasks
        return [each for each in examples if not wanted or each.task.name in wanted]

    def _check_spoken(self) -> None:
        if self.is_ctc and not any(each.heard for each in self.examples):
            raise ValueError("data.train: CTC needs to know what is said; no row has `spoken`")
        tasks = self.recipe.loss.teacher_tasks
        silent = [each for each in self.examples if not each.spoken and each.heard != ""
                  and (not tasks or each.task.name in tasks)]
        if self.recipe.loss.kl_weight and not self.is_ctc and silent:
            raise ValueError("loss.kl_weight: the teacher reads what is said in place of the audio;"
                             f" {len(silent):,} rows have no `spoken` ({silent[0].id})")

    def _fit_for_ctc(self, examples: list[Example]) -> list[Example]:
        """Without those that CTC cannot learn from: nothing is said, or too fast."""
        if not self.is_ctc:
            return repeated(examples)
        kept = []
        for each in examples:
            wanted = self.model.ctc.targets(
                spoken_ids(self.student.tokenizer, each.heard or ""))
            if not wanted and each.heard != "":
                self.drops["nothing_said"] += 1
            elif needed_frames(wanted) > self._num_embeddings(each):
                self.drops["too_fast_for_ctc"] += 1
            else:
                kept.append(each)
        if not kept:
            raise ValueError("data.train: no clip is long enough for its text: lower "
                             f"adapter.frame_ms ({self.recipe.adapter.frame_ms})")
        return repeated(kept)

    def _num_embeddings(self, example: Example) -> int:
        return self.student.num_embeddings(len(self.states[example.id]))

    def _length(self, example: Example) -> int:
        """Tokens of a sequence; of CTC, embeddings."""
        count = self._num_embeddings(example)
        if self.is_ctc:
            return max(1, count)
        return len(self.student.sequence(example.question, count, example.answer,
                                         example.spoken).ids)

    def _batches(self) -> FixedBatches | TokenBatches:
        train, seed = self.recipe.train, self.recipe.seed
        if train.batch_tokens is None:
            return FixedBatches(seed, len(self.examples), train.batch_size, train.micro_batch_size)
        return TokenBatches(seed, len(self.examples), lambda _: self.lengths, train.batch_tokens,
                            train.micro_batch_tokens or train.batch_tokens)

    # What the loop asks for

    def _start(self, settings: Any) -> str | None:
        """Weights of the stage before; a hash of them."""
        if self.recipe.start is None:
            return None
        folder = Path(self.recipe.start)
        before = read_settings(folder)
        same = ("encoder_revision", "language_model_revision", "adapter", "lora")
        if wrong := [key for key in same if getattr(before, key) != getattr(settings, key)]:
            raise ValueError(f"start: {folder} was trained with another {wrong[0]}: "
                             f"{getattr(before, wrong[0])}, and not {getattr(settings, wrong[0])}")
        state = read_weights(folder)
        self.student.load_trained(state, str(folder))
        return hash_of([[name, each.double().sum().item(), each.double().norm().item()]
                        for name, each in sorted(state.items())])

    @property
    def labels_hash(self) -> str:
        settings = self.student.settings
        return hash_of([[[e.id, e.question, e.answer, e.spoken] for e in self.examples],
                        settings.encoder_revision, settings.language_model_revision, self.started])

    @property
    def dataset_summary(self) -> dict[str, Any]:
        rows = {each.id: each.row for each in self.examples}.values()
        return {"count": len(self.examples), "hours": sum(row.duration for row in rows) / 3600,
                "drops": dict(self.drops)}

    def describe(self) -> str:
        """What will be trained, for the user."""
        trained = self.model.trained()
        by_part = Counter()
        for name, count in trained.items():
            by_part[name.partition(".")[0]] += count
        parts = ", ".join(f"{part} {count:,}" for part, count in sorted(by_part.items()))
        frozen = sum(p.numel() for p in self.student.llm.parameters() if not p.requires_grad)
        summary = self.dataset_summary
        return (
            f"Encoder: {self.encoder_source} (not in memory: its states are on disk)\n"
            f"Language model: {self.source}, {frozen / 1e6:.1f} M parameters frozen\n"
            f"Stage {self.stage.name}, loss {self.stage.loss}: {len(trained)} tensors are trained "
            f"({parts} parameters; {', '.join(sorted(trained)[:_SHOWN])}, ...)\n"
            f"{summary['count']} examples, {60 * summary['hours']:.1f} minutes (dropped: "
            f"{counts_text(self.drops)}), validated on {len(self.validation.examples)} (dropped: "
            f"{counts_text(self.validation_drops)})")

    def collate(self, samples: list[tuple[int, int]]) -> Batch:
        examples = [self.examples[index] for index, _ in samples]
        states = [self._masked(self.examples[index], epoch) for index, epoch in samples]
        if not self.is_ctc:
            examples, states = self._hidden(examples, states, [epoch for _, epoch in samples])
        if self.is_ctc:
            batch: Batch = {"states": pad_states(states), "lengths": torch.tensor(
                [self.student.num_embeddings(len(each)) for each in states])}
        else:
            batch = answer_batch(self.student, examples, states, self.stage.loss == "text")
        if self.teacher is not None:
            batch |= teacher_batch(self.teacher, examples, self.teacher_states)
        if self.is_ctc or self.recipe.loss.ctc_weight:
            batch |= ctc_batch(self.student, self.model.ctc, examples, states)
        return batch

    def _hidden(
        self, examples: list[Example], states: list[np.ndarray], epochs: list[int]
    ) -> tuple[list[Example], list[np.ndarray]]:
        """Some without audio, some without their transcript; none without both."""
        config = self.recipe.augment
        if not config.hide_audio and not config.hide_transcript:
            return examples, states
        for n, (example, epoch) in enumerate(zip(examples, epochs, strict=True)):
            drawn = generator(self.recipe.seed, f"hide/{example.id}", epoch).random()
            if drawn < config.hide_audio:
                states[n] = states[n][:0]
            elif drawn < config.hide_audio + config.hide_transcript:
                examples[n] = replace(example, spoken=None)
        return examples, states

    def _masked(self, example: Example, epoch: int) -> np.ndarray:
        """States that begin elsewhere, with some runs hidden: zeros, which stand for nothing."""
        states, config = self.states[example.id], self.recipe.augment
        draws = generator(self.recipe.seed, example.id, epoch)
        if config.shift_frames:
            most = min(config.shift_frames, len(states) // 8)  # little of a short clip
            states = states[int(draws.integers(0, most + 1)) :]
        if not config.mask_share:
            return states
        budget = int(draws.random() * config.mask_share * len(states))
        states = states.copy()
        while budget > 0:
            width = min(budget, int(draws.integers(1, config.mask_frames + 1)))
            first = int(draws.integers(0, len(states) - width + 1))
            states[first : first + width] = 0
            budget -= width
        return states

    def count(self, batch: Batch) -> int:
        if self.is_ctc:
            return int(batch["sizes"].clamp(min=1).sum())  # nothing said: as one token
        return int((batch["labels"] != IGNORE).sum())

    def validate(self) -> dict[str, float]:
        return self.validation(self.model) if self.validation.examples else {}

    def save(self, folder: Path) -> None:
        self.student.save_pretrained(folder)


def faults_of(split: str, rows: list[Row], max_share: float) -> Unreadable:
    """A counter of rows that cannot be read.

    Raises:
        UnreadableError: files are not there.
    """
    faults = Unreadable(len(rows), max_share, "training" if split == "train" else split)
    faults.stat((row.id, row.audio_filepath) for row in rows)
    faults.begin(f"data.{split}")
    return faults


def check_whole(accelerator: Any) -> None:
    """
    Raises:
        ValueError: the launch cuts weights into parts of ranks.
    """
    from accelerate.utils import DistributedType

    kind = accelerator.distributed_type
    is_cut = kind == DistributedType.FSDP or (
        kind == DistributedType.DEEPSPEED and accelerator.state.deepspeed_plugin.zero_stage == 3)
    if is_cut:
        raise ValueError("method audio_llm needs the adapter whole on every rank, and FSDP and "
                         "ZeRO-3 cut it: launch it with ddp.yaml or deepspeed_zero2.yaml")
