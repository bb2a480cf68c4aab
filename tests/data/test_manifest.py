"""Manifests: what is refused, what is dropped and counted, what comes back."""

import json

import pytest

from distill.data.manifest import Row, load_rows, open_manifest, read_manifest, write_manifest


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
        tmp_path / "m.jsonl", row("a"), row("a"), row("b", duration=0),
        row("c", duration=-1.0), row("d", duration=float("nan")), row("e", duration=10**400),
        row("f"), row("g", offset=-0.5), row("h", offset=float("inf")),
    )
    rows, drops = read_manifest(path)
    assert [(r.id, r.duration) for r in rows] == [("a", 2.5), ("f", 2.5)]
    assert drops == {"duplicate_clip": 1, "bad_duration": 4, "bad_offset": 2}
    rows.clear(), drops.clear()  # of a copy
    assert len(read_manifest(path)[0]) == 2


def test_other_fields_are_ignored_and_blank_lines_too(tmp_path):
    (tmp_path / "m.jsonl").write_text(json.dumps(row(source="x")) + "\n\n  \n")
    rows, _ = read_manifest(tmp_path / "m.jsonl")
    assert [r.id for r in rows] == ["a"]


BAD = {
    'labels must be a list of strings, got \'drum\'': {"labels": "drum"},
    "recordings must be {label: [names]}, got ['a']": {"recordings": ["a"]},
    "recordings must be {label: [names]}, got {'drum': 'a'}": {"recordings": {"drum": "a"}},
    "labels must be a list of strings, got [1, 2]": {"labels": [1, 2]},
    "labels must be a list of strings, got {'drum': 1}": {"labels": {"drum": 1}},
    "text must be a text or null, got 5": {"text": 5},
    "text must be a text or null, got ['a', 'b']": {"text": ["a", "b"]},
    "text has half a character in it": {"text": "\ud800"},
    "duration must be a number of seconds, got '1.5'": {"duration": "1.5"},
    "duration must be a number of seconds, got True": {"duration": True},
    "offset must be a number of seconds, got '0'": {"offset": "0"},
    "offset must be a number of seconds, got [1]": {"offset": [1]},
    "id must be a text or null, got ['x']": {"id": ["x"]},
    "speaker must be a text or null, got {}": {"speaker": {}},
    "language must be a text or null, got True": {"language": True},
    "audio_filepath must be a path, got ['a.wav']": {"audio_filepath": ["a.wav"]},
    "audio_filepath must be a path, got 3": {"audio_filepath": 3},
    "lacks duration; a row needs audio_filepath and duration, it has id,": {"duration": None},
    "lacks audio_filepath; a row needs": {"audio_filepath": ""},
}


def test_types_are_checked_with_line_and_field(tmp_path):
    for message, change in BAD.items():
        path = write(tmp_path / "m.jsonl", row("a"), row("b", **change))
        with pytest.raises(ValueError) as error:
            read_manifest(path)
        assert str(error.value).startswith(f"{path}: line 2: {message}"), message
    write(path, row(), *[row(labels=str(n)) for n in range(5)])
    with pytest.raises(ValueError, match=r"line 2: .*'0'; line 3: .*'1'; line 4: .*'2'; and 2 more"
                                         r" like these$"):
        read_manifest(path)


def test_numbers_as_names_and_nulls_are_fine(tmp_path):
    path = write(tmp_path / "m.jsonl", row(id=7, speaker=19.0, language="German", offset=None,
                                           text=None, labels=None, duration=3))
    assert read_manifest(path)[0] == [Row("7", str(tmp_path / "a.wav"), 3, speaker="19",
                                          language="de")]
    # what hashes of labels see: a whole number stays one
    assert json.dumps(read_manifest(path)[0][0].duration) == "3"


def test_languages_are_whispers_codes_where_somebody_speaks(tmp_path):
    path = write(tmp_path / "m.jsonl", row("a", language="pt_BR"), row("b", language="Klingon"))
    assert [r.language for r in read_manifest(path)[0]] == ["pt", "Klingon"]  # of a tagger
    with pytest.raises(ValueError, match=r"m\.jsonl: line 2: language 'Klingon': no language that "
                                         r"Whisper knows"):
        load_rows([str(path)], spoken=True)


def test_encodings_and_arrays(tmp_path):
    text = json.dumps(row(text="Grüße 你好"), ensure_ascii=False) + "\n"
    path = tmp_path / "m.jsonl"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        path.write_bytes(text.encode(encoding))
        assert read_manifest(path)[0][0].text == "Grüße 你好", encoding
    for data in (f"[{text}]", json.dumps([json.loads(text)], indent=2), f"  \n[{text}]\n"):
        path.write_text(data, encoding="utf-8")
        assert read_manifest(path)[0][0].text == "Grüße 你好"
    first = json.dumps(row()) + "\n"
    for data, message in {
        first.encode() + text[:-5].encode("latin-1", "replace"): "line 2, byte 68: 0xfc is not UTF",
        (first + "{'id': 1}\n").encode(): "line 2: not a JSON object (Expecting property name",
        (first + "[1]\n").encode(): "line 2: expected a JSON object, got [1]",
        b"[1]\n[2]\n": "line 1: expected a JSON object, got [1]; line 2",
        b"[" + 2 * first.encode(): "line 2: a JSON array that is broken",
        (f"[{first},\n{{}}]").encode(): "row 2: lacks audio_filepath and duration",
        b"path,text\na.wav,hi\n": "line 1: not a JSON object",
    }.items():
        path.write_bytes(data)
        with pytest.raises(ValueError) as error:
            read_manifest(path)
        assert str(error.value).startswith(f"{path}: {message}"), message


