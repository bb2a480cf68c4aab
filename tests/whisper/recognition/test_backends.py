"""PyTorch and CTranslate2 label alike; what a recipe asks for besides is written down."""

from functools import cache

import numpy as np
import pytest
import torch

from distill.data.manifest import read_manifest
from distill.data.speech.windows import load_window, pack
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.encoder.audio import all_padded
from distill.whisper.encoder.padded import log_mel
from distill.whisper.recipe import load_recipe
from distill.whisper.recognition import backends, ct2_backend, labelled
from distill.whisper.recognition.backends import load_backend
from distill.whisper.recognition.ct2_backend import hypothesis_of
from distill.whisper.recognition.transcribe import to_text
from distill.whisper.teacher import load_teacher
from pseudo_label.plan import make_plan
from tests.support.rounding import assert_same_but_rounding

CT2 = ("pseudo_label.backend=ctranslate2", "pseudo_label.compute_type=float32")


DOUBTS = ("pseudo_label.detect_language=true", "pseudo_label.second_decoding=true")


@pytest.fixture(scope="module")
def real(demo_teacher, demo_data):
    """`real(*overrides)`: what a backend with the demo's teacher makes of a window of real speech,
    and its encoder states; asked once."""
    windows = pack(read_manifest(demo_data / "validation.jsonl")[0][:1], "w", "sequential")
    features = all_padded(
        log_mel(demo_teacher.processor, [load_window(w) for w in windows]))

    @cache
    def label(*overrides: str):
        recipe = load_recipe(demo_data.parent, list(overrides))
        return load_backend(recipe, demo_teacher).label(windows, features)

    return label


def same_labels(plain: list, ours: list, within: float) -> None:
    """Those without timestamps, as the demo labels, and with them, which is its second decoding;
    log-probabilities up to `within`."""
    for one, two in zip(plain, ours, strict=True):
        assert one.language == two.language
        assert two.language_prob == pytest.approx(one.language_prob, abs=1e-3) != 1.0
        for a, b in ((one.hypothesis, two.hypothesis), (one.second, two.second)):
            assert a.tokens == b.tokens and len(a.tokens) > 1
            assert (a.truncated, a.looped) == (b.truncated, b.looped) == (False, False)
            assert b.avg_logprob == pytest.approx(a.avg_logprob, abs=within)
            assert b.no_speech_prob == pytest.approx(a.no_speech_prob, abs=1e-3)
        assert not any(token > 50363 for token in one.hypothesis.tokens)
        assert any(token > 50363 for token in one.second.tokens)


@pytest.mark.slow
def test_a_real_teacher_says_the_same_of_noise(demo_teacher, demo_data, monkeypatch):
    """CTranslate2 tells languages apart, and leaves timestamps out, only with the vocabulary of a
    real model. What that hears need not be real, and a few words are enough."""
    states = torch.randn(1, 1500, 512, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(demo_teacher.model.config, "short_audio", None)
    for module in (backends, ct2_backend):
        monkeypatch.setattr(module, "encode_features", lambda *_: states)
    windows = pack(read_manifest(demo_data / "validation.jsonl")[0][:1], "w", "sequential")
    features = all_padded(torch.zeros(1, 80, 3000))
    same_labels(*(
        load_backend(load_recipe(demo_data.parent, [*DOUBTS, *options]), demo_teacher).label(
            windows, features)[0] for options in ((), CT2)), within=0.02)  # it is not sure of it


@pytest.mark.slow
def test_ctranslate2_says_the_same_of_speech(real):
    (plain, states), (ours, same) = real(*DOUBTS), real(*DOUBTS, *CT2)
    assert states.shape == (1, 1500, 512)
    assert_same_but_rounding(same, states)
    same_labels(plain, ours, within=2e-3)
    assert plain[0].language == "en" and len(plain[0].hypothesis.tokens) > 3


@pytest.mark.slow
def test_integers_say_nearly_the_same_of_speech(real, demo_teacher):
    """Encoder and decoder: nobody wants to keep these states."""
    (plain, _), (int8, none) = real(*DOUBTS), real(CT2[0], "teacher.mode=live")
    assert none is None
    texts = [[to_text(demo_teacher.processor.tokenizer, each.hypothesis.tokens).split()
              for each in found] for found in (plain, int8)]
    assert sum(len(set(a) ^ set(b)) for a, b in zip(*texts, strict=True)) <= 4
    assert all(a.hypothesis.avg_logprob != b.hypothesis.avg_logprob
               for a, b in zip(plain, int8, strict=True))
    assert {(each.second, each.language, each.language_prob) for each in int8} == {(None,) * 3}


@pytest.fixture(scope="module")
def tiny(tiny_run, tmp_path_factory):
    """`tiny(*overrides)`: what a backend with a random tiny teacher makes of random features."""
    root = tmp_path_factory.mktemp("cache")
    teacher = load_teacher(tiny_run.recipe().teacher)
    shards = make_plan(tiny_run.recipe()).shards
    windows = [window for shard in shards for window in shard][:5]
    features = all_padded(
        torch.randn(5, 80, 3000, generator=torch.Generator().manual_seed(0)))

    def label(*overrides: str):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(root))
            return load_backend(tiny_run.recipe(*overrides), teacher).label(windows, features)

    label.windows, label.cache = windows, root / "audio-distill" / "ct2"
    return label


