"""Choosing a margin for short clips: what counts as a loss, and what is written."""

import json
import shutil
from dataclasses import replace

import pytest

from distill.data.manifest import read_manifest, write_manifest
from distill.data.speech.windows import pack
from distill.whisper.encoder.level import LEVEL
from eval.speech.short_audio.__main__ import _parser, entry, main
from eval.speech.short_audio.compare import compare
from eval.speech.short_audio.table import table
from eval.speech.short_audio.transcripts import Clip, Transcriber, Transcript

GOOD = Transcript("a b c d", False, True, "en", (0.5, 1.0))


@pytest.fixture(scope="module")
def manifest(demo_data, tmp_path_factory):
    """Two short clips, one without a text, one that is longer than a window."""
    rows = sorted(read_manifest(demo_data / "validation.jsonl")[0], key=lambda row: row.duration)
    long = next(row for row in read_manifest(demo_data / "train.jsonl")[0] if row.duration > 30)
    path = tmp_path_factory.mktemp("clips") / "validation.jsonl"
    write_manifest(path, [*rows[:2], replace(rows[3], text=" "), long])
    return path


@pytest.fixture
def clips(demo_data):
    rows = read_manifest(demo_data / "validation.jsonl")[0][:40]
    return [Clip(pack([row], row.id, "sequential")[0], "a b c d", str) for row in rows]


def judged(clips, *changed: Transcript, margin: float = 1.0) -> dict:
    """The row of a model whose first transcripts are these, and all others those of the padded."""
    padded = [replace(GOOD, is_short=False)] * len(clips)
    return compare(clips, padded, [*changed, *[GOOD] * (len(clips) - len(changed))], margin)


def test_what_is_a_loss(clips):
    row = judged(clips)
    assert row["reasons"] == [] and row["same_text"] == 1 and row["interval"] == [0, 0]
    assert row["wer"] == 0 and 0.1 < row["encoded"] < 0.5 and row["num_short"] == 40
    better = compare(clips, [replace(GOOD, text="a b c")] * 40, [GOOD] * 40, 1.0)
    assert better["reasons"] == [] and better["wer_difference"] == -0.25
    one = replace(GOOD, text="a b c x")
    row = judged(clips, one)
    assert row["wer_difference"] == 1 / 160 and row["same_text"] == 39 / 40
    assert row["reasons"] == ["errors"]  # 0.6 points
    assert judged(clips, replace(GOOD, text="a b c d e"))["reasons"] == ["errors", "insertions"]
    assert row["segment_difference"] is None
    late = replace(GOOD, times=(0.55, 1.05))
    assert judged(clips, *[late] * 21)["reasons"] == ["times"]
    assert judged(clips, *[late] * 19)["time_difference"] == 0
    welsh = replace(GOOD, language="cy")
    assert judged(clips, welsh)["reasons"] == []  # 99 % of 40 clips: one more or less cannot count
    assert judged(clips, welsh, welsh)["reasons"] == ["languages"]


def test_times_of_segments(clips):
    padded, late, more = (replace(GOOD, segments=times) for times in
                          ((0.0, 1.0), (0.0, 1.2), (0.0, 1.0, 1.0, 1.4)))
    row = compare(clips, [padded] * 40, [late] * 15 + [more] * 25, 1.0)
    assert row["segment_difference"] == pytest.approx(0.1)  # of the 15: others cannot be compared
    assert row["reasons"] == ["times"]
    row = compare(clips, [padded] * 40, [padded] * 30 + [late] * 10, 1.0)
    assert row["segment_difference"] == 0 and row["reasons"] == []


def test_an_interval_above_zero_is_a_loss(clips):
    """0.2 points of many words are not chance."""
    many = [replace(clip, reference=" ".join("abcde" * 200)) for clip in clips]
    text = Transcript(many[0].reference, False, True, "en", ())
    worse = [replace(text, text=text.text.replace("a", "x", 1))] * 40
    row = compare(many, [text] * 40, worse, 1.0)
    assert row["wer_difference"] == 0.001 and row["reasons"] == ["errors"]


def test_bad_texts_are_those_of_the_padded_clip(clips):
    loop = replace(GOOD, text="a a a a a a a a a", is_bad=True)
    row = judged(clips, loop)
    assert row["again"] == row["loops"] == 1 and row["wer"] == 0 and row["same_text"] == 1
    assert row["reasons"] == ["loops"]  # one in 40
    row = judged(clips, replace(loop, is_short=False))  # padded in any case: nothing to go back to
    assert row["again"] == 0 and "errors" in row["reasons"]


