"""The teacher scores views; the scores become records of the teacher store.

Two kinds: token scores (a row per token that carries loss) and encoder states (a row per frame).
Values are rounded before they are used: a run that was killed between the two and reads the states
back gets the same scores to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill.data.files import hash_of
from distill.data.teacher_store import Record, TeacherStore, digest_of
from distill.data.teacher_store.manifest import read_settings
from distill.data.views.draws import View, view_from_dict
from distill.losses.targets import record_scores
from distill.losses.token_losses import IGNORE
from distill.whisper.data.collate import pad
from distill.whisper.data.layers import choose_layers, states_to_learn, states_to_store
from distill.whisper.data.view_source import ViewSource
from distill.whisper.encoder.audio import encode_each, stack_states
from distill.whisper.model import decoder_states
from distill.whisper.recipe import WhisperRecipe, silence_setting
from distill.whisper.teacher import Teacher

STATES_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}


def scores_folder(recipe: WhisperRecipe) -> Path:
    return Path(recipe.scores.dir) / "tokens"


def states_folder(recipe: WhisperRecipe) -> Path:
    return Path(recipe.scores.dir) / "encoder_states"


def tokenizer_hash(processor) -> str:
    return hash_of(sorted(processor.tokenizer.get_vocab().items()))


def states_settings(recipe: WhisperRecipe, revision: str) -> dict:
    """What all encoder states of a store have in common."""
    return {
        "kind": "encoder states",
        "teacher": recipe.teacher.model,
        "revision": revision,
        "dtype": recipe.scores.encoder_states_dtype,
        **silence_setting(recipe),
    }


def open_states(recipe: WhisperRecipe, revision: str) -> TeacherStore:
    """The store of encoder states, to fill."""
    return TeacherStore(states_folder(recipe), states_settings(recipe, revision), create=True)


def scores_settings(recipe: WhisperRecipe, revision: str, processor, config) -> dict:
    """What all token scores of a store have in common.

    Args:
        config: of the teacher.
    """
    loss, scores = recipe.loss, recipe.scores
    disk = scores.encoder_states == "disk"
    settings = {
        "kind": "token scores",
        "teacher": recipe.teacher.model,
        "revision": revision,
        "tokenizer": tokenizer_hash(processor),
        "vocabulary": config.vocab_size,
        # scores of rounded states differ a little from those of the exact ones
        "encoder_states": recipe.scores.encoder_states_dtype if disk else "float32",
        **silence_setting(recipe),
    }
    if loss.kl_weight and scores.method != "decoder_state":
        settings |= {"method": scores.method, "k": min(scores.k, config.vocab_size),
                     "temperatures": temperatures(loss.temperature)}
    if states := states_to_store(recipe, config.decoder_layers):
        settings["decoder_states"] = states
    return settings


def settings_of_store(recipe: WhisperRecipe, revision: str, processor, config) -> dict:
    """`scores_settings`; or those of the store that is there, if it holds other decoder states and
    all of the recipe's student are among them: one store serves many students."""
    asked = scores_settings(recipe, revision, processor, config)
    path = scores_folder(recipe) / "manifest.json"
    if not path.is_file():
        return asked
    stored = read_settings(path.parent, None)
    states = stored.get("decoder_states", [])
    layers = choose_layers(recipe.student.decoder_layers, config.decoder_layers,
                           "student.decoder_layers")
    serves = set(states_to_learn(recipe, layers)) <= set(states)
    return stored if serves and asked | {"decoder_states": states} == stored else asked


def column_of(state: int | str) -> str:
    """Where a record has a decoder state (see `distill.whisper.data.layers.states_to_learn`)."""
    return "hidden" if state == "last" else f"inner{state}"


def temperatures(temperature: float) -> list[float]:
    """At which the mass of what is not kept is known; the last one is that of the loss."""
    return sorted({1.0, temperature}, key=lambda each: each == temperature)


