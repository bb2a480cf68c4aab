"""Drafts change how fast a teacher decodes, never what it says."""

import pytest
import torch

from distill.data.manifest import read_manifest
from distill.data.speech.windows import load_window, pack
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.encoder.padded import encode, log_mel
from distill.whisper.student import make_student
from tests.whisper.decoding.drafting.conftest import CALLS, LIMITS, LONG, same


def more(*values):
    """A case that says once more what the others say."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(("student", "length", "int8"), [
    ("two", 3, False), ("unrelated", 8, True),
    more("one", 1, True), more("itself", None, False), more("one", 1, False),
    more("two", 3, True), more("unrelated", 8, False), more("itself", None, True)])
def test_a_student_changes_nothing(make, plain, states, student, length, int8):
    """Limits, prompts and languages of the rows' own, in batches of nine and of one."""
    options, drafted = CALLS["rows' own"], make(student, int8=int8, draft_length=length)
    wanted = plain("rows' own", int8=int8)
    same(drafted(states, **options), wanted, int8)
    same(drafted(states, LONG), plain("long", int8=int8), int8)  # the same caches again
    alone = {name: value[1:2] for name, value in options.items()}
    same(drafted(states[1:2], **alone), wanted[1:2], int8)
    assert len({tuple(h.tokens) for h in wanted}) > 7 and max(len(h.tokens) for h in wanted) > 20
    if length is not None:
        assert drafted.report.tested > 100


@pytest.mark.parametrize(("on_loop", "timestamps", "int8"), [
    ("keep", True, True), ("end", True, False), ("break", False, False),
    more("end", False, True), more("break", True, True),
    more("keep", False, False), more("keep", True, False), more("keep", False, True),
    more("end", False, False), more("end", True, True), more("break", True, False),
    more("break", False, True)])
def test_loops_and_timestamps(make, plain, states, on_loop, timestamps, int8):
    options = dict(on_loop=on_loop, timestamps=timestamps, int8=int8)
    wanted = plain("long", **options)
    same(make("two", draft_length=5, **options)(states, LONG), wanted, int8)
    if not timestamps:
        assert any(h.looped for h in wanted) == (on_loop != "keep")


@pytest.mark.parametrize(("student", "at_once"), [
    ("two", 4), more(None, 3), more("two", 20)])
def test_rows_begin_where_others_end(make, plain, states, student, at_once):
    """A call that is larger than the caches says the same, whoever shares them; also with rows'
    own prompts, languages and older transcripts."""
    options, wanted = CALLS["rows' own"], plain("rows' own", int8=True)
    refilled = make(student, int8=True, max_slots=at_once)
    same(refilled(states, **options), wanted, True)
    same(refilled(states, LONG), plain("long", int8=True), True)
    old = [h.tokens for h in wanted]
    same(refilled(states, **options, drafts=old), wanted, True)
    assert refilled.target._buffers.self_attention[0][0].shape[0] == min(at_once, len(states))


def test_fewer_passes_than_one_batch_after_the_other(make, states):
    """Rows of very different length: the caches are kept full."""
    limits = [40, 3, 3, 3, 3, 40, 3, 3, 3]
    refilled, batches = make(max_slots=3), make()
    refilled(states, limits)
    for at in range(0, 9, 3):
        batches(states[at : at + 3], limits[at : at + 3])
    assert refilled.report.tokens == batches.report.tokens
    assert refilled.report.passes < 0.8 * batches.report.passes


def test_languages_are_heard_where_rows_begin(make, states, teacher):
    teacher.generation_config.lang_to_id = {"<|en|>": 10, "<|de|>": 11, "<|fr|>": 12}
    found = make(max_slots=2, detect_language=True)(states, LONG)
    wanted = make(detect_language=True)(states, LONG)
    assert [h.language for h in found] == [h.language for h in wanted]
    same(found, wanted)


@pytest.mark.slow
def test_how_far_students_are_right(make, states):
    reports = {}
    for name in ("two", "itself"):
        decoder = make(name, draft_length=4)
        decoder(states, LONG)
        reports[name] = decoder.report
    assert 0.1 < reports["two"].acceptance < 1.0
    # its drafts are made with int8; the last round of a row has fewer
    assert reports["itself"].acceptance > max(0.6, reports["two"].acceptance)
    assert 2.5 < reports["itself"].tokens_per_pass <= 5.0


@pytest.mark.parametrize("int8", [True, more(False)])
def test_rows_up_to_the_end_of_the_context(make, teacher, states, int8):
    """A model that never ends, with prompts of unlike lengths: drafts are cut, padding is not."""
    positions = teacher.model.decoder.embed_positions.weight
    positions[40:] = positions[20:24].repeat(102, 1)
    context = teacher.config.max_target_positions = 150  # two borders of what is read at once
    previous = [list(range(70)), [5], list(range(50))]
    limits = [context] * 3
    wanted = make(int8=int8)(states[:3], limits, previous)
    assert [len(h.tokens) for h in wanted] == [context - len(p) - 5 for p in previous]
    drafted = make("itself", int8=int8, draft_length=8)
    same(drafted(states[:3], limits, previous), wanted, int8)


