"""Thresholds for a set of classes, chosen on validation clips, and how well they do on test clips.

    python -m eval.label_set home.yaml --model runs/mine/student --precision 0.9 \
        --validation data/validation.jsonl --test data/test.jsonl --output home-90.yaml
    python -m eval.tag recordings/ --model runs/mine/student --classes home-90.yaml

The set is a file as `distill.ced.teachers.label_sets` describes it: groups of the tagger's classes,
combined by their maximum or a noisy or. A class's threshold is the lowest at which so many of the
clips that count as heard are right, of the validation clips and, with some confidence, of others.
Written are the set with its thresholds and, beside it, a JSON with precision, recall and F1 of each
class and their 95 % intervals. With --small, a copy of the model with those outputs alone that the
set needs.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.data.files import write_json, write_text
from distill.data.manifest import load_rows, recordings_of
from distill.endings import program, run

_COUNTED = {  # what is an example, where it is said how much the validation split proves
    "recordings": "scenes of the same recordings count as these",
    "clips": "each clip counts by itself: if several are of one recording, rows should name it "
             "(`recordings`)"}


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    from distill.ced.teachers.label_sets import label_set_text, read_label_set

    if not 0 < options.precision <= 1:
        raise ValueError(f"--precision must be in (0, 1], got {options.precision}")
    labels = read_label_set(options.label_set)
    output = options.output or options.label_set.with_suffix(".thresholds.yaml")
    written = {output.resolve(), output.with_suffix(".json").resolve()}
    if len(written) < 2 or options.label_set.resolve() in written:
        raise ValueError(f"--output {output}: expected another file than {options.label_set}, and "
                         "not .json, since the results are written beside it under that name")
    labels, results = measure(labels, options)
    write_text(output, label_set_text(labels))
    write_json(output.with_suffix(".json"), results)
    print(table(results))
    print(f"Written: {output}, {output.with_suffix('.json')}")
    if options.small:
        from eval.tagging.small import write_small

        kept, before = write_small(options.model, labels, options.small)
        print(f"Written: {options.small}, with {kept} of {before} outputs")
    return 0


def measure(labels: Any, options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The set with its thresholds, and what is written beside it.

    Raises:
        ValueError: the tagger lacks a class, or a split has none of the set's.
    """
    import numpy as np

    from distill.metrics.tagging import evaluate_tags
    from distill.metrics.thresholds import NEVER, at_precision, f1_of

    scores, targets, rows = _scored(options.model, labels, options.validation)
    recordings = recordings_of(rows, [[name, *labels.groups[name]] for name in labels.names])
    found = at_precision(scores, targets, options.precision, options.confidence, recordings)
    thresholds = {name: round(float(each), 4) for name, each in
                  zip(labels.names, found, strict=True) if each < NEVER}
    labels = replace(labels, thresholds=thresholds)
    chosen = np.array([thresholds.get(name, NEVER) for name in labels.names])
    results: dict[str, Any] = {
        "model": options.model, "combine": labels.combine, "precision": options.precision,
        "confidence": options.confidence, "counted": "recordings" if recordings else "clips",
        "thresholds_from": [str(path) for path in options.validation],
        "never_heard": [name for name in labels.names if name not in thresholds]}
    for split in ("validation", "test"):
        if not (manifests := getattr(options, split)):
            continue
        scores, targets, _ = _scored(options.model, labels, manifests)
        tags = evaluate_tags(scores, targets, labels.names, options.num_bootstrap, 0)
        results[split] = {
            "num_recordings": len(scores), "map": tags["mean_average_precision"],
            "map_ci": tags["mean_average_precision_ci"],
            "classes": f1_of(scores, targets, chosen, labels.names, options.num_bootstrap, 0)}
    return labels, results


def _scored(model: str, labels: Any, manifests: list[Path]) -> tuple:
    """Probabilities and labels (recordings, classes of the set), and the rows."""
    import numpy as np
    import torch

    from distill.ced.evaluation import EvaluationClips
    from distill.ced.model.frontend import log_mel
    from distill.progress import progress
    from eval.tagging.windows import load_tagger

    tagger = load_tagger(model)
    clips = EvaluationClips([str(path) for path in manifests], 10.0, "the split")
    found, batch = [], 8
    starts = range(0, len(clips), batch)
    for at in progress(starts, len(starts), "tagging", "batches"):
        waves = [clips.wave(n) for n in range(at, min(at + batch, len(clips)))]
        features = [log_mel(torch.from_numpy(wave)) if tagger.member.takes_features else None
                    for wave in waves]
        found.append(tagger.member(waves, features))
    scores = labels(clips.pool(np.concatenate(found)), tagger.classes)
    by_row = {clip.row: clip.labels for clip in clips.clips}
    if without := [row for row, each in by_row.items() if each is None]:
        raise ValueError(f"{without[0]} has no `labels` in its manifest")
    targets = np.array([labels.targets(by_row[row]) for row in clips.rows], np.float32)
    if not targets.any():
        raise ValueError(f"{', '.join(map(str, manifests))}: not one recording has a class of the "
                         "set")
    row_of = {row.id: row for row in load_rows([str(path) for path in manifests])[0]}
    return scores, targets, [row_of[row] for row in clips.rows]


def table(results: dict[str, Any]) -> str:
    """A line for each class, of the test split where there is one."""
    split = "test" if "test" in results else "validation"
    found = results[split]
    lines = [f"{split.capitalize()} split, {found['num_recordings']} recordings: mAP "
             f"{_percent(found['map'], found['map_ci'])}; thresholds for a precision of "
             f"{100 * results['precision']:g} %, by the validation split with a confidence of "
             f"{100 * results['confidence']:g} %; {_COUNTED[results['counted']]}",
             f"{'class':24} {'clips':>5} {'threshold':>9} {'precision':>9} {'recall':>7}  F1"]
    for name, each in found["classes"].items():
        threshold = "never" if each["threshold"] is None else f"{each['threshold']:.3f}"
        lines.append(f"{name:24} {each['num_positives']:5} {threshold:>9} "
                     f"{_percent(each['precision']):>9} {_percent(each['recall']):>7}  "
                     f"{_percent(each['f1'], each['f1_ci'])}")
    return "\n".join(lines)


def _percent(value: float | None, interval: list | None = None) -> str:
    if value is None:
        return "-"
    ends = f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else ""
    return f"{100 * value:.1f} %{ends}"


def _parser() -> argparse.ArgumentParser:
    about, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=program("eval.label_set"), description=about, epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("label_set", type=Path, help="YAML: groups of the tagger's classes")
    parser.add_argument("--model", required=True, help="folder, Hub id, .onnx, module:function")
    parser.add_argument("--validation", type=Path, nargs="+", required=True,
                        help="manifests that thresholds are chosen on")
    parser.add_argument("--test", type=Path, nargs="+", default=[],
                        help="manifests that they are measured on")
    parser.add_argument("--precision", type=float, default=0.8, help="that is asked for; 0.8")
    parser.add_argument("--confidence", type=float, default=0.9, help="that it holds for clips "
                        "which are not looked at; 0.9. 0.5: of the validation clips alone")
    parser.add_argument("--output", type=Path, help="default: NAME.thresholds.yaml")
    parser.add_argument("--num-bootstrap", type=int, default=1000, help="resamples; 1000")
    parser.add_argument("--small", type=Path, help="folder for a copy of the model that has the "
                        "outputs of the set alone")
    return parser


if __name__ == "__main__":
    run(main)
