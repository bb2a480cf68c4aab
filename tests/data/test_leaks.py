"""What is measured is not what was trained on: in every recipe, before anything takes long."""

import json
import shutil
from pathlib import Path

import pytest

from distill.data import leaks
from distill.data.leaks import LeakError, check_splits, find_leaks, same_files
from distill.data.manifest import Row, write_manifest
from distill.methods import check_data, load_recipe
from distill.testing import write_tiny_corpus


def part(start, end, path="a.wav", name="x"):
    return Row(name, path, end - start, offset=start)


def test_parts_of_one_file():
    for measured, trained, leaks_ in (
        (part(0, 5), part(0, 5), True), (part(3, 8), part(0, 5), True),
        (part(1, 2), part(0, 60), True), (part(0, 60), part(1, 2), True),
        (part(5, 8), part(0, 5), False), (part(4.95, 8), part(0, 5), False),  # rounded times
        (part(4.8, 8), part(0, 5), True), (part(0, 0.15), part(0, 0.15), True),  # a short sound
        (part(0, 5), part(0, 5, "b.wav"), False),
    ):
        assert bool(find_leaks([trained], [measured])) == leaks_, (measured, trained)
    # a long clip that begins early, with short ones between
    train = [part(0, 100, name="long"), *[part(at, at + 1) for at in range(10)], part(90, 91)]
    assert find_leaks(train, [part(50, 51)])[0][1].id == "long"
    assert not find_leaks(train[1:], [part(50, 51)])


@pytest.fixture
def corpus(tmp_path):
    return tmp_path, {split: [str(path)] for split, path in write_tiny_corpus(tmp_path).items()}


def add(path, audio, **more):
    row = {"id": "added", "audio_filepath": audio, "duration": 2.0, "text": "one"} | more
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def test_the_same_bytes_under_another_name_are_read_once(corpus, monkeypatch):
    folder, splits = corpus
    seen = folder / "run" / "splits.json"
    monkeypatch.setattr(leaks, "REMEMBERED", 1)
    check_splits(splits, False, seen)
    source = folder / "train" / "0.wav"
    shutil.copy(source, folder / "copy.wav")
    (folder / "like.wav").write_bytes(source.read_bytes()[:-1] + b"?")  # as long, another sound
    for name in ("empty.wav", "silent.wav"):
        (folder / name).touch()
    for name in ("like.wav", "gone.wav", "empty.wav"):
        add(splits["test"][0], name, id=name)
    add(splits["train"][0], "silent.wav", id="e")
    check_splits(splits, False, seen)
    with monkeypatch.context() as patch:  # and is not looked into again, until a file is another
        patch.setattr(leaks, "fingerprint", None)
        check_splits(splits, False, seen)
    add(splits["validation"][0], "copy.wav", offset=0.5, duration=1.0)
    with pytest.raises(LeakError) as error:
        check_splits(splits, False, seen)
    assert str(error.value).startswith(
        "data.validation: 1 of 4 clips are also training clips: added (")
    assert "0.50 to 1.50 s) is train-0 (train/0.wav, 0.00 to" in str(error.value)
    assert str(error.value).endswith("or allow it with data.allow_overlap=true")
    said = []
    check_splits(splits, True, seen, said.append)
    assert len(said) == 1 and said[0].endswith("(data.allow_overlap is true)")


def test_a_test_clip_that_chose_the_weights_is_a_leak(corpus):
    """The same part of a file, or another file with the same bytes; where nothing is trained, too.
    A clip that is in all three is called a training clip."""
    folder, splits = corpus
    shutil.copy(folder / "validation" / "1.wav", folder / "copy.wav")
    plain = Path(splits["test"][0]).read_text()
    for audio, name in (("validation/0.wav", "validation-0"), ("copy.wav", "validation-1")):
        Path(splits["test"][0]).write_text(plain)
        add(splits["test"][0], audio)
        for given in (splits, {**splits, "train": []}):
            with pytest.raises(LeakError, match=(
                    rf"^data.test: 1 of \d clips are also validation clips: added \(.* is {name} "
                    r"\(.*looks too good: .* chosen by them.*data.allow_overlap=true$")):
                check_splits(given, False)
    said = []
    check_splits(splits, True, tell=said.append)
    assert [line.partition(" clips: ")[0] for line in said] == [
        f"data.test: 1 of {len(plain.splitlines()) + 1} clips are also validation"]
    add(splits["train"][0], "validation/1.wav")
    with pytest.raises(LeakError, match="data.validation: 1 of .* training clips"):
        check_splits(splits, False)


