"""What a training step costs from the teacher store, beside the usual way, on the same windows.

    python -m eval.benchmark.train RECIPE [key=value ...]        make bench.train

Needs the recipe's labels (`make demo.label`). Measures, in one process and in turn: steps of the
usual way, the same without padding, and ours (`eval.benchmark.steps`); the cost of filling the
store; peak memory (a process each); and validation WER over wall time for the usual way and ours.
Writes runs/bench/train.json and, with the curves, runs/bench/train.html. About 40 minutes on 2
cores, nearly all of it the usual way's. An interrupted run starts over, apart from what is done of
the store.
"""

from __future__ import annotations

import multiprocessing
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from distill.data.files import write_text
from distill.progress import clock as clock_text
from distill.training.loop import learning_rate
from distill.whisper.recipe import WhisperRecipe, load_recipe
from eval.benchmark.result import run_benchmark, write_result
from eval.benchmark.steps import WAYS, Stepper, fill_store, make_stepper

OUT = Path("runs/bench")
NUM_ROUNDS = 5  # pairs of a ratio: medians over them
BATCH = 4  # windows
MEMORY_BATCH = 8  # windows
CURVE_STEPS = 150
VALIDATE_EVERY = 10  # steps
TARGET_WER = 0.3  # on the validation split: both ways stop there, or after CURVE_STEPS; then the
# times compared are those to the lowest WER that both have met
# What the published recipe trains: the whole decoder but its positions, token embeddings included.
SETTINGS = (
    "student.decoder_layers=2", "student.freeze_embeddings=false",
    "student.freeze_feed_forward=false", "loss.ce_weight=0.8", "loss.kl_weight=1",
    "loss.hidden_weight=0", "loss.temperature=2", "train.average_decay=0",
    "scores.encoder_states=disk", f"scores.dir={OUT}/store", f"train.max_steps={CURVE_STEPS}",
    f"train.batch_size={BATCH}", f"train.micro_batch_size={BATCH}", "teacher.mode=store",
    "train.learning_rate=5e-4", "train.warmup_steps=20", "train.schedule=linear",
)


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    recipe = load_recipe(arguments[0], [*SETTINGS, *arguments[1:]])
    result = run(recipe)
    from eval.benchmark.tables.train import page, table

    write_text(OUT / "train.html", page(result))
    write_result(OUT / "train.json", result, table(result))
    print(f"Curves: {OUT}/train.html")


