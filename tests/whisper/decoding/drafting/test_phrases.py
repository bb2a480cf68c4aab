"""Listed phrases: written where the model nearly writes them, the same in any batch and with
drafts; a beginning whose phrase does not come changes nothing."""

import math
import random
from types import SimpleNamespace

import pytest
import torch

from distill.whisper.decoding import whisper_decoder
from distill.whisper.decoding.phrases import forms
from distill.whisper.decoding.phrases.boosts import Back, Boosts, Choice
from distill.whisper.decoding.phrases.files import read_phrases
from distill.whisper.decoding.phrases.trie import PhraseList
from distill.whisper.decoding.sampling import Sampling
from tests.whisper.decoding.drafting.conftest import CALLS, LONG, same

FIRST = 0x4E00  # a character for each token, of a script without spaces


class Characters:
    """A tokenizer."""

    all_special_ids = ()

    def __call__(self, texts, add_special_tokens):
        return SimpleNamespace(input_ids=[[ord(c) - FIRST for c in t.strip()] for t in texts])

    def convert_ids_to_tokens(self, token):
        return chr(FIRST + token)

    def get_vocab(self):
        known = {chr(FIRST + token): token for token in range(256)}
        return {**known, "": 400}  # Whisper's has an empty one, too

    def decode(self, tokens):
        return "".join(chr(FIRST + token) for token in tokens)


def phrases(texts, boost):
    tokenizer = Characters()
    return PhraseList(tokenizer, map(tokenizer.decode, texts), boost)


@pytest.fixture(scope="module")
def lists():
    """One for each row, of random phrases: many begin, few come to their end."""
    draw = random.Random(3)

    def some():
        return phrases([[draw.randrange(256) for _ in range(draw.randint(1, 4))]
                        for _ in range(300)], boost=8.0)

    return [some(), None, *[some() for _ in range(6)], None]


@pytest.fixture(scope="module")
def near(states, models, tiny_processor):
    """(row, length, second best token, gap) of plain decoding in int8, the smallest gap."""
    from tests.whisper.decoding.drafting.conftest import decoder_of

    decoder, found = decoder_of(models, tiny_processor, int8=True), []

    class Watching(Boosts):
        def two_best(self, logits, plain, positions, texts, rough=None):
            found.extend((gap, row, length, best[1]) for (row, length), best, gap
                         in zip(positions, plain.tokens, plain.gaps(), strict=True)
                         if length > 2 and best[1] < 256)
            return super().two_best(logits, plain, positions, texts, rough)

    decoder._boosts = lambda *_: Watching([phrases([[1]], 1e-6)] * len(states), 267, 256)
    decoder(states, LONG)
    gap, row, length, token = min(found)
    return row, length, token, gap


@pytest.mark.parametrize("int8", [True, False])
def test_an_empty_list_changes_nothing(make, plain, states, int8):
    """No bit of it in int8; float decoders whose caches lie elsewhere differ by rounding."""
    found = make(int8=int8, phrases=phrases([], 3.0))(states, LONG)
    same(found, plain("long", int8=int8), exactly=int8)


def test_written_where_the_model_nearly_writes_it(make, plain, states, near):
    row, length, token, gap = near
    wanted = plain("long", int8=True)[row]
    decoder, one = make(int8=True), states[row : row + 1]
    texts = [decoder(one, LONG[:1], phrases=[phrases([[token]], boost)])[0]
             for boost in (2 * gap + 0.04, 2 * gap + 0.02, gap * 1.8)]  # a beginning gets half
    assert texts[0].tokens[: length + 1] == [*wanted.tokens[:length], token]
    assert wanted.tokens[length] != token
    # what is reported is the model's own probability
    assert texts[0].tokens == texts[1].tokens
    assert texts[0].avg_logprob == texts[1].avg_logprob < 0
    same(texts[2:], [wanted], True)
    assert decoder.report.taken_back == 0


def test_a_broken_beginning_gains_nothing(make, plain, states, near):
    row, length, token, gap = near
    never = (token + 1) % 256
    decoder = make(int8=True)
    found = decoder(states, LONG, phrases=[
        phrases([[token, never, never]], 2 * gap + 0.02) if at == row else None for at in range(9)])
    assert decoder.report.taken_back >= 1
    same(found, plain("long", int8=True), True)


