"""Our batched decoder says what transformers' `generate` says, token for token."""

import json
from itertools import pairwise

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from distill.data.manifest import read_manifest
from distill.data.speech.windows import load_window, pack
from distill.whisper.decoding.sequences import Sequences, is_looping
from distill.whisper.decoding.whisper_decoder import AUTO, WhisperDecoder
from distill.whisper.encoder.padded import encode, log_mel
from distill.whisper.recognition.transcribe import to_text, token_limit, transcribe
from distill.whisper.special import SpecialTokens
from distill.whisper.student import make_student

LONG = [448] * 9


@pytest.fixture
def states():
    """Encoder states of nine made-up windows for the tiny model: all say something else."""
    return 3 * torch.randn(9, 1500, 32, generator=torch.Generator().manual_seed(1))


def decoder_of(model, processor, language="en", **options) -> WhisperDecoder:
    return WhisperDecoder(model, processor.tokenizer, language, "transcribe", **options)


@pytest.fixture
def decode(tiny_model, tiny_processor):
    return decoder_of(tiny_model, tiny_processor, on_loop="keep")


def same(one, two) -> None:
    assert [h.tokens for h in one] == [h.tokens for h in two]
    assert [(h.truncated, h.looped) for h in one] == [(h.truncated, h.looped) for h in two]
    for name in ("avg_logprob", "no_speech_prob"):
        values = [[getattr(h, name) for h in found] for found in (one, two)]
        assert values[0] == pytest.approx(values[1], rel=1e-3, abs=1e-4)


def test_tiny_equals_transformers(tiny_model, tiny_processor, states):
    """`generate` leaves it to the model not to say timestamps, which a random one does."""
    special = SpecialTokens(tiny_processor.tokenizer, None)
    config = tiny_model.generation_config
    config.suppress_tokens = [*config.suppress_tokens,
                              *range(special.no_timestamps, tiny_model.config.vocab_size)]
    rows = tiny_model.generate(encoder_outputs=BaseModelOutput(states), language="en",
                               task="transcribe").tolist()
    decoder = decoder_of(tiny_model, tiny_processor, on_loop="keep")
    found = [h.tokens for h in decoder(states, LONG)]
    prefix = special.prefix("en", "transcribe", False)
    rows = [row[len(prefix) :] if row[: len(prefix)] == prefix else row for row in rows]
    assert found == [[t for t in row if t != special.end] for row in rows]
    assert len({tuple(text) for text in found}) > 5 and min(map(len, found)) > 3


def test_rows_leaving_the_batch_change_nothing(decode, states):
    previous = [list(range(30, 30 + i)) for i in range(9)]  # positions decide when the model ends
    together = decode(states, LONG, previous)
    assert len({len(h.tokens) for h in together}) > 4, "rows end at different steps"
    same(together, [decode(states[i : i + 1], [448], [previous[i]])[0] for i in range(9)])
    same(together[::-1], decode(states.flip(0), LONG, previous[::-1]))


def test_limits_are_per_row(decode, states):
    free = decode(states, LONG)
    limits = [3, 448, 1, 2, 448, 5, 448, 1, 4]
    for found, whole, limit in zip(decode(states, limits), free, limits, strict=True):
        assert found.tokens == whole.tokens[:limit]
        assert found.truncated == (len(whole.tokens) >= limit)
        assert not found.looped
    assert not any(h.truncated for h in free)


def test_the_average_is_over_what_was_said_and_the_end(tiny_model, decode, states):
    (found,) = decode(states[:1], [448])
    prefix = decode.special.prefix("en", "transcribe", False)
    ids = torch.tensor([[*prefix, *found.tokens, decode.special.end]])
    with torch.no_grad():
        hidden = tiny_model.model.decoder(
            input_ids=ids, encoder_hidden_states=states[:1]).last_hidden_state
        scores = tiny_model.proj_out(hidden)[0]
    said = ids[0, len(prefix):]
    scores = scores[len(prefix) - 1 : -1] + decode.rules.always
    scores[0] += decode.rules.first - decode.rules.always.clamp(min=-1e9)
    expected = scores.log_softmax(-1).gather(-1, said[:, None]).mean()
    assert found.avg_logprob == pytest.approx(expected.item(), rel=1e-3)


