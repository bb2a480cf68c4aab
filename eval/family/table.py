"""What `python -m eval.family` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eval.machine import describe

_RATES = {"word": "WER", "char": "CER"}
_MARKS = ("*", "+")  # of the student to take, and of one that is as good and faster


def table(results: dict) -> str:
    """For a terminal."""
    rate = _RATES[results["error_unit"]]
    head = ("", "decoder layers", "type", "ms", "MB", f"validation {rate}", f"test {rate}",
            "test, - teacher", "loops")
    lines = [head, *_lines(results)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    rows = ["  ".join(cell.ljust(width) if at < 3 else cell.rjust(width)
                      for at, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
            for line in lines]
    return "\n".join([*rows, "", about(results), "", *conclusions(results),
                      f"Machine: {describe(results['machine'])}"])


def _lines(results: dict) -> Iterator[Sequence[str]]:
    yield _line("", "teacher", "float32", results["teacher"])
    marked = {mark: results.get(key) for mark, key in
              zip(_MARKS, ("chosen", "as_good_and_faster"), strict=True)}
    for student in results["students"]:
        for dtype, way in student["ways"].items():
            mark = "".join(mark for mark, found in marked.items()
                           if found and (found["name"], found["dtype"]) == (student["name"], dtype))
            yield _line(mark, " ".join(map(str, student["decoder_layers"])), dtype, way)


def _line(mark: str, layers: str, dtype: str, way: dict) -> tuple[str, ...]:
    test = way["test"]
    return (mark, layers, dtype, f"{way['milliseconds']:.0f}", f"{way['megabytes']:.0f}",
            rate_text(way["validation"]), rate_text(test), difference_text(test),
            f"{way['validation']['looping_clips']} + {test['looping_clips']}")


def rate_text(errors: dict) -> str:
    """`9.0 % [6.0, 13.2]`"""
    return f"{100 * errors['error_rate']:.1f} %" + _around(errors["error_rate_ci"], ".1f")


def difference_text(errors: dict) -> str:
    """`+0.33 [-1.4, +1.9]`; empty for the teacher."""
    if "difference" not in errors:
        return ""
    return f"{100 * errors['difference']:+.1f}" + _around(errors["difference_ci"], "+.1f")


def _around(ends: Sequence[float] | None, form: str) -> str:
    return f" [{100 * ends[0]:{form}}, {100 * ends[1]:{form}}]" if ends else ""


def about(results: dict) -> str:
    """What the numbers are of."""
    parts = [f"{name}: {each['num_clips']} clips of {each['mean_seconds']:.1f} s, "
             f"{each['num_words']} words" for name, each in results["splits"].items()]
    left_out = [f"{name}: {count} {reason}" for name, each in results["splits"].items()
                for reason, count in each["left_out"].items()]
    timed = results["timed_clips"]
    return (
        f"{'; '.join(parts)}; left out: {', '.join(left_out) or 'nothing'}. Each clip by itself; "
        f"in brackets 95 % bootstrap intervals over clips, {results['num_bootstrap']} draws. "
        "loops: texts that repeat themselves, validation + test. ms: median of "
        f"{timed['count']} clips of {timed['seconds']:g} s, one at a time, cut from "
        f"{timed['split']} speech. MB: weights in that type, 10^6 bytes.")


def conclusions(results: dict) -> list[str]:
    """Which student to take, in sentences."""
    limits = budget_text(results["budget"])
    chosen, other = results["chosen"], results["as_good_and_faster"]
    if chosen is None:
        fastest = results["fastest"]
        return [f"No student is within the budget ({limits}). The fastest is {_named(fastest)}."]
    again = chosen["again"]
    within = "within" if again["is_within_budget"] else "NOT within"
    found = [f"* Take {_named(chosen)}: the fewest errors on the validation clips"
             + (f" within the budget ({limits})" if limits else "") + f". {chosen['folder']}"]
    if limits:
        found.append(f"  Measured again by itself: {again['milliseconds']:.0f} ms, {within} the "
                     "budget.")
    if other:
        found.append(f"+ {_named(other)} is not worse for certain, and faster. {other['folder']}")
    return found


def budget_text(budget: dict) -> str:
    """`200 ms a clip of 5 s, 60 MB`; empty without limits."""
    parts = []
    if budget["milliseconds"] is not None:
        parts.append(f"{budget['milliseconds']:g} ms a clip of {budget['clip_seconds']:g} s")
    if budget["megabytes"] is not None:
        parts.append(f"{budget['megabytes']:g} MB")
    return ", ".join(parts)


def _named(found: dict) -> str:
    layers = found["name"].replace("-", " ")
    return (f"decoder layers {layers} in {found['dtype']} ({found['milliseconds']:.0f} ms, "
            f"{found['megabytes']:.0f} MB, {100 * found['validation_error_rate']:.1f} % on "
            "validation)")
