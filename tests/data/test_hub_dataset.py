"""Every kind of source, with real clips of recipes/demo, and everything that can be wrong."""

import json
import shutil
from pathlib import Path

import pytest

from distill.data import hub_dataset
from distill.data.audio import load_audio
from distill.data.hub_dataset import Options, build, main, parse_options
from distill.data.manifest import read_manifest

DEMO = Path(__file__).resolve().parents[2] / "recipes" / "demo" / "data"
NAMES = ["activated", "agent-incorrect", "agent-loggedoff", "added"]
TEXTS = ["Activated.", "Login incorrect.", "Agent logged off.", "Added."]


def demo_bytes(name: str) -> bytes:
    return (DEMO / "audio" / f"{name}.ogg").read_bytes()


def rows_with_faults() -> list[dict]:
    rows = [
        {"id": name, "audio": {"bytes": demo_bytes(name), "path": f"{name}.ogg"}, "text": text}
        for name, text in zip(NAMES, TEXTS, strict=True)
    ]
    good = rows[0]["audio"]
    broken = {"bytes": b"OggS and then nothing", "path": "broken.ogg"}
    rows.insert(1, {"id": "broken", "audio": broken, "text": "Broken."})
    rows.insert(2, {"id": "activated", "audio": good, "text": "Again."})
    rows.append({"id": "silent", "audio": {"bytes": b"", "path": "silent.ogg"}, "text": "Silent."})
    rows.append({"id": "wordless", "audio": good, "text": "  "})
    for number, row in enumerate(rows):
        row["speaker_id"] = number % 2
    return rows