class Scorer:
    """Scores views with a teacher.

    Args:
        source: the views.
        states: store of encoder states to read from and to fill; None encodes anew.
    """

    def __init__(self, recipe: WhisperRecipe, teacher: Teacher, source: ViewSource,
                 states: TeacherStore | None):
        self.recipe, self.source, self.store = recipe, source, states
        self.model = teacher.model
        self.settings = settings_of_store(
            recipe, teacher.revision, teacher.processor, teacher.model.config
        )

    def encode(self, views: Sequence[View]) -> list[Record]:
        """Encoder states of views, computed now."""
        dtype = self.recipe.scores.encoder_states_dtype
        return [Record(self.source.states_key(view), states_columns(states, dtype))
                for view, states in zip(views, self._encode(views), strict=True)]

    def _encode(self, views: Sequence[View]) -> Iterator[Tensor]:
        """(frames, width) of each view, in batches of their own: their cost is that of the audio,
        however few words."""
        size, encoder = self.recipe.pseudo_label.batch_size, self.model.get_encoder()
        for at in range(0, len(views), size):
            yield from encode_each(encoder, self.source.features(views[at : at + size]))

    def states(self, views: Sequence[View]) -> Tensor:
        """(views, frames, width) in the model's type, from the store if there is one.

        A view whose states another rank has yet to store is encoded here, too: ranks do not wait
        for each other. Its states are rounded like those of the store.
        """
        if self.store is None:
            return stack_states(self.model, list(self._encode(views)))
        keys = [self.source.states_key(view) for view in views]
        missing = set(self.store.missing(keys))
        absent = {key: view for key, view in zip(keys, views, strict=True) if key in missing}
        dtype = self.store.settings["dtype"]
        encoded = self._encode(list(absent.values()))
        columns = {key: states_columns(states, dtype)
                   for key, states in zip(absent, encoded, strict=True)}
        present = [key for key in keys if key not in missing]
        rows = self.store.rows(present).tolist() if present else []
        columns |= {key: self.store.read(row) for key, row in zip(present, rows, strict=True)}
        found = read_states([columns[key] for key in keys], dtype)
        return stack_states(
            self.model, [each.to(self.model.device, self.model.dtype) for each in found])

    @torch.no_grad()
    def records(self, views: Sequence[View]) -> list[Record]:
        """Token scores of views, by one pass of the decoder; best of like length."""
        rows = [self.source.tokens(view) for view in views]
        inputs, labels = pad(rows, self.source.rules.special.end)
        device, inner = self.model.device, self.settings.get("decoder_states", ["last"])[:-1]
        heard = self.states([self.source.heard_by_teacher(view) for view in views])
        hidden, between = decoder_states(self.model, inputs.to(device), heard, inner)
        valid = labels.to(device) != IGNORE
        counts = [row.num_valid for row in rows]
        columns = self._scores(hidden[valid], counts, views)
        if "decoder_states" in self.settings:
            columns["hidden"] = _half(hidden[valid], "the last decoder states")
            for layer, states in zip(inner, between, strict=True):
                columns[column_of(layer)] = _half(states[valid], f"what enters layer {layer}")
        parts = {name: np.split(value, np.cumsum(counts)[:-1]) for name, value in columns.items()}
        return [
            Record(self.source.scores_key(view), {name: part[at] for name, part in parts.items()})
            for at, view in enumerate(views)
        ]

    def _scores(
        self, hidden: Tensor, counts: Sequence[int], views: Sequence[View]
    ) -> dict[str, np.ndarray]:
        """Columns over all tokens of the views, `counts` of each."""
        if "k" not in self.settings:
            return {}
        s, weight = self.settings, self.model.proj_out.weight.float()
        parts, seeds = [hidden.float()], [0]
        if s["method"] != "top_k":  # draws depend on the view alone, not on its neighbours
            parts = hidden.float().split(counts)
            seeds = [digest_of(self.source.scores_key(view)) >> 1 for view in views]
        found = [
            record_scores(part, weight, s["method"], s["k"], s["temperatures"], seed)
            for part, seed in zip(parts, seeds, strict=True)
        ]
        small = s["vocabulary"] <= 1 << 16
        dtypes = {"indices": np.uint16 if small else np.uint32, "values": np.float16,
                  "log_rest": np.float32}
        return {
            name: torch.cat([each[name] for each in found]).cpu().numpy().astype(dtype)
            for name, dtype in dtypes.items()
        }