def test_ctranslate2_says_the_same(tiny):
    """All but log-probabilities: CTranslate2's are of the whole loop in which a random model
    ends."""
    (plain, states), (ours, same) = tiny(), tiny(*CT2)
    assert states.shape == (5, 1500, 32)
    assert_same_but_rounding(same, states)
    for a, b in zip(plain, ours, strict=True):
        assert a.hypothesis.tokens == b.hypothesis.tokens and len(a.hypothesis.tokens) > 3
        assert a.hypothesis.looped == b.hypothesis.looped
        assert b.hypothesis.no_speech_prob == pytest.approx(a.hypothesis.no_speech_prob, abs=1e-3)


def test_integers_say_nearly_the_same(tiny):
    """Encoder and decoder: nobody wants to keep these states. Of a random model only the first
    step is compared: after another token it says something else."""
    (plain, _), (int8, none) = tiny(), tiny(CT2[0], "teacher.mode=live")
    assert none is None
    for a, b in zip(plain, int8, strict=True):
        assert a.hypothesis.no_speech_prob != b.hypothesis.no_speech_prob
        assert b.hypothesis.no_speech_prob == pytest.approx(a.hypothesis.no_speech_prob, rel=0.2)
        assert (b.second, b.language, b.language_prob) == (None,) * 3


@pytest.mark.parametrize("options", [(), CT2], ids=["transformers", "ctranslate2"])
def test_limits_are_per_row(tiny, options, monkeypatch):
    limits = dict(zip([window.duration for window in tiny.windows], [3, 448, 1, 5, 448],
                      strict=True))
    free, _ = tiny(*options, "pseudo_label.max_tokens_per_second=100")
    monkeypatch.setattr(labelled, "token_limit", lambda seconds, rate: limits[seconds])
    found, _ = tiny(*options)
    for one, whole, limit in zip(found, free, limits.values(), strict=True):
        assert one.hypothesis.tokens == whole.hypothesis.tokens[:limit]
        assert one.hypothesis.truncated == (len(whole.hypothesis.tokens) >= limit)
    assert {each.hypothesis.truncated for each in found} == {True, False}


@pytest.mark.parametrize("temperatures", ["[0.0]", "[0.0,0.7]"])
def test_where_a_window_ends_another_of_its_group_begins(tiny, temperatures, monkeypatch):
    """Whatever the batch, the same labels and encoder states; also of what is tried again."""
    limits = dict(zip([window.duration for window in tiny.windows], [9, 30, 2, 12, 5],
                      strict=True))
    monkeypatch.setattr(labelled, "token_limit", lambda seconds, rate: limits[seconds])
    option = f"pseudo_label.temperatures={temperatures}"
    found = [tiny(f"pseudo_label.batch_size={size}", option) for size in (1, 2, 5)]
    for labels, states in found[:2]:
        torch.testing.assert_close(states, found[2][1], rtol=1e-4, atol=1e-4)
        for one, other in zip(labels, found[2][0], strict=True):
            assert one.hypothesis.tokens == other.hypothesis.tokens
            assert one.hypothesis.temperature == other.hypothesis.temperature


