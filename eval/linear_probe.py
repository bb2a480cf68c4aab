"""How much a linear classifier makes of a tagger's frozen embeddings, on any labelled sounds.

    python -m eval.linear_probe --model runs/mine/student --train data/a/train.jsonl \\
        --test data/a/test.jsonl [--validation data/a/validation.jsonl] [--output probe.json]

A split is a manifest whose rows have `labels`, or a folder CLASS/any/depth/sound.wav. A recording
is one embedding (`get_scene_embeddings`), standardised by the training split; a logistic regression
is fitted to them by L-BFGS, with the weight decay that is best on the validation split, or in 5
folds of the training split. If every recording has exactly one class the result is its accuracy,
besides mAP. --module names another module with HEAR's interface.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from distill.data.audio import AudioError, load_audio
from distill.data.files import write_json
from distill.data.find_files import find_audio
from distill.data.manifest import read_manifest
from distill.data.unreadable import Unreadable, read_patiently
from distill.endings import program, run
from distill.metrics.tagging import bootstrap_interval_of, evaluate_tags, mean_average_precision
from distill.progress import progress

DECAYS = tuple(10.0**power for power in range(-4, 2))  # of the mean loss a recording
FOLDS = 5
_KEYS = ("mean_average_precision", "mean_average_precision_ci", "num_classes_with_positives",
         "auc", "auc_ci", "lwlrap", "lwlrap_ci")


@dataclass(frozen=True)
class Sound:
    """A recording: `duration` seconds from `offset` on, None to the end."""

    path: str
    labels: tuple[str, ...]
    offset: float = 0.0
    duration: float | None = None


def sounds_of(split: Path) -> list[Sound]:
    """Recordings of a manifest, or of a folder with a folder for each class.

    Raises:
        ValueError: nothing there, or a row without labels.
    """
    if split.is_dir():
        paths = find_audio(split)
        found = [Sound(str(path), (path.relative_to(split).parts[0],))
                 for path in paths if path.parent != split]
        if not found:
            raise ValueError(f"{split}: no audio, expected files such as CLASS/sound.wav")
        if len(found) < len(paths):
            print(f"{split}: left out: {len(paths) - len(found)} files outside class folders")
        return found
    rows, drops = read_manifest(split)
    if drops:
        reasons = ", ".join(f"{count} {why}" for why, count in sorted(drops.items()))
        print(f"{split}: left out: {reasons}")
    if without := [row.id for row in rows if row.labels is None]:
        raise ValueError(f"{split}: row {without[0]} has no `labels`; {len(without)} rows in all "
                         "have none")
    return [Sound(r.audio_filepath, tuple(r.labels), r.offset, r.duration) for r in rows]


def embed(
    sounds: Sequence[Sound], module, model, name: str
) -> tuple[np.ndarray, list[Sound], list[str]]:
    """(recordings, width) in float64, the recordings, and what could not be read.

    Raises:
        AudioError: a file that cannot be opened now.
        ValueError: none can be read.
    """
    import soxr
    import torch

    found, kept, failed = [], [], []
    for sound in progress(sounds, len(sounds), name, "recordings"):
        try:
            wave = read_patiently(partial(load_audio, sound.path, sound.offset, sound.duration))
        except AudioError as error:
            if error.is_transient:
                raise
            failed.append(f"{sound.path}: {error}")
            continue
        if model.sample_rate != 16_000:
            wave = soxr.resample(wave, 16_000, model.sample_rate)
        scene = module.get_scene_embeddings(torch.from_numpy(wave)[None], model)
        found.append(scene[0].double().cpu().numpy())
        kept.append(sound)
    if not kept:
        raise ValueError(f"{name}: none of {len(sounds)} recordings can be read: {failed[0]}")
    return np.stack(found), kept, failed


def targets_of(sounds: Sequence[Sound], classes: Sequence[str]) -> np.ndarray:
    """(recordings, classes) 0 or 1.

    Raises:
        ValueError: a class that the training split does not have.
    """
    place = {name: index for index, name in enumerate(classes)}
    targets = np.zeros((len(sounds), len(classes)))
    for number, sound in enumerate(sounds):
        for label in sound.labels:
            if label not in place:
                raise ValueError(f"{sound.path}: no recording of the training split is "
                                 f"{label!r}, it has {', '.join(classes)}")
            targets[number, place[label]] = 1
    return targets


class Probe:
    """A logistic regression: softmax over classes, or one sigmoid for each."""

    def __init__(self, x: np.ndarray, y: np.ndarray, decay: float, is_softmax: bool):
        import torch

        self.mean, self.scale = x.mean(0), x.std(0) + 1e-8
        self.is_softmax = is_softmax
        inputs, targets = torch.from_numpy(self._standard(x)), torch.from_numpy(y)
        weight = torch.zeros(y.shape[1], x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")
        if is_softmax:
            loss_of = torch.nn.functional.cross_entropy
        else:
            loss_of = torch.nn.functional.binary_cross_entropy_with_logits

        def closure():
            optimizer.zero_grad()
            loss = loss_of(inputs @ weight[:, :-1].T + weight[:, -1], targets)
            loss = loss + decay * (weight[:, :-1] ** 2).sum() / y.shape[1]
            loss.backward()
            return loss

        optimizer.step(closure)
        self.weight = weight.detach().numpy()

    def _standard(self, x: np.ndarray) -> np.ndarray:
        return (x - self.mean) / self.scale

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Probabilities (recordings, classes)."""
        logits = self._standard(x) @ self.weight[:, :-1].T + self.weight[:, -1]
        if self.is_softmax:
            exponents = np.exp(logits - logits.max(1, keepdims=True))
            return exponents / exponents.sum(1, keepdims=True)
        return 1 / (1 + np.exp(-np.clip(logits, -500, 500)))


