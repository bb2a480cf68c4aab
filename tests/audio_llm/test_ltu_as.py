"""The seven evaluations of LTU-AS: layouts, scores, and the command with a tiny model."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.data.files import read_jsonl
from eval.audio_llm.ltu_as.__main__ import main
from eval.audio_llm.ltu_as.captions import cider_d
from eval.audio_llm.ltu_as.readers import READERS, read_iemocap, read_voxceleb2_age
from eval.audio_llm.ltu_as.scoring import (
    find_age,
    find_label,
    nearest_labels,
    score_ages,
    score_labels,
    without,
)
from eval.audio_llm.ltu_as.sets import EVALUATIONS
from tests.audio_llm.test_training import recipe, trained  # noqa: F401

META = "VoxCeleb2 ID \tVGGFace2 ID \tGender \tSet \nid00017 \tn000017 \tm \ttest \n" \
    "id00012 \tn000012 \tf \tdev \nid00419 \tn000419 \tf \ttest \n"
TURNS = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n" \
    "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]\nC-E2:\tNeutral;\t()\n" \
    "[10.0 - 11.3]\tSes01F_impro01_F001\txxx\t[2.5, 2.5, 2.5]\n" \
    "[14.8 - 18.0]\tSes01F_impro01_M001\texc\t[2.5, 2.5, 2.5]\n"


def sound(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.sin(np.arange(16_000)), 16_000)


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """Each set with two or three clips."""
    root = tmp_path_factory.mktemp("sets")
    for name in ("esc50/audio/1-1-A-0.wav", "esc50/audio/1-2-A-1.wav",
                 "audiocaps/audio/Yabc.wav", "audiocaps/audio/x-_y_30.wav",
                 "librispeech/61/70968/61-70968-0000.flac",
                 "iemocap/Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav",
                 "iemocap/Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M001.wav",
                 "gtzan/genres_original/blues/blues.00000.wav",
                 "gtzan/genres_original/hiphop/hiphop.00001.wav"):
        sound(root / name)
    for name in ("id00017/vid/00001.wav", "id00012/vid/00001.wav", "id00419/vid/00002.wav"):
        sound(root / "voxceleb2_gender" / "test" / name)
        sound(root / "voxceleb2_age" / name)
    for name, text in {
            "esc50/meta/esc50.csv": "filename,fold,target,category,esc10,src_file,take\n"
            "1-1-A-0.wav,1,0,dog,True,1,A\n1-2-A-1.wav,1,1,crying_baby,True,2,A\n"
            "1-3-A-1.wav,1,1,crying_baby,True,2,A\n",
            "audiocaps/test.csv": "audiocap_id,youtube_id,start_time,caption\n"
            "1,abc,30,A dog barks\n2,abc,30,\"A dog, barking\"\n3,x-_y,30,Rain falls\n"
            "4,gone,0,No\n",
            "librispeech/61/70968/61-70968.trans.txt": "61-70968-0000 HE BEGAN A\n"
            "61-70968-0001 CONFUSED\n",
            "iemocap/Session1/dialog/EmoEvaluation/Ses01F_impro01.txt": TURNS,
            "voxceleb2_gender/vox2_meta.csv": META,
            "voxceleb2_age/utt2age.test": "id00017/vid/00001 70\nid00419/vid/00002 30\n"
            "id9/v/1 20\n"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("name, references, missing", [
    ("esc50", [("dog",), ("crying baby",)], 1),
    ("audiocaps", [("A dog barks", "A dog, barking"), ("Rain falls",)], 1),
    ("librispeech", [("HE BEGAN A",)], 1), ("iemocap", [("neutral",), ("happy",)], 0),
    ("voxceleb2_gender", [("male",), ("female",)], 0), ("voxceleb2_age", [("70",), ("30",)], 1),
    ("gtzan", [("blues",), ("hiphop",)], 0)])
def test_layouts(sets, name, references, missing):
    items = READERS[name](sets / name)
    assert [each.references for each in items.found] == references
    assert items.num_missing == missing and all(each.path.is_file() for each in items.found)


def test_other_layouts(sets, tmp_path):
    assert len(read_iemocap(sets / "iemocap" / "Session1").found) == 2, "one session"
    sound(tmp_path / "id00017/vid/00001.wav")
    (tmp_path / "final_dataframe_extended.csv").write_text(
        "Name,video_id,VoxCeleb_ID,speaker_age\nA,vid,id00017,41.0\nB,vid,id00018,\n")
    assert read_voxceleb2_age(tmp_path).found[0].references == ("41",)
    (tmp_path / "final_dataframe_extended.csv").write_text("Name,video_id\nA,vid\n")
    with pytest.raises(ValueError, match="no column 'VoxCeleb_ID', but Name, video_id"):
        read_voxceleb2_age(tmp_path)
    for name, read in READERS.items():
        (tmp_path / name).mkdir()
        with pytest.raises(ValueError, match="there is no such file|no clip was found"):
            read(tmp_path / name)


def test_labels():
    labels, aliases = ["metal", "rock", "hiphop"], {"hiphop": ("hip hop",)}
    assert find_label("This is Hip Hop music.", labels, aliases) == "hiphop"
    assert find_label("metallic", labels, aliases) is None, "whole words"
    assert find_label("rock or metal", labels, aliases) is None, "several"
    assert find_label("She is a woman", ["male", "female"], {"female": ("woman",)}) == "female"
    assert find_label("female", ["male", "female"], {}) == "female", "and not male, too"
    assert without("Audio caption: a dog", ("audio caption:",)) == "a dog"
    scores = score_labels(["a", None, "b", "b"], ["a", "a", "b", "b"])
    assert (scores["accuracy"], scores["parse_rate"]) == (0.75, 0.75)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    low, high = scores["accuracy_ci"]
    assert 0.3 < low < 0.75 < high < 1


def test_ages():
    assert [find_age(each) for each in ("30 to 40 years", "about 25.", "unknown", "in 1999")] == \
        [35.0, 25.0, None, None]
    scores = score_ages([30.0, None], [20.0, 60.0])
    assert scores["mae"] == pytest.approx((10 + 40) / 2), "as wrong as the worst age of the set"
    assert (scores["mae_parsed"], scores["parse_rate"]) == (10, 0.5)


def test_embeddings():
    table = {"sound of dog": [1, 0], "sound of rain": [0, 1], "sound of a hound": [3, 1]}
    embed = lambda texts: np.array([table[each] for each in texts], float)  # noqa: E731
    assert nearest_labels(["a hound", " "], ["dog", "rain"], "sound of ", embed) == ["dog", None]


def test_captions():
    references = [["a dog is barking", "a dog barks"], ["rain falls on a roof"], ["a man talks"]]
    mean, each = cider_d(["a dog is barking", "rain falls on a roof", "wind"], references)
    assert each[2] == 0 and each[1] > each[0] > 0 and mean == pytest.approx(sum(each) / 3)
    assert each[1] == pytest.approx(10), "its only reference, word by word"
    longer = cider_d(["a dog is barking " * 3, "", ""], references)[1][0]
    assert longer < each[0], "clipped, and the length counts"


def test_the_command(sets, trained, tmp_path, capsys):  # noqa: F811
    sound(sets / "esc50/audio/1-3-A-1.wav")
    (sets / "esc50/audio/1-3-A-1.wav").write_bytes(b"no audio")
    for name, key in (("esc50", "likelihood"), ("voxceleb2_age", "mae"), ("audiocaps", "cider_d"),
                      ("librispeech", "wer")):
        out = tmp_path / name
        main([name, str(sets / name), "--model", str(trained / "student"), "--out", str(out),
              "--max-new-tokens", "3"])
        found = json.loads(out.with_suffix(".json").read_text())
        rows = read_jsonl(out.with_suffix(".jsonl"))
        assert key in found and found["num_clips"] == len(rows)
        assert found["prompt"] == EVALUATIONS[name].prompt
        if name == "esc50":
            assert found["num_unreadable"] == 1 and rows[2]["likelihood"] is None
            assert found["likelihood"]["parse_rate"] == pytest.approx(2 / 3)
            assert {row["embedding"] for row in rows[:2]} <= {"dog", "crying baby", None}
            assert 0 <= found["likelihood"]["accuracy_by_sum"] <= 1
    assert "1 cannot be read (wrong)" in capsys.readouterr().out
    with pytest.raises(ValueError, match="told no transcript"):
        main(["esc50", str(sets / "esc50"), "--model", str(trained / "student"), "--inputs",
              "text_only"])
