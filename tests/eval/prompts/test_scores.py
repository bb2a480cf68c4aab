"""Listed words apart from all others, what prompts do wrong, and the table of it."""

import pytest

from distill.metrics.error_rates import ErrorCounts, error_counts
from distill.metrics.normalize import normalizer
from distill.publish.prompts import prompts as card
from distill.whisper.prompting.nearest import nearest
from eval.prompts.lists import SIZES, clip_lists
from eval.prompts.scores import compared, echoes, errors, false_insertions, sign_test
from eval.prompts.table import Texts, results_of, text_table
from eval.report.prompts import render_prompts

NORMALISE = normalizer("english", "en", "word")
NAMES = [f"Rarename{chr(97 + at // 26)}{chr(97 + at % 26)}" for at in range(600)]


def counted(reference: str, text: str, said=("van Dyck",), listed=("van Dyck", "Moskowitz")):
    return errors(reference, text, said, listed, NORMALISE)


@pytest.mark.parametrize(("text", "listed", "others"), [
    ("Ask Van Dyck, please.", 0, 0), ("Ask van Dick, please.", 1, 0), ("Ask van please", 1, 0),
    ("Ask van Dyck, peas.", 0, 1), ("Ask van Dyck Moskowitz, please", 1, 0),
    ("Ask the van Dyck, please", 0, 1), ("", 2, 2)])
def test_listed_words_and_others(text, listed, others):
    found = counted("Ask van Dyck, please.", text)
    assert (found.listed.errors, found.others.errors) == (listed, others)
    assert (found.listed.num_reference, found.others.num_reference) == (2, 2)
    assert found.all.errors == error_counts("ask van dyck please", NORMALISE(text)).errors


def test_part_of_a_phrase_elsewhere_is_not_listed():
    found = counted("The van of van Dyck.", "The fan of van Dyck.")
    assert (found.listed.errors, found.others.errors) == (0, 1)
    assert found.listed.num_reference == 2


def test_false_insertions_and_echoes():
    said = false_insertions("Call Moskowitz.", "Call Moskowitz, van Dyck and Vandyck.",
                            ["van Dyck", "Moskowitz", "Ann"])
    assert said == ["van Dyck"]
    prompt = "These are one two three four five names."
    assert echoes("Hello.", "Hello, one two three four five.", prompt) == 1
    assert echoes("One, two, three, four, five!", "one two three four five", prompt) == 0
    assert echoes("Hello.", "Hello one two three four.", prompt) == 0


def test_lists_grow_and_hold_what_is_said():
    texts = [f"Please call {name}." for name in NAMES[:5]] + ["Nobody."]
    found = clip_lists(texts, [f"c{at}" for at in range(6)], NAMES, 0)
    assert found[2].said == (NAMES[2],) and found[5].said == ()
    for name, clip in zip("abcdef", found, strict=True):
        lists = [set(clip.of(size, name)) for size in SIZES]
        assert all(one <= two for one, two in zip(lists, lists[1:], strict=False))
        assert [len(each) - len(clip.said) for each in lists] == [
            0, 10, 100, len(NAMES) - len(clip.said)]  # all there are
    assert found[0].others != found[1].others
    with pytest.raises(ValueError, match="no text"):
        clip_lists(["Hello."], ["c"], NAMES, 0)


def test_what_sounds_alike_is_near():
    names = ["Moskowitz", "Sczepanski", "Verlinden", "Wittig", "Quillen", "Phillips", "Smith"]
    assert nearest("I spoke to moscow wits yesterday", names, 1) == ["Moskowitz"]
    assert nearest("and then Zepansky called", names, 1) == ["Sczepanski"]
    assert nearest("the fillips machine", names, 2)[-1] == "Phillips"  # the nearest last
    assert nearest("anything", names, 9) == names and nearest("", [], 3) == []