def test_a_model_gets_its_margin(tiny_teacher, manifest, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(tiny_teacher, folder)
    before = json.loads((folder / "config.json").read_text())
    out = tmp_path / "out.json"
    command = [str(folder), str(manifest), "--output", str(out), "--write"]
    assert main([*command, "--margins", "30", "--language", "German"]) == 0  # all are padded
    said = capsys.readouterr().out
    assert "Chosen: 30 s." in said and "left out: 1 longer_than_30_s, 1 no_reference" in said
    assert "words), 2 of them padded in any case" in said and "2 clips say little" in said
    wanted = {"margin_seconds": 30.0, "silence_level": round(LEVEL, 6),
              "max_wer_difference": 0.0, "num_clips": 2}
    assert json.loads((folder / "config.json").read_text()) == before | {"short_audio": wanted}
    found = json.loads(out.read_text())
    assert [row["margin_seconds"] for row in found["margins"]] == [30] and found["padded"]


def test_transcripts_are_kept(tiny_teacher, manifest, tmp_path, capsys, monkeypatch):
    """More margins, and a run that was stopped: only what is missing is decoded."""
    out = tmp_path / "out.json"
    command = [str(tiny_teacher), str(manifest), "--language", "de", "--segments", "--noise",
               "white", "--batch-size", "1", "--output", str(out), "--margins"]
    decoded = []
    transcribe = Transcriber._transcribe
    monkeypatch.setattr(Transcriber, "_transcribe", lambda ways, clips, margin: (
        decoded.append(margin), transcribe(ways, clips, margin))[1])
    main([*command, "1"])
    first = json.loads(out.read_text())
    assert decoded == [None, None, 1.0, 1.0]
    main([*command, "1,2"])
    again = json.loads(out.read_text())
    assert decoded[4:] == [2.0, 2.0]
    assert again["margins"][0] == first["margins"][0] and again["padded"] == first["padded"]
    assert again["noise"] == {"source": "white", "snr_db": 10.0}
    assert again["padded"]["segment_difference"] == 0
    assert "under them: white, 10 dB weaker" in capsys.readouterr().out
    (kept,) = (tmp_path / "kept").iterdir()
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(lines[:-1]) + lines[-1][:20])  # killed while it wrote
    main([*command, "1,2"])
    assert decoded[6:] == [2.0] and json.loads(out.read_text()) == again


def test_where_no_margin_will_do_nothing_is_written(tiny_teacher, manifest, tmp_path, capsys,
                                                   monkeypatch):
    """A random model hears everything in silence."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_teacher, folder)
    before = (folder / "config.json").read_bytes()
    monkeypatch.setattr("eval.speech.short_audio.compare.MOST_SECONDS", -1.0)
    assert main([str(folder), str(manifest), "--margins", "1", "--write",
                 "--output", str(tmp_path / "out.json")]) == 1
    assert "No margin will do" in capsys.readouterr().out
    assert (folder / "config.json").read_bytes() == before


def test_the_upper_end_is_kept(clips):
    row = judged(clips, replace(GOOD, text="a b c"), replace(GOOD, text="a b c"))
    result = {"margins": [row, judged(clips, margin=2.0)], "chosen": 1.0, "num_clips": 40,
              "padded": row | {"margin_seconds": None}, "left_out": {}, "num_words": 160,
              "noise": None}
    assert entry(result)["max_wer_difference"] == round(row["interval"][1], 6) > 2 / 160
    assert "Chosen: 1 s." in table(result) and "+1.25 [" in table(result)


@pytest.mark.parametrize(("arguments", "told"), [
    (["demo", "x.jsonl", "--write"], "--write needs a model's folder"),
    (["no/such/place", "x.jsonl"], "MODEL"),
    (["demo", "no.jsonl"], "no.jsonl"),
    (["demo", "no.jsonl", "--batch-size", "0"], "must be 1 or more"),
    (["demo", "x.jsonl", "--language", "Klingon"], "Klingon")])
def test_what_is_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        main(arguments)


@pytest.mark.parametrize("margins", ["a", "-1", "1,31"])
def test_margins_are_seconds(margins, capsys):
    with pytest.raises(SystemExit):
        _parser().parse_args(["demo", "x", "--margins", margins])
    assert "seconds" in capsys.readouterr().err