def test_rows_of_a_batch_as_alone(make, plain, states, lists):
    options, on_loop = CALLS["rows' own"], "break"
    decoder = make(int8=True, on_loop=on_loop, max_slots=4)
    found = decoder(states, **options, phrases=lists)
    alone = [make(int8=True, on_loop=on_loop)(
        states[at : at + 1], **{name: each[at : at + 1] for name, each in options.items()},
        phrases=lists[at : at + 1])[0] for at in range(9)]
    same(found, alone, True)
    assert decoder.report.taken_back > 5
    changed = [one.tokens != two.tokens for one, two in
               zip(found, plain("rows' own", int8=True, on_loop=on_loop), strict=True)]
    assert sum(changed) > 3 and not changed[1] and not changed[8]


@pytest.mark.parametrize(("student", "length", "options"), [
    ("unrelated", 8, {}),
    pytest.param("itself", 5, {"on_loop": "break"}, marks=pytest.mark.slow),
    pytest.param("two", 4, {"max_slots": 3, "timestamps": True}, marks=pytest.mark.slow)])
def test_drafts_change_nothing(make, states, lists, student, length, options):
    call = CALLS["rows' own"] | {"phrases": lists}
    wanted = make(int8=True, **options)(states, **call)
    drafted = make(student, int8=True, draft_length=length, **options)
    same(drafted(states, **call), wanted, True)
    assert drafted.report.tested > 50 and drafted.report.taken_back > 5
    old = make(int8=True, **options)
    same(old(states, **call, drafts=[h.tokens for h in wanted]), wanted, True)


@pytest.mark.parametrize(("int8", "options"), [
    (True, {"on_loop": "break"}), (True, {"on_loop": "end", "max_slots": 1}),
    (True, {"max_slots": 4, "timestamps": True}), (False, {"on_loop": "break"})])
def test_what_is_undone_costs_no_pass(make, states, lists, monkeypatch, int8, options):
    """The text without the phrase is read beside it, and is what it would be otherwise."""
    call = CALLS["rows' own"] | {"phrases": lists}
    decoder, other = make(int8=int8, **options), make(int8=int8, **options)
    found = decoder(states, **call)
    monkeypatch.setattr(whisper_decoder, "rows_beside", lambda slots: 0)
    same(found, other(states, **call), exactly=int8)
    assert decoder.report.beside > 10 and decoder.report.tokens == other.report.tokens
    assert decoder.report.passes + 5 < other.report.passes
    assert decoder.report.sequence_passes < other.report.sequence_passes


def test_samples_beside(make, states, lists, monkeypatch):
    call = {"max_new_tokens": LONG, "phrases": lists, "sampling": Sampling(0.7, range(9))}
    decoder = make(int8=True)
    found = decoder(states, **call)
    monkeypatch.setattr(whisper_decoder, "rows_beside", lambda slots: 0)
    same(found, make(int8=True)(states, **call), True)
    assert decoder.report.beside > 10


def test_float_with_near_ties_decided(make, states, lists):
    call = CALLS["rows' own"] | {"phrases": lists}
    drafted = make("two", exact=True)
    same(drafted(states, **call), make()(states, **call))
    assert drafted.report.taken_back > 5


def test_samples(make, states, lists):
    call = {"max_new_tokens": LONG, "phrases": lists, "sampling": Sampling(0.7, range(9))}
    same(make("two", int8=True)(states, **call), make(int8=True)(states, **call), True)
    with pytest.raises(ValueError, match="coupled"):
        make(int8=True)(states, **call | {"sampling": Sampling(0.7, range(9), "rejection")})


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize(("text", "fits"), [
    (" Ann", True), (" ANN", True), (" ann", True), ("Ann", True), (" \"Ann", True),
    ("xAnn", False), (" An", True), (" Bann", False), (" in New York", True),
    (" new york", True), (" NEW YORK", True), (" New york", False), (" NewYork", False)])