@pytest.fixture
def parquet_folder(tmp_path, monkeypatch) -> str:
    """A local dataset as the Hub serves it: parquet with an Audio feature in its metadata."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    struct = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    text = datasets.Value("string")
    plain = datasets.Features(
        {"id": text, "audio": struct, "text": text, "speaker_id": datasets.Value("int64")}
    )
    dataset = datasets.Dataset.from_list(rows_with_faults(), features=plain)
    dataset = dataset.cast_column("audio", datasets.Audio(decode=False))
    # Declared as decoded audio, which is what the Hub's files say; encoding needs torchcodec.
    features = dataset.features.copy()
    features["audio"] = datasets.Audio()
    dataset = dataset.cast(features)
    folder = tmp_path / "parquet"
    (folder / "data").mkdir(parents=True)
    dataset.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    return str(folder)


def drops_of(out: Path, name: str = "train") -> dict:
    return json.loads((out / "drops.json").read_text())[name]


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet(parquet_folder, tmp_path, capsys, streaming):
    out = tmp_path / "out"
    options = Options(language="en", streaming=streaming, unpack=True)
    manifest = build(parquet_folder, out, options)

    rows, dropped = read_manifest(manifest)
    again = rows.pop(1)  # the same id and audio, and another text: neither is lost
    names = [row.id for row in rows]
    assert names[1:] == NAMES[1:] and names[0] != again.id and not dropped
    assert {name.rpartition("-")[0] for name in (names[0], again.id)} == {"activated"}
    assert [row.text for row in rows] == TEXTS and again.text == "Again."
    assert rows[0].language == "en" and rows[0].speaker == "0"
    for row, name in zip(rows, NAMES, strict=True):
        stored = Path(row.audio_filepath)
        assert stored.is_relative_to(out) and stored.suffix == ".ogg"
        assert stored.read_bytes() == demo_bytes(name)  # not re-encoded
        assert abs(len(load_audio(stored)) / 16_000 - row.duration) < 0.01
    report = drops_of(out)
    reasons = {"unreadable": 1, "empty": 1, "missing_text": 1}
    assert report["drops"] == reasons and report["rows_read"] == 8
    assert report["dropped"]["unreadable"][0]["id"] == "broken"
    printed = capsys.readouterr().out
    assert "dropped 3 of 8 rows" in printed and "  unreadable: " in printed
    assert "2 rows had ids that were not unique" in printed
    assert len(list((out / "audio").rglob("*.ogg"))) == len(NAMES)  # nothing of the broken one


@pytest.mark.parametrize("streaming", [False, True])
def test_joined_splits(parquet_folder, tmp_path, streaming):
    import pyarrow.parquet

    data = Path(parquet_folder) / "data"
    table = pyarrow.parquet.read_table(data / "train-00000-of-00001.parquet")
    pyarrow.parquet.write_table(table.slice(4, 2), data / "test-00000-of-00001.parquet")
    options = Options(split="train+test", id_column="none", streaming=streaming)
    rows, _ = read_manifest(build(parquet_folder, tmp_path / "out", options))
    assert [row.text for row in rows][-2:] == ["Agent logged off.", "Added."]
    assert len(rows) == 7 and rows[-1].id == "out-train-test-00000009"


def test_row_numbers_as_ids_and_a_second_name(parquet_folder, tmp_path):
    out = tmp_path / "corpus"
    options = parse_options(["name=dev", "text_column=none", "id_column=none", "max_hours=0.0004"])
    rows, _ = read_manifest(build(parquet_folder, out, options))
    assert rows[0].id == "corpus-dev-00000000" and rows[0].text is None
    assert sum(row.duration for row in rows) >= 0.0004 * 3600 > rows[0].duration
    assert len(rows) == 2 and not (out / "train.jsonl").exists()


def audio_folder(folder: Path, inside: str = "") -> Path:
    (folder / inside).mkdir(parents=True)
    for name in NAMES[:3]:
        shutil.copy(DEMO / "audio" / f"{name}.ogg", folder / inside)
    (folder / inside / "broken.ogg").write_bytes(b"not audio")
    return folder


def test_folder_with_csv(tmp_path):
    folder = audio_folder(tmp_path / "corpus", "wav")
    lines = [
        "file_name,words,who,key",
        'wav/activated.ogg,"Activated, then",ann,a',
        "wav/agent-incorrect.ogg,Login incorrect.,,b",
        "wav/agent-incorrect.ogg,Login incorrect.,bob,b",
        "wav/gone.ogg,Gone.,bob,c",
        "wav/broken.ogg,Broken.,bob,d",
        "wav/agent-loggedoff.ogg,,bob,e",
    ]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    options = parse_options(["text_column=words", "speaker_column=who", "id_column=key"])
    rows, _ = read_manifest(build(str(folder), out, options))
    assert [(row.id, row.text, row.speaker) for row in rows] == [
        ("a", "Activated, then", "ann"),
        ("b", "Login incorrect.", None),
    ]
    assert Path(rows[0].audio_filepath) == folder / "wav/activated.ogg"  # pointed at, not copied
    assert not (out / "audio").exists()
    reasons = {"duplicate": 1, "missing_file": 1, "unreadable": 1, "missing_text": 1}
    assert drops_of(out)["drops"] == reasons


def test_common_voice_release(tmp_path):
    """Its own layout: <split>.tsv, file names under clips/, bare quotation marks."""
    folder = audio_folder(tmp_path / "cy", "clips")
    rows = [
        "client_id\tpath\tsentence",
        'c1\tactivated.ogg\t"Wedi',
        "c2\tagent-incorrect.ogg\tMewngofnodi",
    ]
    (folder / "dev.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "train.tsv").write_text("client_id\tpath\tsentence\n", encoding="utf-8")
    found, _ = read_manifest(
        build(str(folder), tmp_path / "out", parse_options(["split=dev", "language=cy"]))
    )
    assert [(row.id, row.text, row.speaker, row.language) for row in found] == [
        ("activated", '"Wedi', "c1", "cy"),
        ("agent-incorrect", "Mewngofnodi", "c2", "cy"),
    ]


def test_folder_with_sidecars(tmp_path):
    folder = audio_folder(tmp_path / "corpus", "a/b")
    (folder / "a/b/activated.txt").write_text("Activated.\n")
    (folder / "a/b/broken.txt").write_text("Broken.\n")
    out = tmp_path / "out"
    rows, _ = read_manifest(build(str(folder), out, Options()))
    assert [(row.id, row.text) for row in rows] == [("a/b/activated", "Activated.")]
    assert drops_of(out)["drops"] == {"missing_text": 2, "unreadable": 1}
    rows, _ = read_manifest(build(str(folder), out, Options(text_column="none")))
    assert len(rows) == 3 and all(row.text is None for row in rows)


def test_folder_with_jsonl(tmp_path):
    folder = audio_folder(tmp_path / "corpus")
    line = {"file_name": "activated.ogg", "text": "Activated.", "speaker": "ann"}
    (folder / "metadata.jsonl").write_text(json.dumps(line) + "\n")
    rows, _ = read_manifest(build(str(folder), tmp_path / "out", Options(split="test")))
    assert [(row.id, row.speaker) for row in rows] == [("activated", "ann")]


def test_missing_columns_list_those_there_are(parquet_folder, tmp_path):
    with pytest.raises(ValueError, match="no column words .text_column.; there are id, audio, te"):
        build(parquet_folder, tmp_path / "out", Options(text_column="words"))
    folder = audio_folder(tmp_path / "corpus")
    (folder / "metadata.csv").write_text("file_name,words\nactivated.ogg,Activated.\n")
    with pytest.raises(ValueError, match="the columns are file_name, words.*text_column=NAME"):
        build(str(folder), tmp_path / "out", Options())
    (folder / "metadata.csv").write_text("clip,text\nactivated.ogg,Activated.\n")
    with pytest.raises(ValueError, match="one of file_name, .*there are clip, text"):
        build(str(folder), tmp_path / "out", Options())


def test_nothing_usable(tmp_path):
    with pytest.raises(ValueError, match="not one usable row of 4 .*text_column=none"):
        build(str(audio_folder(tmp_path / "corpus")), tmp_path / "out", Options())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no audio and none of train.tsv"):
        build(str(tmp_path / "empty"), tmp_path / "out", Options())
    with pytest.raises(ValueError, match="there is no folder .*the folders in"):
        build(str(tmp_path / "absent"), tmp_path / "out", Options())


def test_names_that_are_no_file_names(tmp_path):
    data = demo_bytes("added")
    names = ("a/b", "a_b", "../x", "." * 300, "\u6f22" * 300, "A_b")
    clips = [hub_dataset.Clip(id=i, data=data) for i in names]
    paths = [hub_dataset.store_place(clip, tmp_path)[0] for clip in clips]
    assert len({path.name.casefold() for path in paths}) == len(clips)
    assert max(len(path.name.encode()) for path in paths) < 200
    assert all(path.resolve().is_relative_to(tmp_path) and path.suffix == ".ogg" for path in paths)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("txt_column=a", "did you mean text_column"),
        ("max_hours=ten", "max_hours must be a number > 0"),
        ("streaming=maybe", "streaming must be true or false"),
        ("split", "expected key=value"),
        ("name=../source/train", "expected the name of a file, without folders"),
        ("name=train.jsonl", "the name of a file, without folders and without .jsonl"),
        ("language=Klingon", "no language that Whisper knows is called 'Klingon'"),
    ],
)
def test_wrong_options(argument, message, capsys):
    assert main(["source", "out", argument]) == 2
    assert message in capsys.readouterr().err


def test_a_page_of_the_hub_is_no_shard(capsys):
    for page in ("https://huggingface.co/datasets/a/b", "http://www.huggingface.co/a/b/tree/main/"):
        assert main([page, "out"]) == 2
        assert "is an address: say a/b" in capsys.readouterr().err