def test_sign_test_and_paired_interval():
    before = [ErrorCounts(substitutions=1, num_reference=1)] * 10
    after = [ErrorCounts(hits=1, num_reference=1)] * 9 + before[:1]
    assert sign_test(before, after) == {"better": 9, "worse": 0, "p_value": pytest.approx(2 / 512)}
    assert sign_test(before, before)["p_value"] == 1.0
    found = compared(before, after, 200)
    assert found["difference"] == pytest.approx(-0.9) and found["interval"][1] < 0


def texts_of_a_run() -> tuple[Texts, list]:
    """Student: half of the names wrong; a list in the prompt mends them all, a boost half."""
    references = [f"Please call {name}, now." for name in NAMES[:40]]
    wrong = [text.replace("Rare", "Where") for text in references]
    half = [r if at % 2 else w for at, (r, w) in enumerate(zip(references, wrong, strict=True))]
    said = {("teacher", "plain", 0): wrong, ("student", "plain", 0): wrong,
            ("twin", "plain", 0): half, ("teacher", "style upper", 0): wrong,
            ("student", "style upper", 0): [
                text.upper().replace(",", "").replace(".", "") for text in wrong]}
    for size in SIZES:
        said |= {("student", "a", size): references, ("student", "c", size): half,
                 ("student", "a+c", size): half}
    said["student", "a, another's list", 100] = [f"{NAMES[50]} {text}" for text in wrong]
    ids = [f"c{at}" for at in range(40)]
    return Texts(references, ids, said, {"student/plain": 1.0}), clip_lists(
        references, ids, NAMES, 0)


def test_styles_of_numbers_are_counted_where_there_are_numbers():
    references = ["Room twelve is free.", "Nobody came.", "Ask two men."]
    said = {("student", "plain", 0): references, ("student", "a", 100): references,
            ("student", "style digits", 0): ["Room 12 is free.", "Nobody came.", "Ask two men."],
            ("student", "style upper", 0): references}
    lists = clip_lists(references, list("abc"), ["Nobody"], 0)
    found = results_of(Texts(references, list("abc"), said), lists, NORMALISE, 50)
    digits = found["styles"]["student"]["digits"]
    assert digits["share"] == pytest.approx(2 / 3) and digits["with_numbers"] == 2
    assert digits["share_with_numbers"] == 0.5 and digits["wer"] == 0.0
    assert "with_numbers" not in found["styles"]["student"]["upper"]


def test_the_table_of_a_run():
    found = results_of(*texts_of_a_run(), NORMALISE, 100)
    assert found["b_wer"]["student"] == {str(size): 1.0 for size in SIZES}
    assert found["b_wer"]["student a"]["100"] == 0.0
    assert found["b_wer"]["student c"]["1000"] == 0.5
    assert found["b_wer_reduction_100"] == 1.0 and found["best_way"] == "a"
    assert found["reductions_100"]["c"] == 0.5 and found["u_wer_increase_100"] == 0.0
    assert found["style_following"] == {"upper": 1.0}
    assert found["styles"]["teacher"]["upper"]["share"] == 0.0
    assert found["styles"]["student"]["upper"]["against_plain"]["difference"] == 0.0
    assert found["wer_no_prompt_difference"] == pytest.approx(0.5 / 4)
    assert 0 < found["false_insertions"]["student a, another's list"]["100"] < 40
    about = {"clips": 40, "split": "test", "listed_words": 40, "decoding": "greedy", "boost": 3.0,
             "most_words": 20, "minutes": 1.0, "speakers": 2,
             "machine": {"processor": "P", "threads": 1}}
    whole = found | {"about": about, "examples": [
        {"id": "<1>", "reference": "Please call.", "student plain 0": "Please fall."}]}
    assert "B-WER -100.0 % of itself by a" in text_table(whole)
    page = render_prompts(whole)
    assert page.count(">1,000</text>") == 2  # under both curves
    assert "<del>call</del>" in page and "&lt;1&gt;" in page and "40 better, 0 worse" in page
    assert "| student a | 0.0" in card(whole).replace("\u00a0", " ") and card({}) == ""
