"""The figures of eval.benchmark.decode: from seconds to ratios, and a table for a terminal."""

from __future__ import annotations

import statistics

_HEAD = ("pair", "type", "batch", "tokens/s: HF", "assisted", "plain", "ours", "vs plain",
         "first call", "limit", "vs HF", "vs assisted", "accepted", "a pass", "same")
_NEVER_BELOW = 0.97


def figures(settings: dict[str, dict]) -> dict:
    """Medians over rounds, nested by pair, compute type and batch; above 1 is faster.
    `drafts_lose`: settings where drafts are slower than plain decoding, or a first call is, by more
    than 3 %, and the ratio."""
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
                    a / b for a, b in zip(times[slow], times[fast], strict=False))
                result.setdefault(key, {}).setdefault(pair, {}).setdefault(compute, {})[
                    batch] = value
    for setting, found in settings.items():
        pair, compute, batch = setting.split(".")
        value = statistics.median(a / b for a, b in zip(
            *(found["first_calls"][way] for way in ("plain", "speculative")), strict=True))
        result.setdefault("first_call_vs_plain", {}).setdefault(pair, {}).setdefault(compute, {})[
            batch] = value
    lost = {f"{key}, {setting}": value for setting in settings
            for key in ("speedup_vs_plain", "first_call_vs_plain")
            if (value := _at(result, key, setting)) < _NEVER_BELOW}
    return result | {"drafts_lose": lost}


def _at(result: dict, key: str, setting: str) -> float:
    pair, compute, batch = setting.split(".")
    return result[key][pair][compute][batch]


def table(result: dict) -> str:
    """One line a setting; ratios are medians over rounds, above 1 is faster."""
    rows = [_HEAD]
    for setting, found in result["settings"].items():
        pair, compute, batch = setting.split(".")

        def ratio(key: str, where: tuple = (pair, compute, batch)) -> str:
            value = result.get(key, {})
            for part in where:
                value = value.get(part, {})
            return f"{value:.2f}x" if value else ""

        speed = {name: f"{value:.1f}" for name, value in found["tokens_per_second"].items()}
        accepted = found["acceptance"]
        rows.append((
            pair, compute, batch, speed.get("transformers", ""),
            speed.get("transformers, assisted", ""), speed["plain"], speed["speculative"],
            ratio("speedup_vs_plain"), ratio("first_call_vs_plain"),
            f"{found['limit']:.2f}x", ratio("vs_transformers_greedy"),
            ratio("vs_transformers_assisted"),
            "" if accepted is None else f"{accepted:.2f}", f"{found['tokens_per_pass'] or 1:.2f}",
            "yes" if found["identical"] else "NO",
        ))
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
             for row in rows]
    relabelled = "; ".join(f"{name}: {found['speedup']:.2f}x plain" for name, found in
                           result.get("relabelling", {}).items())
    return "\n".join([
        f"Greedy decoding from encoder states, {result['threads']} CPU threads, medians of rounds "
        "in turn; transformers (HF) always in float32. limit: what the measured passes and this "
        "acceptance allow; first call: of a new decoder, over plain; same: token for token as "
        "plain",
        "", *lines, "",
        *([f"the old transcripts as drafts: {relabelled}"] if relabelled else []),
        *_verdict(result),
        *_memory(result.get("memory", {})),
        *_costs(result),
    ])


def _verdict(result: dict) -> list[str]:
    lost, count = result["drafts_lose"], len(result["settings"])
    if not lost:
        return [f"in none of {count} settings drafts are more than 3 % slower than plain decoding"]
    return [f"drafts lose more than 3 %: {where}: {value:.2f}x"
            + _doubt(result["settings"][where.split(", ")[1]], where.startswith("first"))
            for where, value in lost.items()]


def _doubt(setting: dict, is_first: bool) -> str:
    """What speaks against a loss: nothing was drafted, or rounds differ widely."""
    times = setting["first_calls" if is_first else "seconds"]
    passes = times.get("plain_passes", [0.0]) if is_first else [setting["plain_passes"]]
    if min(passes) == 1:
        return " (noise: no pass had drafts)"
    ratios = [a / b for a, b in zip(times["plain"], times["speculative"], strict=True)]
    return f" (rounds: {min(ratios):.2f} to {max(ratios):.2f}x)"


def _memory(found: dict) -> list[str]:
    """What drafts cost, of whisper-base with the demo's student."""
    return [f"memory of drafts, whisper_base {kind}, batch {m['batch']}: "
            f"{m['grown_at_peak']:.0f} MB at the peak, {m['grown_after_loading']:.0f} MB before "
            f"the first window (student's decoder {m['student_decoder']:.0f} MB in float32, its "
            f"caches {m['student_caches']:.0f} MB; teacher's {m['teacher_decoder']:.0f} and "
            f"{m['teacher_caches']:.0f} MB)" for kind, m in found.items()]


def _costs(result: dict) -> list[str]:
    """Measured milliseconds of passes by rows x tokens."""
    lines = ["", "milliseconds of a pass (rows x tokens a row)"]
    for setting, found in result["settings"].items():
        cells = ", ".join(f"{size} {value:.0f}" for size, value in
                          found["milliseconds"]["verify"].items())
        drafts = ", ".join(f"{size} {value:.1f}" for size, value in
                           found["milliseconds"]["draft"].items())
        lines.append(f"  {setting}: teacher {cells}; student {drafts}")
    return lines
