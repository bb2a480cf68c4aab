"""Long recordings by the sequential algorithm: as transformers has it, batched, and with drafts."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from distill.data.audio import AudioError, load_audio
from distill.data.manifest import read_manifest
from distill.whisper.decoding.sequences import Hypothesis
from distill.whisper.decoding.whisper_decoder import AUTO, WhisperDecoder
from distill.whisper.recognition.fallback import Fallback
from distill.whisper.recognition.sequential import (
    LongAudio,
    Segment,
    audio_file,
    split,
    transcribe_long,
)
from distill.whisper.student import make_student

GREEDY = Fallback(temperatures=(0.0,), max_no_speech_prob=None)
BEGIN = 1000


def at(*seconds: float) -> list[int]:
    return [BEGIN + round(s / 0.02) for s in seconds]


@pytest.mark.parametrize(("tokens", "parts", "heard"), [
    # two sentences and the beginning of a third, which is heard again
    ([*at(0), 1, 2, *at(2, 2.5), 3, *at(4, 5), 4], [(0, 2), (2.5, 4)], 4),
    # the last one ends with the window
    ([*at(0), 1, 2, *at(2, 2.5), 3, *at(4)], [(0, 2), (2.5, 4)], 30),
    ([*at(0.3), 1, *at(4)], [(0, 4)], 30),
    ([1, 2], [(0, 30)], 30),
    ([], [(0, 30)], 30),
    ([*at(0), 1, 2], [(0, 30)], 30),  # nothing said when it ends
    ([*at(0, 0), 1, *at(0.0)], [(0, 0), (0, 0)], 30),  # stands still: never for ever
    ([*at(0, 0), 1], [(0, 0)], 30),
])
def test_segments_of_a_window(tokens, parts, heard):
    found, seconds = split(tokens, BEGIN, 30.0)
    assert [(start, end) for start, end, _ in found] == parts
    assert seconds == heard
    assert [t for *_, part in found for t in part] == tokens[: sum(len(p) for *_, p in found)]


@pytest.fixture(scope="module")
def speech(demo_data) -> np.ndarray:
    """37 s: six prompts, 3 s apart."""
    parts = []
    for row in read_manifest(demo_data / "test.jsonl")[0][1:7]:
        parts += [load_audio(row.audio_filepath, row.offset, row.duration), np.zeros(48000)]
    return np.concatenate(parts).astype(np.float32)


def recording(samples: np.ndarray, name: str = "a", language: str | None = None) -> LongAudio:
    def window(start: float, length: float) -> np.ndarray:
        return samples[round(start * 16000) : round((start + length) * 16000)]

    return LongAudio(name, len(samples) / 16000, window, language)


def by_both(model, processor, samples: np.ndarray) -> tuple[list, list]:
    """(start, end, tokens) of each segment as transformers and we find them, from the features of
    the recording as a whole. What transformers hears behind its end is left out."""
    extracted = processor.feature_extractor(
        [samples], sampling_rate=16000, return_tensors="pt", truncation=False, padding="longest",
        return_attention_mask=True)
    theirs = model.generate(
        extracted["input_features"], attention_mask=extracted["attention_mask"], language="en",
        task="transcribe", return_timestamps=True, return_segments=True, num_beams=1,
        condition_on_prev_tokens=True)["segments"][0]

    def features(_, starts):
        cut = [extracted["input_features"][0][:, round(s * 100) : round(s * 100) + 3000]
               for s in starts]
        return torch.stack([torch.nn.functional.pad(c, (0, 3000 - c.shape[1])) for c in cut])

    decoder = WhisperDecoder(model, processor.tokenizer, "en", timestamps=True, on_loop="keep")
    end, audio = decoder.special.end, recording(samples)
    wanted = [(round(float(s["start"]), 2), round(min(float(s["end"]), audio.seconds), 2),
               [t for t in s["tokens"].tolist() if t < end]) for s in theirs]
    (found,) = transcribe_long(decoder, processor, [audio], 1, GREEDY, features=features)
    return [each for each in wanted if each[0] < audio.seconds], [
        (round(s.start, 2), round(s.end, 2), s.tokens) for s in found]


def test_equals_transformers(tiny_model, tiny_processor, noise):
    """Every token and time, with what was said before as a prompt."""
    decoder, config = tiny_model.model.decoder, tiny_model.generation_config
    suggested = torch.randint(0, 256, (448,), generator=torch.Generator().manual_seed(6))
    for place, token in ((3, 267), (9, 767), (10, 787), (16, 1267)):  # as in `tiny`, but wherever
        suggested[place::24] = token  # a prompt ends
    for place in range(17, 24):
        suggested[place::24] = tiny_model.config.eos_token_id
    with torch.no_grad():
        decoder.embed_positions.weight.copy_(9 * decoder.embed_tokens.weight[suggested])
    config.suppress_tokens, config.max_length = list(range(257, 266)), 448
    theirs, ours = by_both(tiny_model, tiny_processor, noise[0])
    assert ours == theirs
    assert len(ours) > 5 and ours[-1][0] > 30 and len({str(tokens) for *_, tokens in ours}) > 3


@pytest.mark.slow
def test_equals_transformers_on_speech(demo_teacher, speech):
    theirs, ours = by_both(demo_teacher.model, demo_teacher.processor, speech)
    assert ours == theirs
    assert len(ours) > 5 and ours[-1][1] > 31


@pytest.fixture
def tiny(tiny_model, tiny_processor):
    """`run(recordings, batch_size, **options)` with a random model that writes short segments."""
    decoder = tiny_model.model.decoder
    begin = 267
    suggested = torch.randint(0, 256, (48,), generator=torch.Generator().manual_seed(5))
    suggested[[3, 9, 10, 16]] = torch.tensor([begin, begin + 500, begin + 520, begin + 1000])
    suggested[17:] = tiny_model.config.eos_token_id
    positions = 9 * decoder.embed_tokens.weight[suggested].detach()
    decoder.embed_positions.weight = torch.nn.Parameter(positions)
    tiny_model.requires_grad_(False)
    tiny_model.config.max_target_positions = 48  # texts of at most 24 tokens

    def run(recordings, batch_size, fallback=GREEDY, language="en", **options):
        student = options.pop("student", False)
        decoder = WhisperDecoder(
            tiny_model, tiny_processor.tokenizer, language, timestamps=True, on_loop="keep",
            int8=True, student=make_student(tiny_model, [0, 3], [0, 1]).eval() if student else None,
            draft_length=3)
        return transcribe_long(decoder, tiny_processor, recordings, batch_size, fallback, **options)

    return run


@pytest.fixture
def noise():
    draw = np.random.default_rng(0)
    return [(0.1 * draw.standard_normal(round(16000 * s))).astype(np.float32)
            for s in (35.3, 0.4, 62.0)]


def near(segments: list[Segment]) -> list[Segment]:
    """Equal to those of another batch, whose encoder states are others in the last bits."""
    return [replace(s, avg_logprob=pytest.approx(s.avg_logprob, abs=0.01),
                    no_speech_prob=pytest.approx(s.no_speech_prob, abs=0.01)) for s in segments]


@pytest.mark.slow
def test_recordings_do_not_touch_each_other(tiny, noise):
    recordings = [recording(samples, str(i)) for i, samples in enumerate(noise)]
    sampled = Fallback((0.0, 0.5), 0.1, None, None)  # nothing is good enough
    for fallback in (GREEDY, sampled):
        wanted = [tiny([each], 1, fallback)[0] for each in recordings]
        assert tiny(recordings, 3, fallback) == [near(each) for each in wanted]
        assert tiny(recordings, 2, fallback, student=True) == [near(each) for each in wanted]
        for audio, segments in zip(recordings, wanted, strict=True):
            assert all(0 <= s.start < s.end <= audio.seconds + 1e-6 for s in segments)
            starts = [s.start for s in segments]
            assert starts == sorted(starts)
    assert {s.temperature for s in wanted[2]} == {0.5}
    assert max(s.end for s in wanted[2]) > 55


def test_words(tiny, noise):
    """They make up the segments, in the window those were said in; texts stay as they are."""
    recordings = [recording(samples, str(i)) for i, samples in enumerate(noise)]
    without = tiny(recordings, 3)
    found = tiny(recordings, 3, words=True)
    assert sum(len(segment.words) for segments in found for segment in segments) > 4
    for segments, plain, audio in zip(found, without, recordings, strict=True):
        assert [replace(new, words=[], start=old.start, end=old.end)
                for new, old in zip(segments, plain, strict=True)] == plain
        for segment in segments:
            assert "".join(w.text for w in segment.words).strip() == segment.text
            times = [t for word in segment.words for t in (word.start, word.end)]
            assert times == sorted(times)
            assert (segment.start, segment.end) == (times[0], times[-1])
            assert times[0] >= 0 and times[-1] <= audio.seconds + 0.02
    assert found[2][-1].words[0].start > 30  # from the beginning of the recording


def test_previous_text_is_a_prompt(tiny, noise):
    recordings = [recording(noise[2])]
    assert tiny(recordings, 1, previous_text=False) != tiny(recordings, 1)


def test_a_recording_that_breaks_off_leaves_the_others_alone(tiny, noise):
    """Whoever asks is told when each is done; whoever does not, gets the error."""
    def broken(start: float, length: float) -> np.ndarray:
        if start > 0:
            raise AudioError("truncated", "ends early")
        return noise[2][: round(16000 * length)]

    recordings = [LongAudio("broken", 62.0, broken), recording(noise[0], "whole")]
    told = []
    found = tiny(recordings, 2, on_finished=lambda *each: told.append(each))
    assert [(audio.name, error and error.reason) for audio, _, error in told] == [
        ("broken", "truncated"), ("whole", None)]
    assert found[0] and [segments for _, segments, _ in told] == found
    assert found[1] == near(tiny([recording(noise[0], "whole")], 1)[0])
    with pytest.raises(AudioError, match="truncated"):
        tiny(recordings[:1], 1)


def test_silence_is_skipped(tiny, noise, monkeypatch):
    monkeypatch.setattr(Fallback, "is_silent", lambda self, _: True)
    assert tiny([recording(noise[0])], 1) == [[]]


def test_the_language_is_heard_once(tiny, noise):
    (found,) = tiny([recording(noise[0])], 1, language=AUTO)
    languages = [tiny([recording(noise[0], language=code)], 1)[0] for code in ("en", "de", "zh")]
    assert found in languages


def test_files(tiny, noise, tmp_path):
    """Any rate, any number of channels, read a window at a time."""
    path = tmp_path / "a.flac"
    soundfile.write(path, np.stack([noise[0], noise[0]], 1), 16000)
    (found,) = tiny([audio_file(path)], 1)
    (wanted,) = tiny([recording(load_audio(path), "a.flac")], 1)
    assert found == wanted
    empty = tmp_path / "empty.wav"
    soundfile.write(empty, np.zeros((0, 1)), 16000)
    with pytest.raises(AudioError, match="empty"):
        audio_file(empty)


def test_timestamps_are_needed(tiny_model, tiny_processor, noise):
    decoder = WhisperDecoder(tiny_model, tiny_processor.tokenizer, "en")
    with pytest.raises(ValueError, match="need a decoder with timestamps=True"):
        transcribe_long(decoder, tiny_processor, [recording(noise[0])], 1)


def test_nothing_is_said_where_nobody_speaks(tiny, noise, monkeypatch):
    """A model that says something from 0 to 4 s and from 4.2 to 8 s of every window."""
    samples = np.concatenate([noise[2], noise[0]])  # 97.3 s
    said = Hypothesis([267, 65, 267 + 200, 267 + 210, 66, 267 + 400], -0.2, 0.0, False,
                      False)
    monkeypatch.setattr("distill.whisper.recognition.sequential.encode_about",
                        lambda _, features, *_rest: torch.zeros(features.num_clips, 1, 1))
    monkeypatch.setattr("distill.whisper.recognition.sequential.decode_with_fallback",
                        lambda *arguments, phrases: [said] * len(arguments[3]))

    def spans(speech) -> list[tuple[float, float]]:
        heard = replace(recording(samples), speech=None if speech is None else lambda: speech)
        return [(round(s.start, 1), round(s.end, 1)) for s in tiny([heard], 1)[0]]

    every = spans(None)
    first = [span for span in every if span[0] < 8]
    assert len(every) == 8 and first == [(0, 4), (4.2, 8)]
    assert spans([]) == []
    assert spans([(0.0, 97.3)]) == every
    assert spans([(1.0, 2.0), (6.0, 7.0)]) == first
    assert spans([(1.0, 3.9)]) == first[:1]  # the second sentence begins when nobody speaks
    assert spans([(8.2, 8.4), (50.0, 50.05)]) == first[1:]  # timestamps may be half a second off
    assert spans([(70.5, 71.5)]) == [(70.0, 74.0)]  # windows of silence are not decoded
    with pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"):
        tiny([recording(samples)], 0)
