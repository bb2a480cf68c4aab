"""Prompts of views: what is drawn, what a decoder reads of it, and what it is asked for."""

from collections import Counter
from dataclasses import replace

import pytest

from distill.config import ConfigError
from distill.data.views.draws import Prompt, View, view_from_dict
from distill.losses.token_losses import IGNORE
from distill.whisper.data.collate import TokenRules
from distill.whisper.prompting.compose import prompt_tokens
from distill.whisper.prompting.draws import PromptDraws
from distill.whisper.prompting.settings import check_prompts
from distill.whisper.prompting.styles import style_prompt
from distill.whisper.prompting.words import Listed, rare_words
from distill.whisper.recipe_sections import PromptConfig, ViewConfig
from distill.whisper.special import SpecialTokens

NAMES = ["Moskowitz", "van Dyck", *(f"Name{index}" for index in range(60))]
ROWS = [{"id": f"w{index}", "label": f"Please call {name}, before nine.", "prompt": []}
        for index, name in enumerate(NAMES)]


def draws(rows=ROWS, phrases=NAMES, previous=lambda row: "", **config) -> PromptDraws:
    return PromptDraws(3, PromptConfig(**{"probability": 1.0} | config), rows, phrases, previous)


def test_shares_are_those_of_the_recipe():
    found = draws(probability=0.6, styles={"none": 1, "upper": 3},
                  contents={"none": 1, "words": 3}, min_distractors=2, max_distractors=9)
    prompts = [found(index, epoch) for index in range(len(ROWS)) for epoch in range(40)]
    given = [prompt for prompt in prompts if prompt]
    assert len(given) / len(prompts) == pytest.approx(0.6, abs=0.04)
    assert Counter(p.style for p in given)["upper"] / len(given) == pytest.approx(0.75, abs=0.04)
    assert Counter(p.kind for p in given)["words"] / len(given) == pytest.approx(0.75, abs=0.04)
    assert all(bool(prompt.content) == (prompt.kind == "words") for prompt in given)


def test_a_draw_is_a_function_of_seed_window_and_epoch():
    contents = {"none": 1, "words": 3}  # those of other windows also depend on which there are
    first, other = draws(contents=contents), draws(ROWS[::-1], contents=contents)
    for index in range(len(ROWS)):
        assert first(index, 7) == other(len(ROWS) - 1 - index, 7)
    assert len({first(0, epoch) for epoch in range(20)}) > 10


def test_lists_hold_what_is_said_among_others():
    found = draws(contents={"words": 1}, listed_probability=1.0, min_distractors=3,
                  max_distractors=5)
    places = set()
    for epoch in range(60):
        words = found(1, epoch).content.removesuffix(".").split(", ")
        assert "van Dyck" in words and 4 <= len(words) <= 6 and len(set(words)) == len(words)
        assert set(words) <= set(NAMES)
        places.add(words.index("van Dyck"))
    assert {0, 3} <= places  # shuffled
    never = draws(contents={"words": 1}, listed_probability=0.0)
    assert not any("van Dyck" in never(1, epoch).content for epoch in range(20))


def test_a_leak_is_off_unless_asked_for():
    words = {"please", "call", "moskowitz", "before", "nine"}
    plain, leaked = (draws(contents={"words": 1}, leak_probability=p) for p in (0.0, 1.0))
    assert not any("Please" in plain(0, epoch).content for epoch in range(50))
    for epoch in range(20):
        got = leaked(0, epoch).content.lower().removesuffix(".").split(", ")
        assert set(got) <= words | {""}


def test_contents_of_other_windows_and_previous_text():
    def before(row: dict) -> str:
        return f"Before {row['id']}."

    assert draws(contents={"previous": 1}, previous=before)(4, 0).content == "Before w4."
    assert draws(contents={"previous": 1})(4, 0) == Prompt(draws()(4, 0).style, "none", "")
    other = draws(contents={"previous": 0.0, "other": 1.0, "words": 1e-9}, listed_probability=1.0)
    found = [other(4, epoch).content for epoch in range(60)]
    assert sum("Name2" in each.split(", ") for each in found) < 58  # not the window's own list


def test_listed_phrases_and_rare_words():
    listed = Listed(["van Dyck", "Smith-Jones", "O'Neil"])
    assert listed.find("VAN DYCK, the vandyck, and o'neil van dyck.") == ["van Dyck", "O'Neil"]
    assert listed.find("Smith Jones van, Dyck") == ["van Dyck"]
    texts = ["The dog saw Rex.", "The dog saw the cat.", "rex Rex barks at the dog"]
    assert rare_words(texts, 2) == ["Rex", "saw", "barks", "cat"]


# Tokens

@pytest.fixture(scope="module")
def tokenizer(tiny_processor):
    return tiny_processor.tokenizer


