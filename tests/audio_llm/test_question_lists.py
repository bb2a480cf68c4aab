"""Lists as LTU-AS publishes them: fields, counted drops, and what becomes a row."""

import json
from collections import Counter

import numpy as np
import pytest
import soundfile

from distill.audio_llm.data.question_lists import main, rows_of
from distill.data.files import read_jsonl


@pytest.fixture
def audio(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(8_000, np.float32), 16_000)
    return tmp_path


def item(**changes) -> dict:
    return {"instruction": "What is it?", "input": "", "audio_id": "a.wav", "dataset": "x",
            "task": "cla_label", "output": "A dog."} | changes


def test_rows(audio):
    drops = Counter()
    items = [
        item(input="Hello. Thanks for watching!"), item(task="open_q", output="It is enough."),
        item(output=" "), item(audio_id="b.wav"), item(task=None),
        item(output="It cannot be determined from the clip."), item(output="One cannot miss it."),
    ]
    rows = list(rows_of(items, audio, frozenset({"cla_label"}), True, drops))
    assert [row["answer"] for row in rows] == ["A dog.", "It is enough.", "One cannot miss it."]
    assert rows[0]["spoken"] == "Hello." and "spoken" not in rows[1]
    assert [row["task"] for row in rows] == ["closed", "open", "closed"]
    assert rows[0]["duration"] == 0.5 and rows[0]["id"] == "a-0"
    assert drops == {"no_answer": 1, "unreadable_audio": 1, "no_task": 1, "not_answerable": 1}


def test_the_command(audio, capsys):
    (audio / "list.json").write_text(json.dumps([item(), item(output="")]))
    out = audio / "out" / "all.jsonl"
    main([str(audio / "list.json"), str(out)])
    assert "1 questions (1 cla_label); left out: 1 no_answer" in capsys.readouterr().out
    assert read_jsonl(out)[0]["task"] == "cla_label"
    with pytest.raises(ValueError, match="unknown key sound; known: audio, closed, answerable"):
        main([str(audio / "list.json"), str(out), "sound=x"])
    (audio / "train.jsonl").write_text('{"audio_filepath": "a.wav", "duration": 1, "text": "x"}')
    for mine in ("train.jsonl", "list.json", "a.wav"):
        before = (audio / mine).read_bytes()
        with pytest.raises(ValueError, match=f"{mine} is there already and was not made by this"):
            main([str(audio / "list.json"), str(audio / mine)])
        assert (audio / mine).read_bytes() == before
    main([str(audio / "list.json"), str(out)])  # what it made itself it makes anew
    (audio / "list.json").write_text(json.dumps([item(output="")]))
    with pytest.raises(ValueError, match="no row is left"):
        main([str(audio / "list.json"), str(out)])
