"""Members with classes of their own become one opinion."""

import json

import numpy as np
import pytest

from distill.ced.recipe_sections import MemberConfig, TeacherConfig
from distill.ced.teachers.ensemble import Ensemble, ensemble_settings, first_classes

CLASSES = ["bell", "cat", "dog"]
WAVES = [np.full(4000, 0.05, np.float32), np.full(3000, 0.08, np.float32)]
LOUD = np.array([0.5, 0.8])[:, None] ** np.arange(1, 4)
HALF = np.array([0.8, 0.4, 0.2])


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))


def member(name, **given):
    return MemberConfig(f"toy_teachers:{name}", **given)


def ask(*members, average="probability", classes=CLASSES):
    return Ensemble(TeacherConfig(list(members), average), classes)(WAVES, [None, None])


def test_one_member_is_its_own_opinion():
    opinion = ask(member("loud"))
    assert np.allclose(opinion.probabilities, LOUD) and not opinion.disagreement.any()


def test_members_are_averaged_by_probability_and_classes_go_by_name():
    opinion = ask(member("loud"), member("Half"))
    assert np.allclose(opinion.probabilities, (LOUD + HALF) / 2)
    assert np.allclose(opinion.disagreement, np.abs(LOUD - HALF) / 2, atol=1e-6)
    assert np.allclose(opinion.members, [LOUD, np.tile(HALF, (2, 1))])


def test_weights():
    opinion = ask(member("loud", weight=3.0), member("Half"))
    assert np.allclose(opinion.probabilities, 0.75 * LOUD + 0.25 * HALF)


def test_averaged_by_logit():
    opinion = ask(member("loud"), member("Half"), average="logit")
    odds = np.sqrt(LOUD / (1 - LOUD) * HALF / (1 - HALF))
    assert np.allclose(opinion.probabilities, odds / (1 + odds))


def test_a_class_that_one_member_knows():
    opinion = ask(member("loud"), member("Half"), classes=[*CLASSES, "zebra"])
    assert np.allclose(opinion.probabilities[:, 3], 0.9) and not opinion.disagreement[:, 3].any()
    assert np.isnan(opinion.members[0, :, 3]).all()


def test_a_class_that_nobody_knows():
    with pytest.raises(ValueError, match="no teacher knows 1 of the 4 classes, for example 'cow'"):
        ask(member("loud"), classes=[*CLASSES, "cow"])


def test_a_teacher_of_other_classes_is_mapped(tmp_path):
    """CED fails in scatter where the teacher's classes are not the student's."""
    groups = tmp_path / "groups.json"
    groups.write_text(json.dumps({"pet": ["dog", "cat"], "rest": ["bell"]}))
    opinion = ask(member("Half", classes=str(groups)), classes=["pet", "rest"])
    assert np.allclose(opinion.probabilities, [0.4, 0.8])
    matrix = tmp_path / "matrix.npy"
    np.save(matrix, np.array([[1, 0], [0, 0], [1, 0], [0, 2.0]]))
    opinion = ask(member("Half", classes=str(matrix)), classes=["pet", "rest"])
    assert np.allclose(opinion.probabilities, [0.6, 1.0])  # 0.2 + 0.4; 1.6 is at most 1


def test_a_member_without_names(tmp_path):
    with pytest.raises(ValueError, match="does not name its classes: say `classes:"):
        ask(member("nameless"))
    names = tmp_path / "names.txt"
    names.write_text("cow\nbell\ndog\ncat\n")
    assert np.allclose(ask(member("nameless", classes=str(names))).probabilities, [0.2, 0.4, 0.3])
    (tmp_path / "numbers.json").write_text(json.dumps({"bell": [0, 3], "cat": [1], "dog": [2]}))
    found = ask(member("nameless", classes=str(tmp_path / "numbers.json")))
    assert np.allclose(found.probabilities, [0.4, 0.2, 0.3])


