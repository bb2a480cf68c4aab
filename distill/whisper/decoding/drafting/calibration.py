"""What passes cost on this machine: measured once, kept in the cache folder.

A calibration takes a few passes over caches of its own, so no user's text waits for it. It depends
on the processor and its instructions, torch, the threads, the shapes and types of both models, and
the number of sequences: one small file for each, `draft_costs/HASH.json`. A file that cannot be
read, or that says something else, is measured again. So is, twice at most, what was measured while
the machine was busy: of each pass the least counts. Where no file can be written, nothing is
measured here: each process would pay for it.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median

import torch

from distill.data.files import hash_of, read_json, write_json
from distill.data.packaged.wheels import cache_folder
from distill.whisper.decoding.decoder import Decoder, synchronise
from distill.whisper.decoding.drafting.costs import Costs
from distill.whisper.decoding.drafting.length import HOPED, tokens_per_sequence
from distill.whisper.decoding.rules import LogitsRules

VERSION = 6  # of what is measured, and how it is computed
_CPUINFO = Path("/proc/cpuinfo")
_POSITION = 64  # of the tokens that are read: in the middle of a text
_FIRST = (1, 5)  # tokens of a pass
_MORE = (2, 3, 11)  # the same, where drafts may pay
_CATCH_UP = 24
_REPEATS, _MOST_REPEATS = 3, 9
_ENOUGH_SECONDS = 0.5  # of repeats: small models have more of them
_STEADY = 1.3  # the median of the repeats, in times of the fastest: more says a busy machine
_TRIES = 3  # measurements by a busy machine
_MOST_SECONDS = 6.0  # of all passes; more tokens are not measured then
Run = tuple[str, int]  # `verify`, `draft` or `fill`, and its tokens


def calibrated(target: Decoder, draft: Decoder, rules: LogitsRules, slots: int) -> Costs | None:
    """Costs for a batch of so many sequences: kept ones, else measured and kept; None where they
    cannot be kept."""
    key = key_of(target, draft, slots)
    before, tries = _read(_path(key), key)
    if tries >= _TRIES or not _is_writable(_folder()):
        return before
    found, is_steady = measure(target, draft, rules, slots)
    if before is not None:
        found = before.least(found)
    with suppress(OSError):  # a full disk: this process knows them
        write_json(_path(key), {"key": key, "verify": found.verify, "draft": found.draft,
                                "fill": found.fill, "tries": _TRIES if is_steady else tries + 1})
    return found


def kept(target: Decoder, draft: Decoder, slots: int) -> Costs | None:
    """Costs that were measured before; None where there are none."""
    key = key_of(target, draft, slots)
    return _read(_path(key), key)[0]


def key_of(target: Decoder, draft: Decoder, slots: int) -> dict:
    """All that costs depend on."""
    device = target.embeddings.device
    return {
        "version": VERSION, "processor": _processor(), "threads": torch.get_num_threads(),
        "instructions": [torch.backends.cpu.get_cpu_capability(),
                         os.environ.get("ONEDNN_MAX_CPU_ISA", "")],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__, "target": _shape(target), "draft": _shape(draft),
        "slots": slots,
    }


@torch.inference_mode()
def measure(target: Decoder, draft: Decoder, rules: LogitsRules, slots: int,
            clock: Callable[[], float] = time.perf_counter) -> tuple[Costs, bool]:
    """Time passes over caches of silence, the fastest of a few; the caches are freed.

    Returns:
        (costs, whether passes that are alike took about as long)
    """
    begin, passes = clock(), _Passes(target, draft, rules, slots)
    runs: dict[Run, Callable[[], object]] = {
        ("verify", n): lambda n=n: passes.verify(n) for n in _FIRST}
    runs |= {("draft", n): lambda n=n: passes.draft(n) for n in (1, 2, _CATCH_UP)}
    runs |= {("fill", 1): passes.fill}
    times, is_steady = _in_turn(runs, passes.synchronise, clock)
    found = _costs(times)
    if _may_pay(found) and clock() - begin < _MOST_SECONDS:
        more, is_steady_on = _in_turn({
            ("verify", n): lambda n=n: passes.verify(n) for n in (1, *_MORE)},
            passes.synchronise, clock)
        now = times["verify", 1] / more.pop(("verify", 1))  # the machine, then and now
        found = _costs(times | {run: now * seconds for run, seconds in more.items()})
        is_steady = is_steady and is_steady_on
    passes.free()
    return found, is_steady


class _Passes:
    """Passes of both models over caches of silence.

    Args:
        slots: sequences of a pass.
    """

    def __init__(self, target: Decoder, draft: Decoder, rules: LogitsRules, slots: int):
        self.target, self.student, self.rules, self.slots = target, draft, rules, slots
        self.device = target.embeddings.device
        frames, width = target.config.max_source_positions, target.config.d_model
        self.states = torch.zeros((1, frames, width), device=self.device,
                                  dtype=target.embeddings.dtype)
        self.caches = {decoder: decoder.allocate_cache(self.states, slots)
                       for decoder in (target, draft)}
        for cache in self.caches.values():
            cache.clear()
            cache.num_used = slots
        self.verify(1)  # the first pass of a shape prepares its kernels
        self.draft(1)

    def verify(self, tokens: int) -> None:
        self._run(self.target, tokens, slice(None))

    def draft(self, tokens: int) -> None:
        """The longest is a look at how often the draft model is right, which wants all logits."""
        self._run(self.student, tokens, slice(None if tokens == _CATCH_UP else -1, None))

    def fill(self) -> None:
        """Give the draft model the encoder states of one sequence."""
        cache = self.caches[self.student]
        cache.num_used = 0
        self.student.fill_cross_attention(cache, self.states)
        cache.num_used = self.slots

    def synchronise(self) -> None:
        synchronise(self.device)

    def free(self) -> None:
        for decoder in self.caches:
            decoder.free_cache()

    def _run(self, decoder: Decoder, tokens: int, wanted: slice) -> None:
        ids = torch.zeros((self.slots, tokens), dtype=torch.long, device=self.device)
        hidden = decoder(ids, [_POSITION] * self.slots, self.caches[decoder])
        hidden = hidden[:, wanted].flatten(0, 1)
        rough = decoder.rough_logits(hidden)
        logits = decoder.logits(hidden) if rough is None else rough.logits
        self.rules(logits, [[0]] * len(hidden), rough=rough)
        if rough is not None:
            rough.refine(logits)
        logits.topk(2)
        logits.logsumexp(-1).tolist()


def _in_turn(runs: dict[Run, Callable[[], object]], wait: Callable[[], None],
             clock: Callable[[], float]) -> tuple[dict[Run, float], bool]:
    """The least seconds of each, and whether they took about as long each time.

    All take turns: who else computes here may do so for seconds, and what counts is how long they
    take beside each other.
    """
    times: dict[Run, list[float]] = {run: [] for run in runs}
    begin = clock()
    for repeat in range(_MOST_REPEATS):
        if repeat >= _REPEATS and clock() - begin > _ENOUGH_SECONDS:
            break
        for run, compute in runs.items():
            wait()
            start = clock()
            compute()
            wait()
            times[run].append(clock() - start)
    is_steady = all(median(each) <= _STEADY * min(each) for each in times.values())
    return {run: min(each) for run, each in times.items()}, is_steady


def _costs(times: dict[Run, float]) -> Costs:
    def of(wanted: str) -> dict[int, float]:
        return {tokens: each for (kind, tokens), each in times.items() if kind == wanted}

    return Costs(of("verify"), of("draft"), times["fill", 1])


def _may_pay(costs: Costs) -> bool:
    drafts = _FIRST[1] - 1
    return tokens_per_sequence(HOPED, drafts) * costs.passes(0) > costs.passes(drafts)


def _folder() -> Path:
    return cache_folder() / "draft_costs"


def _path(key: dict) -> Path:
    return _folder() / f"{hash_of(key)}.json"


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _read(path: Path, key: dict) -> tuple[Costs | None, int]:
    """Costs and how often they were measured; (None, 0): there is no such file, or it does not hold
    what it should."""
    try:
        found = read_json(path)
        if found["key"] != key:
            return None, 0
        verify, draft = ({int(tokens): float(seconds) for tokens, seconds in found[name].items()}
                         for name in ("verify", "draft"))
        costs, tries = Costs(verify, draft, float(found["fill"])), int(found["tries"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, 0
    times = [*verify.values(), *draft.values(), costs.fill]
    is_whole = {*_FIRST} <= verify.keys() and {1, 2, _CATCH_UP} <= draft.keys()
    is_whole = is_whole and all(0 < each < math.inf for each in times)
    return (costs, tries) if is_whole else (None, 0)


def _shape(decoder: Decoder) -> list:
    config = decoder.config
    return [len(decoder.layers), config.d_model, config.decoder_attention_heads,
            config.decoder_ffn_dim, config.vocab_size, config.max_source_positions,
            str(decoder.embeddings.dtype), decoder.int8]


def _processor() -> str:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
