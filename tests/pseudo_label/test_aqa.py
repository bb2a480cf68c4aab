"""Questions made from labels, and levels of style."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from distill.data.files import read_json, read_jsonl, write_jsonl
from pseudo_label.aqa import QuestionsConfig, longest_word, write_questions
from pseudo_label.style import WORDS, Levels, Style, fit_levels, style_of

QUESTIONS = {name: ["One {label}?", "Two {label}?"]
             for name in ("sound", "presence", "spoken", "joint", *WORDS)}


def tone(hz: float, seconds: float = 1.5, level: float = 0.3) -> np.ndarray:
    time = np.arange(int(16_000 * seconds)) / 16_000
    return sum(level * np.sin(2 * np.pi * hz * n * time) / n for n in (1, 2, 3)).astype(np.float32)


def loudest_hz(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a tone, at once: librosa's pYIN is compiled for half a minute where it never ran."""
    frames = 1 + (len(wave) - 1024) // 320
    hz = np.argmax(np.abs(np.fft.rfft(wave))) * 16_000 / len(wave)
    return np.full(frames, hz), np.full(frames, True)


@pytest.fixture
def config(tmp_path, monkeypatch) -> QuestionsConfig:
    monkeypatch.setattr("pseudo_label.style.pitch_of", loudest_hz)
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    rows = []
    for number in range(6):
        soundfile.write(scenes / f"{number}.wav", tone(120 + 40 * number), 16_000)
        clip = {"audio_filepath": f"{number}.wav", "duration": 1.5}
        said = {"text": f"press {'abcdef'[number] * 6} now"}
        rows += [{**clip, **said, "id": f"speech{number}", "labels": ["speech"]},
                 {**clip, **said, "id": f"both{number}", "labels": ["speech", "drum"]},
                 {**clip, "id": f"sound{number}", "labels": ["bell"]},
                 {**clip, "id": f"two{number}", "labels": ["bell", "drum"]}]
    write_jsonl(scenes / "train.jsonl", rows)
    return QuestionsConfig(str(tmp_path / "questions"), {"train": [str(scenes / "train.jsonl")]},
                           QUESTIONS)


def test_what_is_asked_depends_on_what_is_known(config):
    counts = write_questions(config)["train"]
    assert counts == {"sound": 12, "presence": 12, "pitch": 6, "rate": 6, "volume": 6,
                      "spoken": 12, "joint": 6}, "nothing is absent from clips with both sounds"
    rows = read_jsonl(f"{config.output_dir}/train.jsonl")
    assert all(row["answer"] in row["options"] for row in rows)
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        clip = row["id"].split("/")[0]
        if row["task"] == "presence":
            label, there = row["question"].split()[1].rstrip("?"), row["answer"] == "yes"
            has = {"both": ["drum"], "sound": ["bell"]}[clip[:-1]]
            assert (label in has) == there
        assert ("spoken" in row) == clip.startswith(("speech", "both")), "told where it is known"
    heard = {row["id"].split("/")[0]: row["heard"] for row in rows}
    assert (heard["sound1"], heard["both1"]) == ("bell", "speech drum")
    assert heard["speech0"].startswith("very low "), "the lowest tone of six"


def test_manifests_of_others_are_not_written_over(config, tmp_path):
    """`output_dir` where the clips' own manifest lies, or another's levels.json."""
    before = (tmp_path / "scenes" / "train.jsonl").read_bytes()
    with pytest.raises(ValueError, match="train.jsonl is there already and was not made by this"):
        write_questions(replace(config, output_dir=str(tmp_path / "scenes")))
    assert (tmp_path / "scenes" / "train.jsonl").read_bytes() == before
    (tmp_path / "levels.json").write_text('{"edges": 3}')
    with pytest.raises(ValueError, match="levels.json is there already"):
        write_questions(replace(config, output_dir=str(tmp_path)))
    assert write_questions(config) == write_questions(config)


def test_presence_that_names_what_is_heard(config):
    """An option for each label; the same questions as without the name."""
    manifest = config.splits["train"][0]
    write_jsonl(manifest, [*read_jsonl(manifest), {
        "audio_filepath": "0.wav", "duration": 1.5, "id": "gong", "labels": ["gong"]}])
    found = []
    for config.presence_answer in ("{answer}", "{heard}, so {answer}"):
        write_questions(config)
        found.append([row for row in read_jsonl(f"{config.output_dir}/train.jsonl")
                      if row["task"] == "presence"])
    plain, named = found
    assert [row["question"] for row in plain] == [row["question"] for row in named]
    assert all(sorted(row["options"]) == ["no", "yes"] and "means" not in row for row in plain)
    for short, row in zip(plain, named, strict=True):
        name, answer = row["answer"].split(", so ")
        assert answer == short["answer"] and name in row["heard"].split()
        label = row["question"].split()[1].rstrip("?")
        assert row["options"] == [f"{each}, so {('no', 'yes')[each == label]}"
                                  for each in ("bell", "drum", "gong")]
        assert row["means"] == [option.split(", so ")[1] for option in row["options"]]


def test_half_of_a_joint_question_leaves_two_options(config):
    write_questions(config)
    rows = [row for row in read_jsonl(f"{config.output_dir}/train.jsonl") if row["task"] == "joint"]
    for row in rows:
        sound, word = row["answer"].split(", ")
        assert (sound, word) == ("drum", longest_word(row["spoken"]))
        pairs = [each.split(", ") for each in row["options"]]
        assert [pair[0] for pair in pairs].count(sound) == 2 == [p[1] for p in pairs].count(word)
        assert all(word == other or other not in row["spoken"] for _, other in pairs)


def test_questions_are_the_same_again(config, tmp_path):
    write_questions(config)
    first = (tmp_path / "questions/train.jsonl").read_bytes()
    assert read_json(tmp_path / "questions/levels.json")["num_clips"] == 6
    write_questions(config)
    assert (tmp_path / "questions/train.jsonl").read_bytes() == first
    config.seed = 1
    write_questions(config)
    assert (tmp_path / "questions/train.jsonl").read_bytes() != first


@pytest.mark.slow
def test_style_of_tones():
    for hz in (110, 180, 250):
        assert style_of(tone(hz), 3).pitch == pytest.approx(hz, rel=0.03)
    quiet, loud = style_of(tone(180, level=0.1), 3), style_of(tone(180, level=0.4), 3)
    assert loud.volume - quiet.volume == pytest.approx(12.04, abs=0.1)
    assert style_of(np.concatenate([tone(180), np.zeros(16_000, np.float32)]), 3).rate == \
        pytest.approx(2.0, rel=0.1), "words a second while there is sound"
    assert style_of(np.zeros(16_000, np.float32), 3) is None
    assert style_of(tone(180, 0.2), 1) is None, "too short"
    noise = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)
    assert style_of(noise, 3) is None, "no voice"


def test_style_needs_librosa(monkeypatch):
    monkeypatch.setattr("pseudo_label.style.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"need librosa: pip install 'audio-distill\[style\]'"):
        style_of(tone(180), 3)


def test_levels_are_fifths():
    styles = [Style(100.0 + n, n / 10, -40.0 + n) for n in range(50)]
    levels = fit_levels(styles)
    names = [levels.of(style)["pitch"] for style in styles]
    assert [names.count(each) for each in WORDS["pitch"]] == [10] * 5
    assert names == sorted(names, key=WORDS["pitch"].index), "monotone"
    assert Levels(levels.edges).of(styles[-1]) == {
        "pitch": "very high", "rate": "very fast", "volume": "very loud"}
    with pytest.raises(ValueError, match="at least 5 clips"):
        fit_levels(styles[:4])