def test_prompts_are_per_row(decode, states):
    previous = [[], [3, 4, 5], [], list(range(40, 90)), [7], [], [9] * 300, [1, 2], []]
    together = decode(states, LONG, previous)
    alone = [decode(states[i : i + 1], [448], previous[i : i + 1])[0] for i in range(9)]
    same(together, alone)
    without = decode(states, LONG)
    differs = [a.avg_logprob != pytest.approx(b.avg_logprob, abs=1e-6)
               for a, b in zip(together, without, strict=True)]
    assert [bool(p) for p in previous] == differs
    cut = decode(states[6:7], [448], [[9] * 223])[0]
    assert together[6].tokens == cut.tokens  # OpenAI's limit: the last 223


def test_languages_are_per_row(tiny_model, tiny_processor, states):
    english, german = (decoder_of(tiny_model, tiny_processor, c) for c in ("en", "de"))
    mixed = english(states[:3], LONG[:3], languages=["de", None, "en"])
    same(mixed[:1], german(states[:1], [448]))
    same(mixed[1:], english(states[1:3], LONG[:2]))
    one, two = german(states[:1], [448])[0], english(states[:1], [448])[0]
    assert one.avg_logprob != pytest.approx(two.avg_logprob, abs=1e-6)


def test_the_language_is_heard(tiny_model, tiny_processor, states):
    """`auto`: the likeliest language by transformers' decoder, for rows that do not say theirs."""
    names = list(tiny_model.generation_config.lang_to_id)
    ids = [tiny_model.generation_config.lang_to_id[name] for name in names]
    start = torch.full((9, 1), tiny_model.generation_config.decoder_start_token_id)
    with torch.no_grad():
        scores = tiny_model(decoder_input_ids=start, encoder_outputs=(states,)).logits[:, -1, ids]
    best, index = scores.softmax(-1).max(-1)
    wanted = [names[i].strip("<|>") for i in index.tolist()]
    assert len(set(wanted)) > 1
    heard = decoder_of(tiny_model, tiny_processor, AUTO)(states, LONG)
    assert [h.language for h in heard] == wanted
    assert [h.language_prob for h in heard] == pytest.approx(best.tolist(), abs=1e-5)
    same(heard, decoder_of(tiny_model, tiny_processor)(states, LONG, languages=wanted))
    mixed = decoder_of(tiny_model, tiny_processor)(states[:2], LONG[:2], languages=[None, AUTO])
    same(mixed[1:], heard[1:2])
    asked = decoder_of(tiny_model, tiny_processor, detect_language=True)(states, LONG)
    assert [h.language for h in asked] == wanted
    same(asked, decoder_of(tiny_model, tiny_processor)(states, LONG))
    del tiny_model.generation_config.lang_to_id  # the tokenizer knows the same
    assert [h.language for h in decoder_of(tiny_model, tiny_processor, AUTO)(
        states[:2], LONG[:2])] == wanted[:2]
    tiny_model.generation_config.is_multilingual = False
    with pytest.raises(ValueError, match="knows one language only"):
        decoder_of(tiny_model, tiny_processor, AUTO)


@pytest.mark.parametrize(
    ("language", "task", "message"), [("xx", "transcribe", "xx"), (None, "transcribe", "language")]
)
def test_unknown_languages(tiny_model, tiny_processor, states, language, task, message):
    decoder = WhisperDecoder(tiny_model, tiny_processor.tokenizer, language, task)
    with pytest.raises(ValueError, match=message):
        decoder(states[:1], [3])


def test_special_tokens_need_a_whisper_tokenizer(tiny_processor):
    class Other:
        def convert_tokens_to_ids(self, name):
            return 0

        def convert_ids_to_tokens(self, token):
            return "<unk>"

    with pytest.raises(ValueError, match="no <|startoftranscript|>: it is not a Whisper"):
        SpecialTokens(Other(), None)
    special = SpecialTokens(tiny_processor.tokenizer, None)
    assert len({special.start, special.end, special.previous, special.no_speech,
                special.no_timestamps, special.timestamp_begin}) == 6