# Older transcripts


@pytest.mark.parametrize(("int8", "on_loop"), [
    (True, "break"), more(False, "keep"), more(False, "break"), more(True, "end")])
def test_older_transcripts_change_nothing(make, plain, states, int8, on_loop):
    wanted = plain("long", int8=int8, on_loop=on_loop)
    own = [h.tokens for h in wanted]
    shuffled, without = own[3:] + own[:3], [text if i % 2 else [] for i, text in enumerate(own)]
    edited = [[*text[:5], 77, *text[7:20], 78, *text[20:]] for text in own]
    passes = {}
    for name, drafts in {"own": own, "shuffled": shuffled, "without": without,
                         "edited": edited}.items():
        for student in (None, "two") if name in ("without", "edited") else (None,):
            decoder = make(student, int8=int8, on_loop=on_loop)
            same(decoder(states, LONG, drafts=drafts), wanted, int8)
            passes[name, student] = decoder.report.passes
            if name == "own" and on_loop == "keep":
                assert decoder.report.acceptance == 1.0
    longest = max(len(h.tokens) + (not h.truncated and not h.looped) for h in wanted)
    if on_loop == "keep":
        assert passes["own", None] <= -(-longest // 32) + 1
        assert passes["edited", None] <= longest / 2
    assert passes["without", "two"] <= passes["without", None]


def test_older_transcripts_with_limits(make, plain, states):
    own = [h.tokens for h in plain("long")]
    drafted = make()
    same(drafted(states, **CALLS["rows' own"], drafts=own), plain("rows' own"))
    assert drafted.report.tested > 0, "the transcripts were looked at"


# The rest


def test_a_student_must_fit(teacher, tiny_processor):
    student = make_student(teacher, [0, 2], [0, 1]).eval()
    with torch.no_grad():
        student.model.encoder.layers[0].fc1.bias[3] += 1e-3
    with pytest.raises(ValueError, match="the student's encoder is not the teacher's"):
        WhisperDecoder(teacher, tiny_processor.tokenizer, "en", student=student)
    with pytest.raises(ValueError, match="the student's encoder is not the teacher's"):
        WhisperDecoder(teacher, tiny_processor.tokenizer, "en",
                      student=make_student(teacher, [0, 2], [1]).eval())
    student = make_student(teacher, [0, 2], [0, 1])
    size = student.config.vocab_size
    student.resize_token_embeddings(size + 1)
    with pytest.raises(ValueError, match=f"has {size + 1} tokens, the teacher {size}"):
        WhisperDecoder(teacher, tiny_processor.tokenizer, "en", student=student)


def test_decoders_share_weights_and_caches(make, plain, states):
    """One after the other, with settings of their own."""
    first = make("two", int8=True)
    second = make(timestamps=True, int8=True, share_weights_with=first)
    assert second.target is first.target and second.drafter is first.drafter
    same(first(states, LONG), plain("long", int8=True), True)
    same(second(states, LONG), plain("long", int8=True, timestamps=True), True)
    same(first(states, LONG), plain("long", int8=True), True)
    assert first.report is not second.report and second.report.accepted
    other = make("one", share_weights_with=make())
    assert other.drafter is not None and other.target is not first.target


def test_the_report_counts_what_happened(make, states):
    decoder = make("two", draft_length=3)
    scores, rounds = decoder.target.__class__.__call__, []

    def counted(self, tokens, starts, cache):
        if self is decoder.target:
            rounds.append(tuple(tokens.shape))
        return scores(self, tokens, starts, cache)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder.target.__class__, "__call__", counted)
        found = decoder(states, LIMITS) + decoder(states[:2], LONG[:2])
    report = decoder.report
    assert report.sequences == 11
    assert report.tokens == sum(len(h.tokens) + (not h.truncated) for h in found)
    assert report.passes == len(rounds) - 2  # the prompts of both batches
    assert report.plain == sum(tokens == 1 for _, tokens in rounds)
    assert report.sequence_passes == sum(rows for rows, _ in rounds) - 11
    most = report.sequences + report.sequence_passes + report.accepted
    assert most - report.sequences <= report.tokens <= most  # after an end nothing is said
    assert report.acceptance == report.accepted / report.tested
    assert report.tokens_per_pass == (report.tokens - report.sequences) / report.sequence_passes
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
        plain = WhisperDecoder(model, processor.tokenizer, "en", int8=int8)
        wanted = plain(states, LONG[:2])
        drafted = WhisperDecoder(model, processor.tokenizer, "en", int8=int8, exact=True,
                                student=student, draft_length=2)
        old = [[*h.tokens[:4], *h.tokens[5:]] for h in wanted]
        same(drafted(states, [24, 24]), plain(states, [24, 24]))
        same(drafted(states, LONG[:2], drafts=old), wanted)
        assert drafted.report.acceptance > 0.05
    assert all(len(h.tokens) > 5 for h in wanted)
