"""The figures of eval.benchmark.latency: from its parts to ratios, a table and a page."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from distill.html.charts import Series, line_chart
from distill.html.page import figure, render_page, section
from distill.metrics.error_rates import ErrorCounts, paired_bootstrap, total
from eval.benchmark.latency.sherpa import SHERPA_PADDED, SHERPA_SHORT, SHERPA_STUDENT
from eval.benchmark.latency.ways import FASTER_WHISPER, PADDED, SHORT, STUDENT, TRANSFORMERS

_BASELINES = {"speedup_vs_padded": PADDED, "speedup_vs_transformers": TRANSFORMERS,
              "speedup_vs_faster_whisper": FASTER_WHISPER}
_MODELS = {SHORT: "teacher", STUDENT: "student", PADDED: "teacher_padded"}
_SHERPA = {SHERPA_SHORT: "teacher", SHERPA_STUDENT: "student"}
_STYLES = {TRANSFORMERS: ("a", False), PADDED: ("b", True), SHORT: ("c", True),
           STUDENT: ("c", False), FASTER_WHISPER: ("d", True), SHERPA_PADDED: ("a", True),
           SHERPA_SHORT: ("b", False)}
_COUNTS = ("substitutions", "deletions", "insertions", "hits", "num_reference")


def figures(parts: dict[str, dict]) -> dict:
    """What is read off the parts.

    Returns:
        `milliseconds` (of the processor, a clip; keys: type.batch.seconds, then way), the ratios
        `speedup_vs_...` (keys: model, type, seconds; alone in its batch) and `batch_8` (the same of
        8 clips together), `sherpa_onnx` (times of an export that pads, by those of exports that do
        not; the same keys), `wer`, `wer_difference` with its interval, `same_text` (model, type).
        Times of transformers in float32 stand beside both types.
    """
    times: dict[tuple[str, str], dict[str, list[float]]] = {}  # (batch, seconds), then way.type
    for name, found in parts.items():
        kind, dtype, *rest = name.split(".")
        if kind == "time":
            ways = times.setdefault((rest[0], rest[1]), {})
            for way, seconds in found.items():
                ways.setdefault(f"{way}.{dtype}", []).append(seconds)
    result: dict = {"milliseconds": {
        f"{batch}.{seconds}": {way: 1000 * statistics.median(each) for way, each in ways.items()}
        for (batch, seconds), ways in sorted(times.items())}}
    result |= _ratios(times, "1") | {"batch_8": _ratios(times, "8")}
    result["sherpa_onnx"] = _speedups(times, "1", SHERPA_PADDED, _SHERPA)
    return result | _quality(parts)


def _ratios(times: dict[tuple[str, str], dict[str, list[float]]], batch: str) -> dict:
    """Medians over rounds, nested by model, type and seconds; above 1 is faster than the baseline.
    """
    found = {key: _speedups(times, batch, slow, _MODELS) for key, slow in _BASELINES.items()}
    return {key: ratios for key, ratios in found.items() if ratios}


def _speedups(times: dict[tuple[str, str], dict[str, list[float]]], batch: str, slow: str,
              models: dict[str, str]) -> dict:
    """By how much ways, which are models, are faster than the slow one."""
    result: dict = {}
    for (size, seconds), ways in times.items():
        for way, model in models.items():
            for dtype in ("float32", "int8"):
                of = "float32" if slow == TRANSFORMERS else dtype
                pair = ways.get(f"{slow}.{of}"), ways.get(f"{way}.{dtype}")
                if size == batch and all(pair) and way != slow:
                    ratio = statistics.median(a / b for a, b in zip(*pair, strict=False))
                    result.setdefault(model, {}).setdefault(dtype, {})[seconds] = ratio
    return result


def _quality(parts: dict[str, dict]) -> dict:
    rows: dict[tuple[str, str], dict[str, dict]] = {}  # (way, type), then place
    for name, found in parts.items():
        kind, dtype, *rest = name.split(".")
        if kind == "text":
            for way, texts in found.items():
                places = range(int(rest[0]), int(rest[1]))
                rows.setdefault((way, dtype), {}).update(zip(map(str, places), texts, strict=True))
    result: dict = {"wer": {}, "wer_difference": {}, "same_text": {}}
    for (way, dtype), found in rows.items():
        result["wer"].setdefault(way, {})[dtype] = total(_counts(found.values())).rate
        before = rows.get((PADDED, dtype), {})
        places = [place for place in found if place in before]
        if way not in _MODELS or way == PADDED or not places:
            continue
        paired = paired_bootstrap(_counts(before[place] for place in places),
                                  _counts(found[place] for place in places))
        result["wer_difference"].setdefault(_MODELS[way], {})[dtype] = {
            "value": paired.difference, "interval": paired.interval}
        result["same_text"].setdefault(_MODELS[way], {})[dtype] = statistics.mean(
            before[place]["text"] == found[place]["text"] for place in places)
    return result


def _counts(rows: Iterable[dict]) -> list[ErrorCounts]:
    return [ErrorCounts(**{key: row[key] for key in _COUNTS}) for row in rows]


def head() -> tuple[str, ...]:
    return ("batch", "seconds", "type", "HF", "faster-whisper", "padded", "short", "student",
            "short vs padded", "vs HF", "vs f.-w.", "student vs padded")


def rows(result: dict) -> list[tuple[str, ...]]:
    """Milliseconds a clip, and ratios; one row a batch, length and type."""
    found = []
    for key in sorted(result["milliseconds"], key=lambda key: tuple(map(float, key.split(".")))):
        batch, seconds = key.split(".")
        ways = result["milliseconds"][key]
        ratios = result if batch == "1" else result["batch_8"]
        for dtype in ("float32", "int8"):
            if f"{SHORT}.{dtype}" not in ways:
                continue

            def ratio(name: str, model: str, dtype: str = dtype, seconds: str = seconds,
                      ratios: dict = ratios) -> str:
                value = ratios.get(name, {}).get(model, {}).get(dtype, {}).get(seconds)
                return "" if value is None else f"{value:.1f}x"

            columns = ([f"{TRANSFORMERS}.float32"] + [f"{way}.{dtype}" for way in (
                FASTER_WHISPER, PADDED, SHORT, STUDENT)])
            found.append((batch, seconds, dtype,
                          *(f"{ways[way]:.0f}" if way in ways else "" for way in columns),
                          ratio("speedup_vs_padded", "teacher"),
                          ratio("speedup_vs_transformers", "teacher"),
                          ratio("speedup_vs_faster_whisper", "teacher"),
                          ratio("speedup_vs_padded", "student")))
    return found


def notes(result: dict) -> list[str]:
    """Errors, and the large shape."""
    lines = []
    for way, rates in result["wer"].items():
        said = ", ".join(f"{rate:.2%} {dtype}" for dtype, rate in rates.items() if rate is not None)
        lines.append(f"WER of single {result.get('scored', '')} clips, {way}: {said}")
    for model, types in result["wer_difference"].items():
        for dtype, found in types.items():
            ends = found["interval"]
            around = f" [{100 * ends[0]:+.2f}, {100 * ends[1]:+.2f}]" if ends else ""
            lines.append(f"{model} short minus teacher padded, {dtype}: "
                         f"{100 * found['value']:+.2f} points{around}; "
                         f"{result['same_text'][model][dtype]:.1%} of texts the same")
    for model, types in result.get("sherpa_onnx", {}).items():
        said = ", ".join(f"{types[dtype][seconds]:.1f}x at {seconds} s in {dtype}"
                         for dtype in types for seconds in sorted(types[dtype], key=float))
        lines.append(f"sherpa-onnx, {model} at its own length against the teacher padded: {said}")
    if large := result.get("large_v3_shape"):
        about = f"large-v3's shape, {large['seconds']} s, {large['tokens']} tokens"
        lines += [f"{about}, batch {batch}: {each['padded']:.1f} s padded, {each['short']:.1f} s "
                  f"short, {each['padded'] / each['short']:.1f}x"
                  for batch, each in large["batches"].items()]
        lines.append(f"kept silence of large-v3: {large['silence_bytes'] / 1e6:.0f} MB in float32, "
                     "half in half types")
    return lines


def table(result: dict) -> str:
    """For a terminal."""
    lines = [head(), *rows(result)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in lines]
    return "\n".join(["Milliseconds of one thread a clip, from audio to text; medians of rounds in "
                      "turn; HF: transformers, always in float32", "", *text, "", *notes(result)])


def page(result: dict) -> str:
    """HTML: milliseconds over clip length, a chart for each type and batch that is measured."""
    pictures = []
    for batch in ("1", "8"):
        for dtype in ("float32", "int8"):
            title = f"{dtype}, batch {batch}"
            series = _series(result, batch, dtype)
            if any(line.name == SHORT for line in series):
                pictures.append(figure(title, line_chart(
                    title, series, "seconds of audio", "milliseconds a clip", log=True), ""))
    body = ("<h1>Latency of short clips</h1>"
            + section("Milliseconds over clip length",
                      f'<div class="grid-2">{"".join(pictures)}</div>', " ".join(notes(result))))
    return render_page("Latency of short clips", body)


def _series(result: dict, batch: str, dtype: str) -> list[Series]:
    found = []
    for way, (style, markers) in _STYLES.items():
        of = "float32" if way == TRANSFORMERS else dtype
        points = sorted((float(key.split(".")[1]), ways[f"{way}.{of}"])
                        for key, ways in result["milliseconds"].items()
                        if key.split(".")[0] == batch and f"{way}.{of}" in ways)
        if points:
            found.append(Series(way, points, style, markers))
    return found
