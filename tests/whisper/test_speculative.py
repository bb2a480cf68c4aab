"""Drafts change how fast a teacher decodes, never what it says."""

from types import SimpleNamespace

import pytest
import torch

from distill.data.manifest import read_manifest
from distill.data.windows import load_window, pack
from distill.whisper import rounds
from distill.whisper.decoding import GreedyDecoder
from distill.whisper.student import make_student
from distill.whisper.transcribe import encode, log_mel

LONG = [64] * 9
LIMITS = [3, 40, 1, 2, 64, 30, 64, 21, 4]
PREVIOUS = [[], [3, 4, 5], [], list(range(40, 90)), [7], [], [9] * 300, [1, 2], []]


@pytest.fixture
def states():
    return 3 * torch.randn(9, 200, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def teacher(tiny_model):
    """It says up to 60 tokens, and most rows repeat themselves in the middle."""
    decoder = tiny_model.model.decoder
    draw = torch.Generator().manual_seed(5)
    suggested = torch.randint(0, 256, (448,), generator=draw)
    suggested[24:44] = 65
    suggested[60:] = tiny_model.config.eos_token_id
    with torch.no_grad():
        decoder.embed_positions.weight.copy_(14 * decoder.embed_tokens.weight[suggested])
    return tiny_model.requires_grad_(False)


@pytest.fixture
def students(teacher):
    """By name: some of the teacher's layers, the teacher itself, and one that knows nothing."""
    found = {name: make_student(teacher, layers, [0, 1]).eval()
             for name, layers in {"one": [3], "two": [0, 3], "unrelated": [1]}.items()}
    torch.manual_seed(7)
    with torch.no_grad():
        found["unrelated"].model.decoder.embed_tokens.weight.normal_()
        found["unrelated"].model.decoder.embed_positions.weight.normal_()
    return {**found, "itself": teacher}


@pytest.fixture
def make(teacher, students, tiny_processor):
    """`make(student=None, **options)`: a decoder."""
    def make(student: str | None = None, **options) -> GreedyDecoder:
        options = {"draft_length": 3, "on_loop": "keep"} | options
        return GreedyDecoder(teacher, tiny_processor.tokenizer, "en",
                             student=student and students[student], **options)

    return make


def same(found, wanted, exactly: bool = False) -> None:
    assert [h.tokens for h in found] == [h.tokens for h in wanted]
    assert [(h.truncated, h.looped) for h in found] == [(h.truncated, h.looped) for h in wanted]
    for name in ("avg_logprob", "no_speech_prob"):
        values = [[getattr(h, name) for h in each] for each in (found, wanted)]
        assert values[0] == (values[1] if exactly else pytest.approx(values[1], 1e-3, 1e-4))


STUDENTS = ["one", "two", "unrelated", "itself"]


@pytest.mark.parametrize(("student", "length"),
                         [("one", 1), ("two", 3), ("unrelated", 8), ("itself", None)])
@pytest.mark.parametrize("int8", [False, True])
def test_a_student_changes_nothing(make, states, student, length, int8):
    """Limits, prompts and languages of the rows' own, in batches of nine and of one."""
    options = dict(max_new_tokens=LIMITS, previous=PREVIOUS, languages=["de", None, "zh"] * 3)
    plain, drafted = make(int8=int8), make(student, int8=int8, draft_length=length)
    wanted = plain(states, **options)
    same(drafted(states, **options), wanted, int8)
    same(drafted(states, LONG), plain(states, LONG), int8)  # the same caches again
    for row in (1, 6):
        alone = {name: value[row : row + 1] for name, value in options.items()}
        same(drafted(states[row : row + 1], **alone), wanted[row : row + 1], int8)
    assert len({tuple(h.tokens) for h in wanted}) > 7 and max(len(h.tokens) for h in wanted) > 20
    if length is not None:
        assert drafted.report.tested > 100


@pytest.mark.parametrize("on_loop", ["keep", "end", "break"])
@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("int8", [False, True])
def test_loops_and_timestamps(make, states, on_loop, timestamps, int8):
    options = dict(on_loop=on_loop, timestamps=timestamps, int8=int8)
    wanted = make(**options)(states, LONG)
    same(make("two", draft_length=5, **options)(states, LONG), wanted, int8)
    if not timestamps:
        assert any(h.looped for h in wanted) == (on_loop != "keep")


@pytest.mark.parametrize(("student", "at_once"), [(None, 3), ("two", 4), ("two", 20)])
def test_rows_begin_where_others_end(make, states, student, at_once):
    """A call that is larger than the caches says the same, whoever shares them; also with rows'
    own prompts, languages and older transcripts."""
    options = dict(max_new_tokens=LIMITS, previous=PREVIOUS, languages=["de", None, "zh"] * 3)
    wanted = make(int8=True)(states, **options)
    refilled = make(student, int8=True, rows_at_once=at_once)
    same(refilled(states, **options), wanted, True)
    same(refilled(states, LONG), make(int8=True)(states, LONG), True)
    old = [h.tokens for h in wanted]
    same(refilled(states, **options, drafts=old), wanted, True)
    assert refilled.decoder._buffers.own[0][0].shape[0] == min(at_once, len(states))


def test_fewer_passes_than_one_batch_after_the_other(make, states):
    """Rows of very different length: the caches are kept full."""
    limits = [40, 3, 3, 3, 3, 40, 3, 3, 3]
    refilled, batches = make(rows_at_once=3), make()
    refilled(states, limits)
    for at in range(0, 9, 3):
        batches(states[at : at + 3], limits[at : at + 3])
    assert refilled.report.tokens == batches.report.tokens
    assert refilled.report.passes < 0.8 * batches.report.passes


def test_languages_are_heard_where_rows_begin(make, states, teacher):
    teacher.generation_config.lang_to_id = {"<|en|>": 10, "<|de|>": 11, "<|fr|>": 12}
    found = make(rows_at_once=2, detect_language=True)(states, LONG)
    wanted = make(detect_language=True)(states, LONG)
    assert [h.language for h in found] == [h.language for h in wanted]
    same(found, wanted)


def test_how_far_students_are_right(make, states):
    reports = {}
    for name in STUDENTS:
        decoder = make(name, draft_length=4)
        decoder(states, LONG)
        reports[name] = decoder.report
    assert 0.1 < reports["two"].acceptance < 1.0
    # its drafts are made with int8; the last round of a row has fewer
    assert reports["itself"].acceptance > max(0.6, reports["two"].acceptance)
    assert 2.5 < reports["itself"].tokens_per_pass <= 5.0


@pytest.mark.parametrize("int8", [False, True])
def test_rows_up_to_the_end_of_the_context(make, teacher, states, int8):
    """A model that never ends, with prompts of unlike lengths: drafts are cut, padding is not."""
    with torch.no_grad():
        positions = teacher.model.decoder.embed_positions.weight
        positions[40:] = positions[20:24].repeat(102, 1)
    previous = [list(range(200)), [5], list(range(150))]
    limits = [448] * 3
    wanted = make(int8=int8)(states[:3], limits, previous)
    assert [len(h.tokens) for h in wanted] == [448 - len(p) - 5 for p in previous]
    drafted = make("itself", int8=int8, draft_length=8)
    same(drafted(states[:3], limits, previous), wanted, int8)


# Older transcripts


@pytest.mark.parametrize(("int8", "on_loop"),
                         [(False, "keep"), (False, "break"), (True, "end"), (True, "break")])
def test_older_transcripts_change_nothing(make, states, int8, on_loop):
    plain = make(int8=int8, on_loop=on_loop)
    wanted = plain(states, LONG)
    own = [h.tokens for h in wanted]
    shuffled, without = own[3:] + own[:3], [text if i % 2 else [] for i, text in enumerate(own)]
    edited = [[*text[:5], 77, *text[7:20], 78, *text[20:]] for text in own]
    passes = {}
    for name, drafts in {"own": own, "shuffled": shuffled, "without": without,
                         "edited": edited}.items():
        for student in (None, "two"):
            decoder = make(student, int8=int8, on_loop=on_loop)
            same(decoder(states, LONG, drafts=drafts), wanted, int8)
            passes[name, student] = decoder.report.passes
            if name == "own" and on_loop == "keep":
                assert decoder.report.acceptance == 1.0
    longest = max(len(h.tokens) + (not h.truncated and not h.looped) for h in wanted)
    assert plain.report.passes >= longest - 1
    if on_loop == "keep":
        assert passes["own", None] <= -(-longest // 32) + 1
        assert passes["edited", None] <= longest / 2
    assert passes["without", "two"] <= passes["without", None]


def test_older_transcripts_with_limits(make, states):
    own = [h.tokens for h in make()(states, LONG)]
    options = dict(max_new_tokens=LIMITS, previous=PREVIOUS)
    plain, drafted = make(), make()
    same(drafted(states, **options, drafts=own), plain(states, **options))
    assert drafted.report.tested > 0 == plain.report.tested, "the transcripts were looked at"


# Near ties


def alone(decoder, states):
    return [decoder(states[i : i + 1], LONG[:1])[0] for i in range(len(states))]


@pytest.mark.parametrize(
    ("on_loop", "timestamps"),
    [("keep", True), pytest.param("break", False, marks=pytest.mark.slow)])
def test_every_near_tie_is_resolved(make, states, monkeypatch, on_loop, timestamps):
    options = dict(on_loop=on_loop, timestamps=timestamps)
    wanted = alone(make(**options), states[:2])
    monkeypatch.setattr(rounds, "NEAR", 1e9)  # every place is one
    decoder = make("two", exact=True, **options)
    found = decoder(states[:2], LONG[:2])
    same(found, wanted)
    ties = decoder.report.near_ties
    assert ties and all(tie.resolved and tie.gap >= 0 for tie in ties)
    assert all(tie.chosen == tie.tokens[0] != tie.tokens[1] for tie in ties)
    texts = [[*h.tokens, decoder.special.end] for h in found]
    assert all([*tie.said, tie.chosen] in [text[: len(tie.said) + 1] for text in texts]
               for tie in ties)
    assert len({tie.said for tie in ties}) == len(ties), "a place is decided once"
    assert str(decoder.report).endswith(" 0 near ties unresolved")
    other = make("two", **options)
    same(other(states[:2], LONG[:2]), wanted)
    listed = other.report.near_ties
    assert [(t.said, t.tokens) for t in listed] == [(t.said, t.tokens) for t in ties]
    assert not any(tie.resolved for tie in listed)
    assert str(other.report).endswith(f" {len(listed)} near ties unresolved")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_plain_computation_decides(make, teacher, states, monkeypatch, dtype):
    """What passes of several tokens say is spoiled, in half types by as much as they round: only
    `exact` still says the right thing."""
    teacher.to(dtype)
    wanted = make()(states[:1], [24])
    step = torch.finfo(dtype).eps
    if dtype == torch.float32:
        monkeypatch.setattr(rounds, "NEAR", 0.5)
        step = 0.01
    results = {}
    for exact in (False, True):
        decoder = make(exact=exact)
        scores, spoiled = decoder.decoder.scores, []

        def spoil(hidden, scores=scores, spoiled=spoiled):
            found = scores(hidden)
            if len(hidden) > 2:
                top = found.topk(2).indices
                best = found.gather(1, top[:, :1])
                found.scatter_(1, top[:, 1:], best + 2 * step * best.abs())
                spoiled.append(top)
            return found

        decoder.decoder.scores = spoil
        found = decoder(states[:1], [24], drafts=[wanted[0].tokens])
        results[exact] = found, decoder.report.near_ties, spoiled
    assert [h.tokens for h in results[True][0]] == [wanted[0].tokens]
    assert any(tie.chosen != tie.tokens[0] for tie in results[True][1])
    assert [h.tokens for h in results[False][0]] != [wanted[0].tokens]


def test_only_near_places_count(make, states, monkeypatch):
    monkeypatch.setattr(rounds, "NEAR", 1e9)
    every = make("two")
    every(states, LONG)
    gaps = sorted(tie.gap for tie in every.report.near_ties)
    near = gaps[len(gaps) // 3]
    monkeypatch.setattr(rounds, "NEAR", near)
    some = make("two")
    some(states, LONG)
    assert 0 < len(some.report.near_ties) < len(gaps) / 2
    assert all(tie.gap < near for tie in some.report.near_ties)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_say_the_same(make, teacher, states, dtype):
    teacher.to(dtype)
    wanted = alone(make(), states[:4])
    decoder = make(exact=True)
    found = decoder(states[:4], LONG[:4], drafts=[h.tokens for h in wanted])
    assert [h.tokens for h in found] == [h.tokens for h in wanted]
    assert decoder.report.accepted > 20


@pytest.mark.parametrize(("dtype", "int8", "near"), [
    (torch.float32, False, 2e-3), (torch.float16, False, 4 * 2**-10 * 40),
    (torch.bfloat16, False, 4 * 2**-7 * 40), (torch.float16, True, 2e-3)])
def test_what_is_near_depends_on_the_steps_of_the_type(dtype, int8, near):
    model = SimpleNamespace(int8=int8, embeddings=torch.zeros(1, dtype=dtype))
    scores = torch.tensor([[1.0, 40.0], [-1e-4, -2.0]])
    found = rounds.Batch._near(SimpleNamespace(model=model), scores, [[1, 0], [0, 1]])
    assert found == pytest.approx([near, 2e-3])


def test_a_gpu_is_waited_for_before_the_clock_is_read(make, states, monkeypatch):
    waited = []
    on_gpu = SimpleNamespace(states=SimpleNamespace(device=torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    rounds.Batch._wait(on_gpu)
    assert waited == [torch.device("cuda")]
    monkeypatch.setattr(rounds.Batch, "_wait", lambda batch: waited.append(batch))
    decoder = make("two")
    decoder(states[:2], LONG[:2])
    assert len(waited) - 1 == decoder.report.passes


@pytest.mark.parametrize("options", [{"int8": True, "student": "two"}, {}])
def test_int8_and_plain_decoding_have_no_near_ties(make, states, monkeypatch, options):
    monkeypatch.setattr(rounds, "NEAR", 1e9)
    decoder = make(exact=True, **options)
    decoder(states[:3], LONG[:3])
    assert decoder.report.near_ties == []


def test_near_ties_of_rows_beside_drafts(make, states, monkeypatch):
    """A pass of several tokens rounds its way for all its rows, also those without a draft."""
    monkeypatch.setattr(rounds, "NEAR", 1e9)
    own = [h.tokens for h in make()(states[:2], LONG[:2])]
    decoder = make()
    decoder(states[:2], LONG[:2], drafts=[own[0], [301]])
    of_second = [t for t in decoder.report.near_ties if list(t.said) == own[1][: len(t.said)]]
    assert any(2 < len(tie.said) < 8 for tie in of_second)


# The rest


def test_a_student_must_fit(teacher, tiny_processor):
    student = make_student(teacher, [0, 3], [0, 1]).eval()
    with torch.no_grad():
        student.model.encoder.layers[0].fc1.bias[3] += 1e-3
    with pytest.raises(ValueError, match="the student's encoder is not the teacher's"):
        GreedyDecoder(teacher, tiny_processor.tokenizer, "en", student=student)
    with pytest.raises(ValueError, match="the student's encoder is not the teacher's"):
        GreedyDecoder(teacher, tiny_processor.tokenizer, "en",
                      student=make_student(teacher, [0, 3], [1]).eval())
    student = make_student(teacher, [0, 3], [0, 1])
    size = student.config.vocab_size
    student.resize_token_embeddings(size + 1)
    with pytest.raises(ValueError, match=f"has {size + 1} tokens, the teacher {size}"):
        GreedyDecoder(teacher, tiny_processor.tokenizer, "en", student=student)


def test_the_report_counts_what_happened(make, states):
    decoder = make("two", draft_length=3)
    scores, rounds = decoder.decoder.__class__.__call__, []

    def counted(self, tokens, starts, cache):
        if self is decoder.decoder:
            rounds.append(tuple(tokens.shape))
        return scores(self, tokens, starts, cache)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder.decoder.__class__, "__call__", counted)
        found = decoder(states, LIMITS) + decoder(states[:2], LONG[:2])
    report = decoder.report
    assert report.rows == 11
    assert report.tokens == sum(len(h.tokens) + (not h.truncated) for h in found)
    assert report.passes == len(rounds) - 2  # the prompts of both batches
    assert report.plain == sum(tokens == 1 for _, tokens in rounds)
    assert report.row_passes == sum(rows for rows, _ in rounds) - 11
    most = report.rows + report.row_passes + report.accepted
    assert most - report.rows <= report.tokens <= most  # after an end nothing is said
    assert report.acceptance == report.accepted / report.tested
    assert report.tokens_per_pass == (report.tokens - report.rows) / report.row_passes
    assert str(report) == (
        f"{report.tokens} tokens, {100 * report.acceptance:.1f} % of {report.tested} drafted "
        f"tokens accepted, {report.tokens_per_pass:.2f} tokens a pass, {report.plain} of "
        f"{report.passes} passes without drafts, {len(report.near_ties)} near ties unresolved")


def test_the_report_of_plain_decoding(make, states):
    decoder = make()
    assert decoder.report.acceptance is None and decoder.report.tokens_per_pass is None
    assert decoder(states[:0], []) == []
    decoder(states[:2], [5, 7])
    assert str(decoder.report) == "12 tokens, one by one, none drafted"
    assert decoder.report.plain == decoder.report.passes == 6
    assert decoder.report.tokens_per_pass == 1.0


@pytest.mark.slow
def test_a_real_teacher_says_the_same(demo_teacher, demo_data):
    """With drafts of a student of two of its layers, and of a transcript that is nearly right."""
    rows = read_manifest(demo_data / "test.jsonl")[0][6:9]
    windows = [pack(rows[:1], "a", "sequential")[0], pack(rows[1:], "b", "sequential")[0]]
    model, processor = demo_teacher.model, demo_teacher.processor
    states = encode(model, log_mel(processor, [load_window(window) for window in windows]))
    student = make_student(model, [0, 3, 5], list(range(model.config.encoder_layers))).eval()
    for int8 in (False, True):
        plain = GreedyDecoder(model, processor.tokenizer, "en", int8=int8)
        wanted = plain(states, LONG[:2])
        drafted = GreedyDecoder(model, processor.tokenizer, "en", int8=int8, exact=True,
                                student=student, draft_length=2)
        old = [[*h.tokens[:4], *h.tokens[5:]] for h in wanted]
        same(drafted(states, [24, 24]), plain(states, [24, 24]))
        same(drafted(states, LONG[:2], drafts=old), wanted)
        assert drafted.report.acceptance > 0.05
    assert all(len(h.tokens) > 5 for h in wanted)