def test_many_files_of_one_size_are_no_leaks(tmp_path):
    rows = []
    for number in range(300):
        (tmp_path / f"{number}.wav").write_bytes(number.to_bytes(2) * 40_000)
        rows.append(Row(str(number), str(tmp_path / f"{number}.wav"), 1.0))
    assert same_files([rows[:200], rows[200:]]) == {}
    shutil.copy(tmp_path / "250.wav", tmp_path / "7.wav")
    assert set(same_files([rows[:200], rows[200:]])) == {rows[7].audio_filepath,
                                                         rows[250].audio_filepath}


def recipe(folder, method, **splits):
    text = {"whisper": "teacher: {model: x}\npseudo_label: {packing: sequential}",
            "ced": "", "whisper_at": "whisper: {model: x}"}
    data = json.dumps({split: paths for split, paths in splits.items()
                       if split != "test" or method != "whisper_at"})
    (folder / "recipe.yaml").write_text(f"method: {method}\noutput_dir: {folder / 'run'}\n"
                                        f"{text[method]}\ndata: {data}\n")
    return lambda *more: load_recipe(str(folder), list(more))


def test_every_method_and_stage_looks_first(corpus, capsys):
    folder, splits = corpus
    for split in splits:  # of taggers, too
        rows = [json.loads(line) for line in Path(splits[split][0]).read_text().splitlines()]
        write_manifest(splits[split][0], [Row(**row, labels=["a"]) for row in rows])
    add(splits["train"][0], "train/0.wav", id="bad", duration=-1)
    for method in ("whisper", "ced", "whisper_at"):
        load = recipe(folder, method, **splits)
        for stage in ("plan", "label", "train", "eval"):
            check_data(load(), stage)
            assert "13 clips" not in (out := capsys.readouterr().out)
            assert "train.jsonl: 12 clips; left out: 1 bad_duration" in out
        overlaps = {**splits, "validation": splits["train"]}
        for stage in ("plan", "label", "train", "eval"):
            with pytest.raises(LeakError, match="data.validation: 12 of 12 clips"):
                check_data(recipe(folder, method, **overlaps)(), stage)
        check_data(load("data.allow_overlap=true"), "train")


def test_what_is_missing_or_has_nothing_to_compare_is_said_at_the_start(corpus, capsys):
    folder, splits = corpus
    bare, empty = folder / "bare.jsonl", folder / "empty.jsonl"
    write_manifest(bare, [Row("a", "test/0.wav", 2.0), Row("b", "test/1.wav", 2.0, text=" ... ")])
    empty.write_text("")
    missing = str(folder / "gone.jsonl")
    for method, said in {"whisper": "not one of 2 clips has a `text` with a word in it",
                         "ced": "2 of 2 clips have no `labels` (a)"}.items():
        for split in splits if method == "whisper" else ["test"]:
            load = recipe(folder, method, **{"train": splits["train"], split: [missing]})
            for stage in ("label", "train", "eval"):
                with pytest.raises(ValueError, match="^manifest not found: .*gone.jsonl"):
                    check_data(load(), stage)
            check_data(load(), "plan")  # which says itself how to make it
        load = recipe(folder, method, train=splits["train"], test=[str(bare)])
        check_data(load(), "train")
        assert f"data.test: {said}: there will be no evaluation" in capsys.readouterr().out
        with pytest.raises(ValueError) as error:
            check_data(load(), "eval")
        assert str(error.value).startswith(f"data.test: {said} ({bare}); there is nothing to")
        load = recipe(folder, method, train=splits["train"], validation=[str(bare)])
        with pytest.raises(ValueError, match="data.validation: .*; give it some, or leave it"):
            check_data(load(), "label")
        with pytest.raises(ValueError, match="^data.train is empty: name a manifest in it$"):
            check_data(load("data.train=[]"), "label")
        with pytest.raises(ValueError, match="data.test: no clip in .*empty.jsonl"):
            check_data(load(f"data.test=[{empty}]", "data.validation=[]"), "label")
