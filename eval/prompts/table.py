"""What the texts of all passes show: prompts.json, and the table of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

from distill.metrics.error_rates import ErrorCounts, bootstrap_interval, error_counts, error_rate
from distill.whisper.prompting.styles import ENGLISH, follows, render, style_prompt
from eval.prompts.lists import SIZES, ClipList
from eval.prompts.passes import list_contents
from eval.prompts.scores import Errors, compared, echoes, errors, false_insertions

Pass = tuple[str, str, int]  # role, way, distractors
MAIN = 100  # distractors of the main figures
WAYS = ("a", "b", "c", "a+c", "b+c")


@dataclass
class Texts:
    """Texts of all passes, in the order of the clips.

    Attributes:
        references, ids: of the clips.
        said: {(role, way, distractors): texts}.
        seconds: {name of a pass: by the clock}.
    """

    references: list[str]
    ids: list[str]
    said: dict[Pass, list[str]]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def roles(self) -> list[str]:
        return list(dict.fromkeys(role for role, *_ in self.said))


def results_of(texts: Texts, lists: Sequence[ClipList], normalise: Callable[[str], str],
               samples: int) -> dict:
    """Everything of prompts.json that follows from the texts; rates are fractions."""
    normalise = cache(normalise)  # the words of lists come again and again
    counts = _Counts(texts, lists, normalise)
    student = "student" if "student" in texts.roles else texts.roles[0]
    found = {
        "style_following": {}, "wer_by_style": {}, "wer_no_prompt_difference": None,
        "styles": {role: _styles(texts, role, normalise, samples) for role in texts.roles
                   if role != "twin"},
        "b_wer": {}, "u_wer": {}, "wer": {}, "false_insertions": {}, "echoes": {},
        "seconds": dict(texts.seconds)}
    found["style_following"] = {name: each["share"]
                                for name, each in found["styles"][student].items()}
    found["wer_by_style"] = {name: each["wer"] for name, each in found["styles"][student].items()}
    for role, way, size in texts.said:
        if way.startswith("style "):
            continue
        row = role if way == "plain" else f"{role} {way}"
        sizes = SIZES if way == "plain" else (size,)
        for each in sizes:
            rates = counts.rates((role, way, size), each)
            for name, value in rates.items():
                found[name].setdefault(row, {})[str(each)] = value
    found |= _main(counts, texts, student, samples)
    if "twin" in texts.roles:
        pair = [[e.all for e in counts((role, "plain", 0), MAIN)] for role in ("twin", student)]
        found["no_prompt"] = {"student": error_rate(pair[1]), "twin": error_rate(pair[0])}
        found["no_prompt"] |= compared(*pair, samples)
        found["wer_no_prompt_difference"] = found["no_prompt"]["difference"]
    return found


def _styles(texts: Texts, role: str, normalise: Callable[[str], str], samples: int) -> dict:
    """{style: share of texts in it, WER, difference to no prompt}."""
    def table(way: str) -> list[ErrorCounts]:
        return [error_counts(normalise(r), normalise(t))
                for r, t in zip(texts.references, texts.said[role, way, 0], strict=True)]

    plain, found = table("plain"), {}
    for _, way, _ in (key for key in texts.said if key[0] == role and key[1].startswith("style ")):
        style, said = way.removeprefix("style "), texts.said[role, way, 0]
        counted = table(way)
        found[style] = _of_numbers(texts.references, said, style) | {
            "share": sum(follows(style, text) for text in said) / len(said),
            "share_plain": sum(follows(style, text)
                               for text in texts.said[role, "plain", 0]) / len(said),
            "wer": error_rate(counted), "interval": bootstrap_interval(counted, samples),
            "against_plain": compared(plain, counted, samples),
            "echoes": sum(echoes(r, t, style_prompt(style))
                          for r, t in zip(texts.references, said, strict=True))}
    return found


def _of_numbers(references: Sequence[str], said: Sequence[str], style: str) -> dict:
    """Most texts have no number, so each style of numbers is theirs: the share of those that do."""
    if style not in ENGLISH:
        return {}
    found = [follows(style, text) for reference, text in zip(references, said, strict=True)
             if len({render(each, reference) for each in ENGLISH}) > 1]
    return {"with_numbers": len(found), "share_with_numbers": sum(found) / max(1, len(found))}


def _main(counts: _Counts, texts: Texts, student: str, samples: int) -> dict:
    """The main figures, at 100 distractors, and each way against no list."""
    against: dict[str, dict] = {}
    for role, way, size in texts.said:
        if way not in WAYS:
            continue
        before, after = counts((role, "plain", 0), size), counts((role, way, size), size)
        against.setdefault(f"{role} {way}", {})[str(size)] = {
            "b_wer": compared([e.listed for e in before], [e.listed for e in after], samples),
            "u_wer": compared([e.others for e in before], [e.others for e in after], samples)}
    wrong = {}
    for role, way, size in texts.said:
        other = role, f"{way}, another's list", size
        if other in texts.said:
            pair = [[e.all for e in counts(key, size)] for key in (other, (role, way, size))]
            wrong[f"{role} {way}"] = compared(*pair, samples)
    plain = counts.rates((student, "plain", 0), MAIN)
    reductions, increases = {}, {}
    for way in WAYS:
        if (student, way, MAIN) in texts.said:
            rates = counts.rates((student, way, MAIN), MAIN)
            reductions[way] = 1 - rates["b_wer"] / plain["b_wer"] if plain["b_wer"] else 0.0
            increases[way] = rates["u_wer"] - plain["u_wer"]
    best = max((way for way in reductions if way != "c"), key=reductions.__getitem__)
    return {"against_no_list": against, "against_another_list": wrong,
            "reductions_100": reductions, "increases_100": increases,
            "b_wer_reduction_100": reductions[best], "u_wer_increase_100": increases[best],
            "best_way": best}


class _Counts:
    """Errors of passes, counted once for each list."""

    def __init__(self, texts: Texts, lists: Sequence[ClipList], normalise: Callable[[str], str]):
        self.texts, self.lists, self.normalise = texts, lists, normalise
        self._found: dict[tuple[Pass, int], list[Errors]] = {}

    def _given(self, size: int, way: str = "") -> list[list[str]]:
        of = [clip.of(size, name) for clip, name in zip(self.lists, self.texts.ids, strict=True)]
        return [of[at - 1] for at in range(len(of))] if "another" in way else of

    def __call__(self, key: Pass, size: int) -> list[Errors]:
        """Errors of each clip, with lists of this size."""
        if (key, size) not in self._found:
            self._found[key, size] = [
                errors(reference, text, clip.said, words, self.normalise)
                for reference, text, clip, words in zip(
                    self.texts.references, self.texts.said[key], self.lists,
                    self._given(size, key[1]), strict=True)]
        return self._found[key, size]

    def rates(self, key: Pass, size: int) -> dict[str, float]:
        role, way, _ = key
        counted, given = self(key, size), self._given(size, way)
        said, references = self.texts.said[key], self.texts.references
        found = {"b_wer": error_rate([e.listed for e in counted]),
                 "u_wer": error_rate([e.others for e in counted]),
                 "wer": error_rate([e.all for e in counted]),
                 "false_insertions": sum(len(false_insertions(r, t, words)) for r, t, words
                                         in zip(references, said, given, strict=True)),
                 "echoes": 0}
        if way.startswith(("a", "b")):
            first, most = self.texts.said[role, "plain", 0], len(given[0])
            contents = list_contents(given, first, most)
            found["echoes"] = sum(echoes(r, t, prompt) for r, t, prompt
                                  in zip(references, said, contents, strict=True))
        return found


def with_numbers(style: dict) -> str:
    """What is said of a style of numbers, behind its share; empty of others."""
    count = style.get("with_numbers")
    return "" if not count else (
        f"; {100 * style['share_with_numbers']:.1f} % of {count} texts with a number")


def text_table(results: dict) -> str:
    """For the terminal."""
    about, lines = results["about"], []
    lines.append(f"{about['clips']} clips of the {about['split']} split, {about['listed_words']} "
                 f"listed words; {about['decoding']}; per cent, false insertions as counts")
    for role, styles in results["styles"].items():
        for style, each in styles.items():
            change = 100 * each["against_plain"]["difference"]
            share, before = 100 * each["share"], 100 * each["share_plain"]
            lines.append(f"{role:8s} style {style:7s} {share:6.1f} of texts follow it (without a "
                         f"prompt {before:.1f}), WER {100 * each['wer']:.2f} ({change:+.2f})"
                         f"{with_numbers(each)}")
    if results.get("no_prompt"):
        pair = results["no_prompt"]
        lines.append(f"no prompt: student {100 * pair['student']:.2f}, unprompted twin "
                     f"{100 * pair['twin']:.2f}")
    lines.append(f"{'':28s}" + "".join(f"{size:>24d}" for size in SIZES) + "   distractors")
    for row, sizes in results["b_wer"].items():
        cells = []
        for size in map(str, SIZES):
            cells.append("" if size not in sizes else
                         f"B {100 * sizes[size]:5.1f} U {100 * results['u_wer'][row][size]:4.1f} "
                         f"false {results['false_insertions'][row][size]:2d}")
        lines.append(f"{row:28s}" + "".join(f"{cell:>24s}" for cell in cells))
    for row, each in results["against_another_list"].items():
        low, high = (100 * limit for limit in each["interval"])
        lines.append(f"{row}: WER {100 * each['difference']:+.2f} points [{low:+.2f}, {high:+.2f}] "
                     "against another clip's list")
    lines.append(f"B-WER {-100 * results['b_wer_reduction_100']:+.1f} % of itself by "
                 f"{results['best_way']} with 100 distractors, U-WER "
                 f"{100 * results['u_wer_increase_100']:+.2f} points")
    return "\n".join(lines)
