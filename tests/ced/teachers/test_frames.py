"""What teachers say of every 0.4 s: asked for, kept, learned from."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import distill.train
from distill.ced.model.frontend import log_mel
from distill.ced.model.modeling import CedForAudioClassification, new_model
from distill.ced.recipe_sections import MemberConfig, TeacherConfig
from distill.ced.tag_loss import step_means
from distill.ced.task import CedTask
from distill.ced.teachers.ensemble import Ensemble
from distill.ced.teachers.frames import num_steps, overlaps, to_steps
from distill.ced.teachers.scores import decode_frames
from distill.config import ConfigError
from distill.data.files import read_jsonl
from pseudo_label import tag_scores
from tests.ced.conftest import wave

CLASSES = ["bell", "cat", "dog"]
SHAPE = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def teller(tmp_path_factory):
    """A folder with a tagger that says when it hears something."""
    from distill.ced.model.extractor import CedFeatureExtractor

    folder = tmp_path_factory.mktemp("teller")
    torch.manual_seed(0)
    model = new_model("tiny", CLASSES, **SHAPE)
    with torch.no_grad():
        model.init_bn.running_var.fill_(400.0)
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    CedFeatureExtractor().save_pretrained(folder)
    return folder


def ask(folder, waves, *others, classes=CLASSES):
    members = [MemberConfig(str(folder), weight=3.0), *others]
    features = [log_mel(torch.from_numpy(each)) for each in waves]
    return Ensemble(TeacherConfig(members), classes)(waves, features, frames=True)


def test_frames_become_steps_that_keep_their_time():
    assert num_steps(64_000) == 10 and num_steps(16_000) == 3 and num_steps(2_400) == 1
    for count, seconds, steps in ((25, 0.16, 10), (6, 0.16, 3), (10, 0.4, 10), (1, 0.16, 1)):
        weights = overlaps(count, seconds, steps)
        assert weights.shape == (steps, count) and (weights.sum(1) > 0).all()
        assert np.allclose(to_steps(np.ones((count, 2)), seconds, steps), 1)
    frames = np.zeros((25, 1))
    frames[5] = 1.0  # 0.80 to 0.96 s
    assert np.allclose(to_steps(frames, 0.16, 10)[:, 0], [0, 0, 0.4, *[0] * 7], atol=1e-6)
    frames[2], frames[5] = 1.0, 0.0  # 0.32 to 0.48 s: half in each
    assert np.allclose(to_steps(frames, 0.16, 10)[:2, 0], [0.2, 0.2])
    assert to_steps(np.array([[0.1], [0.7]]), 0.4, 3).ravel().tolist() == [0.1, 0.7, 0.7]
    hidden = torch.randn(2, 25, 4)
    mask = torch.arange(25) < torch.tensor([[6], [25]])
    means = step_means(hidden, mask, 0.16, 10)
    third = (hidden[1, 5:7].sum(0) + 0.5 * hidden[1, 7]) / 2.5  # 0.80 to 1.20 s
    assert torch.allclose(means[1, 2], third, atol=1e-6)
    assert torch.allclose(means[0, 2], hidden[0, 5], atol=1e-6) and not means[0, 3:].any()


def test_a_teller_is_asked_once_and_says_the_same_in_company(teller):
    waves = [wave(2.0), wave(1.3, seed=1), wave(0.3, seed=2)]
    opinion = ask(teller, waves)
    assert [each.shape for each in opinion.frames] == [(5, 3), (3, 3), (1, 3)]
    model = CedForAudioClassification.from_pretrained(teller).eval()
    for one, told, said in zip(waves, opinion.frames, opinion.probabilities, strict=True):
        with torch.no_grad():
            output = model(log_mel(torch.from_numpy(one))[None])
        frames = output.frame_logits[0].double().sigmoid().numpy()
        assert np.allclose(told, to_steps(frames, 0.16, len(told)), atol=1e-5)
        assert np.allclose(said, output.logits[0].double().sigmoid(), atol=1e-5)


def test_whisper_tells_too(teller, tiny_model, tmp_path):
    from distill.whisper_at.model import WhisperTaggerExtractor, from_whisper

    torch.manual_seed(0)
    other = from_whisper(tiny_model, ["dog", "bell"])
    other.save_pretrained(tmp_path)
    extractor = WhisperTaggerExtractor(feature_size=other.config.num_mel_bins)
    extractor.save_pretrained(tmp_path)
    waves = [wave(2.0), wave(1.3, seed=1)]
    alone, both = ask(teller, waves), ask(teller, waves, MemberConfig(str(tmp_path)))
    with torch.no_grad():
        frames = other.eval()(**extractor(waves[0], sampling_rate=16_000, return_tensors="pt")
                              ).frame_logits[0].double().sigmoid().numpy()
    assert len(frames) == 5
    assert np.allclose(both.frames[0][:, 0], (3 * alone.frames[0][:, 0] + frames[:, 1]) / 4,
                       atol=1e-5)
    assert np.allclose(both.frames[0][:, 1], alone.frames[0][:, 1])  # it knows no cat


def test_who_cannot_tell(teller, toys):
    waves = [wave(1.0)]
    opinion = ask(teller, waves, MemberConfig("toy_teachers:Half"), classes=[*CLASSES, "zebra"])
    assert np.allclose(opinion.frames[0][:, 3], 0.9)  # known to one that does not say when
    assert np.allclose(opinion.frames[0][:, :3], ask(teller, waves).frames[0])
    nobody = Ensemble(TeacherConfig([MemberConfig("toy_teachers:loud")]), CLASSES)
    with pytest.raises(ValueError, match="none of the teachers says when"):
        nobody(waves, [None], frames=True)


@pytest.mark.parametrize("overrides", [
    ("loss.frame_weight=1",), ("loss.frame_weight=-1", "scores.frames=true"),
    ("scores.frames=true", "teacher.mode=live"),
    ("scores.frames=true", "loss.frame_weight=1", "teacher.consistent=false"),
])
def test_settings_that_mean_nothing_are_refused(tags, overrides):
    with pytest.raises(ConfigError, match=r"loss\.frame_weight|scores\.frames"):
        tags.recipe(*overrides)


@pytest.fixture(scope="module")
def scored(tags, teller) -> list[str]:
    """Overrides of a student that learns from a store with frames."""
    told = [f"scores.dir={tags.folder / 'frames'}", "scores.frames=true", "loss.frame_weight=0.5",
            f"teacher.members=[{{model: {teller}}}, {{model: 'toy_teachers:loud'}}]"]
    tag_scores.main(tags.arguments(*told))
    return told


def test_the_store_keeps_what_was_said(tags, scored, teller):
    AcceleratorState._reset_state(reset_partial_state=True)
    task = CedTask(tags.recipe(*scored), Accelerator(cpu=True))
    places = [(2, 1), (6, 0)]
    batch = task.collate(places)
    assert batch["frame_counts"].tolist() == [
        num_steps(task.source.clips[index].length) for index, _ in places]
    for number, (index, epoch) in enumerate(places):
        sound = task.source.wave(index, task.source.scored_view(index, epoch))
        view = task.source.scored_view(index, epoch)
        said = Ensemble(task.recipe.teacher, CLASSES)(
            [sound], [task.source.features(sound, view)], frames=True).frames[0]
        kept = batch["frame_targets"][number, : len(said)].numpy()
        assert np.abs(kept - said).max() < 0.009
    columns = task.recorded(places)[1]
    assert decode_frames(columns, 3).shape == (2, num_steps(16_000), 3)


def test_the_loss_is_a_mean_over_the_steps_of_each_clip(tags, scored):
    AcceleratorState._reset_state(reset_partial_state=True)
    task = CedTask(tags.recipe(*scored), Accelerator(cpu=True))
    whole = task.collate([(2, 1), (6, 0), (0, 0)])
    total, parts = task.model(whole)
    expected = 0.0
    for place in ((2, 1), (6, 0), (0, 0)):
        batch = task.collate([place])
        output = task.student(batch["input_values"], batch["attention_mask"])
        count = int(batch["frame_counts"])
        hidden = step_means(output.last_hidden_state, output.frame_mask, 0.16, count)
        expected += F.binary_cross_entropy_with_logits(
            task.model.frame_head(hidden[0]), batch["frame_targets"][0, :count])
    assert parts["frame_bce"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert total.item() == pytest.approx((parts["soft_bce"] + 0.5 * parts["frame_bce"]).item())


def test_live_teachers_tell_the_same(tags, scored):
    parts = []
    for mode in ((), ("teacher.mode=live", "scores.frames=false")):
        AcceleratorState._reset_state(reset_partial_state=True)
        task = CedTask(tags.recipe(*scored, *mode), Accelerator(cpu=True))
        torch.manual_seed(1)
        for parameter in task.model.frame_head.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        parts.append(task.model(task.collate([(2, 1), (6, 0), (0, 0)]))[1])
    for name in ("soft_bce", "frame_bce"):
        assert parts[1][name].item() == pytest.approx(parts[0][name].item(), rel=3e-3), name


def train(tags, run, *overrides):
    AcceleratorState._reset_state(reset_partial_state=True)
    distill.train.main([*tags.arguments(*overrides), f"output_dir={run}"])
    return load_file(run / "student" / "model.safetensors")


def test_training_learns_from_them_and_leaves_the_head_behind(tags, scored, tmp_path):
    dropped = "student.config={hidden_size: 32, num_attention_heads: 2, num_hidden_layers: 1, " \
        "patch_drop_rate: 0.8}"
    one = train(tags, tmp_path / "1x8", *scored)
    four = train(tags, tmp_path / "4x2", *scored, "train.micro_batch_size=2")
    none = train(tags, tmp_path / "none", *scored, "loss.frame_weight=0")
    assert one.keys() == none.keys() and not any("frame_head" in name for name in one)
    assert max((one[n] - four[n]).abs().max() for n in one) < 5e-6
    assert max((one[n] - none[n]).abs().max() for n in one) > 1e-4
    train(tags, tmp_path / "dropped", *scored, dropped)
    rows = [row for row in read_jsonl(tmp_path / "dropped" / "metrics.jsonl")
            if row["split"] == "train"]
    assert all(np.isfinite(row["frame_bce"]) and row["frame_bce"] > 0 for row in rows)
