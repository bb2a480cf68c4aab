"""What a tagger's training step costs from the store, beside teachers that run at every step.

    python -m eval.benchmark.tag RECIPE [key=value ...]          make bench.tag

Needs the recipe's teachers, its store and its student (`make demo-tagger`). Steps are measured in
turn, on the same clips, with the same student; ratios are medians over such pairs. Writes
runs/bench/tag.json:

    speedup_vs_live              step with teachers live / step from the store
    speedup_vs_ideal             that over (members + student) / student, each timed by itself
    replay_overhead              (reading the store + drawing again + decoding) / step
    store_bytes_per_clip_epoch   of the store's files, what was drawn included
    inference                    clips a second of the student: PyTorch, ONNX and int8 ONNX
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np

from distill.ced.recipe import CedRecipe, load_recipe
from eval.benchmark.result import run_benchmark, write_result

OUT = Path("runs/bench")
NUM_ROUNDS = 7
INFERENCE_CLIPS = 16
Places = list[tuple[int, int]]


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    recipe = load_recipe(arguments[0], arguments[1:])
    result = run(recipe)
    write_result(OUT / "tag.json", result, text(result))


def run(recipe: CedRecipe) -> dict:
    """Everything."""
    import torch
    from accelerate import Accelerator

    from distill.ced.task import CedTask

    if recipe.num_threads:
        torch.set_num_threads(recipe.num_threads)
    if not recipe.teacher.members:
        raise ValueError("teacher.members is empty: there is nothing to compare with")
    recipe.train.micro_batch_size = recipe.train.batch_size  # one pass each, as teachers have
    tasks = {}
    for mode in ("store", "live"):
        of_mode = deepcopy(recipe)
        of_mode.teacher.mode = mode
        tasks[mode] = CedTask(of_mode, Accelerator())
    rounds = time_rounds(tasks)
    found = summarise(rounds)
    store = tasks["store"].recorded.store
    num_classes = len(tasks["store"].classes)
    return {
        **found,
        # all that it holds: other runs may have more steps than this one
        "store_bytes_per_clip_epoch": store.num_bytes / store.num_rows,
        "store_views": store.num_rows,
        "inference": time_inference(recipe, tasks["store"]),
        "batch_clips": recipe.train.batch_size, "clip_seconds": recipe.data.clip_seconds,
        "num_classes": num_classes, "k": min(recipe.scores.k, num_classes),
        "members": [each.model for each in recipe.teacher.members],
        "threads": torch.get_num_threads(), "device": str(tasks["store"].accelerator.device),
        "dtype": "float32", "rounds": rounds,
    }


# Training steps


def time_rounds(tasks: dict, num_rounds: int = NUM_ROUNDS) -> list[dict[str, float]]:
    """Seconds of everything on the same clips, in turn; a round of warm-up is left out."""
    from distill.training.optimizer import make_optimizer

    optimizers = {mode: make_optimizer(task.model, task.recipe.train)
                  for mode, task in tasks.items()}
    rounds = []
    for number in range(num_rounds + 1):
        places = tasks["store"].batches.update(number)
        for index, _ in places:
            tasks["store"].source.sound(index), tasks["live"].source.sound(index)  # decode once
        order = list(tasks) if number % 2 else list(tasks)[::-1]
        seconds = {mode: _step(tasks[mode], optimizers[mode], places) for mode in order}
        seconds |= _parts(tasks, optimizers["store"], places)
        if number:
            rounds.append(seconds)
            print(f"  round {number}: " + ", ".join(f"{k} {v:.3f} s" for k, v in seconds.items()),
                  file=sys.stderr, flush=True)
    return rounds


def _timed(call: Callable[[], object]) -> tuple[float, object]:
    started = time.perf_counter()
    found = call()
    return time.perf_counter() - started, found


def _step(task, optimizer, places: Places) -> float:
    """One update, from places to new weights."""
    return _timed(lambda: _update(task, optimizer, task.collate(places)))[0]


def _update(task, optimizer, batch: dict) -> None:
    import torch

    total, _ = task.model(batch)
    (total / len(batch["input_values"])).backward()
    torch.nn.utils.clip_grad_norm_(task.model.parameters(), task.recipe.train.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _parts(tasks: dict, optimizer, places: Places) -> dict[str, float]:
    """Seconds of the members alone, of the student alone (features and update), and of what the
    store adds to a step: reading, unpacking and decoding."""
    task, source = tasks["live"], tasks["live"].source
    views = [source.scored_view(*place) for place in places]
    waves = [source.wave(index, view) for (index, _), view in zip(places, views, strict=True)]
    features = [source.features(wave, view) for wave, view in zip(waves, views, strict=True)]
    with_frames = bool(task.recipe.loss.frame_weight)
    members, _ = _timed(lambda: task.model.teachers(waves, features, frames=with_frames))
    batch = tasks["store"].collate(places)
    update, _ = _timed(lambda: _update(tasks["store"], optimizer, batch))
    replay, _ = _timed(lambda: tasks["store"].targets.views(places))
    drawn, _ = _timed(lambda: [source.wave(i, v) for (i, _), v in zip(places, views, strict=True)])
    mel, _ = _timed(lambda: [source.features(w, v) for w, v in zip(waves, views, strict=True)])
    return {"members": members, "student": update + drawn + mel, "read_and_decode": replay,
            "augment": drawn, "features": mel}


def summarise(rounds: Sequence[dict[str, float]]) -> dict:
    """Medians over rounds of ratios within a round."""

    def median(of: Callable[[dict[str, float]], float]) -> float:
        return statistics.median(map(of, rounds))

    speedup = median(lambda r: r["live"] / r["store"])
    ideal = median(lambda r: (r["members"] + r["student"]) / r["student"])
    return {
        "speedup_vs_live": speedup,
        "ideal_speedup": ideal,
        "speedup_vs_ideal": speedup / ideal,
        "replay_overhead": median(lambda r: r["read_and_decode"] / r["store"]),
        "replay_overhead_with_augmentation": median(
            lambda r: (r["read_and_decode"] + r["augment"]) / r["store"]),
        "steps_per_second": {
            mode: 1 / median(lambda r, m=mode: r[m]) for mode in ("store", "live")},
        "median_seconds": {name: median(lambda r, n=name: r[n]) for name in rounds[0]},
    }


# Inference


def time_inference(recipe: CedRecipe, task) -> dict:
    """Clips a second of the student, in batches and one by one, from features to probabilities."""
    import torch

    from distill.ced.model.frontend import log_mel
    from distill.ced.model.modeling import CedForAudioClassification

    folder = Path(recipe.output_dir) / "student"
    if not folder.is_dir():
        return {}
    model = CedForAudioClassification.from_pretrained(folder, dtype=torch.float32).eval()
    clips = range(min(INFERENCE_CLIPS, len(task.source.clips)))
    waves = [task.source.sound(index) for index in clips]
    length = min(160_000, *map(len, waves))  # one piece, to PyTorch and ONNX alike
    features = torch.stack([log_mel(torch.from_numpy(wave[:length])) for wave in waves])

    systems = {"pytorch_float32": partial(probabilities, model),
               **onnx_systems(folder, torch.get_num_threads())}
    result = {name: {"clips_per_second": [], "clips_per_second_alone": []} for name in systems}
    for number in range(NUM_ROUNDS + 1):
        for name, predict in systems.items():
            together, _ = _timed(lambda predict=predict: predict(features))
            alone, _ = _timed(
                lambda predict=predict: [predict(each[None]) for each in features[:4]])
            if number:
                result[name]["clips_per_second"].append(len(features) / together)
                result[name]["clips_per_second_alone"].append(4 / alone)
    return {name: {key: statistics.median(values) for key, values in each.items()}
            for name, each in result.items()} | {
        "batch_clips": len(features), "clip_seconds": length / 16_000}


def probabilities(model, features) -> np.ndarray:
    """(clips, classes) of features (clips, 64, frames): what the ONNX graphs do, so that no tags
    of frames are made. At most 10 s, which is one piece."""
    import torch

    from distill.losses.matmul import fast_linears

    with torch.inference_mode(), fast_linears():
        return model.outputlayer(model.encoder(features).pooler_output).sigmoid().numpy()


def onnx_systems(folder: Path, threads: int) -> dict[str, Callable]:
    """The exported student, float32 and int8; nothing without an export or onnxruntime."""
    try:
        import onnxruntime
    except ImportError:
        print("  onnxruntime is not installed: ONNX is not measured", file=sys.stderr)
        return {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    systems = {}
    for name, path in exported(folder).items():
        session = onnxruntime.InferenceSession(str(path), options)
        key = session.get_inputs()[0].name
        systems[name] = lambda batch, s=session, k=key: s.run(None, {k: batch.numpy()})[0]
    return systems


def exported(folder: Path) -> dict[str, Path]:
    """ONNX files of the student, made anew."""
    from distill.ced.export.onnx_graph import export_tagger

    out = OUT / "tagger-onnx"
    export_tagger(folder, out)
    return {"onnx_float32": out / "model.onnx", "onnx_int8": out / "model.int8.onnx"}


def text(result: dict) -> str:
    """The main figures, a line each."""
    seconds, inference = result["median_seconds"], result["inference"]
    lines = [
        f"{result['device']}, {result['threads']} threads, {result['dtype']}; medians of "
        f"{len(result['rounds'])} rounds",
        f"step of {result['batch_clips']} clips of up to {result['clip_seconds']:g} s: from the "
        f"store {seconds['store']:.3f} s, teachers live {seconds['live']:.3f} s: "
        f"{result['speedup_vs_live']:.2f} times as fast",
        f"ideal (members + student) / student: {result['ideal_speedup']:.2f}; reached: "
        f"{result['speedup_vs_ideal']:.1%}",
        f"reading and decoding: {result['replay_overhead']:.2%} of a step, with augmentation "
        f"{result['replay_overhead_with_augmentation']:.2%}",
        f"store: {result['store_bytes_per_clip_epoch']:.1f} bytes per clip and epoch at k = "
        f"{result['k']} ({result['num_classes']} classes, {result['store_views']:,} views)",
    ]
    lines += [
        f"inference, {name}: {each['clips_per_second']:.1f} clips/s of "
        f"{inference['clip_seconds']:.1f} s, features to probabilities, in batches of "
        f"{inference['batch_clips']}; {each['clips_per_second_alone']:.1f} one by one"
        for name, each in inference.items() if isinstance(each, dict)
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run_benchmark(main)
