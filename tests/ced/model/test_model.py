"""The tagger: published sizes and outputs, clips of any length in any batch."""

import pytest
import torch
import torch.nn.functional as F

from distill.ced.model import modeling as module
from distill.ced.model.checkpoint import published_state
from distill.ced.model.modeling import new_model
from tests.ced.conftest import LABELS, make_tagger, spectrogram
from tests.support.rounding import assert_same_but_rounding


@pytest.mark.parametrize(
    ("size", "count"),
    [("tiny", 5_503_183), ("mini", 9_696_655), ("small", 21_622_543), ("base", 85_711_759)],
)
def test_parameters_as_published(size, count):
    with torch.device("meta"):
        model = new_model(size, [f"c{i}" for i in range(527)])
    assert sum(p.numel() for p in model.parameters()) == count


def published(state: dict, features: torch.Tensor, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a clip and of each of its steps, from the description of CED."""
    norm = {k: state[f"init_bn.1.{k}"][:, None] for k in
            ("running_mean", "running_var", "weight", "bias")}
    x = (features - norm["running_mean"]) / (norm["running_var"] + 1e-5).sqrt()
    x = (x * norm["weight"] + norm["bias"])[None, None]
    x = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16)
    steps = x.shape[-1]
    x = x + state["time_pos_embed"][..., :steps] + state["freq_pos_embed"]
    x = x[0].flatten(1).T  # (4 * steps, width), frequency by frequency

    def layer_norm(x, name, eps=1e-6):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    for i in range(sum(k.endswith("attn.qkv.weight") for k in state)):
        q, k, v = linear(layer_norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").view(
            len(x), 3, heads, -1).permute(1, 2, 0, 3)
        attention = (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1)
        mixed = (attention @ v).transpose(0, 1).reshape(len(x), -1)
        x = x + linear(mixed, f"blocks.{i}.attn.proj")
        inner = F.gelu(linear(layer_norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1"))
        x = x + linear(inner, f"blocks.{i}.mlp.fc2")
    x = layer_norm(x, "norm")

    def head(x):
        return linear(layer_norm(x, "outputlayer.0", 1e-5), "outputlayer.1")

    return head(x.mean(0)), head(x.view(4, steps, -1).mean(0))


@torch.no_grad()
@pytest.mark.parametrize("frames", [16, 31, 500, 1001, 1012])
def test_same_as_the_published_model_up_to_1012_frames(tagger, frames):
    features = spectrogram(frames)
    clip, steps = published(published_state(tagger), features, heads=2)
    output = tagger(features[None])
    assert torch.allclose(output.logits[0], clip, atol=2e-5)
    assert torch.allclose(output.frame_logits[0], steps, atol=2e-5)
    assert output.frame_logits.shape == (1, frames // 16, len(LABELS))


@torch.no_grad()
def test_a_clip_does_not_depend_on_its_batch(tagger):
    lengths = [1001, 16, 5, 160, 2500, 1008, 3000, 1012, 1024]
    clips = [spectrogram(n, seed) for seed, n in enumerate(lengths)]
    alone = [tagger(clip[None]) for clip in clips]
    for order in ([0, 1, 2, 3, 5, 7], list(range(9)), [6, 4], [1, 3], [8, 0]):
        longest = max(lengths[i] for i in order)
        batch = torch.full((len(order), 64, longest), 77.0)  # padding is not to be heard
        mask = torch.zeros(len(order), longest, dtype=torch.long)
        for row, i in enumerate(order):
            batch[row, :, : lengths[i]], mask[row, : lengths[i]] = clips[i], 1
        output = tagger(batch, attention_mask=mask)
        for row, i in enumerate(order):
            steps = max(1, lengths[i] // 16)
            assert output.frame_mask[row].sum() == steps
            assert torch.allclose(output.logits[row], alone[i].logits[0], atol=1e-5)
            assert torch.allclose(output.pooler_output[row], alone[i].pooler_output[0], atol=1e-5)
            own = output.frame_logits[row, :steps]
            assert torch.allclose(own, alone[i].frame_logits[0], atol=1e-5)


@torch.no_grad()
def test_exact_multiple_of_the_longest_piece_loses_no_piece(tagger):
    """2 x 1012 frames gave what the first 1012 alone give."""
    features = spectrogram(2024)
    whole, first = tagger(features[None]), tagger(features[None, :, :1012])
    second = tagger(features[None, :, 1008:2016])
    mean = (first.logits.sigmoid() * 63 + second.logits.sigmoid() * 63) / 126
    assert torch.allclose(whole.logits.sigmoid(), mean, atol=1e-6)
    assert (whole.logits - first.logits).abs().max() > 0.01
    assert whole.frame_logits.shape[1] == 126


@torch.no_grad()
def test_a_short_tail_has_the_weight_of_its_length(tagger):
    """A tail of 2 frames was half of the result."""
    features = spectrogram(1100)
    ten_seconds = tagger(features[None, :, :1012]).logits
    assert_same_but_rounding(tagger(features[None, :, :1014]).logits, ten_seconds)
    one_step_more = tagger(features[None, :, :1024])
    tail = tagger(features[None, :, 16:1024]).frame_logits  # the piece moved back to be whole
    assert torch.allclose(one_step_more.frame_logits[0, 63], tail[0, -1], atol=1e-5)
    expected = (63 * ten_seconds.sigmoid() + one_step_more.frame_logits[:, 63].sigmoid()) / 64
    assert torch.allclose(one_step_more.logits.sigmoid(), expected, atol=1e-6)


@torch.no_grad()
def test_long_clips_average_probabilities_not_logits(tagger):
    features = torch.cat([spectrogram(1008, 1), spectrogram(1008, 2)], 1)[None]
    a, b = tagger(features[..., :1008]).logits, tagger(features[..., 1008:]).logits
    got = tagger(features).logits
    assert torch.allclose(got.sigmoid(), (a.sigmoid() + b.sigmoid()) / 2, atol=1e-6)
    assert (got - (a + b) / 2).abs().max() > 1e-3


@torch.no_grad()
def test_pieces_of_long_clips_in_a_batch_are_not_mixed_up(tagger):
    """The port on the Hub folds (pieces, clips) as if it were (clips, pieces)."""
    clips = torch.stack([spectrogram(3024, seed) for seed in range(3)])
    together = tagger(clips).logits
    for index, clip in enumerate(clips):
        assert torch.allclose(together[index], tagger(clip[None]).logits[0], atol=1e-5)


@torch.no_grad()
def test_hours_are_done_some_pieces_at_a_time(tagger, monkeypatch):
    features = spectrogram(5000)[None]
    expected = tagger(features)
    monkeypatch.setattr(module, "_PIECES_AT_ONCE", 2)
    output = tagger(features)
    assert torch.allclose(output.logits, expected.logits, atol=1e-5)
    assert torch.allclose(output.frame_logits, expected.frame_logits, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_long_clips_keep_the_models_dtype(dtype):
    """Padding of a default dtype made pieces of half a model's and half another."""
    model = make_tagger().to(dtype)
    output = model(spectrogram(1100)[None])
    assert output.logits.dtype == output.frame_logits.dtype == dtype


def test_long_clips_can_be_trained_on():
    model = make_tagger().train()
    batch = torch.stack([spectrogram(1300, seed) for seed in range(2)])
    mask = torch.ones(2, 1300)
    mask[1, 200:] = 0
    output = model(batch, mask, labels=torch.rand(2, 5))
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_normalisation_in_training_does_not_count_padding():
    model, clip = make_tagger(), spectrogram(400)
    short = F.pad(clip[:, :200], (0, 200), value=1000.0)
    mask = torch.ones(2, 400)
    mask[1, 200:] = 0
    model.train()
    model(torch.stack([clip, short]), mask)
    rows = torch.cat([clip, clip[:, :200]], 1)
    expected = make_tagger().init_bn.running_mean * 0.99 + 0.01 * rows.mean(1)
    assert torch.allclose(model.init_bn.running_mean, expected, atol=1e-4)


def test_loss_is_of_raw_logits_and_many_labels(tagger):
    """The port on the Hub gives probabilities as logits, and learns one label a clip."""
    features, labels = spectrogram(300)[None], torch.tensor([[1.0, 0, 1, 0, 0.3]])
    output = tagger(features, labels=labels)
    expected = F.binary_cross_entropy_with_logits(output.logits, labels)
    assert_same_but_rounding(output.loss, expected)
    assert output.logits.min() < 0
    with pytest.raises(ValueError, match="for each clip and class"):
        tagger(features, labels=torch.tensor([1]))


def test_one_label_a_clip_is_an_option():
    model = make_tagger()
    model.config.problem_type = "single_label_classification"
    output = model(spectrogram(2100)[None], labels=torch.tensor([2]))
    assert torch.allclose(output.loss, F.cross_entropy(output.logits, torch.tensor([2])))
    assert torch.allclose(output.logits.exp().sum(), torch.tensor(1.0), atol=1e-5)


def test_dropout_and_drop_path_are_only_of_training():
    model = make_tagger(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
                        drop_path_rate=0.5)
    features = spectrogram(200)[None]
    assert_same_but_rounding(model(features).logits, make_tagger()(features).logits)
    model.train()
    model.init_bn.eval()
    assert (model(features).logits - model(features).logits).abs().max() > 0.01


def test_gradient_checkpointing_changes_nothing():
    gradients = []
    for checkpointing in (False, True):
        model = make_tagger().train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(spectrogram(300)[None], labels=torch.ones(1, 5)).loss.backward()
        gradients.append(model.encoder.blocks[0].mlp.fc1.weight.grad)
    assert torch.allclose(*gradients, atol=1e-6)


def test_tuples_for_those_who_want_them(tagger):
    assert isinstance(tagger(spectrogram(64)[None], return_dict=False), tuple)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("huge", ["a"]), "tiny, mini, small, base; got 'huge'"),
        (("tiny", ["a", "a"]), "different names"),
        (("tiny", []), "one or more"),
    ],
)
def test_new_model_refuses(arguments, says):
    with pytest.raises(ValueError, match=says):
        new_model(*arguments)


