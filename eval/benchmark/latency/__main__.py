"""Short clips: encoded at their own length, padded, and by others, in one run.

    make bench.latency                  (or python -m eval.benchmark.latency [--stop-after 60])

From decoded audio to text, greedy, on one thread, in float32 and int8 (ours: linear layers;
faster-whisper: all of it). Clips of 1 to 28 s are cut from the demo's validation speech, alone and
8 together; all ways take turns on the same clips, and a figure is a median over rounds. Time is the
processor's, not the clock's, so that other processes disturb less. The errors are those of single
validation clips. Without --student the student's 4 layers are copies that are not trained: it
writes as many tokens as the teacher, and its words are not looked at.
Writes runs/bench/latency.json and latency.html. What is measured is kept: the same command goes on
where it was stopped, and measures nothing twice.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from distill.data.files import read_json, write_json, write_text
from distill.endings import Stopped, program, run

OUT = Path("runs/bench/latency.json")
SECONDS = (2, 10, 28, 5, 1, 20, 3)  # the most telling first
BATCHES = (1, 8)
ROUNDS = 3
MARGIN = 1.0  # seconds
CHUNK = 10  # scored clips of a part


def main(arguments: list[str]) -> None:
    options = _parser().parse_args(arguments)
    if options.large:
        from eval.benchmark.latency.large import measure_large

        _write(options, _kept(options) | {"large_v3_shape": measure_large()})
        return
    try:
        _measure(options)
    except KeyboardInterrupt:
        raise Stopped(f"Stopped. What is measured is in {options.output}, and the same command "
                      "goes on.") from None


def _parser() -> argparse.ArgumentParser:
    about, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=program("eval.benchmark.latency"), description=about, epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="demo", help="its teacher and its clips; default: demo")
    parser.add_argument("--student", type=Path, help="folder of a trained student")
    parser.add_argument("--margin", type=float, default=MARGIN, help="seconds; default: 1")
    parser.add_argument("--test", action="store_true", help="errors on the test split, once "
                        "a model is chosen")
    parser.add_argument("--large", action="store_true", help="large-v3's shape instead, random "
                        "weights: 12 GB of memory, minutes")
    parser.add_argument("--stop-after", type=float, metavar="SECONDS", help="begin nothing new "
                        "after so long")
    parser.add_argument("--output", type=Path, default=OUT, help=f"default: {OUT}")
    return parser


def parts_of(num_clips: int, dtypes: tuple[str, ...]) -> Iterator[tuple]:
    """What is measured, in this order: (`time`, type, batch, seconds, round) and (`text`, type,
    first clip, end)."""
    for number in range(ROUNDS):
        yield from (("time", dtype, 1, length, number) for length in SECONDS for dtype in dtypes)
        if not number:
            yield from (("text", dtype, at, min(at + CHUNK, num_clips))
                        for at in range(0, num_clips, CHUNK) for dtype in dtypes)
    yield from (("time", dtype, 8, length, number) for number in range(ROUNDS)
                for length in SECONDS for dtype in dtypes)


def _measure(options: argparse.Namespace) -> None:
    import torch

    from distill.whisper.recipe import load_recipe
    from eval.benchmark.latency.clips import load_split
    from eval.benchmark.latency.ways import DTYPES, load_models

    begun = time.monotonic()
    torch.set_num_threads(1)
    recipe = load_recipe(options.recipe, [])
    split = "test" if options.test else "validation"
    speech = load_split(recipe.data.validation, recipe.language)
    scored = load_split(recipe.data.test, recipe.language) if options.test else speech
    every = list(parts_of(len(scored.audios), DTYPES))
    result = _kept(options) | {"num_parts": len(every), "scored": split,
                               "num_clips": len(scored.audios), "num_words": scored.num_words}
    parts = result.setdefault("parts", {})
    left = [part for part in every if _name(part) not in parts]
    measurer = None
    for part in left:
        if options.stop_after is not None and time.monotonic() - begun > options.stop_after:
            break
        if measurer is None:
            from eval.benchmark.latency.measure import Measurer

            measurer = Measurer(load_models(recipe, options.student, options.margin), speech,
                                scored)
        parts[_name(part)] = measurer(part)
        print(f"  {len(parts)}/{len(every)} {_name(part)}", file=sys.stderr, flush=True)
        write_json(options.output, result)
    _write(options, result)


def _name(part: tuple) -> str:
    return ".".join(map(str, part))


def _kept(options: argparse.Namespace) -> dict:
    """What an earlier run has measured.

    Raises:
        ValueError: it was measured otherwise, or on another machine.
    """
    from eval.machine import this_machine

    settings = {"recipe": options.recipe, "margin_seconds": options.margin,
                "student": str(options.student) if options.student else None,
                "scored": "test" if options.test else "validation",
                "processor": this_machine()["processor"]}
    if not options.output.is_file():
        return {"settings": settings}
    found = read_json(options.output)
    if (before := found.get("settings")) != settings:
        raise ValueError(f"{options.output} was measured with {before}, not {settings}: move it "
                         "away, or name another --output")
    return found


def _write(options: argparse.Namespace, result: dict) -> None:
    import torch

    from eval.benchmark.tables.latency import figures, page, table
    from eval.machine import describe, this_machine

    torch.set_num_threads(1)
    result |= figures(result.get("parts", {})) | {"machine": this_machine()}
    write_json(options.output, result)
    write_text(options.output.with_suffix(".html"), page(result))
    print(table(result), f"Machine: {describe(result['machine'])}",
          f"Written to {options.output}", sep="\n")
    measured, wanted = len(result.get("parts", {})), result.get("num_parts", 0)
    if measured < wanted:
        print(f"{measured} of {wanted} parts are measured; the same command goes on.")


if __name__ == "__main__":
    run(main)
