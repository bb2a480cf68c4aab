"""Every model on every condition, clip by clip, and on what has no speech; then the figures.

Models are decoded as `evaluation.clips` does it: greedy, short audio as the model's config says,
`evaluation.on_loop`. Models with one encoder, as a teacher and its students mostly are, share its
states of a condition, which is most of the work.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill.data.files import hash_of
from distill.data.formats.places import fingerprints
from distill.data.model_files import model_stamp
from distill.data.speech.windows import Window, load_patiently
from distill.metrics.normalize import normalizer_name
from distill.progress import quiet_libraries
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.encoder.lengths import margin_of
from distill.whisper.recipe import WhisperRecipe, written_language
from distill.whisper.recognition.halves import loop_rule
from distill.whisper.recognition.transcribe import to_text, transcribe
from distill.whisper_at.states import content_of
from eval.machine import this_machine
from eval.robustness.conditions import FOLDER, Condition, conditions_of
from eval.robustness.curves import Texts, figures
from eval.robustness.inventions import invention_figures, invention_texts
from eval.robustness.kept import Kept
from eval.robustness.setup import Setup, setup_of
from eval.speech.asr import is_loop
from eval.speech.measure import load_folder, models_of

_States = dict[str, dict[str, Tensor]]  # of a condition: {encoder: {window: states}}
_VERSION = 1  # of what is kept: counts up when sounds, or what is kept of them, change


def measure(recipe: WhisperRecipe, run: Path) -> dict:
    """Everything in robustness/results.json.

    Raises:
        ValueError: no student, no test clip that can be used, or no such folder.
        AudioError: a clip or a recording cannot be read.
    """
    quiet_libraries()
    if recipe.num_threads:
        torch.set_num_threads(recipe.num_threads)
    setup, left_out = setup_of(recipe)
    models = _models(recipe, run)
    conditions = conditions_of(recipe.robustness)
    seconds = sum(clip.duration for clip in setup.clips)
    print(f"{len(setup.clips)} test clips, {seconds / 60:.1f} minutes; left out: "
          f"{left_out or 'nothing'}; {len(conditions)} conditions, {len(models)} models",
          flush=True)
    kept = {role: Kept(run / "robustness" / f".{_file_name(role)}.kept.jsonl",
                       _key(setup, folder, role)) for role, (_, _, folder) in models.items()}
    loaded = {role: _Model(role, load, setup) for role, (load, _, _) in models.items()}
    texts: dict[str, Texts] = {role: {} for role in models}
    for condition in conditions:
        states: _States = {}
        for role, model in loaded.items():
            texts[role][condition] = kept[role].get(
                _known_as(condition, setup), partial(model.hear, condition, states))
    without: dict[str, dict] = {}
    about = {}
    for role, (_, name, folder) in models.items():
        without[role] = invention_texts(loaded[role].loaded, setup, kept[role])
        about[role] = kept[role].get(["about"], partial(loaded[role].facts, name))
        about[role] |= {"stamp": hash_of(model_stamp(folder))}
        del loaded[role]
        gc.collect()
    clips, evaluation = setup.clips, recipe.evaluation
    language = written_language(recipe)
    return {
        "split": "test", "num_clips": len(clips), "minutes": seconds / 60, "left_out": left_out,
        "normalizer": normalizer_name(evaluation.normalizer, language), "error_unit": setup.unit,
        "num_bootstrap": evaluation.num_bootstrap, "on_loop": evaluation.on_loop,
        "snr": "power of the speech, without frames of 20 ms that are 30 dB below the loudest, "
               "over the mean power of the noise",
        "models": about, "machine": this_machine(),
        **figures([setup.normalise(clip.reference) for clip in clips], texts, setup.normalise,
                  setup.unit, evaluation.num_bootstrap, recipe.seed),
        **invention_figures(without, setup.normalise, setup.unit, evaluation.num_bootstrap,
                            recipe.seed),
    }


def _models(recipe: WhisperRecipe, run: Path) -> dict[str, tuple[Callable[[], tuple], str, Path]]:
    """{role or folder: (loads model and processor, name, folder)}, the teacher first."""
    found = models_of(recipe, run)
    models = {role: found[role] for role in ("teacher", "student")}
    for each in recipe.robustness.models:
        if not (Path(each) / "config.json").is_file():
            raise ValueError(f"robustness.models: no model in {each}")
        models[each] = (partial(load_folder, Path(each)), each, Path(each))
    return models


def _file_name(role: str) -> str:
    return role if role in ("teacher", "student") else f"{Path(role).name}-{hash_of(role)[:8]}"


def _known_as(condition: Condition, setup: Setup) -> list:
    """What its texts are kept under."""
    own = setup.folder_key if condition.kind == FOLDER else []
    return [condition.kind, condition.snr_db, own]


def _key(setup: Setup, folder: Path, role: str) -> str:
    """Of everything that a model's texts depend on, besides the condition."""
    windows = [clip.windows[0] for clip in setup.clips]
    recipe = setup.recipe
    margin = recipe.teacher.short_audio_margin if role == "teacher" else None
    return hash_of([
        _VERSION, model_stamp(folder), margin, recipe.language, recipe.task,
        loop_rule(recipe.evaluation.on_loop), recipe.evaluation.batch_size,
        fingerprints(piece.audio_filepath for window in windows for piece in window.pieces),
        [[w.id, w.language, [[p.audio_filepath, p.offset, p.duration] for p in w.pieces]]
         for w in windows]])


class _Model:
    """A model that is loaded once something of it is not known.

    Args:
        load: returns (model, processor).
    """

    def __init__(self, role: str, load: Callable[[], tuple], setup: Setup):
        self.role, self.setup, self._load = role, setup, load
        self._loaded: tuple | None = None
        self._decoder: WhisperDecoder | None = None

    def loaded(self) -> tuple:
        """(model, processor)."""
        if self._loaded is None:
            model, processor = self._load()
            self._loaded = model.eval(), processor
        return self._loaded

    def facts(self, name: str) -> dict:
        model, _ = self.loaded()
        return {"model": name, "dtype": str(model.dtype).removeprefix("torch."),
                "device": model.device.type, "short_audio_margin": margin_of(model),
                "parameters": sum(p.numel() for p in model.parameters())}

    @cached_property
    def encoder(self) -> str:
        """What tells its encoder, and how that hears short audio, from another's."""
        model, _ = self.loaded()
        return f"{content_of(model.get_encoder())} {margin_of(model)}"

    def hear(self, condition: Condition, states: _States) -> dict:
        """`texts` of all clips, in order, how many `loops`, and how many were decoded `again`.

        Args:
            states: of the condition, by those who heard it before.
        """
        recipe, clips = self.setup.recipe, self.setup.clips
        model, processor = self.loaded()
        if self._decoder is None:
            self._decoder = WhisperDecoder(model, processor.tokenizer, recipe.language, recipe.task,
                                           on_loop=recipe.evaluation.on_loop)

        def audio_of(window: Window) -> np.ndarray:
            return condition.hear(load_patiently(window), window.id, self.setup.noises)

        before = self._decoder.report.padded
        found = transcribe(self._decoder, processor, [clip.windows[0] for clip in clips],
                           recipe.evaluation.batch_size, audio_of=audio_of,
                           states_cache=states.setdefault(self.encoder, {}),
                           description=f"{self.role}, {condition.name}")
        hypotheses = [found[clip.windows[0].id] for clip in clips]
        return {"texts": [to_text(processor.tokenizer, each.tokens) for each in hypotheses],
                "loops": sum(map(is_loop, hypotheses)),
                "again": self._decoder.report.padded - before}
