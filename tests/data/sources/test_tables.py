"""Texts and tables as people have them: what can be read is read whole, the rest is counted."""

import json
import shutil
import unicodedata
from pathlib import Path

import pytest

from distill.data.sources.clips import Columns
from distill.data.sources.layouts.folder import find_clips
from distill.data.sources.tables.table import open_table
from distill.data.sources.tables.text import decode, read_text

ROOT = Path(__file__).resolve().parents[3]
CLIP = ROOT / "recipes" / "demo" / "data" / "audio" / "added.ogg"
SENTENCES = ("Hello, you\n", "Ŵyth tŷ\n", "Привет, мир", "Γειά σου", "שלום עולם\n", "مرحبا بك",
             "नमस्ते दुनिया\n", "สวัสดี\n", "今日は\n", "한국어 문장\n", "5")


def put(folder: Path, name: str, content: str | bytes, *audio: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for each in audio:
        (folder / each).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CLIP, folder / each)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def test_texts_of_every_encoding_that_says_what_it_is(tmp_path):
    for sentence in SENTENCES:
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
            assert decode(sentence.encode(encoding)) == sentence, (sentence, encoding)
        path = put(tmp_path, "t.csv", f'file,text\r\na.wav,"{sentence}"'.encode("utf-16")) / "t.csv"
        row, = open_table(path).rows()
        assert row.cells["text"].strip() == sentence.strip()
    for data, byte in ((b"caf\xe9", "byte 4 is 0xe9"), ("“Né”".encode("cp1252"), "byte 1 is 0x93"),
                       (b"\xef\xbb\xbfcaf\xe9!", "byte 7 is 0xe9"), (b"abc\0def", "byte 4 is 0x00"),
                       (b"ab\0c", "byte 3 is 0x00"), (b"hello\0\0\0", "byte 6 is 0x00")):
        path = put(tmp_path, "bad.txt", data) / "bad.txt"
        with pytest.raises(ValueError, match=f"bad.txt: {byte}"):
            read_text(path)


