"""How long the stages of a Whisper recipe take on this CPU and on one GPU: work by rates."""

from __future__ import annotations

import os
from dataclasses import dataclass

from distill.whisper.outside import is_outside
from distill.whisper.plan import cost
from distill.whisper.plan.sizes import SOURCE_POSITIONS, WhisperSize
from distill.whisper.recipe import WhisperRecipe

TOKENS_PER_SECOND = 4.0  # of audio: text, timestamps and prompt
CPU_CORE_FLOPS = 60e9  # float32 matrix products on AVX2
GPU_FLOPS, GPU_UTILISATION = 100e12, 0.30  # bf16
CPU_DECODING, GPU_DECODING = 0.5, 0.1  # share of the above that token-by-token decoding reaches


@dataclass(frozen=True)
class Work:
    """Floating point operations: large products, and decoding one token at a time."""

    products: float
    decoding: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.products + other.products, self.decoding + other.decoding)

    def __mul__(self, times: float) -> Work:
        return Work(self.products * times, self.decoding * times)


def plan_time(
    recipe: WhisperRecipe, size: WhisperSize, student: dict, data: dict, training: dict
) -> dict:
    """Seconds by stage and machine; None for what there are no manifests to tell."""
    shared = shares_encoder(recipe, size, student)
    work = {"label": _label_work(size, data["train"]) * data["train"]["windows"],
            **_score_work(recipe, size, data["train"], training),
            "train": _train_work(recipe, size, student, data, training), "eval": None}
    if is_outside(recipe.pseudo_label):
        del work["label"]
    if data["test"]["windows"]:
        layers = student["encoder_layers"], student["decoder_layers"]
        own = data["test"] if shared else _padded(data["test"])
        both = _label_work(size, data["test"]) + _label_work(size, own, *layers)
        work["eval"] = both * data["test"]["windows"]
    cores = recipe.num_threads or os.cpu_count() or 1
    machines = {"cpu": (cores * CPU_CORE_FLOPS, CPU_DECODING),
                "gpu": (GPU_FLOPS * GPU_UTILISATION, GPU_DECODING)}
    assumed = {
        "cores": cores, "core_flops": CPU_CORE_FLOPS, "cpu_decoding": CPU_DECODING,
        "gpu_flops": GPU_FLOPS, "gpu_utilisation": GPU_UTILISATION, "gpu_decoding": GPU_DECODING,
        "tokens_per_second": TOKENS_PER_SECOND,
    }
    seconds = {
        stage: {name: total and total.products / flops + total.decoding / (flops * share)
                for name, (flops, share) in machines.items()}
        for stage, total in work.items()
    }
    return {"assumed": assumed, "seconds": seconds}


def _label_work(
    size: WhisperSize, data: dict, encoder_layers: int | None = None,
    decoder_layers: int | None = None,
) -> Work:
    """Transcribing one window; layers default to the teacher's."""
    encoder = cost.encoder_flops(size, encoder_layers, data["positions"])
    return Work(encoder) + _decode_work(size, data, decoder_layers)


def _padded(data: dict) -> dict:
    """The split as a student hears it whose encoder is not the teacher's."""
    return data | {"positions": SOURCE_POSITIONS}


def _decode_work(size: WhisperSize, data: dict, layers: int | None) -> Work:
    tokens = TOKENS_PER_SECOND * (data["seconds_per_window"] or 0.0)
    positions = data["positions"] or SOURCE_POSITIONS
    cross = cost.cross_attention_flops(size, layers, positions)
    return Work(cross, cost.token_flops(size, tokens, layers, positions=positions))


def _score_work(recipe: WhisperRecipe, size: WhisperSize, data: dict, training: dict) -> dict:
    """Filling the teacher store, if anything is to be learned from it; encoder states on disk come
    from labelling."""
    wanted = recipe.loss.kl_weight > 0 or recipe.loss.hidden_weight > 0
    if recipe.teacher.mode != "store" or not wanted:
        return {}
    tokens = TOKENS_PER_SECOND * data["seconds_per_window"]
    decoder = cost.cross_attention_flops(size, positions=data["positions"]) + cost.token_flops(
        size, tokens, output=recipe.loss.kl_weight > 0)
    encoder = cost.encoder_flops(size, positions=data["positions"])
    views = recipe.views
    augmented = views.augment.probability > 0 and views.teacher_hears == "same"
    again = augmented or recipe.scores.encoder_states != "disk"
    once = data["windows"] if is_outside(recipe.pseudo_label) and not again else 0
    work = Work(decoder + encoder * again) * training["scored_views"]
    return {"score": work + Work(encoder) * once}


def _train_work(
    recipe: WhisperRecipe, size: WhisperSize, student: dict, data: dict, training: dict
) -> Work:
    tokens = TOKENS_PER_SECOND * data["train"]["seconds_per_window"]
    layers, loss = student["decoder_layers"], recipe.loss
    shared = shares_encoder(recipe, size, student)
    teachers = data["train"]
    own, validation = (data[split] if shared else _padded(data[split])
                       for split in ("train", "validation"))

    def decoder(data: dict, layers: int | None, output: bool) -> float:
        cross = cost.cross_attention_flops(size, layers, data["positions"])
        return cross + cost.token_flops(size, tokens, layers, output)

    # Where states alone are matched, nobody asks for the scores of all tokens.
    student_decoder = decoder(own, layers, loss.ce_weight + loss.kl_weight > 0)
    whole = cost.encoder_flops(size, positions=teachers["positions"])
    student_encoder = cost.encoder_flops(size, student["encoder_layers"], own["positions"])
    flops = training["views"] * 3 * student_decoder  # backward costs two forward passes
    passes = 1 if recipe.student.freeze_encoder else 3
    if recipe.teacher.mode == "live":
        flops += training["views"] * (whole + decoder(teachers, None, loss.kl_weight > 0))
        if not shared:
            flops += training["views"] * student_encoder * passes
    else:
        times = {"disk": 0, "memory": min(training["windows"], training["views"]),
                 "none": training["views"] * passes}
        flops += times[recipe.scores.encoder_states] * student_encoder
    work = Work(flops)
    windows = data["validation"]["windows"] or 0
    rounds = 1 if recipe.student.freeze_encoder else training["validations"]  # states are kept
    encoder = cost.encoder_flops(size, student["encoder_layers"],
                                 validation["positions"] or SOURCE_POSITIONS)
    work += Work(encoder) * (windows * rounds)
    decoding = _decode_work(size, validation, layers)
    return work + decoding * (windows * training["validations"])


def shares_encoder(recipe: WhisperRecipe, size: WhisperSize, student: dict) -> bool:
    whole = student["encoder_layers"] == size.encoder_layers
    return recipe.student.freeze_encoder and whole
