"""Where two tokens are nearly as likely, the plain computation decides."""

from types import SimpleNamespace

import pytest
import torch

from distill.whisper.decoding import near_ties, state
from tests.whisper.decoding.drafting.conftest import LONG, same


def alone(decoder, states, limit: int = 40):
    return [decoder(states[i : i + 1], [limit])[0] for i in range(len(states))]


@pytest.mark.parametrize(
    ("on_loop", "timestamps"),
    [("keep", True), pytest.param("break", False, marks=pytest.mark.slow)])
def test_every_near_tie_is_resolved(make, states, monkeypatch, on_loop, timestamps):
    options, limit = dict(on_loop=on_loop, timestamps=timestamps), 16 if on_loop == "keep" else 40
    wanted = alone(make(**options), states[:2], limit)
    monkeypatch.setattr(near_ties, "NEAR", 1e9)  # every place is one
    decoder = make("two", exact=True, **options)
    found = decoder(states[:2], [limit] * 2)
    same(found, wanted)
    ties = decoder.report.near_ties
    assert ties and all(tie.resolved and tie.gap >= 0 for tie in ties)
    assert all(tie.chosen == tie.tokens[0] != tie.tokens[1] for tie in ties)
    texts = [[*h.tokens, decoder.special.end] for h in found]
    assert all([*tie.generated, tie.chosen] in [text[: len(tie.generated) + 1] for text in texts]
               for tie in ties)
    assert len({tie.generated for tie in ties}) == len(ties), "a place is decided once"
    assert str(decoder.report).endswith(" 0 near ties unresolved")
    other = make("two", **options)
    same(other(states[:2], [limit] * 2), wanted)
    listed = other.report.near_ties
    assert [(t.generated, t.tokens) for t in listed] == [(t.generated, t.tokens) for t in ties]
    assert not any(tie.resolved for tie in listed)
    assert str(other.report).endswith(f" {len(listed)} near ties unresolved")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_plain_computation_decides(make, teacher, states, monkeypatch, dtype):
    """What passes of several tokens say is spoiled, in half types by as much as they round: only
    `exact` still says the right thing."""
    teacher.to(dtype)
    wanted = make()(states[:1], [10])
    step = torch.finfo(dtype).eps
    if dtype == torch.float32:
        monkeypatch.setattr(near_ties, "NEAR", 0.5)
        step = 0.01
    results = {}
    for exact in (False, True):
        decoder = make(exact=exact)
        scores, spoiled = decoder.target.logits, []

        def spoil(hidden, scores=scores, spoiled=spoiled):
            found = scores(hidden)
            if len(hidden) > 2:
                top = found[:, :256].topk(2).indices  # of what may be said
                best = found.gather(1, top[:, :1])
                found.scatter_(1, top[:, 1:], best + 2 * step * best.abs())
                spoiled.append(top)
            return found

        decoder.target.logits = spoil
        found = decoder(states[:1], [10], drafts=[wanted[0].tokens])
        results[exact] = found, decoder.report.near_ties, spoiled
    assert [h.tokens for h in results[True][0]] == [wanted[0].tokens]
    assert any(tie.chosen != tie.tokens[0] for tie in results[True][1])
    assert [h.tokens for h in results[False][0]] != [wanted[0].tokens]


def test_only_near_places_count(make, states, monkeypatch):
    monkeypatch.setattr(near_ties, "NEAR", 1e9)
    every = make("two")
    every(states[:3], LONG[:3])
    gaps = sorted(tie.gap for tie in every.report.near_ties)
    near = gaps[len(gaps) // 3]
    monkeypatch.setattr(near_ties, "NEAR", near)
    some = make("two")
    some(states[:3], LONG[:3])
    assert 0 < len(some.report.near_ties) < len(gaps) / 2
    assert all(tie.gap < near for tie in some.report.near_ties)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_say_the_same(make, teacher, states, dtype):
    teacher.to(dtype)
    wanted = alone(make(), states[:2])
    decoder = make(exact=True)
    found = decoder(states[:2], LONG[:2], drafts=[h.tokens for h in wanted])
    assert [h.tokens for h in found] == [h.tokens for h in wanted]
    assert decoder.report.accepted > 20


@pytest.mark.parametrize(("dtype", "int8", "near"), [
    (torch.float32, False, 2e-3), (torch.float16, False, 4 * 2**-10 * 40),
    (torch.bfloat16, False, 4 * 2**-7 * 40), (torch.float16, True, 2e-3)])
def test_what_is_near_depends_on_the_steps_of_the_type(dtype, int8, near):
    model = SimpleNamespace(int8=int8, embeddings=torch.zeros(1, dtype=dtype))
    scores = torch.tensor([[1.0, 40.0], [-1e-4, -2.0]])
    found = near_ties.thresholds(model, scores, [[1, 0], [0, 1]])
    assert found == pytest.approx([near, 2e-3])


def test_a_gpu_is_waited_for_before_the_clock_is_read(make, states, monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    state.synchronise(torch.device("cuda"))
    assert waited == [torch.device("cuda")]
    monkeypatch.setattr(state, "synchronise", waited.append)
    decoder = make("two")
    decoder(states[:2], LONG[:2])
    assert len(waited) - 1 == decoder.report.passes


@pytest.mark.parametrize("options", [{"int8": True, "student": "two"}, {}])
def test_int8_and_plain_decoding_have_no_near_ties(make, states, monkeypatch, options):
    monkeypatch.setattr(near_ties, "NEAR", 1e9)
    decoder = make(exact=True, **options)
    decoder(states[:3], LONG[:3])
    assert decoder.report.near_ties == []


def test_near_ties_of_rows_beside_drafts(make, states, monkeypatch):
    """A pass of several tokens rounds its way for all its rows, also those without a draft."""
    monkeypatch.setattr(near_ties, "NEAR", 1e9)
    own = [h.tokens for h in make()(states[:2], LONG[:2])]
    decoder = make()
    decoder(states[:2], LONG[:2], drafts=[own[0], [301]])
    of_second = [tie for tie in decoder.report.near_ties
                 if list(tie.generated) == own[1][: len(tie.generated)]]
    assert any(2 < len(tie.generated) < 8 for tie in of_second)