def test_a_student_that_is_its_teacher_says_the_same(tiny_model, tiny_processor, decode, states):
    student = make_student(tiny_model, [0, 1, 2, 3], [0, 1]).eval()
    same(decoder_of(student, tiny_processor, on_loop="keep")(states, LONG), decode(states, LONG))
    other = make_student(tiny_model, [0, 3], [0, 1]).eval()
    found = decoder_of(other, tiny_processor)(states, LONG)
    assert [h.avg_logprob for h in found] != [h.avg_logprob for h in decode(states, LONG)]


def test_tiny_timestamps(tiny_model, tiny_processor, states):
    decoder = decoder_of(tiny_model, tiny_processor, timestamps=True)
    begin = decoder.special.timestamp_begin
    for found in decoder(states, LONG):
        times = [t for t in found.tokens if t >= begin]
        assert found.tokens[0] >= begin and times == sorted(times)
        assert found.tokens[0] - begin <= 50  # max_initial_timestamp_index
    plain = decoder_of(tiny_model, tiny_processor)(states, LONG)
    assert all(t < begin for h in plain for t in h.tokens)
    assert begin - 1 not in {t for h in plain for t in h.tokens}


def test_a_broken_loop_goes_on_and_a_stubborn_one_ends():
    vocab, end = 20, 19
    rows = Sequences([400, 400], end)

    def say(favourite: int, second: int) -> None:
        """One step: both rows like `favourite` best, then `second`."""
        scores = torch.zeros(2, vocab)
        scores[:, favourite], scores[:, second] = 2.0, 1.0
        live = [row for row in range(2) if not rows.done[row]]
        for row in live:
            rows.break_loop(row, scores[row])
        for row, token in zip(live, scores[live].argmax(-1).tolist(), strict=True):
            rows.add(row, token, -0.1, end_loops=False)

    for _ in range(11):
        say(5, 7)
    assert rows.tokens[0] == [5] * 10 + [7]  # ten times is a loop: the eleventh is forbidden
    assert rows.looped == [True, True] and not any(rows.done)
    for _ in range(60):
        say(5, 7)
    assert all(rows.done) and len(rows.tokens[0]) < 60
    assert not rows.truncated[0]


@pytest.mark.parametrize(
    ("size", "repeats"), [(1, 10), (2, 8), (3, 6), (4, 4), (5, 3), (12, 3), (40, 3)]
)
def test_is_looping(size, repeats):
    pattern = list(range(100, 100 + size))
    for before in ([], [1, 2, 3]):
        assert is_looping(before + pattern * repeats)
        assert not is_looping(before + pattern * (repeats - 1))
    assert not is_looping([*pattern * repeats, 7])  # it went on
    assert not is_looping([])


def test_looping_rows_are_stopped(tiny_model, tiny_processor, states):
    """A model that repeats itself for ever, beside one that does not wait for it."""
    with torch.no_grad():  # every position suggests the same text token
        positions = tiny_model.model.decoder.embed_positions.weight
        positions.copy_(20 * tiny_model.model.decoder.embed_tokens.weight[65].expand_as(positions))
    stopped = decoder_of(tiny_model, tiny_processor)(states[:2], [200, 5])
    assert [h.looped for h in stopped] == [True, False]
    assert [h.truncated for h in stopped] == [False, True]
    assert 10 <= len(stopped[0].tokens) < 60
    free = decoder_of(tiny_model, tiny_processor, on_loop="keep")(states[:1], [100])
    assert len(free[0].tokens) == 100 and free[0].truncated and not free[0].looped


def test_token_limit():
    assert token_limit(0.3, 10.0) == 27
    assert token_limit(30.0, 10.0) == 324


@pytest.fixture(scope="module")
def windows(demo_data):
    """Three windows of unlike length."""
    rows = read_manifest(demo_data / "test.jsonl")[0]
    pieces = [rows[:5], rows[5:6], rows[6:9]]
    return [pack(part, f"w{i}", "sequential")[0] for i, part in enumerate(pieces)]


