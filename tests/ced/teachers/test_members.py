"""Teachers of every kind: our models, others of transformers, ONNX files."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from distill.ced.model.extractor import CedFeatureExtractor
from distill.ced.model.frontend import log_mel
from distill.ced.recipe_sections import MemberConfig, TeacherConfig
from distill.ced.teachers.ensemble import Ensemble
from distill.ced.teachers.members import content_of, load_member, read_labels
from tests.ced.conftest import LABELS, make_tagger, wave

WAVES = [wave(1.0), wave(0.4), wave(1.0, gain=0.1)]
FEATURES = [log_mel(torch.from_numpy(each)) for each in WAVES]


@pytest.fixture(scope="module")
def tagger_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagger")
    make_tagger().save_pretrained(folder)
    CedFeatureExtractor().save_pretrained(folder)
    return folder


def test_our_models_see_the_features(tagger_folder):
    """Masked ones, which no wave could tell them."""
    member = load_member(MemberConfig(str(tagger_folder)))
    assert member.takes_features and member.classes == LABELS
    masked = [each.clone() for each in FEATURES]
    masked[0][10:20] = 0
    said = member(WAVES, masked)
    model = make_tagger()
    with torch.no_grad():
        alone = [model(each[None]).logits.sigmoid()[0].numpy() for each in masked]
    assert np.allclose(said, alone, atol=1e-6)
    assert not np.allclose(said[0], member(WAVES, FEATURES)[0], atol=1e-4)
    assert member.num_parameters == sum(p.numel() for p in model.parameters())


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory):
    """A tiny classifier of another family, which hears 8 kHz."""
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForSequenceClassification,
    )

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wav2vec2")
    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8), conv_stride=(5, 4), conv_kernel=(10, 8), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, classifier_proj_size=8,
        id2label={0: "cat", 1: "dog", 2: "bell"}, label2id={"cat": 0, "dog": 1, "bell": 2},
    )
    Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=8_000).save_pretrained(folder)
    return folder


def test_another_model_hears_waves_at_its_own_rate(wav2vec2):
    import soxr
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    member = load_member(MemberConfig(str(wav2vec2), activation="softmax"))
    assert not member.takes_features and member.classes == ["cat", "dog", "bell"]
    said = member(WAVES, FEATURES)
    model = AutoModelForAudioClassification.from_pretrained(wav2vec2).eval()
    extractor = AutoFeatureExtractor.from_pretrained(wav2vec2)
    for each, row in zip(WAVES, said, strict=True):
        inputs = extractor(soxr.resample(each, 16_000, 8_000), sampling_rate=8_000,
                           return_tensors="pt")
        with torch.no_grad():
            assert np.allclose(model(**inputs).logits.softmax(-1)[0], row, atol=1e-6)
    opinion = Ensemble(
        TeacherConfig([MemberConfig(str(wav2vec2), activation="softmax")]), ["bell", "dog"]
    )(WAVES, FEATURES)
    assert np.allclose(opinion.probabilities, said[:, [2, 1]])


def test_a_model_that_does_not_say_what_its_outputs_are(wav2vec2):
    with pytest.raises(ValueError, match="problem_type is None.*activation: sigmoid for a tagger"):
        load_member(MemberConfig(str(wav2vec2)))


def write_onnx(folder, shape: list, sigmoid: bool = True, labels=("bell", "cat, big")):
    """A file that weighs the mean of its input."""
    weights = np.linspace(-1, 1, 2 * (shape[1] if len(shape) == 3 else 1)).reshape(-1, 2)
    nodes = [helper.make_node("ReduceMean", ["x"], ["mean"], axes=[-1], keepdims=0)]
    if len(shape) == 2:
        nodes += [helper.make_node("Unsqueeze", ["mean", "axis"], ["row"])]
    mean = "row" if len(shape) == 2 else "mean"
    nodes += [helper.make_node("MatMul", [mean, "w"], ["z" if sigmoid else "y"])]
    nodes += [helper.make_node("Sigmoid", ["z"], ["y"])] if sigmoid else []
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(weights.astype(np.float32), "w"),
         numpy_helper.from_array(np.array([1], np.int64), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    if labels:
        lines = [f'{n},/m/{n},"{name}"' for n, name in enumerate(labels)]
        (folder / "class_labels_indices.csv").write_text(
            "index,mid,display_name\n" + "\n".join(lines) + "\n")
    return MemberConfig(str(folder / "model.onnx")), weights


def test_an_onnx_file_of_features(tmp_path):
    config, weights = write_onnx(tmp_path / "m", ["n", 64, "t"])
    member = load_member(config)
    assert member.takes_features and member.classes == ["bell", "cat, big"]
    expected = [1 / (1 + np.exp(-each.mean(1).numpy() @ weights)) for each in FEATURES]
    assert np.allclose(member(WAVES, FEATURES), expected, atol=1e-5)


def test_an_onnx_file_of_waves_that_gives_logits(tmp_path):
    config, weights = write_onnx(tmp_path / "m", ["n", "samples"], sigmoid=False)
    config.activation = "sigmoid"
    member = load_member(config)
    assert not member.takes_features
    expected = [1 / (1 + np.exp(-each.mean() * weights[0])) for each in WAVES]
    assert np.allclose(member(WAVES, FEATURES), expected, atol=1e-6)


def test_an_onnx_file_without_names(tmp_path):
    config, _ = write_onnx(tmp_path / "m", ["n", 64, "t"], labels=())
    with pytest.raises(ValueError, match="does not name its classes"):
        Ensemble(TeacherConfig([config]), ["bell"])


def test_labels_that_do_not_count_from_0(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("index,mid,display_name\n1,/m/1,bell\n")
    with pytest.raises(ValueError, match="indices that count from 0"):
        read_labels(path)


def test_members_of_different_front_ends_are_one_teacher(tagger_folder, wav2vec2, tmp_path):
    config, _ = write_onnx(tmp_path / "m", ["n", 64, "t"])
    members = [MemberConfig(str(tagger_folder)), MemberConfig(str(wav2vec2), activation="softmax"),
               config]
    opinion = Ensemble(TeacherConfig(members), ["bell", "cat", "rain"])(WAVES, FEATURES)
    known = ~np.isnan(opinion.members).any(axis=1)
    assert known.tolist() == [[True, False, True], [True, True, False], [True, False, False]]
    assert np.allclose(opinion.probabilities[:, 0], opinion.members[:, :, 0].mean(axis=0))


def test_a_models_content_is_that_of_its_files(tagger_folder, tmp_path):
    import shutil

    before = content_of(MemberConfig(str(tagger_folder)))
    copy = shutil.copytree(tagger_folder, tmp_path / "moved")
    assert content_of(MemberConfig(str(copy))) == before
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert content_of(MemberConfig(str(copy))) != before


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
def test_teachers_use_the_products_that_students_do(tagger_folder, monkeypatch):
    """Else times of both would not be of the same arithmetic."""
    from distill.ced.data.view_source import pad_features
    from distill.ced.evaluation import student_probabilities
    from distill.losses import matmul as products

    calls, linear = [], products._linear
    monkeypatch.setattr(products, "_linear", lambda *args: calls.append(1) or linear(*args))
    load_member(MemberConfig(str(tagger_folder)))(WAVES, FEATURES)
    of_teacher, calls[:] = len(calls), []
    student_probabilities(make_tagger(), pad_features(FEATURES))
    assert of_teacher == len(calls) == 2 * 4 + 2


def test_the_names_beside_an_onnx_file_are_part_of_it(tmp_path):
    """Names in another order make another teacher of the same file."""
    (tmp_path / "a.onnx").write_bytes(b"weights")
    found = []
    for names in (None, "cat,dog", "dog,cat"):
        if names:
            (tmp_path / "class_labels_indices.csv").write_text(names)
        found.append(content_of(MemberConfig(str(tmp_path / "a.onnx"))))
    assert len(set(found)) == 3