def test_mappings_that_cannot_be(tmp_path):
    def refuse(name, content, message, who="Half"):
        path = tmp_path / name
        if name.endswith(".npy"):
            np.save(path, content)
        else:
            path.write_text(content)
        with pytest.raises(ValueError, match=message):
            ask(member(who, classes=str(path)))

    refuse("a.json", '{"cow": ["dog"]}', "'cow' is none of our classes")
    refuse("b.json", '{"dog": ["wolf"]}', "has no class 'wolf'")
    refuse("c.npy", np.eye(4), r"expected \(its classes, 3\), got \(4, 4\)")
    refuse("d.txt", "a\nbell\ncat\ndog\nb\n", r"outputs of shape \(2, 4\), expected \(clips, 5\)")
    with pytest.raises(ValueError, match="no file"):
        ask(member("Half", classes="nowhere.json"))


def test_logits_are_refused_or_made_probabilities():
    with pytest.raises(ValueError, match=r"numbers from -3 to -3, expected probabilities"):
        ask(member("logits"))
    opinion = ask(member("logits", activation="sigmoid"))
    assert np.allclose(opinion.probabilities, 1 / (1 + np.exp(3)))
    assert np.allclose(ask(member("logits", activation="softmax")).probabilities, 1 / 3)


def test_what_tells_an_ensemble_from_another(tmp_path):
    def settings(*members, average="probability"):
        return ensemble_settings(TeacherConfig(list(members), average))

    one = settings(member("loud"))
    assert one == settings(member("loud"))
    names = tmp_path / "names.txt"
    names.write_text("cat\n")
    others = [settings(member("loud"), average="logit"), settings(member("loud", weight=2.0)),
              settings(member("loud"), member("Half")),
              settings(member("loud", classes=str(names)))]
    assert all(one != other for other in others)


def test_a_function_may_do_with_its_waves_as_it_likes(monkeypatch):
    import toy_teachers

    def careless(waves):
        for wave in waves:
            wave[:] = 0
        return toy_teachers.nameless(waves)[:, :3]

    careless.classes = CLASSES
    monkeypatch.setattr(toy_teachers, "careless", careless, raising=False)
    before = [wave.copy() for wave in WAVES]
    ask(member("careless"))
    assert all(np.array_equal(*pair) for pair in zip(before, WAVES, strict=True))


def test_classes_of_the_first_member():
    assert first_classes(TeacherConfig([member("Half"), member("loud")])) == [
        "dog", "zebra", "cat", "bell"]
    with pytest.raises(ValueError, match="say data.classes"):
        first_classes(TeacherConfig([member("nameless")]))


def test_what_is_no_member():
    with pytest.raises(ValueError, match="cannot be imported.*package.module:function"):
        ask(member("nobody"))
    with pytest.raises(ValueError, match="no file nowhere.onnx"):
        ask(MemberConfig("nowhere.onnx"))


@pytest.mark.parametrize("numbers, message", [
    ([3], "'bell' is 3, expected numbers of toy_teachers:loud's outputs, from 0 to 2"),
    ([0, -1], "'bell' is -1, expected"),
])
def test_numbers_of_outputs_that_are_not_there_are_refused(tmp_path, numbers, message):
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"bell": numbers, "cat": [0], "dog": [1]}))
    with pytest.raises(ValueError, match=message):
        ask(member("loud", classes=str(path)))


def test_numbers_of_a_member_without_names_are_checked_when_it_speaks(tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"bell": [1], "cat": [0], "dog": [4]}))
    with pytest.raises(ValueError, match="number 4 of toy_teachers:nameless, which has the outp"):
        ask(member("nameless", classes=str(path)))


def test_teachers_trained_here_are_called_by_their_run():
    ensemble = Ensemble(TeacherConfig([member("loud")]), CLASSES)
    ensemble.config.members += [MemberConfig("runs/teachers/mini/student"), MemberConfig("me/ced")]
    assert ensemble.names[1:] == ["mini", "ced"]
