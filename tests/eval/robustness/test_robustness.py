"""Robustness on a tiny model that is not trained: what is written, kept and shown."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from transformers import WhisperForConditionalGeneration

from distill.config import ConfigError
from distill.data.files import read_json, read_jsonl
from distill.data.leaks import LeakError
from distill.html.charts import Series, line_chart
from distill.metrics.error_rates import ErrorCounts
from distill.testing import write_tiny_recipe
from distill.whisper.recipe import load_recipe
from distill.whisper.recognition.sequential import Segment
from distill.whisper.student import make_student
from eval.robustness.__main__ import main
from eval.robustness.conditions import Condition, conditions_of
from eval.robustness.curves import area_between, figures
from eval.robustness.inventions import invention_figures
from eval.robustness.measure import _Model
from eval.robustness.others import interval, others_against
from eval.robustness.table import other_rows

pytestmark = pytest.mark.usefixtures("remembered")
WHITE = {snr: Condition("white", snr) for snr in (20.0, 10.0, 0.0)}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(recipe, run folder with a student that is not trained)."""
    folder = tmp_path_factory.mktemp("robust")
    recipe = write_tiny_recipe(folder, test=2)
    model = WhisperForConditionalGeneration.from_pretrained(folder / "teacher")
    target = folder / "run" / "student"
    make_student(model, [0, 3], [0, 1]).save_pretrained(target)
    for path in (folder / "teacher").glob("*.json"):
        if not (target / path.name).exists():
            shutil.copy(path, target)
    return recipe, folder / "run"


def arguments(tiny, *more: str) -> list[str]:
    return [str(tiny[0]), f"output_dir={tiny[1]}", "robustness.without_speech_seconds=[2]", *more]


def make_up(decoder, _processor, recordings, _batch_size, *, previous_text, description):
    """Two words in every recording, but where a guard is asked, and hears no voice."""
    assert decoder.timestamps and not previous_text and description
    said = [Segment(0.0, 1.0, "Thank you!", [], None, 0.0, 0.0, 0.0)]
    return [said if audio.speech is None or audio.speech() else [] for audio in recordings]


def test_from_nothing_to_a_page(tiny, monkeypatch, capsys):
    heard, known, hear = [], [], _Model.hear

    def listen(self, condition, states):
        heard.append((self.role, condition.name))
        known.append([len(windows) for windows in states.values()])
        return hear(self, condition, states)

    monkeypatch.setattr(_Model, "hear", listen)
    monkeypatch.setattr("eval.report.examples._opus", lambda samples, level: b"")
    monkeypatch.setattr("eval.robustness.inventions.transcribe_long", make_up)
    main(arguments(tiny, "robustness.kinds=[white,mulaw]", "robustness.snrs=[10]"))
    assert heard == [(role, name) for name in ("clean", "white 10 dB", "mulaw")
                     for role in ("teacher", "student")]
    assert known == [[], [2]] * 3, "two clips that the teacher's encoder, the same, has heard"
    results = read_json(tiny[1] / "robustness" / "results.json")
    assert set(results["wer"]) == {"teacher", "student"}
    assert set(results["wer"]["student"]) == {"white"}
    assert results["wer"]["student"]["white"]["10"] >= 0
    assert set(results["wer_of"]["teacher"]) == {"clean", "mulaw"}
    assert set(results["invented_words_per_minute"]["student"]) == {
        "silence", "noise", "music", "breathing", "applause"}
    assert results["invented_words_per_minute"]["student"]["silence"] == 0  # no voice is found
    assert results["invented_words_per_minute_without_guard"]["student"]["silence"] == 60
    assert results["num_clips"] == 2 and 0 < results["num_words"] <= 8
    printed = capsys.readouterr().out
    assert "white 10 dB" in printed and "words invented a minute" in printed
    assert (tiny[1] / "robustness" / "white.svg").read_text().startswith("<svg")
    page = (tiny[1] / "report" / "index.html").read_text()
    assert "In noise, and where nobody speaks" in page and "breathing" in page

    heard.clear()  # more noises: the others are kept
    main(arguments(tiny, "robustness.kinds=[white,mulaw]", "robustness.snrs=[10,0]"))
    assert heard == [("teacher", "white 0 dB"), ("student", "white 0 dB")]
    again = read_json(tiny[1] / "robustness" / "results.json")
    assert again["noises"]["student"]["white"]["10"] == results["noises"]["student"]["white"]["10"]

    heard.clear()  # half a line of a run that was killed is heard again, and nothing else
    path = tiny[1] / "robustness" / ".student.kept.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    last = next(n for n, line in enumerate(lines) if b'["white", 0.0' in line)
    path.write_bytes(b"".join([*lines[:last], *lines[last + 1 :], lines[last][:20]]))
    main(arguments(tiny, "robustness.kinds=[white,mulaw]", "robustness.snrs=[10,0]"))
    assert heard == [("student", "white 0 dB")]
    assert read_json(tiny[1] / "robustness" / "results.json") == again
    assert len(read_jsonl(path)) == len(lines)