def _half(states: Tensor, what: str) -> np.ndarray:
    values = states.to("cpu", torch.float16).numpy()
    if not np.isfinite(values).all():
        raise ValueError(
            f"{what} of this teacher do not fit float16: set loss.hidden_weight=0 and another "
            "scores.method than decoder_state"
        )
    return values


# Encoder states

def states_columns(states: Tensor, dtype: str) -> dict[str, np.ndarray]:
    """Encoder states (frames, width) as a store keeps them: of bfloat16, which numpy does not know,
    the bits; int8 with a scale for every frame.

    Raises:
        ValueError: values that do not fit float16.
    """
    if dtype == "int8":
        scale = states.float().abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
        rounded = (states.float() / scale).round().to("cpu", torch.int8).numpy()
        return {"states": rounded, "scale": scale[:, 0].cpu().numpy()}
    kept = states.to("cpu", STATES_DTYPES[dtype])
    if not kept.isfinite().all():
        raise ValueError(
            f"encoder states of this teacher do not fit {dtype}: set "
            "scores.encoder_states_dtype=bfloat16"
        )
    bits = kept.view(torch.int16) if dtype == "bfloat16" else kept
    return {"states": bits.numpy()}


def read_states(views: Sequence[dict[str, np.ndarray]], dtype: str) -> Tensor | list[Tensor]:
    """Columns of some views -> (views, frames, width), or (frames, width) of each where short
    views have fewer frames than others: float16 or bfloat16 as they are kept, int8 as float32.
    Copied once: the memory of a store's files is read-only."""
    if len({len(columns["states"]) for columns in views}) > 1:
        return [read_states([columns], dtype)[0] for columns in views]
    kept = torch.from_numpy(np.stack([columns["states"] for columns in views]))
    if dtype == "int8":
        scale = torch.from_numpy(np.stack([columns["scale"] for columns in views]))
        return kept.float() * scale[..., None]
    return kept.view(torch.bfloat16) if dtype == "bfloat16" else kept


# Verifying

class Rescorer:
    """`score(texts) -> records`: asks the live teacher again about views of a store."""

    def __init__(self, recipe: WhisperRecipe):
        from distill.whisper.teacher import load_teacher

        self.teacher = load_teacher(recipe.teacher)
        config = self.teacher.model.config
        self.source = ViewSource(recipe, self.teacher.processor,
                                 self.teacher.model.generation_config, config.max_target_positions)
        # encoded anew: states of a store are among what is verified
        self.scorer = Scorer(recipe, self.teacher, self.source, None)
        self.dtype = recipe.scores.encoder_states_dtype

    def __call__(self, texts: Sequence[str]) -> list[Record]:
        return [self._record(text) for text in texts]

    def _record(self, text: str) -> Record:
        drawn = json.loads(text)
        if drawn["id"] not in self.source.by_id:
            raise ValueError(f"view of window {drawn['id']}: it is no longer among the labels")
        if "tokens" in drawn:
            record = self.scorer.records([view_from_dict(drawn)])[0]
        else:
            view = view_from_dict({"timestamps": False, "previous": False} | drawn)
            encoder = self.teacher.model.get_encoder()
            states = encode_each(encoder, self.source.features([view]))[0]
            record = Record(self.source.states_key(view), states_columns(states, self.dtype))
        if record.key != text:
            raise ValueError(f"view of window {drawn['id']}: its label or its clips have changed")
        return record
