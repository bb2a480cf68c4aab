"""The head of Whisper-AT: its sizes, its blocks, its masks, and its checkpoints."""

import pytest
import torch
from torch import nn
from transformers import WhisperConfig, WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

from distill.methods import build_task, load_recipe
from distill.whisper_at.checkpoint import load_whisper_at, read_head, save_whisper_at
from distill.whisper_at.heads import TltrHead
from distill.whisper_at.model import WhisperTagger, from_whisper
from distill.whisper_at.tltr import Block, TimeLayerTransformer
from tests.whisper_at.test_whisper_at import recipe, whisper  # noqa: F401

CLASSES = 527


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("width, inner, parameters", [
    # of the published heads, tiny to large, and of the low-dimension ones
    (384, None, 3_751_823), (512, None, 6_575_119), (768, None, 14_581_007),
    (1024, None, 25_732_623), (1280, None, 40_029_967),
    (768, 512, 6_970_383), (1024, 512, 7_101_967), (1280, 512, 7_233_551)])
def test_heads_are_as_large_as_published(width, inner, parameters):
    with torch.device("meta"):
        assert count(TltrHead(width, inner, CLASSES, 0.0)) == parameters


def test_the_blocks_alone_are_those_of_ltu_as():
    with torch.device("meta"):
        assert count(TimeLayerTransformer(1280)) == 39_352_320


def test_a_block_is_whispers():
    """Against transformers' layer with the same weights."""
    torch.manual_seed(0)
    config = WhisperConfig(d_model=32, encoder_attention_heads=4, encoder_ffn_dim=128)
    layer, block = WhisperEncoderLayer(config).eval(), Block(32, 4)
    names = {"attn.query": "self_attn.q_proj", "attn.key": "self_attn.k_proj",
             "attn.value": "self_attn.v_proj", "attn.out": "self_attn.out_proj",
             "attn_ln": "self_attn_layer_norm", "mlp.0": "fc1", "mlp.2": "fc2",
             "mlp_ln": "final_layer_norm"}
    theirs = layer.state_dict()
    ours = {f"{name}.{kind}": f"{other}.{kind}" for name, other in names.items()
            for kind in ("weight", "bias") if f"{other}.{kind}" in theirs}
    assert sorted(ours.values()) == sorted(theirs)
    block.load_state_dict({name: theirs[other] for name, other in ours.items()})
    states = torch.randn(2, 7, 32)
    torch.testing.assert_close(block(states), layer(states, None), atol=1e-5, rtol=1e-4)


def test_the_paper_written_out():
    """Time first, for each layer; the mean of it; then over the layers, in any order."""
    torch.manual_seed(0)
    mixer = TimeLayerTransformer(16)
    states = torch.randn(1, 3, 5, 16)
    with torch.no_grad():
        timed = torch.stack([mixer.time_tr(layer[None])[0] for layer in states[0]])
        expected = mixer.layer_tr(timed.mean(1)[None]).mean(1)
        torch.testing.assert_close(mixer.pooled(states), expected)
        torch.testing.assert_close(mixer.pooled(states.flip(1)), expected)
        third = mixer.layer_tr(timed[:, 2][None]).mean(1)
        torch.testing.assert_close(mixer(states)[:, 2], third)


@pytest.mark.parametrize("steps", [9, 100])  # one window; a second one, of 25 steps
def test_padding_is_not_heard(steps):
    torch.manual_seed(0)
    head = TltrHead(16, 8, 3, 0.0)
    states = torch.randn(1, 2, steps, 16)
    padded = nn.functional.pad(states, (0, 0, 0, 160 - steps), value=7.0)
    with torch.no_grad():
        frames, clip = head(states)
        frames_padded, clip_padded = head(padded, torch.arange(160)[None] < steps)
    torch.testing.assert_close(clip_padded, clip)
    torch.testing.assert_close(frames_padded[:, :steps], frames)


def test_windows_of_a_long_clip_count_by_their_steps():
    torch.manual_seed(0)
    head = TltrHead(16, None, 3, 0.0)
    states = torch.randn(1, 2, 90, 16)
    with torch.no_grad():
        first, rest = (head(part)[1].exp() for part in states.split(75, 2))
        torch.testing.assert_close(head(states)[1], (75 / 90 * first + 15 / 90 * rest).log())


def norm_and_linear(name: str, width: int, out: int) -> dict[str, torch.Tensor]:
    return {f"{name}.0.weight": torch.randn(width), f"{name}.0.bias": torch.randn(width),
            f"{name}.1.weight": torch.randn(out, width), f"{name}.1.bias": torch.randn(out)}


