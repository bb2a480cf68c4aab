"""verification.json for a terminal."""

from __future__ import annotations


def text_table(results: dict) -> str:
    """One row per runtime and type of weights."""
    rate = "CER" if results["error_unit"] == "char" else "WER"
    rows = [("weights", "runtime", "computed in", f"{rate} [95 % CI]", "ours",
             "difference [95 % CI]", "without loops", "same tokens", "loss, nats", "same texts",
             "word times", "RTFx", "MB", "")]
    rows += [_row(entry, results["num_windows"]) for entry in results["exports"]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    heads = results.get("alignment_heads")
    notes = [
        f"test split: {results['num_units']} units, {results['num_windows']} windows, "
        f"{60 * results['hours']:.1f} minutes; {results['normalizer']} normaliser; "
        f"{results['conditions']}. Ours: PyTorch, float32, "
        f"{results['own_rtfx']:.1f} audio seconds per second in batches."]
    if heads:
        pairs = ", ".join(f"{layer}.{head}" for layer, head in heads["heads"])
        error = heads["median_error_seconds"]
        measured = "not measured" if error is None else (
            f"{error:.2f} s median error at {heads['num_beginnings']} beginnings of training clips")
        notes.append(f"alignment heads (layer.head; {heads['source']}): {pairs}; {measured}")
    return "\n".join([*lines, "", *notes])


def _row(entry: dict, num_windows: int) -> tuple[str, ...]:
    times = entry.get("word_times") or {}
    error = times.get("median_error_seconds")
    return (
        entry["weights"], f"{entry['runtime']} {entry['version']}", entry["compute_type"],
        _percent(entry, "wer"), _percent(entry, "own_wer", with_interval=False),
        _points(entry), _points_without_loops(entry), _agreement(entry),
        _loss(entry), f"{entry['identical_windows']} of {num_windows}",
        "-" if error is None else f"{error:.2f} s of {times['num_recognised']}",
        f"{entry['rtfx']:.1f}", f"{entry['bytes'] / 1e6:.0f}",
        "refused" if entry["refused"] else "passed",
    )


def _agreement(entry: dict) -> str:
    same = entry["token_agreement"]
    return "-" if same is None else f"{100 * same:.1f} %"


def _loss(entry: dict) -> str:
    return "-" if entry["token_loss"] is None else f"{entry['token_loss']:.3f}"


def _percent(entry: dict, key: str, with_interval: bool = True) -> str:
    if entry[key] is None:
        return "-"
    ends = entry[f"{key}_ci"] if with_interval else None
    interval = f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if ends else ""
    return f"{100 * entry[key]:.2f} %{interval}"


def _points_without_loops(entry: dict) -> str:
    worse = entry["wer_difference_without_loops"]
    units = entry["num_units_without_loops"]
    return "-" if worse is None else f"{100 * worse:+.2f} ({units} units)"


def _points(entry: dict) -> str:
    if entry["wer_difference"] is None:
        return "-"
    ends = entry["wer_difference_ci"]
    interval = f" [{100 * ends[0]:+.2f}, {100 * ends[1]:+.2f}]" if ends else ""
    return f"{100 * entry['wer_difference']:+.2f}{interval}"