# name, content, [cells, or the reason of a problem, by line]
DELIMITED = [
    ("semicolon.csv", "\ufefffile_name;text\r\na;Calling, you\r\n", {2: ["a", "Calling, you"]}),
    ("excel.csv", "sep=;\nfile_name;text\na;1,5\n", {3: ["a", "1,5"]}),
    ("pipe.csv", 'file_name|text\na|"x, y; z\n', {2: ["a", '"x, y; z']}),
    ("tabs.csv", "file_name\ttext\na\tx, y\n", {2: ["a", "x, y"]}),
    ("commas.tsv", 'file_name,text\na,"x, y"\n', {2: ["a", "x, y"]}),
    ("mac.csv", "file_name,text\ra,b\rc,d\r", {2: ["a", "b"], 3: ["c", "d"]}),
    ("blank.csv", "\n\nfile_name,text\n\na,b\n,,\n", {5: ["a", "b"]}),
    ("spaces.csv", 'file_name, text\na, "b, c"\n', {2: ["a", "b, c"]}),
    ("more.csv", "file_name,text\na,b,c\nd\ne,f,\n", {2: "bad_row", 3: "bad_row", 4: ["e", "f"]}),
    ("unnamed.csv", "file_name,text,\na,b,\nc,d, e\n", {2: ["a", "b"], 3: "bad_row"}),
    ("index.csv", ",file_name,text\n0,a,b\n", {2: ["a", "b"]}),
    ("marks.csv", 'file_name,text\na.wav,"Hello\nb.wav,Bye\nc.wav,"Yo"\nd.wav,"e" f\n',
     {2: "bad_row", 3: ["b.wav", "Bye"], 4: ["c.wav", "Yo"], 5: "bad_row"}),
    ("marks2.csv", 'file_name,text\na.wav,"Hello\nb.wav,Bye"\nc.wav,"two\nlines"\nd.wav,"open\n',
     {2: "bad_row", 3: ["b.wav", 'Bye"'], 4: ["c.wav", "two\nlines"], 6: "bad_row"}),
    ("cv.tsv", 'path\tsentence\na\t"Wedi\nb\t"She ""hi"" x"\nc\t"Yes"\n',
     {2: ["a", '"Wedi'], 3: ["b", 'She "hi" x'], 4: ["c", '"Yes"']}),
    ("cut.tsv", 'path\tsentence\na\t"two\nlines"\nb\t"c\n',
     {2: "bad_row", 3: "bad_row", 4: ["b", '"c']}),
    ("joined.csv", "file_name,text\na,b\nfile_name,text\nc,d\n", {2: ["a", "b"], 4: ["c", "d"]}),
    ("quoted.tsv", '"path"\t"sentence"\n"a"\t"b\tc"\n', {2: ["a", "b\tc"]}),
    ("latin.csv", b"file_name,text\na,caf\xe9\nb,x\0y\nc,ok\n",
     {2: "bad_text", 3: "bad_text", 4: ["c", "ok"]}),
    ("large.csv", f"file_name,text\na,{'x' * 200_000}\n", {2: ["a", "x" * 200_000]}),
    ("lines.jsonl", '{"file":"a","text":"b"}\n\n{"file"\n5\n[1]\nnull\n{"file":"c","text":"d"}\n',
     {1: ["a", "b"], 3: "bad_row", 4: "bad_row", 5: "bad_row", 6: "bad_row", 7: ["c", "d"]}),
    ("array.jsonl", '[{"file":"a","text":"b"},\n 5]', {1: ["a", "b"], 2: "bad_row"}),
    ("lines.json", '{"file":"a","text":"b"}\n{"file":"c","text":"d"}', {1: ["a", "b"],
                                                                     2: ["c", "d"]}),
    ("held.json", '{"version": 1,\n"data": [{"file": "a", "text": "b"}]}', {1: ["a", "b"]}),
    ("one.json", '{\n"file": "a",\n"text": "b"}', {1: ["a", "b"]}),
]
REFUSED = [
    ("empty.csv", "", "empty.csv: the file is empty"), ("e.jsonl", "\n", "the file is empty"),
    ("latin.csv", b"file,t\xe9xt\na,b\n", "latin.csv line 1: byte 7 is 0xe9"),
    ("array.json", '[\n{"file": "a"},\n{"file" "b"}\n]', "array.json line 3: Expecting"),
    ("cut.json", '[{"file": "a"},\n{"file": "b"}', "cut.json line 2: Expecting"),
    ("none.jsonl", '{"a"\n{"b"\n', "none.jsonl line 1: no JSON: Expecting"),
    ("lists.jsonl", '["a", "b"]\n["c"]\n', "lists.jsonl line 1: expected an object"),
    ("mark.csv", '"file,text\na,b\n', "mark.csv line 1: a quotation mark of the header"),
]


def test_tables(tmp_path):
    for name, content, expected in DELIMITED:
        table = open_table(put(tmp_path, name, content) / name)
        found = {}
        for row in table.rows():
            if row.problem:
                assert f"{name} {table.unit} {row.line}: " in row.problem[1]
            found[row.line] = row.problem[0] if row.problem else [
                row.cells[column] for column in row.cells if column and column != "version"]
        if name == "index.csv":
            found[2] = found[2][-2:]
        assert {line: value[:2] if isinstance(value, list) else value
                for line, value in found.items()} == expected, name
    for name, content, message in REFUSED:
        with pytest.raises(ValueError, match=message):
            open_table(put(tmp_path, name, content) / name)


