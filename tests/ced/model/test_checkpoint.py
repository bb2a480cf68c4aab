"""Published weights in all their layouts, and back."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForAudioClassification

from distill.ced.convert import main
from distill.ced.model.checkpoint import (
    load_checkpoint,
    published_state,
    read_labels,
    save_port,
    save_published,
)
from tests.ced.conftest import LABELS, make_tagger, spectrogram
from tests.support.rounding import assert_same_but_rounding


@torch.no_grad()
def assert_same_tagger(found, wanted, frames=700) -> None:
    """It has the same weights, so it hears the same."""
    weights = wanted.state_dict()
    assert found.state_dict().keys() == weights.keys()
    for name, value in found.state_dict().items():
        if name != "encoder.time_pos_embed":  # may be cut
            assert torch.equal(value, weights[name]), name
    features = spectrogram(frames)[None]
    assert_same_but_rounding(found(features).logits, wanted(features).logits)


@pytest.mark.parametrize("bare", [True, False])
def test_published_files_are_read_and_written_back(tagger, tmp_path, bare):
    save_published(tagger, tmp_path / "tiny.pt", bare)
    stored = torch.load(tmp_path / "tiny.pt", weights_only=True)
    assert ("model" in stored) != bare
    state = stored if bare else stored["model"]
    assert {"init_bn.1.running_var", "time_pos_embed", "blocks.1.attn.qkv.weight",
            "outputlayer.1.bias", "front_end.0.mel_scale.fb"} <= set(state)
    assert state["front_end.0.mel_scale.fb"].shape == (257, 64)
    loaded = load_checkpoint(tmp_path / "tiny.pt", LABELS)
    assert_same_tagger(loaded, tagger)
    assert loaded.config.label2id["rain"] == 1
    again = published_state(loaded)
    assert set(again) == set(state)
    assert all(torch.equal(again[key], state[key]) for key in state)


def test_names_of_a_published_tiny_model():
    from distill.ced.model.modeling import new_model

    with torch.device("meta"):
        keys = new_model("tiny", [f"c{i}" for i in range(527)]).state_dict()
    assert len(keys) == 2 + 5 + 2 + 12 * 12 + 2 + 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("blocks.1.mlp.fc2.bias"), "fc2.bias is missing"),
        (lambda s: s.update(cls_token=torch.zeros(1, 1, 128)), "cls_token is left over"),
        (lambda s: s.update({"norm.weight": torch.zeros(3)}), r"norm.weight is \(3,\), exp.*128"),
        (lambda s: s.pop("outputlayer.1.bias"), "not a CED model"),
        (lambda s: s.update({"encoder.norm.weight": torch.zeros(128)}), "there twice"),
    ],
)
def test_what_does_not_fit_is_an_error_and_named(tagger, tmp_path, change, says):
    """CED's code loads with strict=False and says nothing."""
    state = published_state(tagger)
    change(state)
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=says):
        load_checkpoint(tmp_path / "bad.pt", LABELS)


def test_labels_must_fit(tagger, tmp_path):
    save_published(tagger, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="has 5 classes, got 2 labels"):
        load_checkpoint(tmp_path / "a.pt", ["a", "b"])
    assert load_checkpoint(tmp_path / "a.pt").config.id2label[4] == "class 4"


def test_audioset_labels_with_commas_stay_whole_and_need_no_network(tmp_path):
    """The port on the Hub fetches them and splits at commas: 75 names are cut, two collide."""
    rows = ["index,mid,display_name", '0,/m/1,"Inside, small room"',
            '1,/m/2,"Inside, public space"', '2,/m/3,"Speech"']
    path = tmp_path / "class_labels_indices.csv"
    path.write_text("\n".join(rows) + "\n")
    assert read_labels(path) == ["Inside, small room", "Inside, public space", "Speech"]
    path.write_text("\n".join([rows[0], rows[2]]))
    with pytest.raises(ValueError, match="index must count 0"):
        read_labels(path)
    path.write_text("Speech\n\nDog, bark\n")
    assert read_labels(path) == ["Speech", "Dog, bark"]


def test_the_ports_folder_loads_by_the_auto_class_and_strictly(tagger, tmp_path):
    save_port(tagger, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["outputdim"] == 5 and config["embed_dim"] == 128
    assert config["pooling"] == "logit"  # so that the port gives logits, too
    state = load_file(tmp_path / "model.safetensors")
    assert {"encoder.init_bn.weight", "encoder.norm.bias", "outputlayer.1.weight"} <= set(state)
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path).eval()
    assert_same_tagger(loaded, tagger)
    assert loaded.config.problem_type == "multi_label_classification"
    assert_same_tagger(load_checkpoint(tmp_path), tagger)
    del state["encoder.norm.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="norm.bias is missing"):
        load_checkpoint(tmp_path)


def test_a_port_that_names_its_size_needs_no_dimensions():
    from distill.ced.model.configuration import CedConfig

    config = CedConfig.from_dict({"model_type": "ced", "name": "ced-small", "outputdim": 527,
                                  "embed_dim": 768, "pooling": "mean", "eval_avg": "mean"})
    assert (config.hidden_size, config.num_attention_heads, config.num_labels) == (384, 6, 527)
    assert not hasattr(config, "pooling")


def test_positions_are_cut_or_interpolated(tagger, tmp_path):
    save_published(tagger, tmp_path / "a.pt")
    own = tagger.encoder.time_pos_embed
    short = load_checkpoint(tmp_path / "a.pt", LABELS, target_length=320)
    assert torch.equal(short.encoder.time_pos_embed, own[..., :20])
    assert_same_tagger(short, tagger, frames=320)
    long = load_checkpoint(tmp_path / "a.pt", LABELS, target_length=2016)
    assert long.encoder.time_pos_embed.shape == (1, 128, 1, 126)
    middle = own[..., 9] * 0.75 + own[..., 10] * 0.25  # half steps, corners not aligned
    assert torch.allclose(long.encoder.time_pos_embed[..., 19], middle, atol=1e-6)


def test_the_command_goes_there_and_back(tagger, tagger_folder, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    assert main([str(tagger_folder), str(tmp_path / "a.pt")]) == 0
    arguments = [str(tmp_path / "a.pt"), str(tmp_path / "b"), "--labels"]
    assert main([*arguments, str(tmp_path / "labels.txt")]) == 0
    assert "5 classes" in capsys.readouterr().out
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path / "b").eval()
    assert_same_tagger(loaded, tagger)
    assert loaded.config.id2label == dict(enumerate(LABELS))
    assert main([str(tmp_path / "b"), str(tmp_path / "c"), "--port"]) == 0
    assert_same_tagger(load_checkpoint(tmp_path / "c"), tagger)


def test_numbers_of_batches_do_not_stop_loading(tmp_path):
    model = make_tagger()
    model.init_bn.num_batches_tracked.fill_(7)
    save_published(model, tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt").init_bn.num_batches_tracked == 7