def accuracy(scores: np.ndarray, targets: np.ndarray) -> float:
    """Share of recordings whose best class is right."""
    return float((scores.argmax(1) == targets.argmax(1)).mean())


def choose_decay(
    train: tuple[np.ndarray, np.ndarray], validation: tuple[np.ndarray, np.ndarray] | None,
    is_softmax: bool,
) -> float:
    """The best of DECAYS by accuracy or mAP; of equal ones the larger."""
    def score(predicted: np.ndarray, targets: np.ndarray) -> float:
        if is_softmax:
            return accuracy(predicted, targets)
        return mean_average_precision(predicted, targets)[0]

    x, y = train
    fold = np.random.default_rng(0).permutation(len(x)) % FOLDS
    best: tuple[float, float] = (-1.0, DECAYS[-1])
    for decay in DECAYS:
        if validation is not None:
            value = score(Probe(x, y, decay, is_softmax)(validation[0]), validation[1])
        else:
            predicted = np.zeros_like(y)
            for part in range(min(FOLDS, len(x))):
                probe = Probe(x[fold != part], y[fold != part], decay, is_softmax)
                predicted[fold == part] = probe(x[fold == part])
            value = score(predicted, y)
        best = max(best, (value, decay))
    return best[1]


def evaluate_probe(options: argparse.Namespace) -> dict:
    """Embed, fit, measure; ready for JSON."""
    try:
        module = importlib.import_module(options.module)
    except ModuleNotFoundError as error:
        raise ValueError(f"--module {options.module}: {error}") from None
    model = module.load_model(options.model)
    splits = {"train": options.train, "test": options.test}
    splits |= {"validation": options.validation} if options.validation else {}
    sounds = {name: sounds_of(path) for name, path in splits.items()}
    for name, each in sounds.items():
        faults = Unreadable(len(each), 1.0, "the probe")
        faults.stat((sound.path, sound.path) for sound in each)
        faults.begin(f"--{name}")
    classes = sorted({label for sound in sounds["train"] for label in sound.labels})
    if len(classes) < 2:
        raise ValueError(f"--train needs two classes or more, got {', '.join(classes) or 'none'}")
    is_softmax = all(len(s.labels) == 1 for each in sounds.values() for s in each)
    data, failed = {}, []
    for name, each in sounds.items():
        x, kept, bad = embed(each, module, model, name)
        data[name], failed = (x, targets_of(kept, classes)), failed + bad
    decay = choose_decay(data["train"], data.get("validation"), is_softmax)
    x, targets = data["test"]
    scores = Probe(*data["train"], decay, is_softmax)(x)
    measured = evaluate_tags(scores, targets, classes, options.num_bootstrap)
    result = {
        "model": options.model, "module": options.module, "split": "test",
        "num_recordings": {name: len(each[0]) for name, each in data.items()},
        "num_classes": len(classes), "width": x.shape[1], "weight_decay": decay,
        "unreadable": failed, "num_bootstrap": options.num_bootstrap,
    }
    if is_softmax:
        interval = bootstrap_interval_of(accuracy, scores, targets, options.num_bootstrap)
        result |= {"accuracy": accuracy(scores, targets), "accuracy_ci": interval}
    return result | {key: measured[key] for key in _KEYS}


def main(arguments: list[str]) -> int:
    """0; 1 if some recording could not be read."""
    about, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=program("eval.linear_probe"), description=about, epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="what load_model of the module reads")
    parser.add_argument("--train", type=Path, required=True, help="manifest, or folder of classes")
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--validation", type=Path, help="default: 5 folds of the training split")
    parser.add_argument("--module", default="eval.hear", help="with HEAR's interface")
    parser.add_argument("--num-bootstrap", type=int, default=1000, help="for the intervals; 1000")
    parser.add_argument("--output", type=Path, help="JSON")
    options = parser.parse_args(arguments)
    result = evaluate_probe(options)
    for failed in result["unreadable"]:
        print(failed, file=sys.stderr)
    for name in ("accuracy", "mean_average_precision"):
        if result.get(name) is not None:
            interval = result[f"{name}_ci"]
            ends = "" if interval is None else " [{:.1f}, {:.1f}]".format(
                *(100 * end for end in interval))
            print(f"{name.replace('_', ' ')} {100 * result[name]:.1f} %{ends}")
    counts = ", ".join(f"{name} {count:,}" for name, count in result["num_recordings"].items())
    print(f"Split test, 95 % intervals over its recordings ({result['num_bootstrap']:,} resamples)."
          f"\nRecordings: {counts}; {result['num_classes']} classes, "
          f"{result['num_classes_with_positives']} of them in the test split; embeddings of "
          f"{result['width']}, weight decay {result['weight_decay']:g}.")
    if options.output:
        write_json(options.output, result)
    return int(bool(result["unreadable"]))


if __name__ == "__main__":
    run(main)