def run(recipe: WhisperRecipe) -> dict:
    """Everything, from an empty store."""
    import torch

    if recipe.num_threads:
        torch.set_num_threads(recipe.num_threads)
    shutil.rmtree(recipe.scores.dir, ignore_errors=True)
    fill = fill_store(recipe, time.perf_counter)
    memory = {way: _in_process(recipe, way) for way in WAYS}
    steppers = {way: make_stepper(recipe, way) for way in WAYS}
    timing = time_steps(steppers)
    del steppers
    curves = {way: curve(make_stepper(recipe, way), way) for way in ("ours", "usual")}
    return summarise(fill, memory, timing, curves) | {
        "teacher": recipe.teacher.model, "threads": torch.get_num_threads(), "dtype": "float32",
        "batch_windows": BATCH, "memory_batch_windows": MEMORY_BATCH,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


# Time of a step

def time_steps(steppers: dict[str, Stepper], num_rounds: int = NUM_ROUNDS) -> list[dict]:
    """Seconds of every way on the same windows, in turn; one round of warm-up is left out."""
    rounds = []
    batches = next(iter(steppers.values())).task.batches
    for number in range(num_rounds + 1):
        places = batches.update(number)
        seconds = {}
        for way, stepper in steppers.items():
            stepper.prepare(places)
            started = time.perf_counter()
            stepper(places, 1e-5)
            seconds[way] = time.perf_counter() - started
        source = stepper.task.source
        tokens = [source.length(source.view(*place)) for place in places]
        print(f"  round {number}: " + ", ".join(f"{w} {s:.2f} s" for w, s in seconds.items()),
              file=sys.stderr, flush=True)
        if number:
            rounds.append({"tokens": tokens, "seconds": seconds})
    return rounds


# Peak memory

def _in_process(recipe: WhisperRecipe, way: str) -> int:
    """Peak resident bytes of a new process that makes two steps of MEMORY_BATCH windows."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(peak_memory, (recipe, way))


def peak_memory(recipe: WhisperRecipe, way: str) -> int:
    """See `_in_process`."""
    import torch

    from eval.memory import PeakMemory

    if recipe.num_threads:
        torch.set_num_threads(recipe.num_threads)
    with PeakMemory() as memory:
        stepper = make_stepper(recipe, way)
        for step in range(2):
            places = [stepper.task.batches.update(2 * step + i) for i in range(2)]
            places = [place for each in places for place in each][:MEMORY_BATCH]
            stepper.prepare(places)
            stepper(places, 1e-5)
    print(f"  memory, {way}: {memory.peak_bytes / 1e6:,.0f} MB", file=sys.stderr, flush=True)
    return memory.peak_bytes


# Loss and WER over time

def curve(stepper: Stepper, way: str) -> dict:
    """Train until the validation WER is TARGET_WER; seconds are those of the steps alone."""
    config, steps, validations = stepper.task.recipe.train, [], []
    seconds = 0.0
    for step in range(config.max_steps):
        places = stepper.task.batches.update(step)
        stepper.prepare(places)
        started = time.perf_counter()
        loss = stepper(places, learning_rate(config, step))
        seconds += time.perf_counter() - started
        steps.append({"step": step + 1, "seconds": round(seconds, 3), "loss": loss})
        if (step + 1) % VALIDATE_EVERY:
            continue
        wer = stepper.task.validate()["wer"]
        validations.append({"step": step + 1, "seconds": round(seconds, 3), "wer": wer})
        print(f"  curve, {way}: step {step + 1}, {clock_text(seconds)} of steps, loss {loss:.2f}, "
              f"validation WER {wer:.1%}", file=sys.stderr, flush=True)
        if wer <= TARGET_WER:
            break
    return {"steps": steps, "validations": validations}


# Figures

def summarise(fill: dict, memory: dict, timing: Sequence[dict], curves: dict) -> dict:
    """Ratios: medians over pairs of what was timed in turn; above 1 is in our favour, but for
    memory (ours / usual)."""
    def ratio(way: str) -> float:
        return statistics.median(r["seconds"][way] / r["seconds"]["ours"] for r in timing)

    def median(way: str) -> float:
        return statistics.median(r["seconds"][way] for r in timing)

    filling = fill["seconds"]
    whole = sum(filling.values()) / fill["windows"]
    beyond = (filling["write"] + filling["score"]) / fill["windows"]
    gain = (median("usual") - median("ours")) / BATCH  # seconds a window and epoch
    target = max(TARGET_WER, *(min(v["wer"] for v in curves[way]["validations"]) for way in curves))
    times = {way: _time_to(curves[way], target) for way in curves}
    beyond_labelling = times["ours"] + filling["write"] + filling["score"]
    return {
        "speedup_vs_usual": ratio("usual"), "speedup_vs_unpadded": ratio("unpadded"),
        "peak_memory_ratio": memory["ours"] / memory["usual"],
        "break_even_epochs": whole / gain, "break_even_epochs_beyond_labelling": beyond / gain,
        "windows_per_second": {way: BATCH / median(way) for way in WAYS},
        "median_step_seconds": {way: median(way) for way in WAYS},
        "peak_memory_bytes": memory, "fill": fill, "pairs": list(timing), "curves": curves,
        "target_wer": target, "seconds_to_wer": times,
        "time_to_wer_ratio": times["usual"] / beyond_labelling,
        "time_to_wer_ratio_with_encoding":
            times["usual"] / (times["ours"] + sum(filling.values())),
        "batch_tokens": statistics.median(sum(r["tokens"]) for r in timing),
    }


def _time_to(found: dict, target: float) -> float:
    """Seconds of steps until a WER was first met."""
    return next(v["seconds"] for v in found["validations"] if v["wer"] <= target)


if __name__ == "__main__":
    run_benchmark(main)
