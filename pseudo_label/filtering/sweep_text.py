"""The result of `pseudo_label.sweep` as a table and as a page with a picture per filter."""

from __future__ import annotations

from html import escape

from distill.html.charts import Series, line_chart
from distill.html.page import figure, percent, plural, render_page, section, tiles
from distill.html.page import table as html_table

# Thresholds shown in tables: those that keep at least these shares of the hours.
_SHARES = (0.99, 0.95, 0.9, 0.8, 0.7, 0.5)
_UNITS = {"min_avg_logprob": "nats", "min_chars_per_second": "characters a second",
          "max_chars_per_second": "characters a second"}  # fmt: skip
_NUM_BEST = 3  # filters in the picture that compares them
_DRAWN = (0.2, 0.995)  # shares of the hours: an error rate of a few labels is noise, and the
# thresholds that drop next to nothing lie far out


def rate_name(result: dict) -> str:
    units = {unit for unit, count in result["units"].items() if count}
    return {("word",): "WER", ("char",): "CER"}.get(tuple(units), "WER/CER")


def setting(result: dict) -> str:
    """What was swept over, in sentences."""
    text = f"{plural(result['labels'], 'label')}, {result['hours']:.2f} h; "
    if not result["referenced"]:
        text += "none has a reference text, so only hours are shown."
    else:
        text += (
            f"{result['referenced']:,} with a reference text: {rate_name(result)} "
            f"{percent(result['error_rate'])}, {result['bad']:,} of them bad (above "
            f"{percent(result['bad_above'], 0)})."
        )
    if result["left_out"]:
        lost = ", ".join(f"{count:,} {reason}" for reason, count in result["left_out"].items())
        text += f" Left out, because other filters drop them: {lost}."
    return text


def chosen(found: dict, hours: float) -> list[dict]:
    """A few points of a filter, the most lenient first: those of `_SHARES` and the recipe's."""
    points = [
        min((p for p in found["points"] if p["hours"] >= share * hours), key=lambda p: p["hours"])
        for share in _SHARES
        if any(p["hours"] >= share * hours for p in found["points"])
    ]
    points += [p for p in found["points"] if p["threshold"] == found["recipe"]]
    different = {p["threshold"]: p for p in points}.values()
    return sorted(different, key=lambda p: -p["labels"])


def rows(result: dict, key: str) -> list[tuple[str, ...]]:
    """Threshold, labels, hours, and with references the error rates of kept and dropped."""
    found = result["filters"][key]
    lines = []
    for p in chosen(found, result["hours"]):
        mark = "*" if p["threshold"] == found["recipe"] else ""
        line = (f"{p['threshold']:g}{mark}", f"{p['labels']:,}", f"{p['hours']:.2f}")
        if result["referenced"]:
            line += (percent(p["error_rate_kept"]), percent(p["error_rate_dropped"]))
        lines.append(line)
    return lines


def head(result: dict) -> tuple[str, ...]:
    name = rate_name(result)
    errors = (f"{name} kept", f"{name} dropped") if result["referenced"] else ()
    return ("threshold", "labels kept", "hours kept", *errors)


def table(result: dict) -> str:
    """For a terminal."""
    lines = [("filter", "AUC", *head(result))]
    notes = []
    for key, found in result["filters"].items():
        if "lacks" in found:
            notes.append(f"{key}: {found['lacks']}.")
            continue
        for index, row in enumerate(rows(result, key)):
            lines.append((*((key, _auc(found)) if index == 0 else ("", "")), *row))
    lines = [tuple(cell.replace("\u00a0", " ") for cell in line) for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(w) if i == 0 else cell.rjust(w)
                      for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
            for line in lines]
    return "\n".join([setting(result).replace("\u00a0", " "), "", *text, "", *_legend(), *notes])


def _legend() -> list[str]:
    return ["Each filter alone. AUC: how often a bad label looks worse than a good one; 0.5 is "
            "chance. *: the threshold of the recipe."]


def _auc(found: dict) -> str:
    return "" if found["auc"] is None else f"{found['auc']:.2f}"


# --- The page -----------------------------------------------------------------------------------