def nemo(name, offset, duration, text="x", **more):
    return {"audio_filepath": name, "offset": offset, "duration": duration, "text": text} | more


def test_manifests_of_nemo_have_ids_of_file_and_place(tmp_path):
    rows = [nemo("a/b.wav", 0, 2.0), nemo("a/b.wav", 2.25, 1.5), nemo("a/b.wav", 4, 1),
            nemo("/corpora/secret/x/y/z.flac", 0, 1.0), nemo(f"{tmp_path}/in/c.wav", 0, 1.0),
            nemo("../up/d.wav", 0, 1.0)]
    found = open_manifest(write(tmp_path / "train_manifest.json", *rows))
    assert [r.id for r in found.rows] == ["a/b", "a/b@2.25s", "a/b@4s", "x/y/z", "in/c", "up/d"]
    assert (found.num_renamed, found.drops) == (0, {})
    assert found.rows[1].offset == 2.25
    # whichever order they come in
    again = open_manifest(write(tmp_path / "again.json", *rows[::-1])).rows
    assert sorted(again, key=lambda r: r.id) == sorted(found.rows, key=lambda r: r.id)


def test_ids_of_several_rows_are_made_unique_and_no_clip_is_lost(tmp_path):
    rows = [row("a"), row("b"), row("a", audio_filepath="other.wav"), row("a", offset=1.0),
            row("a"), row("a", text="another transcript"), row("c")]
    found = open_manifest(write(tmp_path / "m.jsonl", *rows))
    ids = [r.id for r in found.rows]
    assert len(set(ids)) == 6 and found.drops == {"duplicate_clip": 1} and found.num_renamed == 4
    assert [i for i in ids if "~" not in i] == ["b", "c"] and ids[0].startswith("a~")
    known = {(r.audio_filepath, r.offset, r.text): r.id for r in found.rows}
    again = open_manifest(write(tmp_path / "again.jsonl", *rows[::-1])).rows
    assert {(r.audio_filepath, r.offset, r.text): r.id for r in again} == known
    corrected = [row("a", text="now right"), row("a", offset=1.0)]  # the id is of the sound
    new = open_manifest(write(tmp_path / "new.jsonl", *corrected)).rows
    assert new[1].id == known[str(tmp_path / "a.wav"), 1.0, None]


def test_links_are_followed(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "x.wav").write_bytes(b"")
    (tmp_path / "a.wav").symlink_to(tmp_path / "store" / "x.wav")
    (tmp_path / "linked").symlink_to(tmp_path / "store")
    path = write(tmp_path / "m.jsonl", row("a"), row("b", audio_filepath="linked/x.wav"))
    assert {r.audio_filepath for r in read_manifest(path)[0]} == {str(tmp_path / "store" / "x.wav")}


def test_what_is_no_manifest(tmp_path):
    write(tmp_path / "train.jsonl", row())
    for path, message in {
        tmp_path / "no.jsonl": "", tmp_path / "trian.jsonl": "; did you mean train.jsonl?",
        tmp_path: " is a folder: name a .jsonl file in it; it has train.jsonl",
        tmp_path / "*.jsonl": ": patterns are not expanded: name each file (train.jsonl)",
    }.items():
        with pytest.raises(ValueError) as error:
            read_manifest(path)
        assert str(error.value) == f"manifest not found: {path}{message}"
    scenes = tmp_path / "runs" / "mine" / "scenes"
    scenes.mkdir(parents=True)
    write(scenes / "train.jsonl", row())
    for name, message in (("test", "`make mine.plan` makes it"), ("trian", "did you mean train")):
        with pytest.raises(ValueError, match=f"{name}.jsonl; {message}"):
            read_manifest(scenes / f"{name}.jsonl")


def test_audio_in_shards(tmp_path):
    shard = {"audio_filepath": "shards/000042.tar", "duration": 1.0}
    path = write(
        tmp_path / "m.jsonl",
        shard | {"byte_offset": 1536, "num_bytes": 2048}, shard | {"member": "d/a.flac"},
        shard | {"member": "d/b.flac", "byte_offset": 5120, "num_bytes": 10, "id": "b"},
        shard | {"audio_filepath": "s3://bucket/0.tar", "member": "a.flac"},
        shard | {"audio_filepath": "shards/000042.tar#bytes=7+8", "id": "c"},
        shard | {"audio_filepath": "https://host/a.wav"})
    tar = f"{tmp_path}/shards/000042.tar"
    assert [(row.id, row.audio_filepath) for row in read_manifest(path)[0]] == [
        ("shards/000042-1536", f"{tar}#bytes=1536+2048"),
        ("shards/000042/d/a", f"{tar}#member=d/a.flac"),
        ("b", f"{tar}#bytes=5120+10"),
        ("s3:/bucket/0/a", "s3://bucket/0.tar#member=a.flac"),
        ("c", f"{tar}#bytes=7+8"),
        ("https:/host/a", "https://host/a.wav"),
    ]


@pytest.mark.parametrize(("fields", "message"), [
    ({"byte_offset": 5}, "two whole numbers of bytes, got 5 and None"),
    ({"byte_offset": -1, "num_bytes": 5}, "two whole numbers of bytes, got -1 and 5"),
    ({"byte_offset": 1.5, "num_bytes": 5}, "two whole numbers of bytes, got 1.5 and 5"),
    ({"member": ["a"]}, r"member must be the name of one, got \['a'\]"),
])
def test_parts_of_shards_that_make_no_sense(tmp_path, fields, message):
    with pytest.raises(ValueError, match=f"line 1: .*{message}"):
        read_manifest(write(tmp_path / "m.jsonl", row(**fields)))