def test_all_models_hear_the_same(demo_data):
    from distill.data.noise.kinds import Noises

    noises = Noises.embedded(demo_data.parents[1] / "noise")
    speech = np.sin(np.arange(16_000) / 10).astype("f4")
    quiet, loud, again, other = (
        Condition("pub", snr).hear(speech, clip, noises) - speech
        for snr, clip in ((10.0, "a"), (0.0, "a"), (0.0, "a"), (0.0, "b")))
    np.testing.assert_array_equal(loud, again)
    np.testing.assert_allclose(loud, quiet * 10**0.5, atol=1e-5)  # the same, 10 dB louder
    assert np.abs(loud - other).max() > 0.01
    assert np.mean(loud**2) == pytest.approx(np.mean(speech**2), rel=0.01)


def test_which_conditions(tiny):
    recipe = load_recipe(*arguments(tiny)[:1], ["robustness.kinds=[pub,gsm]",
                                                "robustness.snrs=[5,0]", "robustness.folder=x"])
    names = [condition.name for condition in conditions_of(recipe.robustness)]
    assert names == ["clean", "pub 5 dB", "pub 0 dB", "gsm", "folder 5 dB", "folder 0 dB"]


@pytest.mark.parametrize("override, told", [
    ("robustness.kinds=[green]", "robustness.kinds"), ("robustness.snrs=[5,5]", "robustness.snrs"),
    ("robustness.without_speech_seconds=[0]", "robustness.without_speech_seconds")])
def test_what_is_refused(tiny, override, told):
    with pytest.raises(ConfigError, match=told):
        load_recipe(str(tiny[0]), [override])


def test_models_and_folders_that_are_not_there(tiny, tmp_path):
    with pytest.raises(ValueError, match="no student"):
        main([str(tiny[0]), f"output_dir={tmp_path}"])
    for override, told in ((f"robustness.models=[{tmp_path}]", "robustness.models"),
                           (f"robustness.folder={tmp_path}", "robustness.folder")):
        with pytest.raises(ValueError, match=told):
            main(arguments(tiny, override))


def test_a_model_that_learned_in_the_tests_noise(tiny, tmp_path, demo_data):
    place = demo_data.parents[1] / "noise" / "glasses.jsonl"
    shutil.copytree(tiny[1] / "student", tmp_path / "student")
    (tmp_path / "config.yaml").write_text(f"views: {{augment: {{recordings: [{place}]}}}}\n")
    with pytest.raises(LeakError, match="8 of .* recordings of the robustness test"):
        main(arguments(tiny, f"robustness.models=[{tmp_path}/student]"))


def counts(errors: list[int]) -> list[ErrorCounts]:
    return [ErrorCounts(substitutions=n, hits=10 - n, num_reference=10) for n in errors]


def test_the_area_is_a_mean_over_decibels():
    teacher = {WHITE[20.0]: counts([0, 0]), WHITE[10.0]: counts([1, 1]), WHITE[0.0]: counts([2, 2])}
    same, _ = area_between(teacher, teacher, 50, 0)
    assert same == {"white": 0, "all": 0}
    student = {WHITE[20.0]: counts([0, 0]), WHITE[10.0]: counts([2, 2]), WHITE[0.0]: counts([6, 4])}
    area, ends = area_between(teacher, student, 200, 0)
    # 0, 10 and 30 points above: trapezoids of 10 dB have 5 and 20 points on average
    assert area["white"] == area["all"] == pytest.approx(0.125)
    assert ends[0] < 0.125 < ends[1] and ends == pytest.approx([0.1, 0.15], abs=0.001)
    one, _ = area_between({WHITE[0.0]: counts([2, 2])}, {WHITE[0.0]: counts([6, 4])}, 50, 0)
    assert one["all"] == pytest.approx(0.3)


