"""Another list of clips for the same output: what is labelled stays, the rest is labelled."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

import pseudo_label.__main__ as command
from distill.data.files import read_json, read_jsonl, write_json, write_jsonl
from distill.testing import write_tiny_recipe
from distill.whisper.recipe import load_recipe
from pseudo_label import scores
from pseudo_label.labelling.shards import read_labels
from pseudo_label.plan import make_plan

OPTIONS = ("num_threads=1", "pseudo_label.shard_size=2", "pseudo_label.window_seconds=9",
           "pseudo_label.long_audio=quiet", "filter.max_wer=null", "teacher.mode=live")


class Corpus:
    """A recipe whose clip list changes; counts what a teacher has to label."""

    def __init__(self, folder: Path, teacher: Path, monkeypatch):
        self.recipe = write_tiny_recipe(folder, teacher, train=12)
        self.manifest = folder / "corpus" / "train.jsonl"
        self.rows, self.run = read_jsonl(self.manifest), folder / "run"
        self.folder = self.run / "pseudo_labels"
        self.labelled: list[str] = []
        from pseudo_label.labelling.transcripts import Labeller

        prepare = Labeller.prepare

        def counted(labeller, windows):
            self.labelled += [window.id for window in windows]
            return prepare(labeller, windows)

        monkeypatch.setattr(Labeller, "prepare", counted)

    def label(self, rows: list[dict], *overrides: str) -> list[str]:
        """Ids of the windows that were labelled now."""
        write_jsonl(self.manifest, rows)
        self.labelled.clear()
        command.main([str(self.recipe), f"output_dir={self.run}", *OPTIONS, *overrides])
        self.consistent(rows, *overrides)
        return sorted(self.labelled)

    def consistent(self, rows: list[dict], *overrides: str) -> None:
        """Every clip is in one window that counts, and ids are those of one window each."""
        kept = read_jsonl(self.folder / "kept.jsonl")
        clips = sorted(piece["id"] for row in kept for piece in row["pieces"])
        assert clips == sorted(row["id"] for row in rows)
        assert kept and kept == [row | {"prompt": kept[at]["prompt"]}
                                 for at, row in enumerate(read_labels(self.folder))]
        every = [row["id"] for path in self.folder.glob("part-*") for row in read_jsonl(path)]
        assert len(set(every)) == len(every)
        text = {row["id"]: row["text"] for row in rows}
        for row in kept:
            assert row["reference"] == " ".join(text[piece["id"]] for piece in row["pieces"])

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir() if path.is_file()}


@pytest.fixture
def corpus(tmp_path, small_teacher, monkeypatch):
    return Corpus(tmp_path, small_teacher, monkeypatch)


def test_only_what_is_new_is_labelled(corpus, capsys):
    rows = corpus.rows
    first = corpus.label(rows[:8])
    before = corpus.files()
    assert len(first) > 3 and "came" not in capsys.readouterr().out
    assert corpus.label(rows[:8]) == [] and corpus.files() == before

    # more clips: the parts that are there stay as they are, byte for byte
    second = corpus.label(rows)
    assert second and not set(second) & set(first)
    parts = {name: data for name, data in before.items() if name.startswith("part-")}
    assert parts.items() < corpus.files().items()
    said = capsys.readouterr().out
    assert "4 (train-8, train-9, train-10, ...) came, none went, none changed; " in said
    assert f"{len(first)} windows are labelled already, {len(second)} are new" in said

    # one goes, one has another text: windows without either keep their labels
    touched = {"train-2", "train-5"}
    windows = read_labels(corpus.folder)
    alone = [row["id"] for row in windows if {p["id"] for p in row["pieces"]} & touched]
    others = [{**row, "text": "other words"} if row["id"] == "train-5" else row
              for row in rows if row["id"] != "train-2"]
    third = corpus.label(others)
    assert "none came, 1 (train-2) went, 1 (train-5) changed" in capsys.readouterr().out
    left = {row["id"] for row in read_labels(corpus.folder)}
    assert left == {row["id"] for row in windows} - set(alone) | set(third)
    assert len(third) <= len(alone)

    # and back: all windows are found again
    assert corpus.label(rows) == []
    assert read_labels(corpus.folder) == windows
    assert corpus.label(rows[:8]) == []
    after = corpus.files()
    assert {name: after[name] for name in parts} == parts
    assert sorted(row["id"] for row in read_labels(corpus.folder)) == sorted(first)


def test_other_audio_is_labelled_again_and_a_moved_corpus_is_not(corpus, tmp_path, capsys):
    rows = corpus.rows
    corpus.label(rows)
    audio = corpus.manifest.parent / rows[3]["audio_filepath"]
    samples, rate = soundfile.read(audio)
    soundfile.write(audio, np.roll(samples, 3000), rate)  # as long as before
    again = corpus.label(rows)
    assert again and "none came, none went, 1 (train-3) changed" in capsys.readouterr().out
    moved = tmp_path / "elsewhere"
    shutil.copytree(corpus.manifest.parent, moved, copy_function=shutil.copyfile)
    corpus.labelled.clear()
    command.main([str(corpus.recipe), f"output_dir={corpus.run}", *OPTIONS,
                  f"data.train=[{moved / 'train.jsonl'}]"])
    assert corpus.labelled == [] and "came" not in capsys.readouterr().out


def test_a_window_that_was_left_out_of_its_shard_is_labelled_later(corpus, monkeypatch):
    """Planned, interrupted, taken out of the list, its shard labelled without it, and back."""
    rows = corpus.rows
    with monkeypatch.context() as patch:
        patch.setattr("pseudo_label.__main__._label", lambda *_: (_ for _ in ()).throw(
            KeyboardInterrupt))
        write_jsonl(corpus.manifest, rows)
        with pytest.raises(KeyboardInterrupt):
            command.main([str(corpus.recipe), f"output_dir={corpus.run}", *OPTIONS])
    plan = [row for row in read_jsonl(corpus.folder / "plan.jsonl") if "shard" in row]
    gone = {clip for row in plan if row["shard"] in (0, 1) for clip in row["clips"]}
    gone -= set(plan[1]["clips"])  # all of shard 1, and half of shard 0
    corpus.label([row for row in rows if row["id"] not in gone])
    assert not (corpus.folder / "part-00001.jsonl").exists()
    back = corpus.label(rows)
    expected = {row["id"] for row in plan if set(row["clips"]) & gone}
    assert set(back) == expected


def test_two_packings_each_have_every_clip(corpus):
    """And a third one, in which every clip is by itself."""
    option = ("pseudo_label.num_packings=2", "pseudo_label.packing=best_fit",
              "pseudo_label.clips_alone=true", "views.previous_text_probability=0")
    recipe = [str(corpus.recipe), f"output_dir={corpus.run}", *OPTIONS, *option]
    for count in (8, 12, 10):
        write_jsonl(corpus.manifest, corpus.rows[:count])
        command.main(recipe)
        for packing in ("train-0", "train-1", "train-999"):
            windows = [row["pieces"] for row in read_labels(corpus.folder)
                       if row["id"].startswith(packing)]
            clips = [piece["id"] for pieces in windows for piece in pieces]
            assert sorted(clips) == sorted(row["id"] for row in corpus.rows[:count])
            assert (max(map(len, windows)) == 1) == (packing == "train-999")


def test_labels_of_older_versions_are_kept(corpus, capsys):
    """Folders without a plan file: an unchanged list is taken as it is, another one by what the
    label rows say."""
    first = corpus.label(corpus.rows[:8])
    before = corpus.files()
    for name in ("plan.jsonl", ".audio.json"):
        (corpus.folder / name).unlink()
    assert corpus.label(corpus.rows[:8]) == [] and corpus.files() == before
    for name in ("plan.jsonl", ".audio.json"):
        (corpus.folder / name).unlink()
    settings = read_json(corpus.folder / "settings.json")
    write_json(corpus.folder / "settings.json", settings)
    second = corpus.label(corpus.rows)
    assert second and not set(second) & set(first)
    assert "4 (train-8, train-9, train-10, ...) came" in capsys.readouterr().out


def test_a_second_manifest_gives_clips_other_names(corpus, capsys):
    """Ids get the name of their manifest in front; labels are the same."""
    first = corpus.label(corpus.rows[:8])
    before = {row["id"]: row["label"] for row in read_labels(corpus.folder)}
    more = corpus.manifest.with_name("more.jsonl")
    write_jsonl(more, corpus.rows[8:])
    corpus.labelled.clear()
    arguments = [str(corpus.recipe), f"output_dir={corpus.run}", *OPTIONS]
    capsys.readouterr()
    command.main([*arguments, f"data.train=[{corpus.manifest},{more}]"])
    assert corpus.labelled and not set(corpus.labelled) & set(first)
    said = capsys.readouterr().out
    assert "8 clips have other names): 4 (corpus/more:train-8, " in said
    assert "none went, none changed" in said
    after = read_labels(corpus.folder)
    assert before.items() <= {row["id"]: row["label"] for row in after}.items()
    assert all(piece["id"].startswith("corpus/") for row in after for piece in row["pieces"])
    assert corpus.label(corpus.rows[:8]) == []  # and back


def test_scores_follow(corpus, capsys):
    """Views of labels that stay are not scored again."""
    options = ("teacher.mode=store", "scores.encoder_states=none", "train.max_steps=20")
    corpus.label(corpus.rows[:8], *options)
    capsys.readouterr()
    corpus.label(corpus.rows, *options)
    assert "views are there already" in capsys.readouterr().out
    arguments = [str(corpus.recipe), f"output_dir={corpus.run}", *OPTIONS, *options]
    scores.main(arguments)
    plan = make_plan(load_recipe(arguments[0], arguments[1:]))
    assert plan.changes(corpus.folder) == "" and plan.missing(corpus.folder) == []
