"""Other classes than the tagger's: groups, thresholds, F1, and a smaller tagger."""

import json

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoModelForAudioClassification

from distill.ced.model.extractor import CedFeatureExtractor
from distill.ced.recipe_sections import MemberConfig
from distill.ced.teachers.ensemble import ClassMap
from distill.ced.teachers.label_sets import LabelSet, label_set_text, read_label_set
from distill.ced.teachers.members import load_member
from distill.data.manifest import Row, recordings_of, write_manifest
from distill.metrics.thresholds import NEVER, at_precision, f1_of
from eval.label_set import main
from eval.tag import main as tag
from tests.ced.conftest import make_tagger
from tests.eval.tagging.test_tag import TOY, write

CLASSES = ["Dog", "Bark", "Siren"]
SCORES = np.array([[0.5, 0.4, 0.1], [0.2, 0.1, 0.9]])


def test_groups_are_combined():
    by_maximum = LabelSet({"dog": ["Dog", "Bark"], "alarm": ["Siren"]})
    np.testing.assert_allclose(by_maximum(SCORES, CLASSES), [[0.5, 0.1], [0.2, 0.9]])
    noisy = LabelSet(by_maximum.groups, "noisy_or")
    np.testing.assert_allclose(noisy(SCORES, CLASSES), [[1 - 0.5 * 0.6, 0.1], [1 - 0.8 * 0.9, 0.9]])
    assert by_maximum.targets(["Bark"]) == [True, False]
    assert by_maximum.targets(["alarm"]) == [False, True], "our own names count, too"


def test_what_the_tagger_does_not_have_is_named():
    with pytest.raises(ValueError, match="class 'dog': the tagger has no class 'Dogs'; did you"):
        LabelSet({"dog": ["Dogs"]})(SCORES, CLASSES)


def test_a_file_there_and_back(tmp_path):
    path = tmp_path / "home.yaml"
    path.write_text("combine: noisy_or\nclasses:\n  dog: [Dog, Bark]\n  alarm: Siren\n"
                    "thresholds: {dog: 0.25}\n")
    found = read_label_set(path)
    assert found == LabelSet({"dog": ["Dog", "Bark"], "alarm": ["Siren"]}, "noisy_or",
                             {"dog": 0.25})
    path.write_text(label_set_text(found))
    assert read_label_set(path) == found


