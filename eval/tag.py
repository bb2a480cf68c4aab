"""Tag files and folders of any format, rate and length.

    python -m eval.tag street.mp3 recordings/ --model runs/mine/student
    python -m eval.tag street.mp3 --model runs/mine/student --frames --format audacity
    python -m eval.tag recordings/ --model runs/mine/student --classes Speech Music --format csv

The model is a folder or Hub id of a tagger (ours or any AutoModelForAudioClassification), an .onnx
file with its class_labels_indices.csv, or package.module:function. What each file is about is
printed; with --format it is also written, `street.mp3` to `street.mp3.tags.json`, beside it or in
--output-dir, when the file is done. A file that is there already is left alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from distill.data.audio import AudioError
from distill.data.files import write_text
from distill.data.hub_ids import check_hub_id
from distill.endings import program, run
from distill.progress import clock, progress
from eval.audio_files import output_places, printable

if TYPE_CHECKING:
    import numpy as np

    from distill.ced.teachers.label_sets import LabelSet
    from eval.tagging.windows import Row, Tagger, Window

SUFFIXES = {"json": ".tags.json", "csv": ".tags.csv", "audacity": ".labels.txt"}


def main(arguments: list[str]) -> int:
    """0; 1 if some file could not be read."""
    options = _parser().parse_args(arguments)
    _check(options)
    places = output_places(options.files, options.output_dir)
    todo = [path for path, place in places.items() if options.overwrite or not options.format
            or not all(Path(f"{place}{SUFFIXES[kind]}").is_file() for kind in options.format)]
    if len(todo) < len(places):
        print(f"{len(places) - len(todo)} of {len(places)} files are tagged already "
              "(--overwrite does them again)", flush=True)
    if not todo:
        return 0
    return _tag({path: places[path] for path in todo}, options)


def _check(options: argparse.Namespace) -> None:
    if ":" not in options.model:  # of a package
        check_hub_id(options.model, "--model")
    hop = options.window if options.hop is None else options.hop
    if options.window < 0.15 or not 0 < hop <= options.window:
        raise ValueError("--window must be at least 0.15 s and --hop above 0, at most the window; "
                         f"got {options.window} and {hop}")
    if options.frames and hop != options.window:
        raise ValueError("--frames tags every 160 ms already: remove --hop")
    if options.batch_size < 1:
        raise ValueError(f"--batch-size must be 1 or more, got {options.batch_size}")


def _tag(places: dict[Path, Path], options: argparse.Namespace) -> int:
    from eval.tagging.formats import choose, whole, written
    from eval.tagging.windows import load_tagger

    labels = _label_set(options)
    tagger = load_tagger(options.model, options.activation, options.frames, labels)
    choice = choose(tagger.classes, None if labels else options.classes, options.top_k,
                    options.threshold, labels and labels.thresholds)
    files = _Files(options)
    start, seconds = time.perf_counter(), 0.0
    for path, rows in files.tagged(places, tagger):
        tags = ", ".join(f"{t['label']} {t['score']:.2f}" for t in whole(rows, choice))
        print(f"{printable(path)}: {tags or 'nothing'}", flush=True)
        about = {"file": printable(path), "duration": round(rows[-1].end, 3),
                 "model": options.model}
        for kind in options.format:
            write_text(f"{places[path]}{SUFFIXES[kind]}", written(kind, rows, choice, about))
        seconds += rows[-1].end
    took = time.perf_counter() - start
    print(f"{len(places) - files.failed} files, {clock(seconds)} of audio in {clock(took)}: "
          f"{seconds / took:.0f} times real time; {files.failed} could not be read", flush=True)
    return min(files.failed, 1)


def _label_set(options: argparse.Namespace) -> LabelSet | None:
    """Of --classes, if that is a file.

    Raises:
        ValueError: it cannot be read.
    """
    from distill.ced.teachers.label_sets import is_label_set, read_label_set

    names = options.classes or []
    if len(names) == 1 and is_label_set(names[0]):
        return read_label_set(names[0])
    return None


class _Files:
    """Windows of many files through the tagger, in batches that do not end with a file.

    Attributes:
        failed: files that could not be read.
    """

    def __init__(self, options: argparse.Namespace):
        self.options, self.failed = options, 0

    def tagged(self, paths: Iterable[Path], tagger: Tagger) -> Iterator[tuple[Path, list[Row]]]:
        """(file, its rows), in order, each when its last window is done."""
        windows = self._windows(paths)
        left = {path: len(of_file) for path, of_file in windows.items()}
        rows: dict[Path, list[Row]] = {path: [] for path in windows}
        every = [(path, window) for path, of_file in windows.items()
                 for window in of_file]
        batch: list[tuple[Path, Window, np.ndarray]] = []
        for number, (path, window) in enumerate(
            progress(every, len(every), "tagging", "windows"), 1
        ):
            if path in left:
                try:
                    batch.append((path, window, window.samples()))
                except AudioError as error:
                    self._report(path, error)
                    del left[path]
            if len(batch) < self.options.batch_size and number < len(every):
                continue
            tagged = tagger([(window, wave) for _, window, wave in batch])
            for (owner, _, _), found in zip(batch, tagged, strict=True):
                rows[owner] += found
                if owner in left:  # it has not failed since
                    left[owner] -= 1
                    if left[owner] == 0:
                        yield owner, rows.pop(owner)
            batch = []

    def _windows(self, paths: Iterable[Path]) -> dict[Path, list[Window]]:
        from eval.tagging.windows import windows_of

        options, found = self.options, {}
        hop = options.window if options.hop is None else options.hop
        for path in paths:
            try:
                found[path] = windows_of(path, options.window, hop)
            except AudioError as error:
                self._report(path, error)
        return found

    def _report(self, path: Path, error: AudioError) -> None:
        print(f"{path}: {error}", file=sys.stderr, flush=True)
        self.failed += 1


def _parser() -> argparse.ArgumentParser:
    about, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=program("eval.tag"), description=about, epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="audio files, or folders of them")
    parser.add_argument("--model", required=True, help="folder, Hub id, .onnx, module:function")
    parser.add_argument("--window", type=float, default=10.0, help="seconds of a window; 10")
    parser.add_argument("--hop", type=float, help="seconds between windows; default: the window")
    parser.add_argument("--frames", action="store_true",
                        help="tags of every 160 ms instead of windows (CED models)")
    parser.add_argument("--top-k", type=int, default=5, help="most tags to print; 5")
    parser.add_argument("--threshold", type=float, default=0.1, help="lowest score of a tag; 0.1")
    parser.add_argument("--classes", nargs="+", metavar="CLASS",
                        help="consider these classes only; or a file .yaml with groups of them "
                        "and thresholds (python -m eval.label_set)")
    parser.add_argument("--format", nargs="+", choices=SUFFIXES, default=[], help="files to write")
    parser.add_argument("--output-dir", type=Path, help="default: beside the audio")
    parser.add_argument("--batch-size", type=int, default=8, help="windows at a time; 8")
    parser.add_argument("--activation", choices=("auto", "sigmoid", "softmax", "none"),
                        default="auto", help="for a model that does not name its own")
    parser.add_argument("--overwrite", action="store_true", help="also files that exist already")
    return parser


if __name__ == "__main__":
    run(main)
