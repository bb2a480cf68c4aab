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

VERSION = 4  # of what is measured, and how it is computed
_CPUINFO = Path("/proc/cpuinfo")
_POSITION = 64  # of the tokens that are read: in the middle of a text
_FIRST = (1, 5)  # tokens of a pass
_MORE = (2, 3, 11)  # the same, where drafts may pay
_CATCH_UP = 24
_REPEATS = 3
_STEADY = 1.3  # the median of the repeats, in times of the fastest: more says a busy machine
_TRIES = 3  # measurements by a busy machine
_MOST_SECONDS = 6.0  # of all passes; more tokens are not measured then


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
    device, begin = target.embeddings.device, clock()
    frames, width = target.config.max_source_positions, target.config.d_model
    states = torch.zeros((1, frames, width), device=device, dtype=target.embeddings.dtype)
    starts = [_POSITION] * slots
    caches = {decoder: decoder.allocate_cache(states, slots) for decoder in (target, draft)}
    for cache in caches.values():
        cache.clear()
        cache.num_used = slots

    def seconds(run: Callable[[], object]) -> float:
        synchronise(device)
        start = clock()
        run()
        synchronise(device)
        return clock() - start

    def pass_over(decoder: Decoder, tokens: int, wanted: slice) -> None:
        ids = torch.zeros((slots, tokens), dtype=torch.long, device=device)
        hidden = decoder(ids, starts, caches[decoder])[:, wanted].flatten(0, 1)
        rough = decoder.rough_logits(hidden)
        logits = decoder.logits(hidden) if rough is None else rough.logits
        rules(logits, [[0]] * len(hidden), rough=rough)
        if rough is not None:
            rough.refine(logits)
        logits.topk(2)
        logits.logsumexp(-1).tolist()

    def fastest(decoder: Decoder, sizes: tuple[int, ...], wanted: slice) -> dict[int, float]:
        """In turn: a busy moment slows all of them."""
        times = [[seconds(lambda n=n: pass_over(decoder, n, wanted)) for n in sizes]
                 for _ in range(_REPEATS)]
        by_size = dict(zip(sizes, zip(*times, strict=True), strict=True))
        unsteady.extend(n for n, each in by_size.items() if median(each) > _STEADY * min(each))
        return {n: min(each) for n, each in by_size.items()}

    unsteady: list[int] = []
    every, last = slice(None), slice(-1, None)
    pass_over(target, 1, every)  # the first pass of a shape prepares its kernels
    pass_over(draft, 1, last)
    verify = fastest(target, _FIRST, every)
    drafts = fastest(draft, (1, 2, _CATCH_UP), last)
    fill = min(seconds(lambda: _fill(draft, caches[draft], states)) for _ in range(2))
    found = Costs(verify, drafts, fill)
    if _may_pay(found) and clock() - begin < _MOST_SECONDS:
        found = Costs(verify | fastest(target, _MORE, every), drafts, fill)
    for decoder in caches:
        decoder.free_cache()
    return found, not unsteady


def _may_pay(costs: Costs) -> bool:
    drafts = _FIRST[1] - 1
    return tokens_per_sequence(HOPED, drafts) * costs.passes(0) > costs.passes(drafts)


def _fill(decoder: Decoder, cache, states) -> None:
    cache.num_used = 0
    decoder.fill_cross_attention(cache, states)


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