@pytest.mark.parametrize("text, message", [
    ("classes: [a, b]", "expected `classes:` with a line"),
    ("classes: {a: []}", "class 'a' needs a name"),
    ("classes: {a: 3}", "class 'a' needs a name"),
    ("classes: {a: b}\ncombine: mean", "combine must be maximum or noisy_or, got 'mean'"),
    ("classes: {a: b}\nthreshold: {a: 1}", "unknown key 'threshold'"),
    ("classes: {a: b}\nthresholds: {c: 0.5}", "'c', which is none of its classes"),
    ("classes: {a: b}\nthresholds: {a: 2}", "must be 0 to 1, got 2"),
    ("classes: {a: b", "not valid YAML"),
])
def test_what_is_no_label_set(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_label_set(path)


def test_thresholds_for_a_precision():
    scores = np.array([[0.9, 0.9], [0.8, 0.8], [0.7, 0.7], [0.6, 0.1], [0.5, 0.1]])
    targets = np.array([[1, 0], [1, 0], [0, 0], [1, 0], [0, 0]])
    np.testing.assert_allclose(at_precision(scores, targets, 1.0, 0.5), [0.75, NEVER])
    np.testing.assert_allclose(at_precision(scores, targets, 0.75, 0.5), [0.55, NEVER])
    np.testing.assert_allclose(at_precision(scores, targets, 0.6, 0.5), [0.25, NEVER])
    tied = np.array([[0.5], [0.5], [0.2]])
    np.testing.assert_allclose(at_precision(tied, np.array([[1], [0], [0]]), 0.6, 0.5), [NEVER])
    many = np.linspace(1, 0, 40)[:, None]  # the first one is right, then half of them
    np.testing.assert_allclose(at_precision(many, np.arange(40)[:, None] % 2 == 0, 0.9, 0.5),
                               [NEVER])
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        at_precision(scores, targets, 0)
    with pytest.raises(ValueError, match="no number of clips"):
        at_precision(scores, targets, 1.0)


def test_a_threshold_holds_for_clips_that_nobody_looked_at():
    rng = np.random.default_rng(0)

    def clips(number: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
        targets = rng.random((number, classes)) < 0.25
        return 1 / (1 + np.exp(1.5 - 2.2 * targets - rng.normal(0, 1.2, targets.shape))), targets

    scores, targets = clips(20_000, 1)
    trials = clips(200, 200)  # each column is the validation split of another trial

    def share_that_holds(confidence: float) -> float:
        found = at_precision(*trials, 0.8, confidence)
        return float(np.mean([targets[scores >= each].mean() >= 0.8 for each in found
                              if each < NEVER]))

    assert share_that_holds(0.5) < 0.6, "the lowest of many that are good enough by chance"
    assert share_that_holds(0.9) > 0.8


def test_few_clips_prove_little():
    scores = np.linspace(0.9, 0.1, 9)[:, None]
    for right, is_used in ((6, False), (7, True)):
        targets = np.arange(9)[:, None] < right
        assert (at_precision(scores, targets, 0.8)[0] < NEVER) == is_used


def test_scenes_of_few_recordings_prove_as_little_as_these():
    """40 scenes are right and none is wrong: of 20 recordings that is much, of two nothing."""
    scores, targets = np.linspace(0.9, 0.1, 60)[:, None], np.arange(60)[:, None] < 40

    def is_used(count: int, confidence: float = 0.9) -> bool:
        names = [[{f"r{clip % count}"} if clip < 40 else set() for clip in range(60)]]
        return at_precision(scores, targets, 0.8, confidence, names)[0] < NEVER

    assert is_used(20) and not is_used(2)
    assert is_used(2, 0.5), "without confidence nothing has to be proven"
    plain = at_precision(scores, targets, 0.8)
    own = [[set()] * 60]  # rows that name none
    np.testing.assert_array_equal(at_precision(scores, targets, 0.8, 0.9, own), plain)


def test_what_rows_say_of_their_recordings():
    rows = [Row("a", "a.wav", 1.0, labels=["dog"], recordings={"dog": ["d1"], "cat": ["c1"]}),
            Row("b", "b.wav", 1.0, labels=["bark"], recordings={"bark": ["d2", "d3"]}),
            Row("c", "c.wav", 1.0, labels=["dog"])]
    found = recordings_of(rows, [["dog", "bark"], ["cat"]])
    assert found == [[{"d1"}, {"d2", "d3"}, set()], [{"c1"}, set(), set()]]
    assert recordings_of(rows[2:], [["dog"]]) == []


def test_f1_against_sklearns_definition():
    rng = np.random.default_rng(0)
    targets = (rng.random((200, 2)) < 0.3).astype(int)
    scores = np.clip(0.5 * targets + 0.6 * rng.random((200, 2)), 0, 1)
    found = f1_of(scores, targets, np.array([0.5, NEVER]), ["a", "b"], 200, 0)
    heard = scores[:, 0] >= 0.5
    hits = (heard & (targets[:, 0] > 0)).sum()
    precision, recall = hits / heard.sum(), hits / targets[:, 0].sum()
    assert found["a"]["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    low, high = found["a"]["f1_ci"]
    assert low < found["a"]["f1"] < high and high - low < 0.3
    assert found["b"]["threshold"] is None and found["b"]["precision"] is None
    assert found["b"]["f1"] == 0.0


def test_the_command_and_tags_by_it(tmp_path, capsys):
    rows = []
    for number, gain in enumerate((0.05, 0.1, 0.45, 0.5)):
        write(tmp_path / f"{number}.wav", 2.0, gain)
        rows.append(Row(str(number), f"{number}.wav", 2.0,
                        labels=["loud" if gain > 0.2 else "quiet"]))
    write_manifest(tmp_path / "rows.jsonl", rows)
    labels = tmp_path / "set.yaml"
    labels.write_text("classes: {noise: [loud], calm: [quiet]}")
    chosen = tmp_path / "chosen.yaml"
    for mine in (labels, tmp_path / "new.json"):
        with pytest.raises(ValueError, match="another file than .*set.yaml, and not .json"):
            main([str(labels), "--model", TOY, "--validation", str(tmp_path / "rows.jsonl"),
                  "--test", str(tmp_path / "rows.jsonl"), "--output", str(mine)])
    assert main([str(labels), "--model", TOY, "--validation", str(tmp_path / "rows.jsonl"),
                 "--test", str(tmp_path / "rows.jsonl"), "--precision", "1", "--confidence", "0.5",
                 "--output", str(chosen), "--num-bootstrap", "20"]) == 0
    said = capsys.readouterr().out
    assert "Test split, 4 recordings: mAP 100.0 %" in said and "never" not in said
    thresholds = read_label_set(chosen).thresholds
    assert 0.2 < thresholds["noise"] < 0.9
    result = json.loads(chosen.with_suffix(".json").read_text())
    assert result["test"]["classes"]["noise"]["f1"] == 1.0
    tag([str(tmp_path / "0.wav"), str(tmp_path / "3.wav"), "--model", TOY, "--classes",
         str(chosen)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("0.wav: calm 0.90") and lines[1].endswith("3.wav: noise 1.00")
    labels.write_text("classes: {noise: [load]}")
    with pytest.raises(ValueError, match="no class 'load'; did you mean 'loud'"):
        tag([str(tmp_path / "0.wav"), "--model", TOY, "--classes", str(labels)])


def test_a_smaller_tagger_says_the_same(tmp_path, capsys):
    make_tagger().save_pretrained(tmp_path / "big")
    CedFeatureExtractor().save_pretrained(tmp_path / "big")
    big = load_member(MemberConfig(str(tmp_path / "big")))
    soundfile.write(tmp_path / "x.wav", np.random.default_rng(0).normal(0, 0.1, 32_000), 16_000)
    write_manifest(tmp_path / "rows.jsonl", [Row("x", "x.wav", 2.0, labels=[big.classes[1]])])
    labels = tmp_path / "set.yaml"
    labels.write_text(json.dumps({"classes": {"ours": [big.classes[1]]}}))
    arguments = [str(labels), "--model", str(tmp_path / "big"), "--validation",
                 str(tmp_path / "rows.jsonl"), "--num-bootstrap", "5", "--small",
                 str(tmp_path / "small")]
    main(arguments)
    assert f"with 1 of {len(big.classes)} outputs" in capsys.readouterr().out
    small = AutoModelForAudioClassification.from_pretrained(tmp_path / "small").eval()
    features = torch.randn(1, 64, 200)
    with torch.no_grad():
        torch.testing.assert_close(small(features).logits, big.model(features).logits[:, 1:2])
    with pytest.raises(ValueError, match="is there already"):
        main(arguments)


def test_a_teachers_classes_by_a_label_set(tmp_path):
    path = tmp_path / "set.yaml"
    path.write_text("combine: noisy_or\nclasses: {dog: [Dog, Bark]}")
    found = ClassMap(MemberConfig("x", classes=str(path)), CLASSES, ["dog", "cat"])(SCORES)
    np.testing.assert_allclose(found[:, 0], [0.7, 1 - 0.8 * 0.9])
    assert np.isnan(found[:, 1]).all(), "what it does not know, others decide"