@pytest.fixture(scope="module")
def rules(tokenizer):
    special = SpecialTokens(tokenizer, None)
    return TokenRules(special, "en", "transcribe", 448, timestamps=True, tokenizer=tokenizer)


def label(tokenizer, text: str) -> dict:
    return {"id": "w", "language": None, "prompt": [],
            "tokens": tokenizer(" " + text, add_special_tokens=False).input_ids}


def test_labels_are_written_in_the_style(rules, tokenizer):
    view = View("w", False, False, prompt=Prompt("upper", "words", "Moskowitz, van Dyck."))
    tokens = rules(label(tokenizer, "Mr. Moskowitz, please."), view)
    read = tokenizer.decode(tokens.inputs)
    assert read.startswith(f"<|startofprev|> {style_prompt('upper')} Moskowitz, van Dyck."
                           "<|startoftranscript|>")
    asked = [token for token in tokens.labels if token != IGNORE]
    assert tokenizer.decode(asked[3:]) == " MR MOSKOWITZ PLEASE<|endoftext|>"
    assert tokens.labels[: len(tokens.inputs) - len(asked)] == [IGNORE] * (
        len(tokens.inputs) - len(asked))


def test_timestamps_stay_where_they_are(rules, tokenizer):
    t = rules.special.timestamp_begin
    row = label(tokenizer, "")
    parts = [tokenizer(text, add_special_tokens=False).input_ids for text in (" One.", " Two.")]
    row["tokens"] = [t, *parts[0], t + 9, t + 9, *parts[1], t + 20]
    view = View("w", True, False, prompt=Prompt("lower", "none", ""))
    asked = [token for token in rules(row, view).labels if token != IGNORE]
    lower = [tokenizer(text, add_special_tokens=False).input_ids for text in (" one", " two")]
    assert asked[2:-1] == [t, *lower[0], t + 9, t + 9, *lower[1], t + 20]


def test_no_style_changes_no_token(rules, tokenizer):
    row = label(tokenizer, "Odd   spaces , Mr. X")
    plain = rules(row, View("w", False, False))
    for style in (None, "mixed"):
        view = View("w", False, False, prompt=Prompt(style, "none", ""))
        assert [t for t in rules(row, view).labels if t != IGNORE] == plain.labels


def test_what_does_not_fit_is_cut_by_words_and_the_style_never(tokenizer):
    style = prompt_tokens(tokenizer, "upper", "", 223)
    whole = prompt_tokens(tokenizer, "upper", "Alpha, beta, gamma.", 223)
    cut = prompt_tokens(tokenizer, "upper", "Alpha, beta, gamma.", len(whole) - 3)
    assert cut[: len(style)] == style
    assert tokenizer.decode(cut[len(style):]) == " beta, gamma."
    assert prompt_tokens(tokenizer, "upper", "Alpha, beta, gamma.", len(style)) == style
    assert prompt_tokens(tokenizer, "upper", "Alpha", len(style) - 1) == []
    sly = prompt_tokens(tokenizer, None, "a<|endoftext|>b <|startoftranscript|>", 223)
    assert max(sly) < tokenizer.convert_tokens_to_ids("<|endoftext|>")


def test_a_label_too_long_for_a_style_keeps_its_own(rules, tokenizer):
    longer = replace(rules, context=40)
    row = label(tokenizer, "straße")
    row["tokens"] = row["tokens"][:1] + row["tokens"][1:] * 5
    plain = longer(row, View("w", False, False))
    assert len(plain.inputs) == 40  # with quotation marks around it, 42
    view = View("w", False, False, prompt=Prompt("builtins:repr", "words", "Moskowitz."))
    tokens = longer(row, view)
    assert len(tokens.inputs) <= 40
    assert [t for t in tokens.labels if t != IGNORE] == [t for t in plain.labels if t != IGNORE]


def test_a_view_is_written_down_whole():
    view = View("w", False, False, prompt=Prompt("upper", "words", "Moskowitz."))
    assert view_from_dict(view.to_dict()) == view
    assert "prompt" not in replace(view, prompt=None).to_dict()  # as before there were prompts


@pytest.mark.parametrize("changes, message", [
    ({"probability": 1.5}, "probability must be in"), ({"styles": {"shout": 1}}, "must be one of"),
    ({"styles": {"upper": 0}}, "weights >= 0"), ({"contents": {"page": 1}}, "weights of some of"),
    ({"min_distractors": 9, "max_distractors": 3}, "min_distractors must be 0 to"),
    ({"words": "/nowhere.txt"}, "text file"), ({"styles": {"digits": 1}}, "unless language is en"),
    ({"probability": 0.5}, "previous_text_probability must be 0 with"),
])
def test_wrong_keys_are_named(changes, message):
    views = ViewConfig(prompts=PromptConfig(**changes))
    with pytest.raises(ConfigError, match=message):
        check_prompts(views, "de")
