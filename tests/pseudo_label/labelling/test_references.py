"""Texts of long recordings, shared out among their windows."""

import random
import time

import pytest

from distill.data.files import read_jsonl, write_jsonl
from distill.data.manifest import Row, write_manifest
from distill.whisper.recipe import DataConfig, WhisperRecipe
from pseudo_label.labelling.references import add_references, share_text

TEXT = ("Welcome to the directory. Please enter the first three letters of your party's last name, "
        "using your touch-tone keypad. Use the 7 key for Q and the 9 key for Z.")
LABELS = ["welcome to the directory", "please enter the first three letters of your party's last",
          "name using your touch tone keypad use the seven key for cue", "and the 9 key for Z"]

NAMES = ["000002", "000003", "000000", "000001"]  # the order is that of the audio


def test_each_label_gets_its_words():
    assert share_text(TEXT, LABELS) == [
        "Welcome to the directory.",
        "Please enter the first three letters of your party's last",
        "name, using your touch-tone keypad. Use the 7 key for Q",
        "and the 9 key for Z.",
    ]


def test_nothing_is_lost_or_doubled_whatever_is_heard():
    draw = random.Random(0)
    words = TEXT.split()
    for _ in range(200):
        heard = [w for w in words if draw.random() > 0.2]
        heard = [draw.choice(words) if draw.random() < 0.2 else w for w in heard]
        cuts = sorted(draw.randrange(len(heard) + 1) for _ in range(4))
        labels = [" ".join(heard[a:b]) for a, b in zip([0, *cuts], [*cuts, None], strict=False)]
        shares = share_text(TEXT, labels)
        assert [word for share in shares for word in share.split()] == words


def test_what_was_made_up_gets_nothing():
    made_up = ["welcome to the directory", "thanks for watching " * 20,
               "please enter the first three letters"]
    text = "Welcome to the directory. Please enter the first three letters"
    assert share_text(text, made_up) == [
        "Welcome to the directory.", "", "Please enter the first three letters"]


def test_what_was_left_out_counts_against_the_window_before():
    text = "one two three four five six seven"
    assert share_text(text, ["one two", "six seven"]) == ["one two three four five", "six seven"]
    # or against one in which nothing was heard
    for heard in ("one two", "won too"):
        shares = share_text(text, [heard, "", "six seven"])
        assert shares == ["one two", "three four five", "six seven"]
    assert share_text("one two three", ["", ""]) == ["", "one two three"]


def test_words_left_out_beside_words_misheard():
    """An alignment of whole words would take the first words for what was heard last."""
    text = "press the pound key. Using your touch tone keypad, use the 7 key. Gosub 6 April: which"
    labels = ["press the penalty key", "go-soap 6 a pro which"]
    cut = text.index("Gosub")
    assert share_text(text, labels) == [text[:cut].strip(), text[cut:]]


def test_the_text_of_another_recording_takes_no_time():
    draw = random.Random(0)
    said, heard = ([f"{kind}{draw.random()}" for _ in range(4000)] for kind in "ab")
    labels = [" ".join(heard[at : at + 70]) for at in range(0, 4000, 70)]
    start = time.process_time()
    shares = share_text(" ".join(said), labels)
    assert time.process_time() - start < 3
    assert " ".join(shares) == " ".join(said) and max(map(len, shares)) < 2 * len(labels[0])


def test_without_words():
    assert share_text(None, ["a", "b"]) == [None, None]
    assert share_text(" ", ["a", "b"]) == ["", ""]
    assert share_text("a - b", ["a", "b"]) == ["a -", "b"]


def test_characters():
    text = "你好,世界。我们 2024 年再见…"
    shares = share_text(text, ["你好世界", "我们2024年", "再见"], "char")
    assert shares == ["你好,世界。", "我们 2024 年", "再见…"]
    # one character stays one, whatever it is compared as
    shares = share_text("重３㎏㎏的书。再见", ["重3㎏㎏的书", "再见"], "char")
    assert shares == ["重３㎏㎏的书。", "再见"]


def test_case_and_punctuation_do_not_matter():
    assert share_text("STOP! NOW, GO HOME", ["stop", "go home"]) == ["STOP! NOW,", "GO HOME"]


@pytest.fixture
def recipe(tmp_path) -> WhisperRecipe:
    write_manifest(tmp_path / "train.jsonl", [
        Row("hour", "hour.wav", 3600.0, text=TEXT, language="en"),
        Row("quiet", "quiet.wav", 50.0, language="en"),
        Row("clip", "clip.wav", 5.0, text="a clip", language="en"),
    ])
    recipe = WhisperRecipe(data=DataConfig(train=[str(tmp_path / "train.jsonl")]),
                           labels_dir=str(tmp_path))
    rows = [row(f"long-{packing}-{NAMES[index]}", "hour", 100.0 * index, label)
            for packing in (0, 1) for index, label in enumerate(LABELS)]
    rows[5] |= {"label": "please enter the letters of your party's"}
    rows += [row("long-0-000009", "quiet", 3.0, "hello"), row("train-0-000001", "clip", 0.0, "x"),
             row("train-0-000002", "hour", 9.0, "a part of it, cut at quiet places")]
    for at in range(4):  # shards are not in the order of the recording
        write_jsonl(tmp_path / f"part-0000{at}.jsonl", rows[::-1][at::4])
    return recipe


def row(name: str, clip: str, offset: float, label: str) -> dict:
    return {"id": name, "pieces": [{"id": clip, "offset": offset, "duration": 20.0, "start": 0.0}],
            "language": "en", "reference": None, "label": label, "wer": None, "tokens": [1, 2]}


def rows_of(folder) -> dict[str, dict]:
    paths = sorted(folder.glob("part-*.jsonl"))
    return {row["id"]: row for path in paths for row in read_jsonl(path)}


def test_rows_carry_their_share(recipe, tmp_path):
    before = rows_of(tmp_path)
    assert add_references(recipe) == "Aligned the texts of 1 long recording(s) with their labels"
    rows = rows_of(tmp_path)
    assert list(rows) == list(before)
    for packing in (0, 1):
        shares = [rows[f"long-{packing}-{name}"]["reference"] for name in NAMES]
        assert " ".join(shares) == TEXT
    wer = [rows[f"long-0-{name}"]["wer"] for name in NAMES]
    assert wer[0] == wer[1] == wer[3] == 0
    assert rows["long-0-000000"]["substitutions"] == 1, "Q and cue; 7 and seven are the same"
    changed = rows["long-1-000003"]
    assert changed["reference"].startswith("Please enter the first three letters")
    assert changed["deletions"] == 3 and changed["wer"] == pytest.approx(3 / 11, abs=1e-6)
    assert changed["unit"] == "word" and changed["tokens"] == [1, 2]
    for name in ("long-0-000009", "train-0-000001", "train-0-000002"):
        assert rows[name]["reference"] is None and rows[name]["wer"] is None


def test_again_nothing_is_written(recipe, tmp_path):
    add_references(recipe)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("part-*")}
    add_references(recipe)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.glob("part-*")}


def test_another_text(recipe, tmp_path):
    add_references(recipe)
    write_manifest(tmp_path / "train.jsonl", [Row("hour", "hour.wav", 3600.0, language="en")])
    assert add_references(recipe) == ""
    rows = rows_of(tmp_path)
    assert all(row["reference"] is None and row["wer"] is None for row in rows.values())
