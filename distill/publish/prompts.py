"""The part of a card that says whether a student follows prompts."""

from __future__ import annotations

from distill.publish.show import percent, table

_NO_LIST = "no list"


def _with_numbers(style: dict) -> str:
    count = style.get("with_numbers")
    return f", {percent(style['share_with_numbers'])} of {count} with a number" if count else ""


def prompts(found: dict) -> str:
    """Markdown of prompts.json; empty where it was not measured."""
    if not found:
        return ""
    about, student = found["about"], found["styles"]["student"]
    styles = [(style, percent(each["share"]) + _with_numbers(each), percent(each["wer"]),
               f"{100 * each['against_plain']['difference']:+.2f}")
              for style, each in student.items()]
    sizes = list(found["b_wer"]["student"])
    rows = []
    for row, rates in found["b_wer"].items():
        if row.split(" ")[0] == "twin" or "another" in row:
            continue
        cells = [f"{percent(rates[size])} / {percent(found['u_wer'][row][size])}"
                 if size in rates else "" for size in sizes]
        rows.append((row if " " in row else f"{row}, {_NO_LIST}", *cells))
    reads = any(row.startswith("student b") for row in found["b_wer"])
    b = " b: read by its encoder, which only audio-distill can do;" if reads else ""
    return f"""### Prompts

How to write, asked by a prompt of one fixed sentence in that style:

{table(("style", "texts in it", "WER", "points more than without"), styles)}

Rare words of a list among others that nobody said; error rates of words of the list / of all \
other words. a: the list in the prompt ({about['most_words']} words at most, those nearest to a \
first text);{b} c: preferred while decoding (boost {about['boost']:g}):

{table(("", *(f"{size} others" for size in sizes)), rows)}

{about['clips']} clips of the {about['split']} split, {about['listed_words']} listed words; \
{about['decoding']}."""
