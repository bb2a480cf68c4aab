"""Audio of parquet files is read where it lies, if it lies there as it is."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import soundfile

from distill.data.audio import load_audio
from distill.data.files import read_jsonl
from distill.data.formats import remote
from distill.data.hub_dataset import build, parse_options
from distill.data.sources import parquet_places
from tests.support.range_server import range_server


def sound(seed: int) -> bytes:
    buffer = io.BytesIO()
    noise = 0.1 * np.random.default_rng(seed).standard_normal(8_000 + 100 * seed)
    soundfile.write(buffer, noise, 16_000, format="FLAC")
    return buffer.getvalue()


SOUNDS = [sound(seed) for seed in (0, 1, 2, 1, 3, 4)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("AUDIO_DISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_sizes", {})
    monkeypatch.setattr(parquet_places, "_BLOCK_BYTES", 1000)


def write(path, compression: str = "none", dictionary: bool = False, struct: bool = True):
    audio = [{"bytes": each, "path": f"{n}.flac"} for n, each in enumerate(SOUNDS)]
    table = pa.table({"id": [f"c{n}" for n in range(len(SOUNDS))], "text": ["x"] * len(SOUNDS),
                      "audio": audio if struct else SOUNDS})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=4, compression=compression,
                        use_dictionary=dictionary, data_page_size=2000)
    return path


def rows(source, out, *options: str) -> list[dict]:
    return read_jsonl(build(str(source), out, parse_options(["streaming=true", *options])))


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("struct", [False, True])
def test_clips_stay_where_they_are(tmp_path, dictionary, struct):
    path = write(tmp_path / "in" / "train.parquet", dictionary=dictionary, struct=struct)
    for source in (path, path.parent):
        out = tmp_path / f"out-{source.name}"
        found = rows(source, out)
        assert not (out / "audio").exists()
        assert [row["id"] for row in found] == [f"c{n}" for n in range(len(SOUNDS))]
        for row, data in zip(found, SOUNDS, strict=True):
            assert row["audio_filepath"].startswith("../in/train.parquet#bytes=")
            assert np.array_equal(load_audio(f"{out}/{row['audio_filepath']}"), load_audio(data))


def test_compressed_audio_is_stored(tmp_path, capsys):
    path = write(tmp_path / "in" / "train.parquet", "snappy")
    found = rows(path, tmp_path / "out")
    assert {row["audio_filepath"].split("/")[0] for row in found} == {"audio"}
    assert "audio of 2 row groups is compressed" in capsys.readouterr().err
    plain = rows(write(path), tmp_path / "unpacked", "unpack=true")
    assert {row["audio_filepath"].split("/")[0] for row in plain} == {"audio"}


def test_what_datasets_writes_is_not_compressed(tmp_path):
    from datasets import Audio, Dataset

    audio = [{"bytes": each, "path": None} for each in SOUNDS]
    plain = Dataset.from_dict({"text": ["x"] * len(SOUNDS), "audio": audio})
    plain.cast_column("audio", Audio(decode=False)).to_parquet(tmp_path / "train.parquet")
    places = parquet_places.places_in([str(tmp_path / "train.parquet")], "audio")
    assert len(places.found) == len(set(SOUNDS)) and not places.num_packed


def test_parquet_behind_a_url(tmp_path):
    path = write(tmp_path / "in" / "train.parquet")
    with range_server(path.parent) as server:
        url = f"{server.url}/train.parquet"
        places = parquet_places.places_in([url], "audio")
        assert len(places.found) == len(set(SOUNDS))
        found = rows(url, tmp_path / "out")
        for row, data in zip(found, SOUNDS, strict=True):
            assert row["audio_filepath"].startswith(f"{url}#bytes=")
            assert np.array_equal(load_audio(row["audio_filepath"]), load_audio(data))
