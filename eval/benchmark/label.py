"""Pseudo-labelling: ours by each backend, the usual way, and faster-whisper, on the same audio.

    python -m eval.benchmark.label RECIPE [SETTING ...] [key=value ...]        make bench.label

Needs the extra `ct2` and faster-whisper (`pip install faster-whisper`). Settings (all, if none is
named), each in turn in one process, from decoded audio to text, greedy, without timestamps:

- `packed`: windows of up to 30 s of the training split, as labelling has them;
- `clips`: single clips of 1 to 12 s in random order; ours packs and sorts them, the usual way pads
  each to 30 s;
- `loose`: all clips of up to 30 s, each by itself and at its own length
  (`teacher.short_audio_margin`), beside the same packed, both by ours.

The usual way is that of the Distil-Whisper scripts: transformers' generate in float32, batches in
the order of the data. Writes runs/bench/label.json, or label-SETTING.json of those named. About 20
minutes on 2 cores.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from distill.config import ConfigError
from distill.data.audio import SAMPLE_RATE
from distill.data.speech.windows import Window, load_window, pack
from distill.metrics.error_rates import bootstrap_interval, error_counts, error_rate
from distill.metrics.normalize import normalizer
from distill.whisper.recipe import WhisperRecipe, load_recipe
from eval.benchmark.result import run_benchmark, write_result

OUT = Path("runs/bench")
NUM_WINDOWS, NUM_CLIPS = 24, 72
NUM_ROUNDS = 3
BATCH = 12  # windows; 24 is no faster on 2 cores for any of them
CLIP_SECONDS = (1.0, 12.0)
SETTINGS = ("packed", "clips", "loose")
BOTH = ("ours, transformers", "ours, ctranslate2 int8")  # backends of `clips` and `loose`
Texts = dict[str, str]  # of windows, by id


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    named = [each for each in arguments[1:] if "=" not in each]
    if unknown := set(named) - set(SETTINGS):
        raise ConfigError(f"settings are {', '.join(SETTINGS)}; got {', '.join(sorted(unknown))}")
    recipe = load_recipe(arguments[0], [
        "pseudo_label.timestamps=false", f"pseudo_label.batch_size={BATCH}", "teacher.mode=live",
        *(each for each in arguments[1:] if "=" in each)])
    result = run(recipe, [each for each in SETTINGS if each in named] or SETTINGS)
    write_result(OUT / f"{'-'.join(['label', *named])}.json", result, table(result))


def run(recipe: WhisperRecipe, names: Sequence[str] = SETTINGS) -> dict:
    """The settings of these names, and the ratios that count."""
    import torch

    if recipe.num_threads:
        torch.set_num_threads(recipe.num_threads)
    ways = Ways(recipe)
    packed, clips, loose = material(recipe)
    measured = {
        "packed": lambda: measure(packed, packed, ways.all(), recipe),
        "clips": lambda: measure(clips, pack_clips(clips), ways.some("reference", *BOTH), recipe),
        "loose": lambda: measure(loose, pack_clips(loose), ways.loose(), recipe),
    }
    settings = {name: measured[name]() for name in names}
    return ratios(settings) | {
        "settings": settings, "teacher": recipe.teacher.model, "split": "train",
        "normalizer": recipe.evaluation.normalizer, "batch": BATCH,
        "threads": torch.get_num_threads(), "int8_encoder_seconds_per_window":
            ways.encoder_seconds(packed[:BATCH]),
    }


def material(recipe: WhisperRecipe) -> tuple[list[Window], list[Window], list[Window]]:
    """Windows of packed clips, and windows of a single clip each in random order: a few, and all.
    """
    from distill.whisper.data.corpus import load_clips

    rows, _ = load_clips(recipe.data.train)
    rows = [row for row in rows if row.duration <= 30]
    order = np.random.default_rng(0).permutation(len(rows))
    packed = pack(rows, "packed", "best_fit", seed=1)
    loose = [pack([rows[i]], f"clip-{rows[i].id}", "sequential")[0] for i in order]
    clips = [each for each in loose if CLIP_SECONDS[0] <= each.duration <= CLIP_SECONDS[1]]
    return packed[:NUM_WINDOWS], clips[:NUM_CLIPS], loose


def pack_clips(clips: Sequence[Window]) -> list[Window]:
    """The same clips as labelling would take them."""
    from distill.data.manifest import Row

    rows = [Row(p.id, p.audio_filepath, p.duration, p.offset, p.text)
            for clip in clips for p in clip.pieces]
    return pack(rows, "packed-clips", "best_fit", seed=1)


class Ways:
    """Everything that is compared, loaded once."""

    def __init__(self, recipe: WhisperRecipe):
        from faster_whisper import BatchedInferencePipeline, WhisperModel

        from distill.whisper.recognition.ct2_backend import converted
        from distill.whisper.teacher import load_teacher

        self.recipe, self.teacher = recipe, load_teacher(recipe.teacher)
        self.ours = {
            "ours, transformers": self._backend("transformers", "auto"),
            "ours, ctranslate2 int8": self._backend("ctranslate2", "int8_float32"),
            "ours, ctranslate2 float32": self._backend("ctranslate2", "float32"),
        }
        folder = str(converted(recipe))
        self.theirs = {
            f"faster-whisper {name}": BatchedInferencePipeline(
                WhisperModel(folder, device="cpu", compute_type=kind, cpu_threads=self._threads()))
            for name, kind in (("int8", "int8_float32"), ("float32", "float32"))
        }

    def _threads(self) -> int:
        import torch

        return torch.get_num_threads()

    def _backend(self, name: str, compute_type: str):
        from copy import deepcopy

        from distill.whisper.recognition.backends import load_backend

        recipe = deepcopy(self.recipe)
        recipe.pseudo_label.backend, recipe.pseudo_label.compute_type = name, compute_type
        return load_backend(recipe, self.teacher)

    def all(self) -> dict[str, Callable]:
        ours = {name: self._ours(backend) for name, backend in self.ours.items()}
        theirs = {name: self._theirs(pipeline) for name, pipeline in self.theirs.items()}
        return {"reference": self.reference, **ours, **theirs}

    def some(self, *names: str) -> dict[str, Callable]:
        return {name: way for name, way in self.all().items() if name in names}

    def loose(self) -> dict[str, Callable]:
        """`ours` of windows that are packed, `loose` of clips by themselves."""
        ours = self.some(*BOTH)
        return ours | {name.replace("ours", "loose"): way for name, way in ours.items()}

    def reference(self, windows: Sequence[Window], audios: dict[str, np.ndarray]) -> Texts:
        """As the published scripts call it."""
        import torch

        from distill.whisper.encoder.padded import log_mel

        texts: Texts = {}
        for at in range(0, len(windows), BATCH):
            batch = windows[at : at + BATCH]
            features = log_mel(self.teacher.processor, [audios[w.id] for w in batch])
            with torch.no_grad():
                ids = self.teacher.model.generate(
                    features, max_length=256, num_beams=1, do_sample=False,
                    return_timestamps=False, language=self.recipe.language, task="transcribe")
            decoded = self.teacher.processor.batch_decode(ids, skip_special_tokens=True)
            texts |= dict(zip([w.id for w in batch], decoded, strict=True))
        return texts

    def _ours(self, backend) -> Callable:
        from distill.whisper.encoder.audio import audio_features
        from distill.whisper.recognition.transcribe import to_text

        def way(windows: Sequence[Window], audios: dict[str, np.ndarray]) -> Texts:
            texts: Texts = {}
            ordered = sorted(windows, key=lambda window: -window.duration)
            for at in range(0, len(ordered), backend.group_size):
                group = ordered[at : at + backend.group_size]
                features = audio_features(self.teacher.processor,
                                          [audios[w.id] for w in group], backend.margin)
                labelled, _ = backend.label(group, features)
                for window, each in zip(group, labelled, strict=True):
                    texts[window.id] = to_text(self.teacher.processor.tokenizer,
                                               each.hypothesis.tokens)
            return texts

        return way

    def _theirs(self, pipeline) -> Callable:
        def way(windows: Sequence[Window], audios: dict[str, np.ndarray]) -> Texts:
            """One recording of all windows, cut where they begin."""
            whole = np.concatenate([audios[w.id] for w in windows])
            ends = np.cumsum([len(audios[w.id]) for w in windows]) / SAMPLE_RATE
            starts = [0.0, *ends[:-1]]
            places = [{"start": a, "end": b} for a, b in zip(starts, ends, strict=True)]
            segments, _ = pipeline.transcribe(
                whole, language=self.recipe.language, beam_size=1, batch_size=BATCH,
                without_timestamps=True, vad_filter=False, clip_timestamps=places)
            texts = dict.fromkeys((w.id for w in windows), "")
            for segment in segments:
                index = int(np.searchsorted(ends, (segment.start + segment.end) / 2))
                texts[windows[index].id] += segment.text
            return texts

        return way

    def encoder_seconds(self, windows: Sequence[Window]) -> float:
        """The int8 encoder alone: no labelling by it can be faster."""
        from distill.whisper.encoder.audio import audio_features

        backend = self.ours["ours, ctranslate2 int8"]
        features = audio_features(self.teacher.processor, [load_window(w) for w in windows],
                                  backend.margin)
        times = []
        for _ in range(NUM_ROUNDS):
            started = time.perf_counter()
            backend.encode(features)
            times.append(time.perf_counter() - started)
        return min(times) / len(windows)


def measure(
    usual: Sequence[Window], ours: Sequence[Window], ways: dict[str, Callable],
    recipe: WhisperRecipe
) -> dict:
    """Seconds of every way in turn, after one round of warm-up, and the WER of its texts."""
    audios = {window.id: load_window(window) for window in {w.id: w for w in [*usual, *ours]}
              .values()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    texts: dict[str, Texts] = {}
    for number in range(NUM_ROUNDS + 1):
        for name, way in ways.items():
            windows = ours if name.startswith("ours") else usual
            some = windows[:BATCH] if number == 0 else windows
            started = time.perf_counter()
            texts[name] = way(some, audios)
            taken = time.perf_counter() - started
            if number:
                seconds[name].append(taken)
                print(f"  round {number}, {name}: {taken:.1f} s", file=sys.stderr, flush=True)
    audio = sum(window.duration for window in usual)
    return {
        "inputs": len(usual), "windows": len(ours), "audio_seconds": audio,
        "ways": {name: {"seconds": seconds[name],
                        "rtfx": audio / statistics.median(seconds[name]),
                        **errors(ours if name.startswith("ours") else usual, texts[name], recipe)}
                 for name in ways},
    }


def errors(windows: Sequence[Window], texts: Texts, recipe: WhisperRecipe) -> dict:
    """Pooled WER with its 95 % interval over the windows."""
    clean = normalizer(recipe.evaluation.normalizer, recipe.language)
    counts = [error_counts(clean(window.text), clean(texts[window.id])) for window in windows]
    return {"wer": error_rate(counts), "wer_interval": bootstrap_interval(counts),
            "num_words": sum(count.num_reference for count in counts)}


def ratios(settings: dict) -> dict:
    """Medians over the pairs of a round. Above 1 is in our favour; WER in points."""
    def ratio(setting: str, slow: str, fast: str) -> float:
        ways = settings[setting]["ways"]
        pairs = zip(ways[slow]["seconds"], ways[fast]["seconds"], strict=True)
        return statistics.median(a / b for a, b in pairs)

    found: dict = {}
    if "packed" in settings:
        ways = settings["packed"]["ways"]
        by_backend = {name: ratio("packed", "reference", name) for name in ways
                      if name.startswith("ours")}
        int8, plain = "ours, ctranslate2 int8", "ours, ctranslate2 float32"
        found |= {
            "speedup_vs_reference": max(by_backend.values()),
            "speedup_vs_reference_by_backend": by_backend,
            "vs_faster_whisper": ratio("packed", "faster-whisper int8", int8),
            "vs_faster_whisper_float32": ratio("packed", "faster-whisper float32", plain),
            "wer_difference": 100 * (ways[int8]["wer"] - ways[plain]["wer"]),
        }
    if "clips" in settings:
        found["speedup_vs_reference_on_clips"] = {
            name: ratio("clips", "reference", name) for name in BOTH}
    if "loose" in settings:
        found["speedup_loose_vs_packed"] = {
            name: ratio("loose", name, name.replace("ours", "loose")) for name in BOTH}
    return found


def table(result: dict) -> str:
    """For a terminal."""
    lines = [f"{result['teacher']}, {result['split']} split, greedy, batch {result['batch']}, "
             f"{result['threads']} CPU threads; medians of {NUM_ROUNDS} rounds in turn"]
    for name, setting in result["settings"].items():
        lines += ["", f"{name}: {setting['inputs']} inputs, {setting['audio_seconds'] / 60:.1f} "
                      f"minutes, {setting['windows']} windows",
                  f"{'':<28}{'seconds':>9}{'RTFx':>7}{'WER [95 % CI]':>26}"]
        for way, found in setting["ways"].items():
            wer = f"{found['wer']:.2%} " + "[{:.1%}, {:.1%}]".format(*found["wer_interval"])
            lines.append(f"{way:<28}{statistics.median(found['seconds']):>9.1f}"
                         f"{found['rtfx']:>7.1f}{wer:>26}")
    return "\n".join([*lines, "", *_in_words(result)])


def _in_words(result: dict) -> list[str]:
    def each(key: str) -> str:
        return ", ".join(f"{name.removeprefix('ours, ')} {value:.2f}x"
                         for name, value in result[key].items())

    lines = []
    if "packed" in result["settings"]:
        lines += [f"faster than the usual way: {each('speedup_vs_reference_by_backend')}",
                  "faster than faster-whisper (batched): int8 "
                  f"{result['vs_faster_whisper']:.2f}x, float32 "
                  f"{result['vs_faster_whisper_float32']:.2f}x",
                  f"int8 - float32: {result['wer_difference']:+.2f} points of WER"]
    if "clips" in result["settings"]:
        lines += [f"faster than the usual way on clips: {each('speedup_vs_reference_on_clips')}"]
    if "loose" in result["settings"]:
        lines += [f"single clips faster than packed ones: {each('speedup_loose_vs_packed')}"]
    return [*lines, "the int8 encoder alone takes "
                    f"{result['int8_encoder_seconds_per_window']:.2f} s a window"]


if __name__ == "__main__":
    run_benchmark(main)
