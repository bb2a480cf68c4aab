"""Speculative decoding beside plain decoding and transformers', on the same windows, in one run.

    make bench.decode                       (or python -m eval.benchmark.decode [quick])

From encoder states to tokens: the encoder runs once whatever decodes. Two pairs of models, see
`eval.benchmark.pairs`: whisper-base with the demo's student, and a decoder of large-v3's shape
whose student is right as often as wanted. All ways take turns; a ratio is the median over the
rounds. First calls are those of decoders that have never drafted.
Writes runs/bench/decode.json and prints its tables. `quick` leaves out the large shape; `shapes`
is a decoder of whisper-base's shape with such a student in place of the demo's, which need not be
there, and the large shape.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from itertools import chain, product
from pathlib import Path

import torch

from distill.config import ConfigError
from distill.data.files import write_json
from distill.whisper.decoding.drafting.length import tokens_per_sequence
from distill.whisper.decoding.sequences import Hypothesis
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from eval.benchmark.decode_memory import in_a_process_of_its_own
from eval.benchmark.pairs import Pair, base_shape, large_pairs, whisper_base
from eval.benchmark.result import run_benchmark
from eval.benchmark.tables.decode import table
from eval.machine import describe, this_machine

WARM_UP_TOKENS = 12
OUT = Path("runs/bench/decode.json")
Way = Callable[[torch.Tensor, int], list[list[int]]]


def main(arguments: list[str]) -> None:
    if arguments and arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    if arguments not in ([], ["quick"], ["shapes"]):
        raise ConfigError(f"there are two options, quick and shapes; got {' '.join(arguments)}")
    result: dict = {"machine": this_machine(), "threads": torch.get_num_threads(), "settings": {}}
    if arguments == ["shapes"]:
        base = base_shape()
    else:
        base = whisper_base()
        result |= {
            "memory": {kind: in_a_process_of_its_own(kind, 8) for kind in ("fp32", "int8")},
            "relabelling": {f"{base.name}.fp32.{batch}": relabelling(base, batch)
                            for batch in (1, 8)},
        }
    for pair in chain([base], () if arguments == ["quick"] else large_pairs()):
        for compute, batch in product(("fp32", "int8"), pair.rounds):
            found = measure(pair, compute, batch)
            result["settings"][f"{pair.name}.{compute}.{batch}"] = found
            write_json(OUT, result | ratios(result["settings"]))  # a killed run leaves what it has
    print(table(result | ratios(result["settings"])))
    print(f"Machine: {describe(result['machine'])}")


def measure(pair: Pair, compute: str, batch: int) -> dict:
    """Seconds of every way, and whether all decode the same tokens."""
    states = pair.states[: pair.num_windows(batch)]
    ways = _ways(pair, compute, batch)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    tokens_of: dict[str, list[list[int]]] = {}
    first_calls = _first_calls(pair, compute, batch, ways["plain"])
    for number in range(pair.rounds[batch] + 1):
        for name, way in ways.items():
            if number == 0:
                way(states[:batch], WARM_UP_TOKENS)
                continue
            begin = time.perf_counter()
            tokens_of[name] = [row for at in range(0, len(states), batch)
                               for row in way(states[at : at + batch], pair.limit(batch))]
            seconds[name].append(time.perf_counter() - begin)
        if number:
            times = ", ".join(f"{name} {seconds[name][-1]:.1f} s" for name in ways)
            print(f"  {pair.name} {compute} batch {batch}: {times}", file=sys.stderr, flush=True)
    tokens = sum(map(len, tokens_of["plain"]))
    begin = time.perf_counter()
    for at in range(0, len(states), batch):
        ways["plain"](states[at : at + batch], 1)
    first = time.perf_counter() - begin
    return {
        "windows": len(states), "tokens": tokens, "seconds": seconds, "rounds": pair.rounds[batch],
        "tokens_per_second": {n: tokens / statistics.median(s) for n, s in seconds.items()},
        "first_calls": first_calls,
        "identical": tokens_of["speculative"] == tokens_of["plain"],
        "identical_to_transformers": tokens_of["plain"] == tokens_of["transformers"]
        if "transformers" in tokens_of else None,
        **_speculation(
            ways["speculative"].decoder, batch, first / statistics.median(seconds["plain"])),
    }


def _first_calls(pair: Pair, compute: str, batch: int, plain: _Ours) -> dict[str, list[float]]:
    """Seconds of one batch, plainly and by a decoder that has never drafted.

    What passes cost is measured, once a machine, where a decoder is made; kernels are prepared.
    """
    states, limit = pair.states[:batch], pair.limit(batch)
    plain(states, WARM_UP_TOKENS)
    seconds: dict[str, list[float]] = {"plain": [], "speculative": []}
    for _ in range(pair.rounds[batch]):
        new = _Ours(pair, compute, batch, plain.decoder)
        for name, way in (("plain", plain), ("speculative", new)):
            begin = time.perf_counter()
            way(states, limit)
            seconds[name].append(time.perf_counter() - begin)
    return seconds


class _Ours:
    """One of our decoders as a way; keeps it, for its report and its measured times."""

    def __init__(self, pair: Pair, compute: str, batch: int, plain: WhisperDecoder | None = None):
        """With `plain`: speculative, with its copy of the teacher and its caches."""
        self.decoder = WhisperDecoder(
            pair.teacher, pair.tokenizer, "en", on_loop="keep", int8=compute == "int8",
            student=pair.student if plain else None, max_slots=batch, share_weights_with=plain)

    def __call__(self, states: torch.Tensor, limit: int) -> list[list[int]]:
        found: list[Hypothesis] = self.decoder(states, [limit] * len(states))
        return [each.tokens for each in found]


def _ways(pair: Pair, compute: str, batch: int) -> dict[str, Way]:
    ways: dict[str, Way] = {}
    if batch == 1 or (batch <= pair.largest and compute == "fp32"):
        ways["transformers"] = lambda states, limit: pair.transformers(states, limit, None)
    if batch == 1:
        ways["transformers, assisted"] = (
            lambda states, limit: pair.transformers(states, limit, pair.assistant))
    plain = _Ours(pair, compute, batch)
    return ways | {"plain": plain, "speculative": _Ours(pair, compute, batch, plain.decoder)}


def _speculation(decoder: WhisperDecoder, batch: int, first: float) -> dict:
    """How drafts fared, the measured costs of passes, and the speed-up that these allow.

    Args:
        first: share of plain decoding up to the first token, which drafts cannot shorten: the
            teacher's view of the audio.
    """
    report, length = decoder.report, decoder.length
    is_known, rate = length.is_known(batch), report.acceptance
    drafts, predicted = length.to_begin(batch) if is_known else (0, 1.0)
    of_passes = length.limit(batch, rate) if is_known and rate is not None else 1.0
    return {
        "acceptance": rate, "tokens_per_pass": report.tokens_per_pass,
        "plain_passes": report.plain / max(report.passes, 1),
        "predicted_by_acceptance": {
            str(wanted): max(length.best(batch, wanted)[1], 1.0) if is_known else 1.0
            for wanted in (0.7, 0.8, 0.9)},
        "draft_length": drafts, "predicted_speedup": predicted,
        "limit": 1 / (first + (1 - first) / of_passes), "limit_of_passes": of_passes,
        "share_to_first_token": first,
        "expected_tokens": tokens_per_sequence(rate or 0.0, drafts),
        "milliseconds": {kind: {f"{rows}x{tokens}": 1000 * seconds
                                for rows, costs in sorted(length.costs.items())
                                for tokens, seconds in sorted(getattr(costs, kind).items())}
                         for kind in ("verify", "draft")},
        "near_ties": len(report.near_ties),
    }


def relabelling(pair: Pair, batch: int) -> dict:
    """Labelling again, the old transcripts as drafts."""
    states = pair.states[: pair.num_windows(batch)]
    decoder = WhisperDecoder(pair.teacher, pair.tokenizer, "en", on_loop="keep")
    limit = [pair.limit(batch)] * batch
    old = [each.tokens for at in range(0, len(states), batch)
           for each in decoder(states[at : at + batch], limit[: len(states[at : at + batch])])]
    ratios = []
    for _ in range(pair.rounds[batch]):
        times = []
        for drafts in (None, old):
            begin = time.perf_counter()
            for at in range(0, len(states), batch):
                some = states[at : at + batch]
                found = decoder(some, limit[: len(some)],
                                drafts=drafts[at : at + batch] if drafts else None)
                assert [each.tokens for each in found] == old[at : at + batch]
            times.append(time.perf_counter() - begin)
        ratios.append(times[0] / times[1])
    return {"speedup": statistics.median(ratios), "windows": len(states)}


def ratios(settings: dict[str, dict]) -> dict:
    """Medians over rounds, nested by pair, compute type and batch; above 1 is faster."""
    names = {"speedup_vs_plain": ("plain", "speculative"),
             "vs_transformers_greedy": ("transformers", "speculative"),
             "vs_transformers_assisted": ("transformers, assisted", "speculative"),
             "plain_vs_transformers_greedy": ("transformers", "plain")}
    result: dict = {}
    for key, (slow, fast) in names.items():
        for setting, found in settings.items():
            pair, compute, batch = setting.split(".")
            times = found["seconds"]
            if slow in times:
                value = statistics.median(
                    a / b for a, b in zip(times[slow], times[fast], strict=True))
                result.setdefault(key, {}).setdefault(pair, {}).setdefault(compute, {})[
                    batch] = value
    for setting, found in settings.items():
        pair, compute, batch = setting.split(".")
        value = statistics.median(a / b for a, b in zip(
            *(found["first_calls"][way] for way in ("plain", "speculative")), strict=True))
        result.setdefault("first_call_vs_plain", {}).setdefault(pair, {}).setdefault(compute, {})[
            batch] = value
    return result


if __name__ == "__main__":
    run_benchmark(main)