@pytest.mark.parametrize("low, prefix", [(None, "at_model."), (16, "module.")])
def test_a_published_checkpoint_there_and_back(whisper, tmp_path, low, prefix):  # noqa: F811
    torch.manual_seed(0)
    width, inner, published = 32, low or 32, {}
    for block in ("time_tr", "layer_tr"):
        for name, shape in {
            "attn.query.weight": (inner, inner), "attn.query.bias": (inner,),
            "attn.key.weight": (inner, inner), "attn.value.weight": (inner, inner),
            "attn.value.bias": (inner,), "attn.out.weight": (inner, inner),
            "attn.out.bias": (inner,), "attn_ln.weight": (inner,), "attn_ln.bias": (inner,),
            "mlp.0.weight": (4 * inner, inner), "mlp.0.bias": (4 * inner,),
            "mlp.2.weight": (inner, 4 * inner), "mlp.2.bias": (inner,),
            "mlp_ln.weight": (inner,), "mlp_ln.bias": (inner,),
        }.items():
            published[f"{block}.{name}"] = torch.randn(shape)
    if low:
        published |= norm_and_linear("down_layer", width, low)
    published |= norm_and_linear("mlp_layer", inner, 5)
    torch.save({prefix + name: value for name, value in published.items()}, tmp_path / "in.pth")
    tagger = load_whisper_at(tmp_path / "in.pth", whisper, list("abcde"))
    save_whisper_at(tagger, tmp_path / "out.pth")
    written = torch.load(tmp_path / "out.pth", weights_only=True)
    assert written.keys() == {f"at_model.{name}" for name in published}
    for name, value in published.items():
        assert torch.equal(written[f"at_model.{name}"], value)
    tagger.save_pretrained(tmp_path / "folder")
    again = WhisperTagger.from_pretrained(tmp_path / "folder").eval()
    features = torch.randn(1, 80, 400)
    with torch.no_grad():
        torch.testing.assert_close(again(features).logits, tagger(features).logits)
        assert again(features).frame_logits.shape == (1, 10, 5)  # of 0.4 s


def test_what_does_not_fit_is_named(whisper, tmp_path):  # noqa: F811
    tagger = from_whisper(whisper, ["a", "b"], head_type="tltr", head_size=None)
    path = tmp_path / "head.pth"
    save_whisper_at(tagger, path)
    with pytest.raises(ValueError, match="has 2 classes, got 3 names"):
        load_whisper_at(path, whisper, ["a", "b", "c"])
    state = {f"at_model.{name}": value for name, value in read_head(path).items()}
    del state["at_model.time_tr.mlp.0.bias"]
    torch.save(state | {"at_model.more": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="mlp.0.bias is missing; .*more is left over"):
        load_whisper_at(path, whisper, None)
    torch.save({"dims": {}, "model_state_dict": {}}, path)
    with pytest.raises(ValueError, match="no head of Whisper-AT"):
        load_whisper_at(path, whisper, None)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="no checkpoint that torch reads"):
        load_whisper_at(path, whisper, None)
    with pytest.raises(ValueError, match="and this one is layer_sum"):
        save_whisper_at(from_whisper(whisper, ["a"]), path)
    with pytest.raises(ValueError, match="multiple of 8"):
        TimeLayerTransformer(1280, 100)


def test_a_larger_whisper_is_refused(whisper, tmp_path):  # noqa: F811
    save_whisper_at(from_whisper(whisper, ["a"], head_type="tltr", head_size=None),
                    tmp_path / "head.pth")
    other = WhisperForConditionalGeneration(WhisperConfig(
        d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=51865))
    with pytest.raises(ValueError, match="does not fit an encoder of width 64"):
        load_whisper_at(tmp_path / "head.pth", other, None)


def test_it_is_trained_by_a_recipe(recipe, tmp_path):  # noqa: F811
    from distill.train import main as train

    train([str(recipe), f"output_dir={tmp_path}", "head.head_type=tltr", "head.head_size=null",
           "train.max_steps=60", "train.learning_rate=1e-3",
           *(f"head.{key}=0" for key in ("mixup_probability", "head_dropout", "mask_steps"))])
    tagger = WhisperTagger.from_pretrained(tmp_path / "student")
    assert isinstance(tagger.head, TltrHead)
    task = build_task(load_recipe(str(recipe), [f"output_dir={tmp_path}"]), _accelerator())
    states = [torch.from_numpy(each)[None].float() for each in task.states]
    tagger.eval()
    with torch.no_grad():
        found = [tagger.config.id2label[int(tagger.head(each)[1].argmax())] for each in states]
    assert found == [row.labels[0] for row in task.rows]


def _accelerator():
    from accelerate import Accelerator

    return Accelerator()
