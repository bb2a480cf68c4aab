"""One setting of `eval.benchmark.decode`: seconds of every way, and whether all say the same.

    found = measure(pair, "fp32", 8)
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch

from distill.whisper.decoding.drafting.length import tokens_per_sequence
from distill.whisper.decoding.sequences import Hypothesis
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.encoder.lengths import set_margin
from eval.benchmark.pairs import Pair

WARM_UP_TOKENS = 12
_FIRST_CALLS = 3  # times as many as rounds
THEIR_ROUNDS = 2  # of transformers, which is far from being as fast
Way = Callable[[torch.Tensor, int], list[list[int]]]


def measure(pair: Pair, compute: str, batch: int, with_transformers: bool = True) -> dict:
    """Everything about a setting, as plain numbers."""
    for model in (pair.teacher, pair.student):
        set_margin(model, pair.margin)
    states = pair.states[: pair.num_windows(batch)]
    ways = _ways(pair, compute, batch, with_transformers)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    said: dict[str, list[list[int]]] = {}
    first_calls = _first_calls(pair, compute, batch, ways["plain"])
    for way in ways.values():
        way(states[:batch], WARM_UP_TOKENS)
    for number in range(pair.rounds[batch]):
        took, tokens_of = _round(ways, number, states, batch, pair.limit(batch))
        for name, each in took.items():
            seconds[name].append(each)
        said |= tokens_of
    tokens = sum(map(len, said["plain"]))
    begin = clock()
    _decode(ways["plain"], states, batch, 1)
    first = clock() - begin
    return {
        "windows": len(states), "tokens": tokens, "seconds": seconds, "rounds": pair.rounds[batch],
        "tokens_per_second": {n: tokens / statistics.median(s) for n, s in seconds.items()},
        "first_calls": first_calls,
        "identical": said["speculative"] == said["plain"],
        "identical_to_transformers": said["plain"] == said["transformers"]
        if "transformers" in said else None,
        **_speculation(
            ways["speculative"].decoder, batch, first / statistics.median(seconds["plain"])),
    }


def _round(ways: dict[str, Way], number: int, states: torch.Tensor, batch: int, limit: int
           ) -> tuple[dict[str, float], dict[str, list[list[int]]]]:
    """Seconds and tokens of each way, batch by batch: a machine that is slow for some seconds is so
    for all of them."""
    seconds: dict[str, float] = defaultdict(float)
    tokens: dict[str, list[list[int]]] = defaultdict(list)
    for turn, at in enumerate(range(0, len(states), batch)):
        for name, way in _in_turn(ways, number, turn):
            begin = clock()
            tokens[name] += way(states[at : at + batch], limit)
            seconds[name] += clock() - begin
    return seconds, tokens


def _decode(way: Way, states: torch.Tensor, batch: int, limit: int) -> list[list[int]]:
    return [row for at in range(0, len(states), batch)
            for row in way(states[at : at + batch], limit)]


def clock() -> float:
    """Seconds: of the processor where one thread computes, so that others disturb less."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def _in_turn(ways: dict[str, Way], number: int, turn: int = 0) -> list[tuple[str, Way]]:
    """Ours in every round, every other time in the opposite order.

    Args:
        turn: of the round.
    """
    chosen = [(name, way) for name, way in ways.items()
              if isinstance(way, _Ours) or number < THEIR_ROUNDS]
    return chosen[::-1] if (number + turn) % 2 else chosen


def _first_calls(pair: Pair, compute: str, batch: int, plain: _Ours) -> dict[str, list[float]]:
    """Seconds of one batch, plainly and by a decoder that has never drafted; of all short clips,
    of which a single one is too quick. `plain_passes`: the share of the new one's.

    What passes cost is measured, once a machine, where a decoder is made; kernels are prepared.
    """
    limit, every = pair.limit(batch), pair.states[: pair.num_windows(batch)]
    count = batch if pair.margin is None else len(every)
    plain(every[:batch], WARM_UP_TOKENS)
    found: dict[str, list[float]] = {"plain": [], "speculative": [], "plain_passes": []}
    times = min(len(every) // count, _FIRST_CALLS)  # a window at a time: more of them
    for number in range(pair.rounds[batch] * times):
        new = _Ours(pair, compute, batch, plain.decoder)
        states = every.roll(-number * count, 0)[:count]
        for name, way in _in_turn({"plain": plain, "speculative": new}, number):
            begin = clock()
            _decode(way, states, batch, limit)
            found[name].append(clock() - begin)
        found["plain_passes"].append(_plain_passes(new.decoder))
    return found


def _plain_passes(decoder: WhisperDecoder) -> float:
    """Share of passes that had no drafts."""
    return decoder.report.plain / max(decoder.report.passes, 1)


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


def _ways(pair: Pair, compute: str, batch: int, with_transformers: bool) -> dict[str, Way]:
    ways: dict[str, Way] = {}
    if with_transformers and (batch == 1 or (batch <= pair.largest and compute == "fp32")):
        ways["transformers"] = lambda states, limit: pair.transformers(states, limit, None)
    if with_transformers and batch == 1:
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
        "plain_passes": _plain_passes(decoder),
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
            begin = clock()
            for at in range(0, len(states), batch):
                some = states[at : at + batch]
                found = decoder(some, limit[: len(some)],
                                drafts=drafts[at : at + batch] if drafts else None)
                assert [each.tokens for each in found] == old[at : at + batch]
            times.append(clock() - begin)
        ratios.append(times[0] / times[1])
    return {"speedup": statistics.median(ratios), "windows": len(states)}
