"""The report's first section: teacher against student in key figures, bars and a table."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from distill.html.charts import Bar, bar_chart
from distill.html.page import figure, interval, percent, plural, table, tiles

_DASH = "\N{EN DASH}"
_MODELS = (("teacher", "Teacher"), ("student", "Student"))


def render_comparison(results: dict, unit: str) -> str:
    """HTML of results.json; what was not measured is left out of pictures and a dash in the table,
    whose rows are those that one of the models has.

    Args:
        unit: `word` or `char`: whether WER or CER is the headline.
    """
    rate = "wer" if unit == "word" else "cer"
    models = "; ".join(
        f"{name.lower()} <code>{escape(str(results[key].get('model')))}</code> "
        f"({escape(str(results[key].get('dtype', 'dtype not recorded')))})"
        for key, name in _MODELS
        if results.get(key)
    )
    intro = (
        f"Split {results['split']}: {plural(results['num_units'], 'utterance')}, "
        f"{plural(results['num_words'], 'reference word')}, {results['hours']:.2f} h of audio. "
        f"Normaliser: {results['normalizer']}. "
        f"Decoding: {results.get('decoding', 'not recorded')}. "
        "In brackets: 95 % bootstrap intervals over utterances, "
        f"{results['num_bootstrap']:,} draws. Models: "
    )
    return (
        f"<p>{escape(intro)}{models}.</p>{tiles(_key_figures(results, rate))}"
        f'<div class="grid-2">{_rate_bars(results, rate)}</div>'
        f'<div class="card">{_table(results)}</div>'
    )


def _key_figures(results: dict, rate: str) -> list[tuple[str, str, str]]:
    """The tiles: error rates, their difference, speed and size."""
    items = []
    for key, name in _MODELS:
        model = results.get(key) or {}
        if model.get(rate) is not None:
            ends = interval(model.get(f"{rate}_ci"))
            detail = f"95 % interval {ends}" if ends else "no interval: too few utterances"
            title = f"{name} {rate.upper()} ({results['split']}, {results['normalizer']})"
            items.append((title, percent(model[rate]), detail))
    paired = results.get("paired") or {}
    difference = paired.get(f"{rate}_difference")
    if difference is not None:
        p_value = paired.get("p_value")
        p_text = "" if p_value is None else f", two-sided p {_p_value(p_value)}"
        ends = interval(paired.get(f"{rate}_difference_ci"))
        detail = f"percentage points, paired; 95 % interval {ends}{p_text}"
        title = f"{rate.upper()}, student minus teacher"
        items.append((title, f"{100 * difference:+.1f}", detail))
    for key, title, detail in (
        ("rtfx", "Speed", "student's RTFx over the teacher's"),
        ("parameters", "Size", "student's parameters over the teacher's"),
    ):
        ratio = _ratio(results, key)
        if ratio is not None:
            items.append((title, f"{ratio:.2f}\u00d7", detail))
    return items


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.2g}" if value < 0.1 else f"= {value:.2f}"


def _ratio(results: dict, key: str) -> float | None:
    teacher, student = ((results.get(name) or {}).get(key) for name, _ in _MODELS)
    return student / teacher if teacher and student is not None else None


def _rate_bars(results: dict, rate: str) -> str:
    pictures = []
    for key, title in (
        (rate, f"{rate.upper()}, normalised ({results['normalizer']})"),
        (f"{rate}_orthographic", f"{rate.upper()}, orthographic (case and punctuation count)"),
    ):
        bars = []
        for name, label in _MODELS:
            model = results.get(name) or {}
            if model.get(key) is None:
                continue
            ends = model.get(f"{key}_ci")
            scaled = None if ends is None else (100 * ends[0], 100 * ends[1])
            text = f"{percent(model[key])} {interval(ends)}".strip()
            bars.append(Bar(label, 100 * model[key], text, name, scaled))
        if bars:
            axis = f"errors per 100 reference {'words' if rate == 'wer' else 'characters'} (%)"
            caption = (
                f"Split {results['split']}, {plural(results['num_units'], 'utterance')}. "
                "Whiskers: 95 % bootstrap intervals over utterances. Lower is better."
            )
            pictures.append(figure(title, bar_chart(title, bars, axis), caption))
    return "".join(pictures)


def _text(key: str) -> Callable[[dict], str | None]:
    return lambda model: model.get(key)


def _rate(key: str) -> Callable[[dict], str | None]:
    """Per cent, with its interval below where there is one."""

    def show(model: dict) -> str | None:
        if model.get(key) is None:
            return None
        ends = interval(model.get(f"{key}_ci"), 2)
        return percent(model[key], 2) + (f"\n{ends}" if ends else "")

    return show


def _number(
    key: str, unit: str = "", size: float = 1, digits: int = 1
) -> Callable[[dict], str | None]:
    def show(model: dict) -> str | None:
        value = model.get(key)
        return None if value is None else f"{value / size:,.{digits}f}\u00a0{unit}".strip()

    return show


def _error_counts(model: dict) -> str | None:
    counts = [model.get(key) for key in ("substitutions", "deletions", "insertions")]
    return None if None in counts else " + ".join(f"{count:,}" for count in counts)


# name, what it is in, how to show it, key of the ratio if one makes sense
_ROWS = (
    ("Arithmetic", "type of the numbers", _text("dtype"), None),
    ("BLEU", "orthographic, 0 to 100", _number("bleu", digits=2), "bleu"),
    ("chrF2", "orthographic, 0 to 100", _number("chrf", digits=2), "chrf"),
    ("WER", "normalised", _rate("wer"), "wer"),
    ("CER", "normalised", _rate("cer"), "cer"),
    ("WER", "orthographic", _rate("wer_orthographic"), "wer_orthographic"),
    ("CER", "orthographic", _rate("cer_orthographic"), "cer_orthographic"),
    ("Errors", "substituted + deleted + inserted", _error_counts, None),
    (
        "Insertions",
        "per 1,000 reference words",
        _number("insertions_per_1000_words"),
        "insertions_per_1000_words",
    ),
    (
        "Repeated 5-grams",
        "per 1,000 words, within an utterance",
        _number("repeated_5grams_per_1000_words"),
        "repeated_5grams_per_1000_words",
    ),
    ("Texts that loop", "utterances of the split", _number("looping_units", digits=0), None),
    ("Texts that do not, since decoded in halves", "utterances of the split",
     _number("halved_units", digits=0), None),
    ("RTFx", "seconds of audio per second", _number("rtfx"), "rtfx"),
    ("Parameters", "millions", _number("parameters", "M", 1e6), "parameters"),
    (
        "Decoder parameters",
        "millions",
        _number("decoder_parameters", "M", 1e6),
        "decoder_parameters",
    ),
    ("Weights on disk", "1 MB is 10\u2076 bytes", _number("file_bytes", "MB", 1e6), "file_bytes"),
    (
        "Peak memory",
        "1 MB is 10\u2076 bytes",
        _number("peak_memory_bytes", "MB", 1e6),
        "peak_memory_bytes",
    ),
)


def _table(results: dict) -> str:
    models = [results.get(model) or {} for model, _ in _MODELS]
    lines = []
    for name, detail, show, key in _ROWS:
        shown = [show(model) or _DASH for model in models]
        if set(shown) == {_DASH}:  # BLEU of a transcription
            continue
        ratio = _ratio(results, key) if key else None
        last = "" if ratio is None else f"{ratio:.2f}\u00d7"
        lines.append((f"{name}\n{detail}" if detail else name, *shown, last))
    return table(("", "Teacher", "Student", "Ratio"), lines)