def page(result: dict, name: str) -> str:
    """HTML: which filter is good, and what each threshold costs."""
    swept = {key: found for key, found in result["filters"].items() if "lacks" not in found}
    lacks = "".join(f'<p class="note">{escape(key)}: {escape(found["lacks"])}.</p>'
                    for key, found in result["filters"].items() if "lacks" in found)
    figures = "".join(_filter_figure(result, key) for key in swept)
    parts = [f"<h1>{escape(name)}: filters of the labels</h1>", tiles(_facts(result))]
    if result["left_out"]:
        parts.append(f'<p class="note">{escape(setting(result))}</p>')
    if result["referenced"]:
        parts.append(section("Which filter finds bad labels", _comparison(result, swept),
                             "Each filter alone, against the references."))
    intro = ("Each filter alone, down to a fifth of the hours. 100 % is what there is without a "
             "filter.")
    grid = f'<div class="grid-2">{figures}</div>{lacks}'
    parts.append(section("What each threshold costs", grid, intro))
    return render_page(f"{name}: filters of the labels", "\n".join(parts))


def _facts(result: dict) -> list[tuple[str, str, str]]:
    facts = [
        ("Labels", f"{result['labels']:,}", f"{result['hours']:.2f} h"),
        ("With a reference text", f"{result['referenced']:,}",
         f"{result['referenced_hours']:.2f} h"),
    ]
    if result["referenced"]:
        name = rate_name(result)
        above = f"{name} above {percent(result['bad_above'], 0)}"
        facts += [(f"{name} of these", percent(result["error_rate"]), "without any filter"),
                  ("Bad labels", f"{result['bad']:,}", above)]
    return facts


def _comparison(result: dict, swept: dict) -> str:
    """The trade of hours for errors, filter by filter."""
    name = rate_name(result)
    ranked = sorted(swept, key=lambda key: -(swept[key]["auc"] or 0))
    best = [key for key in ranked if swept[key]["auc"] is not None][:_NUM_BEST]
    lines = []
    for key, style in zip(("max_wer", *best), "abcd", strict=False):
        points = [(100 * p["hours"] / result["hours"], 100 * p["error_rate_kept"])
                  for p in _drawn(swept[key]["points"], result["hours"])
                  if p["error_rate_kept"] is not None]
        label = f"{key} (reads the references)" if key == "max_wer" else key
        lines.append(Series(label, points, style))
    title = f"{name} of what is kept"
    picture = line_chart(title, lines, "hours kept (%)", f"{name} of the kept (%)")
    caption = "The lower the line, the better the filter finds bad labels."
    cells = [(key, _auc(swept[key]), *_at_share(result, swept[key], 0.9))
             for key in ranked if key != "max_wer"]
    heads = ("Filter", "AUC", "threshold", f"{name} kept", f"{name} dropped")
    note = ('<p class="note">At the threshold that keeps 90 % of the hours. AUC: how often a bad '
            "label looks worse than a good one; 0.5 is chance.</p>")
    return (f'<div class="grid-2">{figure(title, picture, caption)}'
            f'<div class="card">{html_table(heads, cells)}{note}</div></div>')


def _at_share(result: dict, found: dict, share: float) -> tuple[str, str, str]:
    enough = [p for p in found["points"] if p["hours"] >= share * result["hours"]]
    point = min(enough, key=lambda p: p["hours"])  # the most lenient threshold keeps all
    return (f"{point['threshold']:g}", percent(point["error_rate_kept"]),
            percent(point["error_rate_dropped"]))


def _filter_figure(result: dict, key: str) -> str:
    """One filter: hours kept and errors of the kept over the threshold, then the figures."""
    found = result["filters"][key]
    numbers = html_table(head(result), rows(result, key))
    points = _drawn(found["points"], result["hours"])
    if len(points) < 2:
        return figure(key, numbers, "(Nearly) all labels have the same value.")
    lines = [Series("hours kept", [(p["threshold"], 100 * p["hours"] / result["hours"])
                                   for p in points], "a")]
    if result["error_rate"]:
        errors = [(p["threshold"], 100 * p["error_rate_kept"] / result["error_rate"])
                  for p in points if p["error_rate_kept"] is not None]
        lines.append(Series(f"{rate_name(result)} of the kept", errors, "c"))
    label = f"threshold ({_UNITS[key]})" if key in _UNITS else "threshold"
    picture = line_chart(key, lines, label, "% of all labels")
    caption = f"Now {found['recipe']:g} in the recipe (*)." if found["recipe"] is not None else ""
    return figure(key, picture + numbers, caption)


def _drawn(points: list[dict], hours: float) -> list[dict]:
    """The points between `_DRAWN`, and the next more lenient one."""
    low, high = (share * hours for share in _DRAWN)
    last = min((p for p in points if p["hours"] >= high), key=lambda p: p["hours"])
    return [p for p in points if low <= p["hours"] < high or p is last]
