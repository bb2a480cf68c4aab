"""Drafts, and how many tokens of them pay."""

import random

import pytest
import torch

from distill.whisper.decoding.decoder import Decoder
from distill.whisper.decoding.drafting.drafters import StudentDrafter, TranscriptDrafter
from distill.whisper.decoding.drafting.length import tokens_per_sequence
from distill.whisper.decoding.rules import LogitsRules
from distill.whisper.special import SpecialTokens
from distill.whisper.student import make_student

END = 999
OLD = list(range(10, 40))


def play(old: list[int], new: list[int], count: int = 4) -> tuple[int, list[list[int]]]:
    """(passes, drafts) of a teacher that says `new`, given an older transcript."""
    source, said, drafts = TranscriptDrafter([old], END), [], []
    new = [*new, END]
    while len(said) < len(new):
        draft = source(0, said, count)
        drafts.append(draft)
        assert len(draft) <= count
        right = 0
        while right < len(draft) and draft[right] == new[len(said) + right]:
            right += 1
        said += new[len(said) : len(said) + right + 1]
    return len(drafts), drafts


def test_a_transcript_is_followed_to_its_end():
    passes, drafts = play(OLD, OLD)
    assert passes == -(-31 // 5)  # four drafted and one said
    assert drafts[0] == OLD[:4] and drafts[-1][-1] == END


@pytest.mark.parametrize("at", [0, 1, 7, 28, 29])
@pytest.mark.parametrize("edit", ["substituted", "inserted", "deleted", "two"])
def test_a_transcript_is_followed_again(at, edit):
    new = {"substituted": [*OLD[:at], 500, *OLD[at + 1 :]],
           "inserted": [*OLD[:at], 500, *OLD[at:]],
           "deleted": [*OLD[:at], *OLD[at + 1 :]],
           "two": [*OLD[:at], 500, 501, *OLD[at + 2 :]]}[edit]
    passes, _ = play(OLD, new)
    assert passes <= 7 + {"substituted": 1, "inserted": 3, "deleted": 3, "two": 3}[edit]


def test_drafts_end_with_the_transcript():
    source = TranscriptDrafter([OLD[:3], []], END)
    assert source(0, [], 10) == [*OLD[:3], END]
    assert source(0, OLD[:2], 10) == [OLD[2], END]
    assert source(0, OLD[:3], 10) == [END]
    assert source(0, [*OLD[:3], 7], 10) == []
    assert source(0, [*OLD[:3], 7, 8, 9], 10) == []
    assert source(1, [], 10) == [END]  # an empty transcript: perhaps nothing is said again
    assert source(1, [5], 10) == [] and source(1, [5, 6, 7], 10) == []


def test_made_up_histories_never_leave_a_transcript():
    draw = random.Random(0)
    for _ in range(200):
        old = [draw.randrange(4) for _ in range(draw.randrange(12))]
        new = [draw.randrange(4) for _ in range(draw.randrange(20))]
        passes, drafts = play(old, new, draw.randrange(1, 6))
        assert passes <= len(new) + 1
        text = [*old, END]
        for draft in drafts:
            assert any(text[i : i + len(draft)] == draft for i in range(len(text) + 1))


def test_rows_have_their_own_transcripts():
    source = TranscriptDrafter([OLD, OLD[::-1]], END)
    assert source(1, [], 2) == [39, 38] and source(0, [], 2) == [10, 11]
    assert source(1, [39, 38], 2) == [37, 36] and source(0, [10], 2) == [11, 12]


# Students


@pytest.fixture
def setup(tiny_model, tiny_processor):
    """(student, rules, greedy): `greedy` drafts for one text with nothing but the decoder."""
    student = make_student(tiny_model, [0, 3], [0, 1]).eval()
    inner = student.model.decoder
    with torch.no_grad():  # it goes on for longer than the tiny model
        suggested = torch.randint(256, (448,), generator=torch.Generator().manual_seed(0))
        inner.embed_positions.weight.copy_(10 * inner.embed_tokens.weight[suggested])
    special = SpecialTokens(tiny_processor.tokenizer, tiny_model.generation_config)
    rules = LogitsRules(tiny_model.generation_config, special, False, student.config.vocab_size,
                        "cpu")

    def greedy(states, text, prompt, count):
        decoder = Decoder(student)
        cache, drafts = decoder.cache(states[None]), []
        for _ in range(count):
            tokens = text + drafts
            hidden = decoder(torch.tensor([tokens]), [0], cache)[:, -1]
            drafts.append(int(rules(decoder.logits(hidden), [tokens[prompt:]]).argmax()))
            if drafts[-1] == rules.end:
                break
        return drafts

    return student, rules, greedy


def test_what_is_equal_is_not_held_twice(setup, tiny_model):
    """And nothing of a student is kept but what drafts need: its file would stay in memory."""
    teacher = Decoder(tiny_model)
    student = make_student(tiny_model, [0, 3], [0, 1]).eval().requires_grad_(False)
    kept = StudentDrafter(student, True, teacher).decoder
    assert kept.embeddings is teacher.embeddings and kept.positions is teacher.positions
    tensors = [kept.norm.weight, kept.norm.bias, *(n.bias for layer in kept.layers
               for n in (*layer.norms, layer.qkv, layer.out, layer.fc1, layer.fc2))]
    pointers = {p.untyped_storage().data_ptr() for p in student.parameters()}
    assert not pointers & {t.untyped_storage().data_ptr() for t in tensors}
    with torch.no_grad():
        student.model.decoder.embed_tokens.weight += 1
    other = StudentDrafter(student, True, teacher).decoder
    assert other.embeddings is not teacher.embeddings and other.positions is teacher.positions


@pytest.mark.parametrize("prefix", [3, 30])
@torch.inference_mode()
def test_a_student_catches_up(setup, prefix):
    """After rejections at any place, rounds without it, and rows that left."""
    student, rules, greedy = setup
    draw = random.Random(1)
    states = 3 * torch.randn(6, 300, 32, generator=torch.Generator().manual_seed(1))
    source = StudentDrafter(student, int8=False)
    source.start(states)
    slots, seen = list(range(6)), set()
    prompts = [prefix + row for row in range(6)]
    texts = [[draw.randrange(256) for _ in range(prompt)] for prompt in prompts]
    for turn in range(10):
        count = draw.randrange(1, 6)
        drafts = source([texts[r] for r in slots], [prompts[r] for r in slots], count, rules)
        found = [draft.tokens for draft in drafts]
        wanted = [greedy(states[r], texts[r], prompts[r], count) for r in slots]
        assert found == wanted, turn
        seen |= set(map(tuple, wanted))
        for row, draft in zip(slots, found, strict=True):
            said = [t for t in draft if t != rules.end]
            texts[row] += [*said[: draw.randrange(count + 1)], draw.randrange(256)]
            if turn in (4, 7):  # the teacher said more, and the student was not asked
                texts[row] += [draw.randrange(256) for _ in range(draw.randrange(9))]
        if turn in (2, 3, 5):
            slot = draw.randrange(len(slots))
            source.remove(slot)
            slots[slot] = slots[-1]
            slots.pop()
    assert len(seen) > 10, "rows and turns differ"


@torch.inference_mode()
def test_a_student_in_int8_drafts_nearly_the_same(setup):
    student, rules, greedy = setup
    states = 3 * torch.randn(6, 300, 32, generator=torch.Generator().manual_seed(1))
    source = StudentDrafter(student, int8=True)
    source.start(states)
    texts = [[70 + row, 2, 3] for row in range(6)]
    found = [draft.tokens for draft in source(texts, [3] * 6, 4, rules)]
    wanted = [greedy(s, text, 3, 4) for s, text in zip(states, texts, strict=True)]
    assert sum(a == b for a, b in zip(found, wanted, strict=True)) >= 4


# How many


@pytest.mark.parametrize("acceptance", [0.0, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("drafts", [1, 3, 8])
def test_tokens_per_sequence_equals_a_simulation(acceptance, drafts):
    draw, rounds, said = random.Random(0), 4000, 0
    for _ in range(rounds):
        said += 1
        for _ in range(drafts):
            if draw.random() >= acceptance:
                break
            said += 1
    assert tokens_per_sequence(acceptance, drafts) == pytest.approx(said / rounds, rel=0.04)


@torch.inference_mode()
def test_how_often_a_student_would_have_been_right(setup):
    """In one pass, as often as its drafts of one token are."""
    student, rules, greedy = setup
    states = 3 * torch.randn(2, 300, 32, generator=torch.Generator().manual_seed(1))
    source, text = StudentDrafter(student, int8=False), [70, 2, 3]
    own = greedy(states[1], text, 3, 12)[:11]
    said = [*own[:4], 77, *own[4:8], 78]
    wanted = sum(greedy(states[1], [*text, *said[:at]], 3, 1) == [token]
                 for at, token in enumerate(said))
    source.start(states[1:], 1)
    assert source.agreement([*text, *said], 3, rules) == (wanted, 10)
    assert 3 < wanted < 10
    assert source.agreement([*text, *own], 3, rules) == (11, 11)
    drafts = source([[*text, *own[:5]]], [3], 3, rules)  # it goes on from what was read
    assert drafts[0].tokens == own[5:8]