def test_unknown_keys_and_shapes_are_named(tagger):
    with pytest.raises(ValueError, match="unknown keys of the model: layers"):
        new_model("tiny", ["a"], layers=3)
    with pytest.raises(ValueError, match="multiple of num_attention_heads"):
        new_model("tiny", ["a"], hidden_size=65)
    with pytest.raises(ValueError, match=r"\(batch, 64, frames\), got \(1, 100, 64\)"):
        tagger(torch.zeros(1, 100, 64))
    with pytest.raises(ValueError, match="attention_mask"):
        tagger(torch.zeros(1, 64, 100), torch.ones(1, 99))


def test_patches_are_dropped_in_training_alone_and_their_mean_is_that_of_the_kept():
    """Without blocks a token depends on nothing else, so the mean over many draws is the mean."""
    torch.manual_seed(0)
    model = new_model("tiny", ["a", "b"], hidden_size=64, num_attention_heads=1,
                      num_hidden_layers=0, patch_drop_rate=0.5).encoder
    features = torch.randn(2, 64, 16 * 10)
    mask = torch.ones(2, 160)
    mask[1, 16 * 4 :] = 0
    features[1, :, 16 * 4 :] = 0
    for given in (None, mask):
        model.eval()
        with torch.no_grad():
            whole = model(features, given)
            assert_same_but_rounding(model(features, given).pooler_output, whole.pooler_output)
            model.train()
            model.init_bn.eval()
            draws = [model(features, given) for _ in range(400)]
        mean = torch.stack([each.pooler_output for each in draws]).mean(0)
        assert (draws[0].pooler_output - draws[1].pooler_output).abs().max() > 0.01
        torch.testing.assert_close(mean, whole.pooler_output, atol=0.06, rtol=0)
        if given is not None:
            assert (draws[0].last_hidden_state[1, 4:] == 0).all()
