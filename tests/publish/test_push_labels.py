"""Pseudo-labels as a data set on a Hub on loopback, and read back from there."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from distill.data.audio import load_audio
from distill.data.files import read_jsonl, write_json, write_jsonl
from distill.data.speech.windows import load_window
from distill.testing import write_tiny_corpus
from distill.whisper.data.corpus import load_clips
from pseudo_label.plan import label_settings, make_plan
from pseudo_label.push import main
from tests.publish.conftest import load

REPO = "somebody/labels"
RECIPE = """\
method: whisper
language: en
data: {{train: [{train}]}}
teacher: {{model: openai/whisper-base}}
pseudo_label: {{packing: sequential, shard_size: 2}}
filter: {{max_wer: 0.3}}
hub: {{labels_repo_id: somebody/labels}}
output_dir: {run}
"""


@pytest.fixture
def labelled(tmp_path):
    """A recipe with labels of a teacher that gets every second window wrong."""
    manifests = write_tiny_corpus(tmp_path / "corpus", {"train": 14})
    folder = tmp_path / "runs" / "tiny" / "pseudo_labels"
    (tmp_path / "recipe.yaml").write_text(
        RECIPE.format(train=manifests["train"], run=folder.parent))
    recipe = load(tmp_path)
    plan = make_plan(recipe)
    write_json(folder / "settings.json", label_settings(recipe, "0123456789", plan))
    for shard, windows in enumerate(plan.shards):
        rows = []
        for index, window in enumerate(windows):
            wrong, words = index % 2, len(window.text.split())
            rows.append({
                "id": window.id, "duration": window.duration, "speaker": window.speaker,
                "language": "en", "previous": window.previous, "reference": window.text,
                "label": "no" if wrong else window.text, "tokens": [1],
                "pieces": [{"id": p.id, "offset": p.offset, "duration": p.duration,
                            "start": p.start} for p in window.pieces],
                "wer": float(wrong), "cer": float(wrong), "substitutions": wrong,
                "deletions": wrong * (words - 1), "insertions": 0, "num_words": words,
                "unit": "word", "avg_logprob": -0.25, "no_speech_prob": 0.1,
                "compression_ratio": 1.5, "truncated": False,
                "teacher": {"model": "openai/whisper-base", "revision": "0123456789"},
            })
        write_jsonl(folder / f"part-{shard:05d}.jsonl", rows)
    return tmp_path


def files(hub) -> dict:
    return hub.repos["dataset", REPO].files


def test_labels_without_audio_and_once(labelled, hub, capsys):
    main([str(labelled)])
    assert "Sent 2 of 2 files" in capsys.readouterr().out
    there = hub.repos["dataset", REPO]
    assert there.private and len(there.commits) == 2
    assert set(there.files) == {".gitattributes", "README.md", "data/train-00000-of-00001.parquet"}
    for name, blob in there.files.items():
        assert str(labelled).encode() not in blob.content, name
    hub.log.clear()
    main([str(labelled)])
    assert "Nothing to do" in capsys.readouterr().out
    assert len(there.commits) == 2 and hub.count("^POST|^PUT") == 0


def test_another_filter_changes_reasons_not_labels(labelled, hub):
    main([str(labelled)])
    main([str(labelled), "filter.max_wer=null"])
    before, after = (commit[2] for commit in hub.repos["dataset", REPO].commits[1:])
    name = "data/train-00000-of-00001.parquet"
    tables = [pq.read_table(io.BytesIO(each[name].content)) for each in (before, after)]
    assert tables[0]["label"] == tables[1]["label"]
    assert set(tables[0]["drop_reason"].to_pylist()) == {None, "wer"}
    assert set(tables[1]["drop_reason"].to_pylist()) == {None}


def test_the_card_counts_what_is_there(labelled, hub):
    main([str(labelled), "hub.data_license=cc-by-4.0", "hub.data_name='tones'"])
    from huggingface_hub import DatasetCard

    text = files(hub)["README.md"].content.decode()
    data = DatasetCard(text).data
    assert data.license == "cc-by-4.0" and data.language == "en" and data.size_categories
    content = files(hub)["data/train-00000-of-00001.parquet"].content
    rows = pq.read_table(io.BytesIO(content)).to_pylist()
    kept = [row for row in rows if row["kept"]]
    words, lost = (sum(row["num_words"] for row in each) for each in (rows, [
        row for row in rows if not row["kept"]]))
    assert f"| all | {len(rows)} | {len(rows)} | {words} | {100 * lost / words:.2f} % |" in text
    assert f"| kept | {len(kept)} | {len(kept)} | {words - lost} | 0.00 % |" in text
    assert f"| dropped: `wer` | {len(rows) - len(kept)} | " in text
    assert "revision `0123456`" in text and "Audio: tones." in text


def test_read_back_with_audio(labelled, hub, monkeypatch, tmp_path):
    """By `datasets`, from the Hub: the same rows, and the same sound."""
    import datasets
    from huggingface_hub import HfFileSystem

    main([str(labelled), "hub.labels_audio=true"])
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.address)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    HfFileSystem.clear_instance_cache()
    loaded = datasets.load_dataset(REPO, split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded.features["audio"], datasets.Audio)
    loaded = loaded.cast_column("audio", datasets.Audio(decode=False))
    windows = {w.id: w for shard in make_plan(load(labelled)).shards for w in shard}
    assert len(loaded) == len(windows) > 2
    assert hub.count("GET /storage/") > 0
    for row in loaded:
        window = windows[row["id"]]
        assert row["text"] == window.text and row["kept"] == (row["label"] == window.text)
        samples, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
        assert rate == 16_000
        np.testing.assert_allclose(samples, load_window(window), atol=2**-15)  # 16 bits


def test_audio_of_a_window_that_no_plan_knew(labelled, hub):
    """`long_audio: sequential` finds out where windows of a recording begin while it labels."""
    path = sorted((labelled / "runs/tiny/pseudo_labels").glob("part-*.jsonl"))[0]
    rows = read_jsonl(path)
    piece = rows[0]["pieces"][0] | {"offset": 0.25, "duration": 0.125, "start": 0.0}
    rows[0] |= {"id": "long-0-000000.00003", "pieces": [piece], "duration": 0.125}
    write_jsonl(path, rows)
    main([str(labelled), "hub.labels_audio=true"])
    content = files(hub)["data/train-00000-of-00001.parquet"].content
    row = pq.read_table(io.BytesIO(content)).to_pylist()[0]
    samples, _ = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
    (clip,) = [r for r in load_clips(load(labelled).data.train)[0] if r.id == piece["id"]]
    np.testing.assert_allclose(samples, load_audio(clip.audio_filepath, 0.25, 0.125), atol=2**-15)


def test_what_is_missing_is_said(labelled, hub):
    with pytest.raises(ValueError, match="hub.labels_repo_id is not set"):
        main([str(labelled), "hub.labels_repo_id=null"])
    next((labelled / "runs/tiny/pseudo_labels").glob("part-*.jsonl")).unlink()
    with pytest.raises(ValueError, match="shards are labelled; run `make NAME.label`"):
        main([str(labelled)])
    assert not hub.log
