"""Speculative decoding beside plain decoding and transformers', on the same windows, in one run.

    make bench.decode                   (or python -m eval.benchmark.decode [--stop-after 400])

From encoder states to tokens: the encoder runs once whatever decodes. Pairs of models
(`eval.benchmark.pairs`): `demo` is whisper-base with the demo's student; `large` has the decoder of
large-v3's shape and random weights, its student is right as often as wanted; `base` is the same of
whisper-base's shape. All ways take turns; a ratio is the median over the rounds. First calls are
those of decoders that have never drafted. With one thread, time is the processor's.
Writes runs/bench/decode.json and prints its tables. What is measured is kept: the same command goes
on where it was stopped. On one thread the pair `demo` takes about a quarter of an hour, `large`
an hour and 14 GB of memory.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from distill.data.files import read_json, write_json
from distill.endings import Stopped, program, run

OUT = Path("runs/bench/decode.json")
ACCEPTANCES = {"demo": (None,), "base": (0.9,), "large": (0.8, 0.7, 0.9)}  # of the students
BATCHES, TYPES = (1, 4, 8, 16), ("fp32", "int8")
WINDOW = 30  # seconds
Part = tuple[str, float | None, int, str, int]  # pair, acceptance, seconds, type, batch


def main(arguments: list[str]) -> None:
    options = _parser().parse_args(arguments)
    try:
        _measure(options)
    except KeyboardInterrupt:
        raise Stopped(f"Stopped. What is measured is in {options.output}, and the same command "
                      "goes on.") from None


def _parser() -> argparse.ArgumentParser:
    about, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=program("eval.benchmark.decode"), description=about, epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", choices=ACCEPTANCES, default=["demo", "large"],
                        help="default: demo large")
    parser.add_argument("--seconds", nargs="+", type=int, default=[WINDOW], metavar="SECONDS",
                        help="of clips, which are not padded; default: 30, whole windows")
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES))
    parser.add_argument("--batches", nargs="+", type=int, choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--student", type=Path, help="folder of the demo's student; default: that "
                        "of its run")
    parser.add_argument("--only-ours", action="store_true", help="without transformers, memory and "
                        "old labels as drafts")
    parser.add_argument("--stop-after", type=float, metavar="SECONDS", help="begin nothing new "
                        "after so long")
    parser.add_argument("--output", type=Path, default=OUT, help=f"default: {OUT}")
    return parser


def parts_of(options: argparse.Namespace) -> list[Part]:
    """What is measured, pair by pair; of other acceptances than a pair's first, batch 1 alone."""
    return [(pair, acceptance, seconds, kind, batch)
            for pair, seconds in product(options.pairs, options.seconds)
            for acceptance in ACCEPTANCES[pair]
            for kind, batch in product(options.types, options.batches)
            if acceptance == ACCEPTANCES[pair][0] or (batch == 1 and seconds == WINDOW)]


def setting_of(part: Part) -> str:
    """As settings are named in the result."""
    pair, acceptance, seconds, kind, batch = part
    name = {"demo": "whisper_base", "base": "whisper_base_shape", "large": "large_v3_shape"}[pair]
    name += "" if acceptance is None else f"_{round(100 * acceptance)}"
    name += "" if seconds == WINDOW else f"_{seconds}s"
    return f"{name}.{kind}.{batch}"


def _measure(options: argparse.Namespace) -> None:
    import torch
    from transformers.utils import logging as transformers_logging

    from distill.progress import progress
    from eval.benchmark.tables.decode import figures, table
    from eval.machine import describe, this_machine

    transformers_logging.set_verbosity_error()  # it warns of options at every call
    begun, every = time.monotonic(), parts_of(options)
    result = _kept(options)
    left = [part for part in every if setting_of(part) not in result["settings"]]
    source = Source(options, result)
    for part in progress(_until(left, begun, options.stop_after), len(every), "Decoding",
                         "settings", initial=len(every) - len(left)):
        source.measure(part)
        write_json(options.output, result | figures(result["settings"]))
    if "demo" in options.pairs and not options.only_ours and len(result["settings"]) >= len(every):
        source.measure_rest()
    result |= figures(result["settings"]) | {
        "machine": this_machine(), "threads": torch.get_num_threads()}
    write_json(options.output, result)
    print(table(result), f"Machine: {describe(result['machine'])}",
          f"Written to {options.output}", sep="\n")
    missing = sum(setting_of(part) not in result["settings"] for part in every)
    if missing:
        print(f"{missing} of {len(every)} settings are left; the same command goes on.")


def _until(parts: list[Part], begun: float, seconds: float | None) -> Iterator[Part]:
    for part in parts:
        if seconds is not None and time.monotonic() - begun > seconds:
            return
        yield part


class Source:
    """Measures settings into the result; a pair is loaded when one of its settings is wanted."""

    def __init__(self, options: argparse.Namespace, result: dict):
        self.options, self.result = options, result
        self._loaded: tuple | None = None
        self._pair = None

    def measure(self, part: Part) -> None:
        from eval.benchmark.decode.measure import measure

        pair, acceptance, seconds, kind, batch = part
        if self._loaded != (pair, acceptance, seconds):
            self._pair = None  # frees its memory
            self._pair = self._load(pair, acceptance, seconds)
            self._loaded = pair, acceptance, seconds
        setting = setting_of(part)
        print(f"  {setting}", file=sys.stderr, flush=True)
        self.result["settings"][setting] = measure(
            self._pair, kind, batch, not self.options.only_ours and seconds == WINDOW)

    def _load(self, pair: str, acceptance: float | None, seconds: int):
        from eval.benchmark import pairs

        if pair == "demo":
            found = pairs.whisper_base(student=self.options.student)
        else:
            scales = self.result.setdefault("scales", {})
            make = pairs.base_shape if pair == "base" else pairs.large_shape
            key = f"{pair}.{acceptance}"
            found, scales[key] = make(acceptance, scales.get(key))
        return found if seconds == WINDOW else pairs.shortened(found, seconds)

    def measure_rest(self) -> None:
        """Memory of drafts, and old labels as drafts."""
        from eval.benchmark.decode.measure import relabelling
        from eval.benchmark.decode_memory import in_a_process_of_its_own

        if "memory" not in self.result:
            self.result["memory"] = {kind: in_a_process_of_its_own(kind, 8, self.options.student)
                                     for kind in TYPES}
            write_json(self.options.output, self.result)
        if "relabelling" not in self.result:
            pair = self._load("demo", None, WINDOW)
            self.result["relabelling"] = {f"{pair.name}.fp32.{batch}": relabelling(pair, batch)
                                          for batch in (1, 8)}


def _kept(options: argparse.Namespace) -> dict:
    """What an earlier run has measured.

    Raises:
        ValueError: it was measured otherwise, or on another machine.
    """
    import torch

    from eval.machine import this_machine

    run = {"processor": this_machine()["processor"], "threads": torch.get_num_threads(),
           "instructions": [torch.backends.cpu.get_cpu_capability(),
                            os.environ.get("ONEDNN_MAX_CPU_ISA", "")],
           "student": str(options.student) if options.student else None}
    if not options.output.is_file():
        return {"run": run, "settings": {}}
    found = read_json(options.output)
    if (before := found.get("run")) != run:
        raise ValueError(f"{options.output} was measured with {before}, not {run}: move it away, "
                         "or name another --output")
    return found


if __name__ == "__main__":
    run(main)
