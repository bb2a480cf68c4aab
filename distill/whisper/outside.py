"""Labels that another system than the teacher writes (`pseudo_label.backend` table or http): what
of a recipe makes sense for them, and which of its keys decide what a label says."""

from __future__ import annotations

import math
from dataclasses import asdict

from distill.config import check
from distill.whisper.recipe_sections import HttpConfig, PseudoLabelConfig

OUTSIDE = ("table", "http")  # values of pseudo_label.backend
_FORMATS = ("verbose_json", "json")


def is_outside(config: PseudoLabelConfig) -> bool:
    """Whether another system than the teacher writes the labels."""
    return config.backend in OUTSIDE


def whose(config: PseudoLabelConfig, teacher: str) -> str:
    """Who writes the labels, as a card may say it: no address, no path."""
    if config.backend == "http":
        return config.http.model or ""
    return "another system" if config.backend == "table" else teacher


def price_of(config: HttpConfig, seconds: float) -> float | None:
    """What so many seconds of audio cost; None without a price."""
    return None if config.price_per_minute is None else config.price_per_minute * seconds / 60


def label_keys(config: PseudoLabelConfig) -> dict:
    """All keys that decide what labels say, as they stand in their settings: not where a table is
    (each of its rows is compared), nor where a server is and how fast it may be asked."""
    keys = asdict(config)
    del keys["table"]
    http = keys.pop("http")
    if config.backend == "http":
        keys["http"] = {key: http[key] for key in ("model", "response_format", "form")}
    return keys


def check_outside(p: PseudoLabelConfig, task: str) -> None:
    """
    Args:
        task: what labels are (`teacher_task`).

    Raises:
        ConfigError: the section says what no other system can do, or not enough.
    """
    key = "pseudo_label.table.path"
    got = p.table.path
    if p.backend == "table":
        check(bool(got), key, "the path of a table, with pseudo_label.backend=table", got)
    elif got is not None:
        check(False, key, "null unless pseudo_label.backend is table", got)
    if is_outside(p):
        for key in ("second_decoding", "detect_language"):
            what = "false unless the teacher writes the labels"
            check(not getattr(p, key), f"pseudo_label.{key}", what, True)
    if p.backend == "http":
        _check_http(p, task)


def _check_http(p: PseudoLabelConfig, task: str) -> None:
    h, name = p.http, "pseudo_label.http"
    is_url = bool(h.url) and h.url.startswith(("http://", "https://"))
    check(is_url, f"{name}.url", "http://... or https://..., with pseudo_label.backend=http", h.url)
    check(bool(h.model), f"{name}.model", "a name, with pseudo_label.backend=http", h.model)
    check(task == "transcribe", "task", "transcribe, with pseudo_label.backend=http, or have a "
          "translation.model", task)
    ok = h.response_format in _FORMATS
    check(ok, f"{name}.response_format", f"one of {_FORMATS}", h.response_format)
    ok = h.response_format == "verbose_json" or not p.timestamps
    what = f"false with {name}.response_format={h.response_format}, which has no times"
    check(ok, "pseudo_label.timestamps", what, p.timestamps)
    ours = {"file", "model", "language", "response_format"} & set(h.form)
    check(not ours, f"{name}.form", "other fields than those that are sent anyway", sorted(ours))
    check(h.parallel > 0, f"{name}.parallel", "> 0", h.parallel)
    check(h.max_retries >= 0, f"{name}.max_retries", ">= 0", h.max_retries)
    for key in ("requests_per_minute", "timeout_seconds", "price_per_minute"):
        value = getattr(h, key)
        ok = value is None or (value > 0 and math.isfinite(value))
        ok = ok or (key == "price_per_minute" and value == 0)
        check(ok, f"{name}.{key}", "> 0", value)
