"""The translating command: both texts in a row, killed, two ranks, filters, other settings."""

import os
import random
import time
from pathlib import Path

import pytest

import pseudo_label.__main__ as command
from distill.config import ConfigError
from distill.data.files import read_json, read_jsonl, write_jsonl
from distill.testing import WORDS, write_tiny_recipe, write_tiny_translator
from distill.whisper.data.view_source import read_kept
from distill.whisper.recipe import load_recipe
from distill.whisper.teacher import load_teacher
from pseudo_label import translate
from pseudo_label.filter import run_filter

COMMON = ("task=translate", "views.timestamp_probability=0", "pseudo_label.shard_size=1",
          "num_threads=1", "teacher.mode=live")
KNOWN = {*WORDS, ".", "Hill"}
LOOSE = ("translation.max_length_ratio=null", "translation.max_repeated_ngrams=null",
         "translation.max_copied=null", "translation.num_beams=1", "translation.text=reference")


@pytest.fixture(scope="module")
def recipe(small_teacher, tmp_path_factory) -> Path:
    return write_tiny_recipe(tmp_path_factory.mktemp("translate"), small_teacher, train=56)


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> tuple[str, ...]:
    model = write_tiny_translator(tmp_path_factory.mktemp("text") / "model", "marian", 1)
    return (*COMMON, *LOOSE, f"translation.model={model}")


@pytest.fixture(scope="module")
def whole(recipe, options, tmp_path_factory) -> Path:
    """The labels folder of a run that nothing happened to."""
    run = tmp_path_factory.mktemp("whole")
    command.main([str(recipe), f"output_dir={run}", *options])
    return run / "pseudo_labels"


def test_both_texts_are_in_one_row(whole, recipe, options):
    loaded = load_recipe(str(recipe), [f"output_dir={whole.parent}", *options])
    heard = {row["id"]: row for path in whole.glob("part-*") for row in read_jsonl(path)}
    kept, tokenizer = read_kept(loaded), load_teacher(loaded.teacher, False).processor.tokenizer
    report = read_json(whole / "filter.json")
    assert kept and len(kept) + sum(report["drops"].values()) == len(heard)
    assert report["translation"]["max_length_ratio"] is None
    for row in kept:
        said = heard[row["id"]]
        assert row["transcript"] == said["label"] and row["wer"] == said["wer"]
        assert row["label"] != row["transcript"] and set(row["label"].split()) <= KNOWN
        assert tokenizer.decode(row["tokens"]) == " " + row["label"]  # as Whisper writes
        assert row["translation"]["source"] == said["reference"]
        assert row["translation"]["target"] == "en" and row["translation"]["length_ratio"] > 0
    prompts = [row["prompt"] for row in kept if row["prompt"]]
    assert prompts and all(p in [row["tokens"] for row in kept] for p in prompts)


def translations(folder: Path) -> dict[str, bytes]:
    names = ("translations-*.jsonl", "translation.json", "kept.jsonl", "filter.json")
    return {path.name: path.read_bytes() for name in names for path in sorted(folder.glob(name))}


def test_filters_change_without_new_translations(whole, recipe, options, monkeypatch):
    monkeypatch.setattr("pseudo_label.translation.Translator", None)  # would raise
    before = translations(whole)
    strict = load_recipe(str(recipe), [f"output_dir={whole.parent}", *options,
                                       "translation.min_avg_logprob=0"])
    report = run_filter(strict)
    assert report["kept"] == 0 and report["drops"]["low_translation_logprob"] > 0
    command.main([str(recipe), f"output_dir={whole.parent}", *options])
    assert translations(whole) == before


def test_sigkill_and_ranks_change_nothing(whole, recipe, options, fork, tmp_path):
    run = tmp_path / "run"
    folder = run / "pseudo_labels"
    arguments = [str(recipe), f"output_dir={run}", *options]
    os.makedirs(folder)
    for path in [*whole.glob("part-*.jsonl"), whole / "settings.json"]:
        (folder / path.name).write_bytes(path.read_bytes())
    moments, kills = random.Random(int(time.time())), 0
    for number in range(2):
        ranks = [fork("pseudo_label.translate", arguments, tmp_path / "log", RANK=str(rank),
                      WORLD_SIZE="2") for rank in range(2)]
        while len(list(folder.glob("translations-*"))) <= 2 * number and ranks[0].is_alive():
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.05))
        for rank in ranks:
            rank.kill()
            rank.join()
            kills += rank.exitcode == -9
    assert kills >= 3, (tmp_path / "log").read_text()
    assert len(translations(folder)) < len(translations(whole))
    translate.main(arguments)
    assert translations(folder) == translations(whole)


def test_what_was_translated_must_be_what_is_said(whole, recipe, options, tmp_path):
    """Another beam, another text, a shard that is missing."""
    arguments = [str(recipe), f"output_dir={whole.parent}", *options]
    with pytest.raises(ValueError, match=r"other settings \(num_beams: 1 -> 2\)"):
        translate.main([*arguments, "translation.num_beams=2"])
    loaded = load_recipe(arguments[0], arguments[1:])
    part = next(iter(sorted(whole.glob("part-*.jsonl"))))
    path, rows = translate.translation_path(part), read_jsonl(part)
    data, text = path.read_bytes(), part.read_bytes()
    path.unlink()
    with pytest.raises(ValueError, match="1 of .* shards are not translated"):
        run_filter(loaded)
    path.write_bytes(data)
    write_jsonl(part, [row | {"reference": "something else"} for row in rows])
    with pytest.raises(ValueError, match="another text than the one translated"):
        run_filter(loaded)
    part.write_bytes(text)
    run_filter(loaded)


def test_whisper_translating_by_itself_has_no_error_rate(recipe, tmp_path):
    """The transcript is in another language; it stays in the row."""
    command.main([str(recipe), f"output_dir={tmp_path}", *COMMON, "language=zh"])
    kept = read_jsonl(tmp_path / "pseudo_labels" / "kept.jsonl")
    assert kept
    for row in kept:
        assert row["reference"] is None and row["wer"] is None and row["transcript"]
        assert row["unit"] == "word"  # of English, whatever was spoken


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["translation.model=x"], "task must be translate with translation.model"),
        (["translation.model=x", "task=translate"], "views.timestamp_probability must be 0"),
        (["translation.target=fr"], "translation.target must be en unless"),
        (["translation.model=x", *COMMON, "translation.target=fr"], "loss.kl_weight must be 0"),
        (["translation.max_copied=2"], r"translation.max_copied must be in \[0, 1\]"),
        (["translation.max_length_ratio=0.5"], "translation.max_length_ratio must be >= 1"),
        (["translation.text=audio"], "translation.text must be label or reference"),
        (["translation.num_beams=0"], "translation.num_beams must be > 0"),
        (["translation.min_avg_logprob=1"], "translation.min_avg_logprob must be <= 0"),
    ],
)
def test_recipes_that_make_no_sense(recipe, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(str(recipe), overrides)