def test_figures_of_texts():
    clean = Condition("clean")
    found = {role: {clean: {"texts": ["a b c d", text], "loops": 1, "again": 0}}
             for role, text in (("teacher", "a b c d"), ("student", "a b x d e"))}
    made = figures(["a b c d", "a b c d"], found, str, "word", 50, 0)
    entry = made["changes"]["student"]["clean"]
    assert made["num_words"] == 8 and entry["wer"] == entry["difference"] == 0.25
    assert (entry["substitutions"], entry["insertions"], entry["loops"]) == (1, 1, 1)
    assert made["wer_of"] == {"teacher": {"clean": 0}, "student": {"clean": 0.25}}
    assert made["area"] == {"student": {}} and made["others"] == {}
    assert "difference" not in made["changes"]["teacher"]["clean"]


def test_other_models_beside_the_student():
    """Their mean, and intervals over clips and models."""
    student = {Condition("clean"): counts([1, 1, 1, 1]), WHITE[10.0]: counts([4, 4, 4, 4]),
               Condition("pub", 10.0): counts([2, 2, 2, 2])}
    better = {**student, WHITE[10.0]: counts([2, 2, 2, 2])}
    best = {**student, WHITE[10.0]: counts([1, 1, 1, 1]), Condition("clean"): counts([2, 1, 1, 0])}
    found = others_against(student, {"a": better, "b": best}, 500, 0)
    white = found["noises"]["white"]["10"]
    assert white["wer"] == pytest.approx(0.15) and white["difference"] == pytest.approx(-0.25)
    assert white["each"] == pytest.approx([-0.2, -0.3])
    assert white["difference_ci"] == pytest.approx([-0.3, -0.2]), "clips are alike, models are not"
    low, high = found["changes"]["clean"]["difference_ci"]
    assert found["changes"]["clean"]["difference"] == 0 and low < 0 < high
    assert found["all_noises"]["10"]["difference"] == pytest.approx(-0.125)
    assert "all noises 10 dB" in dict(other_rows(found))
    same = others_against(student, {"a": student}, 50, 0)["noises"]["pub"]["10"]
    assert same["difference_ci"] == [0, 0]
    assert interval(np.ones((2, 1)), np.ones(1), 10, 0) is None


def test_words_invented_a_minute():
    quiet = {"seconds": [30, 90], "references": [], "with_guard": ["", ""],
             "without_guard": ["thank you", "a b c d"]}
    kinds = dict.fromkeys(("silence", "noise", "music", "breathing", "applause"), quiet)
    joined = {"seconds": [], "references": ["a b c d", "e f"], "with_guard": ["a b c", "e f"],
              "without_guard": ["a b c d", "e f e f e f e f e f e f"]}
    made = invention_figures({"teacher": kinds | {"joined clips": joined}}, str, "word", 50, 0)
    assert made["invented_words_per_minute"]["teacher"]["music"] == 0
    assert made["invented_words_per_minute_without_guard"]["teacher"]["music"] == 3  # 6 in 2 min
    guarded, other = made["joined"]["teacher"].values()
    assert guarded["recall"] == 5 / 6 and other["recall"] == 1 and other["wer"] == 10 / 6
    assert guarded["repeated_5grams_per_1000_words"] == 0
    assert other["repeated_5grams_per_1000_words"] == pytest.approx(1000 * 6 / 16)


def test_curves_have_whiskers():
    points = [(0.0, 50.0), (10.0, 20.0)]
    plain, wide = (line_chart("WER", [Series("student", points, "c", intervals=spans)], "dB", "%")
                   for spans in ((), [(0.0, 40.0, 190.0), (10.0, 15.0, 25.0)]))
    assert ">200</text>" in wide and ">200</text>" not in plain  # the axis has room for them
    assert len(re.findall(r'<path class="line line-c"[^>]* d="M', wide)) == 2


def test_whiskers_of_several_models_do_not_lie_on_each_other():
    for snrs in ([-10, 0, 40], range(-10, 41, 5)):
        points = [(float(snr), 50.0 - snr) for snr in snrs]
        spans = [(x, y - 5, y + 5) for x, y in points]
        picture = line_chart("WER", [
            Series(each, points, each, markers=True, intervals=spans) for each in "abcd"], "dB",
            "%")
        caps = re.findall(r' d="M([\d.]+) [^"]*?M([\d.]+) [\d.]+h([\d.]+)', picture)
        ends = sorted((float(left), float(left) + float(size)) for _, left, size in caps)
        assert len(ends) == 4 * len(points)
        assert all(right <= left for (_, right), (left, _) in zip(ends, ends[1:], strict=False))
        assert min(right - left for left, right in ends) > 1
        marks = set(re.findall(r'<circle cx="([\d.]+)"', picture))
        assert {middle for middle, _, _ in caps} == marks, "a whisker goes through its point"