def test_short_clips_are_decoded_with_those_of_their_length(tiny_run, monkeypatch):
    """A group is ordered by length, and its last clips are far shorter than its first."""
    recipe = tiny_run.recipe("teacher.short_audio_margin=1", "pseudo_label.batch_size=2")
    windows = [window for shard in make_plan(recipe).shards for window in shard][:5]
    backend = load_backend(recipe, load_teacher(recipe.teacher))
    drawn = np.random.default_rng(0)
    features = backend.inputs([drawn.normal(0, 0.1, int(16000 * seconds)).astype(np.float32)
                               for seconds in (5, 2, 2, 1.9, 0.5)])
    heard = []
    monkeypatch.setattr(WhisperDecoder, "_begin", lambda self, states, *given, begin=(
        WhisperDecoder._begin): (heard.append(tuple(states.shape[:2])),
                                 begin(self, states, *given))[1])
    found, states = backend.label(windows, features)
    short = [each for each in heard if each[1] < 1500]  # what a random model says, the guard pads
    assert short == [(2, 300), (2, 150), (1, 75)] and len(found) == 5
    assert states.shape[:2] == (5, 300)
    assert all(each.hypothesis.tokens for each in found)


def test_the_teacher_is_converted_once(tiny):
    tiny(*CT2)
    (model,) = tiny.cache.glob("*/model.bin")
    written = model.stat().st_mtime_ns
    tiny(*CT2)
    assert model.stat().st_mtime_ns == written


class Result:
    """What CTranslate2 gives."""

    def __init__(self, tokens: list[int]):
        self.sequences_ids, self.scores, self.no_speech_prob = [tokens], [-0.5], 0.1


def test_a_loop_of_ctranslate2_is_cut_where_ours_would_stop():
    """It cannot be stopped while it runs; its row must not differ from a row of the reference."""
    pattern = [5, 6, 7, 8, 9, 10]
    found = hypothesis_of(Result([1, 2, *pattern * 9]), 200, 200)
    assert found.looped and not found.truncated
    assert found.tokens == [1, 2, *pattern * 3]
    assert not hypothesis_of(Result([1, 2, *pattern * 2]), 200, 200).looped
    cut = hypothesis_of(Result(list(range(50))), 20, 50)
    assert cut.truncated and cut.tokens == list(range(20))
    assert cut.avg_logprob == -0.5  # no end of text, which would count as one more
    ended = hypothesis_of(Result(list(range(49))), 50, 50)
    assert not ended.truncated and ended.avg_logprob == pytest.approx(-0.5 * 49 / 50)


def test_a_compute_type_this_machine_lacks(demo_teacher, demo_data):
    recipe = load_recipe(demo_data.parent, [CT2[0], "pseudo_label.compute_type=int8_bfloat16"])
    with pytest.raises(ValueError, match="compute_type: this cpu has .*float32.*, got int8_bf"):
        load_backend(recipe, demo_teacher)


def test_without_the_extra(tiny_run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ctranslate2", None)
    with pytest.raises(ValueError, match=r"needs the extra: pip install 'audio-distill\[ct2\]'"):
        load_backend(tiny_run.recipe(CT2[0]), load_teacher(tiny_run.recipe().teacher))


@pytest.mark.parametrize("options", [(), CT2], ids=["transformers", "ctranslate2"])
def test_a_teacher_of_one_language_cannot_tell_languages_apart(tiny_run, options):
    teacher = load_teacher(tiny_run.recipe().teacher)
    teacher.model.generation_config.is_multilingual = False
    with pytest.raises(ValueError, match="detect_language needs a multilingual teacher"):
        load_backend(tiny_run.recipe(*options, DOUBTS[0]), teacher)
