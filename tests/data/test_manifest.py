"""Manifests: what is refused, what is dropped and counted, what comes back."""

import json

import pytest

from distill.data.manifest import Row, read_manifest, write_manifest


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(name="a", **changes) -> dict:
    return {"id": name, "audio_filepath": f"{name}.wav", "duration": 2.5} | changes


def test_round_trip(tmp_path):
    rows = [
        Row("a", "audio/a.wav", 1.5, text="Grüße\u2028你好", speaker="s", language="de"),
        Row("b", "/abs/b.flac", 2.0, offset=0.5, labels=["Speech", "Music"]),
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    read, drops = read_manifest(tmp_path / "m.jsonl")
    assert not drops
    assert read[0] == Row("a", str(tmp_path / "audio/a.wav"), 1.5, text="Grüße\u2028你好",
                          speaker="s", language="de")
    assert read[1].audio_filepath == "/abs/b.flac" and read[1].labels == ["Speech", "Music"]
    assert "text" not in json.loads((tmp_path / "m.jsonl").read_text().split("\n")[1])


def test_paths_are_relative_to_the_manifest(tmp_path, monkeypatch):
    (tmp_path / "corpus").mkdir()
    write(tmp_path / "corpus" / "m.jsonl", row(audio_filepath="../audio/a.wav"))
    monkeypatch.chdir(tmp_path / "corpus")
    for path in (tmp_path / "corpus" / "m.jsonl", "m.jsonl"):
        assert read_manifest(path)[0][0].audio_filepath == str(tmp_path / "audio" / "a.wav")


def test_drops_are_counted(tmp_path):
    path = write(
        tmp_path / "m.jsonl", row("a"), row("a", duration=9.0), row("b", duration=0),
        row("c", duration=-1.0), row("d", duration=float("nan")), row("e", duration=float("inf")),
        row("f"),
    )
    rows, drops = read_manifest(path)
    assert [(r.id, r.duration) for r in rows] == [("a", 2.5), ("f", 2.5)]
    assert drops == {"duplicate_id": 1, "bad_duration": 4}


def test_other_fields_are_ignored_and_blank_lines_too(tmp_path):
    (tmp_path / "m.jsonl").write_text(json.dumps(row(source="x")) + "\n\n  \n")
    rows, _ = read_manifest(tmp_path / "m.jsonl")
    assert [r.id for r in rows] == ["a"]


@pytest.mark.parametrize("field", ["id", "audio_filepath", "duration"])
@pytest.mark.parametrize("value", [None, "", ...])
def test_required_fields(tmp_path, field, value):
    bad = row("b", **{field: value}) if value is not ... else row("b")
    if value is ...:
        del bad[field]
    path = write(tmp_path / "m.jsonl", row("a"), bad)
    with pytest.raises(ValueError, match=rf"m\.jsonl: row 2 lacks {field}; a row needs id, audio"):
        read_manifest(path)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ValueError, match=r"manifest not found: .*no\.jsonl"):
        read_manifest(tmp_path / "no.jsonl")
    (tmp_path / "m.jsonl").write_text(json.dumps(row()) + "\n{'id': 1}\n")
    with pytest.raises(ValueError, match=r"m\.jsonl:2: not a JSON object"):
        read_manifest(tmp_path / "m.jsonl")