def test_forms(tiny_processor, text, fits):
    """In a sentence, at a beginning, after a quotation mark; never inside a word."""
    names = PhraseList(tiny_processor.tokenizer, ["Ann", "New York", " ", "Ann"])
    assert names.phrases == ["Ann", "New York"]
    tokens = ids(tiny_processor.tokenizer, text)
    assert bool(names.paths(tokens, len(tokens), 267)) == fits


@pytest.mark.parametrize(("after", "stays"), [
    (" goes", True), ("'s", True), (".", True), (None, True), ("a", False), ("\u00e9", False)])
def test_a_phrase_ends_where_a_word_does(tiny_processor, after, stays):
    tokenizer, text = tiny_processor.tokenizer, []
    boosts = Boosts([PhraseList(tokenizer, ["Ann"])], 267, 256)
    for token in ids(tokenizer, " Ann"):
        choice = Choice(token, -0.5, not text, (7, -3.0))
        assert boosts.note(0, text, choice, -1.0 - len(text)) is None
        text.append(token)
    token = 256 if after is None else ids(tokenizer, after)[0]
    back = None if stays else Back(0, -1.0, (7, -3.0))
    assert boosts.note(0, text, Choice(token, -0.1), -9.0) == back


def added(names, tokenizer, text, letters):
    """What each letter gets after a text."""
    logits, tokens = torch.zeros(1, 300), ids(tokenizer, text)
    Boosts([names], 267, 256).add(logits, [0], [tokens], [len(tokens)])
    return {letter: float(logits[0, ids(tokenizer, letter)[0]]) for letter in letters}


def test_beginnings_and_short_words_get_less(tiny_processor):
    tokenizer = tiny_processor.tokenizer
    names = PhraseList(tokenizer, ["Ann", "Moskowitz"], boost=4.0)
    assert added(names, tokenizer, "", "AMz") == {"A": 1.0, "M": 2.0, "z": 0.0}
    assert added(names, tokenizer, " ", "AMz") == {"A": 2.0, "M": 4.0, "z": 0.0}


def test_beginnings_that_say_little_get_little():
    """Of a hundred phrases 90 begin with one token, and one with another."""
    texts = [[1, at] for at in range(90)] + [[at, 1] for at in range(2, 12)]
    names = phrases(texts, boost=6.0)
    logits = torch.zeros(1, 300)
    Boosts([names], 267, 256).add(logits, [0], [[]], [0])
    often, seldom = (float(logits[0, token]) for token in (1, 5))
    assert often == 3.0 and seldom == pytest.approx(0.6 + math.log(256 / 100), abs=1e-5)


def test_phrases_are_tokenised_once(monkeypatch):
    """Those of the last lists; kept ones make the same list."""
    asked: list = []

    class Watched(Characters):
        def __call__(self, texts, add_special_tokens):
            asked.extend(text.strip() for text in texts)
            return super().__call__(texts, add_special_tokens)

    tokenizer = Watched()
    one, two, three = (tokenizer.decode([at, at + 1]) for at in (1, 5, 9))
    monkeypatch.setattr(forms, "_MOST_KEPT", 2)
    first = PhraseList(tokenizer, [one, two])
    again = PhraseList(tokenizer, [two, one], 3.0)
    assert asked == [one, two] and sorted(again.children[0]) == sorted(first.children[0])
    assert sorted(again.bonus) == sorted(bonus / 2 for bonus in first.bonus)
    PhraseList(tokenizer, [three, one])
    assert asked == [one, two, three] and len(PhraseList(tokenizer, [one, three, two])) == 3
    assert asked == [one, two, three, two]


def test_lists_that_cannot_be(tmp_path, tiny_processor):
    for boost in (0.0, float("inf")):
        with pytest.raises(ValueError, match="boost"):
            PhraseList(tiny_processor.tokenizer, ["Ann"], boost)
    with pytest.raises(ValueError, match="special"):
        PhraseList(tiny_processor.tokenizer, ["<|endoftext|>"])
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfAnn\r\n\n  New York \n")
    assert read_phrases(tmp_path / "names.txt") == ["Ann", "New York"]
    (tmp_path / "names.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("names.txt", "none.txt"):
        with pytest.raises(ValueError, match=name):
            read_phrases(tmp_path / name)