def test_types_of_cells(tmp_path):
    rows = [({"text": 5}, "bad_text"), ({"text": ["x"]}, "bad_text"), ({"text": True}, "bad_text"),
            ({"text": None}, None), ({"text": "ok", "offset": "0.1", "duration": "0.2"}, "ok"),
            ({"text": "ok", "offset": None, "duration": None}, "ok"),
            ({"text": "n", "offset": "abc"}, "bad_offset"), ({"offset": -1}, "bad_offset"),
            ({"offset": [0]}, "bad_offset"), ({"duration": float("nan")}, "bad_duration"),
            ({"duration": 0}, "bad_duration"), ({"duration": "0,2", "text": "ok"}, "ok"),
            ({"file": ["a.wav"]}, "bad_file_name"),
            ({"file": {"path": "a.wav"}, "text": "ok"}, "ok"),
            ({"file": None}, "no_file_name"), ({"file": " "}, "no_file_name"),
            ({"file": "http://host/a.wav"}, "remote_file"), ({"speaker": {"id": 1}}, "bad_speaker"),
            ({"labels": "drum"}, ("drum",)), ({"labels": ["a", "b"]}, ("a", "b")),
            ({"labels": "['a', 'b']"}, ("a", "b")), ({"labels": [["a"]]}, "bad_labels"),
            ({"labels": {"a": 1}}, "bad_labels"), ({"labels": True}, "bad_labels"),
            ({"labels": "[a, b]"}, "bad_labels"), ({"labels": []}, ())]
    lines = "".join(json.dumps({"file": "a.wav", **row}) + "\n" for row, _ in rows)
    put(tmp_path, "train.jsonl", lines, "a.wav")
    clips = list(find_clips(tmp_path, "train", Columns("text", labels="labels")))
    for number, ((row, expected), clip) in enumerate(zip(rows, clips, strict=True), 1):
        if clip.problem:
            assert f"train.jsonl line {number}: " in clip.problem[1]
        found = clip.problem[0] if clip.problem else clip.text
        found = clip.labels if "labels" in row and not clip.problem else found
        assert found == expected, row
    assert (clips[4].offset, clips[4].duration) == (0.1, 0.2)
    assert clips[11].duration == 0.2


def test_names_of_files(tmp_path):
    """Of Windows, of a Mac, of another machine, without or with another suffix; never a guess."""
    accents = unicodedata.normalize("NFD", "wav/café.wav")
    audio = ("wav/A.wav", accents, "sub/x.1.wav", "y.wav", "two/z.wav", "three/z.wav")
    expected = {"wav\\A.wav": "wav/A.wav", "wav/a.WAV": "wav/A.wav", "./wav/A.wav": "wav/A.wav",
                "wav/café.wav": accents, "x.1": "sub/x.1.wav", " y.wav ": "y.wav",
                "y.mp3": "y.wav", "C:\\data\\wav\\A.wav": "wav/A.wav",
                "/mnt/wav/A.wav": "wav/A.wav",
                "A.wav": "wav/A.wav", "three/z": "three/z.wav", "gone.wav": None,
                "/mnt/y.wav": None, "other/A.wav": None, "z.wav": "ambiguous_file"}
    table = "File Name\tText\n" + "".join(f"{name}\tx\n" for name in expected)
    put(tmp_path, "metadata.tsv", table, *audio)
    for clip, (name, wanted) in zip(find_clips(tmp_path, "train", Columns()), expected.items(),
                                    strict=True):
        if wanted == "ambiguous_file":
            assert clip.problem[0] == wanted and "three/z.wav, two/z.wav" in clip.problem[1]
        elif wanted is None:
            assert not clip.path.exists() and clip.problem is None, name
        else:
            assert clip.path.resolve() == (tmp_path / wanted).resolve(), name
    assert find_clips(tmp_path, "train", Columns()).__next__().id == "wav/A"


def test_texts_beside_audio(tmp_path):
    texts = {"a.txt": b"\xef\xbb\xbfhi", "b.txt": "hé".encode("utf-16"), "c.txt": b"caf\xe9",
             "d.txt": b" \n", "e.TXT": b"upper", "f.lab": b"two\r\nlines", "g.wav.txt": b"g",
             "README.txt": b"about", "z.txt": b"no audio"}
    for name, content in texts.items():
        put(tmp_path, name, content, *(f"{each}.wav" for each in "abcdefgh"))
    found = {clip.id: clip.problem[0] if clip.problem else clip.text
             for clip in find_clips(tmp_path, "train", Columns())}
    assert found == {"a": "hi", "b": "hé", "c": "bad_text", "d": None, "e": "upper",
                     "f": "two lines", "g": "g", "h": None, "z": "no_audio"}
    assert not any(clip.problem for clip in find_clips(tmp_path, "train", Columns("none")))
