"""The graphs for sherpa-onnx: the same numbers as the model, the same tokens in the runtimes."""

import base64
import json

import numpy as np
import pytest
import torch

from distill.whisper.encoder.audio import complete, encode_audio
from distill.whisper.encoder.padded import log_mel
from distill.whisper.export.encoder_graph import Encoder, ShortEncoder, whole_window
from distill.whisper.export.sherpa import Decoder, _metadata
from distill.whisper.export.vocabulary import text_tokens

HEADS = [(0, 1), (1, 0)]


def caches(model, batch: int) -> list[torch.Tensor]:
    shape = (model.config.decoder_layers, batch, 448, model.config.d_model)
    return [torch.zeros(shape), torch.zeros(shape)]


@torch.no_grad()
def test_the_graphs_compute_what_the_model_does(student_model):
    eager = student_model
    torch.manual_seed(0)
    mel = torch.randn(2, 80, 3000)
    tokens = torch.randint(0, 256, (2, 7))
    expected = eager(mel, decoder_input_ids=tokens, output_attentions=True)
    decoder = Decoder(eager, HEADS)
    cross = Encoder(eager)(mel)
    assert cross[0].shape == (2, 2, 1500, 32)
    *_, own_k, own_v, looks = first = decoder(tokens[:, :4], *caches(eager, 2), *cross,
                                              torch.tensor([0]))
    rest = decoder(tokens[:, 4:], own_k, own_v, *cross, torch.tensor([4]))
    always = eager.generation_config.suppress_tokens
    begin = eager.generation_config.begin_suppress_tokens
    said = torch.cat([first[0], rest[0]], 1)
    assert (said[..., always] == -torch.inf).all()
    assert (first[0][..., begin] == -torch.inf).all() and (rest[0][..., begin] > -torch.inf).all()
    free = torch.ones(said.shape[-1], dtype=torch.bool)
    free[[*always, *begin]] = False
    torch.testing.assert_close(said[..., free], expected.logits[..., free], atol=1e-4, rtol=1e-4)
    for n, (layer, head) in enumerate(HEADS):
        torch.testing.assert_close(looks[:, n], expected.cross_attentions[layer][:, head, :4])


@torch.no_grad()
def test_what_lacks_is_silence(student_model, tiny_processor):
    """Short log-mel, and zeros in the place of silence, are heard as the padded clip is."""
    torch.manual_seed(0)
    audio = torch.randn(32_000).numpy() * 0.1
    mel = log_mel(tiny_processor, [audio])
    encoder = Encoder(student_model)
    expected = encoder(mel)[0]
    frames = 203  # and two that still hear the end of the clip
    zeros = torch.cat([mel[..., :frames], torch.zeros(1, 80, 500)], -1)
    torch.testing.assert_close(encoder(mel[..., :frames])[0], expected)
    torch.testing.assert_close(encoder(zeros)[0], expected)


@pytest.fixture
def short_model(student_model):
    """The student with a margin; its keys and values of silence are made again."""
    student_model.config.short_audio = {"margin_seconds": 1.0}
    return student_model


@torch.no_grad()
def test_a_clip_is_as_long_as_it_is(short_model, tiny_processor):
    """The graph finds the length that we encode, and puts out what we give to the decoder."""
    graph = ShortEncoder(short_model)
    rng = np.random.default_rng(0)
    attention = short_model.model.decoder.layers[1].encoder_attn
    for seconds, positions in ((2.0, 150), (0.3, 75), (9.0, 500)):
        audio = rng.normal(0, 0.1, int(16_000 * seconds)).astype(np.float32)
        mel = log_mel(tiny_processor, [audio])
        # sherpa-onnx gives zeros behind a clip, and silence is no part of it
        zeros = torch.cat([mel[..., : int(100 * seconds) + 3], torch.zeros(1, 80, 700)], -1)
        states = complete(short_model, encode_audio(short_model, tiny_processor, [audio]))
        for each in (mel, zeros):
            assert graph.length(*whole_window(each, 3000)) == positions
            keys, values = graph(each)
            assert keys.shape == (2, 1, 1500, 32)
            torch.testing.assert_close(keys[1], attention.k_proj(states), atol=5e-3, rtol=1e-3)
            torch.testing.assert_close(values[1], attention.v_proj(states), atol=5e-3, rtol=1e-3)


@torch.no_grad()
def test_full_windows_and_faint_clips_are_padded(short_model, tiny_processor):
    rng = np.random.default_rng(0)
    graph, padded = ShortEncoder(short_model), Encoder(short_model)
    for seconds, gain in ((29.9, 0.1), (24.0, 0.1), (2.0, 1e-4)):
        audio = rng.normal(0, gain, int(16_000 * seconds)).astype(np.float32)
        mel = log_mel(tiny_processor, [audio])
        assert graph.length(*whole_window(mel, 3000)) == 1500
        torch.testing.assert_close(graph(mel)[0], padded(mel)[0], atol=1e-5, rtol=1e-4)


def test_bytes_of_tokens(tiny_processor):
    tokens = text_tokens(tiny_processor.tokenizer)
    assert sorted(tokens) == [bytes([n]) for n in range(256)]
    text = "Zürich 二"
    ids = tiny_processor.tokenizer(text, add_special_tokens=False).input_ids
    assert b"".join(tokens[n] for n in ids).decode() == text


def test_languages_of_a_model_without_the_table(student_model, tiny_processor):
    told = _metadata(student_model, tiny_processor.tokenizer, 2)
    del student_model.generation_config.lang_to_id
    found = _metadata(student_model, tiny_processor.tokenizer, 2)
    for facts in (told, found):  # their order is nobody's business
        codes, ids = (facts.pop(f"all_language_{kind}").split(",") for kind in ("codes", "tokens"))
        assert dict(zip(codes, ids, strict=True)) == {"en": "258", "de": "259", "zh": "260"}
    assert told == found


@pytest.mark.slow  # an export does this by itself, and refuses what differs
@pytest.mark.parametrize("margin", [1.0, None])
def test_sherpa_onnx_says_the_same(recipe, tiny_run, margin):
    for name in ("onnxscript", "onnxruntime", "sherpa_onnx"):
        pytest.importorskip(name)
    from distill.whisper.export.run import export_student

    path = tiny_run / "student/config.json"
    short = None if margin is None else {"margin_seconds": margin}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"short_audio": short}))
    loose = ["export.max_wer_increase=9", "export.min_token_agreement=0"]
    assert export_student(recipe(*loose), "onnx")
    folder = tiny_run / "export/onnx"
    results = json.loads((folder / "verification.json").read_text())
    assert results["short_audio_margin"] == margin
    plain = {e["runtime"]: e for e in results["exports"] if e["weights"] == "float32"}
    assert plain["onnxruntime"]["token_agreement"] == 1
    assert abs(plain["onnxruntime"]["token_loss"]) < 1e-3  # the graph suppresses tokens, as we do
    assert plain["onnxruntime"]["num_read_tokens"] > 5
    assert plain["sherpa-onnx"]["token_loss"] is None  # it cannot be asked
    assert plain["sherpa-onnx"]["token_agreement"] > 0.9  # log-mel of its own
    assert {e["weights"] for e in results["exports"]} == {"float32", "int8"}
    lines = (folder / "float32/tokens.txt").read_text().splitlines()
    assert base64.b64decode(lines[65].split()[0]) == text_tokens_at(tiny_run, 65)


def text_tokens_at(run, index: int) -> bytes:
    from transformers import WhisperProcessor

    return text_tokens(WhisperProcessor.from_pretrained(run / "student").tokenizer)[index]