def test_transcribe_sorts_caches_and_limits(tiny_model, tiny_processor, windows):
    decoder = decoder_of(tiny_model, tiny_processor)
    cache = {}
    found = transcribe(decoder, tiny_processor, windows, 2, states_cache=cache)
    assert found.keys() == cache.keys() == {w.id for w in windows}
    for window in windows:
        states = encode(tiny_model, log_mel(tiny_processor, [load_window(window)]))
        torch.testing.assert_close(cache[window.id], states[0], rtol=1e-3, atol=1e-3)
        same([found[window.id]], decoder(states, [448]))
    broken = [w.__class__(w.id, (), w.speaker, "en") for w in windows]  # audio is not read again
    again = [decoder(torch.stack([cache[w.id] for w in broken]), LONG[:3], languages=["en"] * 3)]
    same(again[0], [found[w.id] for w in windows])
    short = transcribe(decoder, tiny_processor, windows, 3, max_tokens_per_second=0.0,
                       states_cache=cache)
    assert all(len(h.tokens) <= 24 for h in short.values())


# The real teacher


@pytest.fixture(scope="module")
def real(demo_teacher, demo_data):
    """Teacher, features and encoder states of two short windows."""
    rows = read_manifest(demo_data / "test.jsonl")[0]
    windows = [pack(rows[a:b], f"{a}", "sequential")[0] for a, b in ((1, 3), (3, 6))]
    features = log_mel(demo_teacher.processor, [load_window(window) for window in windows])
    return demo_teacher, features, encode(demo_teacher.model, features)


def generated(teacher, features, **options) -> list[list[int]]:
    """What transformers says, without prefix and padding."""
    rows = teacher.model.generate(features, language="en", task="transcribe", **options).tolist()
    special = SpecialTokens(teacher.processor.tokenizer, teacher.model.generation_config)
    prefix = set(special.prefix("en", "transcribe", False))
    return [[t for t in row if t != special.end and t not in prefix] for row in rows]


@pytest.mark.slow
def test_equals_transformers(real):
    teacher, features, states = real
    decoder = decoder_of(teacher.model, teacher.processor)
    together = decoder(states, LONG[:2])
    assert [h.tokens for h in together] == generated(teacher, features)
    same(together[1:], decoder(states[1:], [448]))
    texts = [to_text(teacher.processor.tokenizer, h.tokens) for h in together]
    assert "agent number followed by the pound key" in " ".join(texts)
    assert not any(h.truncated or h.looped for h in together)
    assert all(h.no_speech_prob < 0.5 and h.avg_logprob > -0.5 for h in together)


@pytest.mark.slow
def test_timestamps_equal_transformers(real):
    teacher, features, states = real
    decoder = decoder_of(teacher.model, teacher.processor, timestamps=True)
    (found,) = decoder(states[:1], [448])
    (expected,) = generated(teacher, features[:1], return_timestamps=True)
    assert found.tokens == expected
    begin = decoder.special.timestamp_begin
    times = [t for t in found.tokens if t >= begin]
    assert len(times) >= 4 and all(a <= b for a, b in pairwise(times))
    plain = decoder_of(teacher.model, teacher.processor)(states[:1], [448])
    both = [to_text(teacher.processor.tokenizer, h.tokens).lower() for h in (found, plain[0])]
    assert len(set(both[0].split()) ^ set(both[1].split())) <= 4


@pytest.mark.slow
def test_real_prompts_are_per_row(real):
    teacher, _, states = real
    decoder = decoder_of(teacher.model, teacher.processor)
    tokenizer = teacher.processor.tokenizer
    text = tokenizer.encode(" PLEASE ENTER YOUR NUMBER.", add_special_tokens=False)
    previous = [text * 3, []]
    together = decoder(states, LONG[:2], previous)
    same(together, [decoder(states[i : i + 1], [448], previous[i : i + 1])[0] for i in range(2)])
    assert together[1].tokens == decoder(states[1:2], [448])[0].tokens


def test_real_speech_is_not_a_loop(demo_teacher, demo_data):
    """Every prefix of every prompt, and what people do say again and again."""
    tokenizer = demo_teacher.processor.tokenizer
    texts = ["No, no, no, no, no!", "Yes, yes, yes. Ha ha ha ha ha ha.", "bye bye bye bye bye",
             "one one one two two two five five five", "thank you, thank you, thank you very much"]
    for path in demo_data.glob("*.jsonl"):
        texts += [json.loads(line)["text"] for line in path.read_text().splitlines()]
    for text in texts:
        tokens = tokenizer.encode(text, add_special_tokens=False)
        assert not any(is_looping(tokens[:end]) for end in range(len(tokens) + 1)), text
    loop = tokenizer.encode(" and I'm going to do it" * 3, add_special_tokens=False)
    assert is_looping(loop)
