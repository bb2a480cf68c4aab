"""Asking a teacher about views, writing its word down, and asking it again."""

import json
import re
import shutil

import numpy as np
import pytest
import soundfile
import torch

from distill.data.files import read_jsonl, write_jsonl
from distill.data.teacher_store import Record, TeacherStore
from distill.data.teacher_store.__main__ import main as look_after
from distill.whisper.data.scoring import (
    Rescorer,
    Scorer,
    read_states,
    scores_folder,
    scores_settings,
    states_columns,
    states_folder,
    temperatures,
)
from distill.whisper.teacher import Teacher, load_teacher
from pseudo_label.scores import score

NO_STATES = "scores.encoder_states=none"
SHORT = "train.max_steps=2"
ALL_COLUMNS = (SHORT, "loss.hidden_weight=1")  # scores, and states of two layers
EXACT = (SHORT, "scores.method=decoder_state")


# Types and settings


def test_states_are_rounded_as_their_type_says():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(50, 32, generator=generator)
    states[3] *= 100  # int8 has a scale for every frame
    states[4] = 0.0
    kept = {dtype: read_states([states_columns(states, dtype)], dtype)[0]
            for dtype in ("float16", "bfloat16", "int8")}
    assert torch.equal(kept["float16"], states.half())
    assert torch.equal(kept["bfloat16"], states.bfloat16())
    assert kept["int8"].dtype == torch.float32
    step = states.abs().amax(-1, keepdim=True) / 127
    error = (kept["int8"] - states).abs()
    assert (error <= 0.501 * step).all() and (error[3] > 0.3 * step[3]).any()
    assert not kept["int8"][4].any()
    columns = {dtype: states_columns(states, dtype) for dtype in kept}
    for dtype, each in columns.items():  # of a short clip beside those of a longer one
        both = read_states([each, states_columns(states[:20], dtype)], dtype)
        assert torch.equal(both[0], kept[dtype]) and torch.equal(both[1], kept[dtype][:20])
    sizes = {dtype: sum(column.nbytes for column in each.values())
             for dtype, each in columns.items()}
    assert sizes == {"float16": 50 * 64, "bfloat16": 50 * 64, "int8": 50 * 36}


@pytest.mark.parametrize(("temperature", "expected"), [
    (2.0, [1.0, 2.0]), (1.0, [1.0]), (0.5, [1.0, 0.5]), (1.5, [1.0, 1.5])])
def test_the_temperature_of_the_loss_comes_last(temperature, expected):
    assert temperatures(temperature) == expected


@pytest.mark.parametrize(("overrides", "expected"), [
    ([], {"method": "head_and_sampled", "k": 64, "temperatures": [1.0, 2.0],
          "encoder_states": "float16"}),
    (["scores.method=top_k", "scores.k=9999", NO_STATES],
     {"method": "top_k", "k": 1768, "temperatures": [1.0, 2.0]}),
    (["scores.method=decoder_state"], {"decoder_states": ["last"], "encoder_states": "float16"}),
    (["loss.hidden_weight=1", "loss.kl_weight=0", "scores.encoder_states=memory"],
     {"decoder_states": [3, "last"]}),
    (["loss.hidden_weight=1", "student.decoder_layers=[0,1,3]", "loss.temperature=1"],
     {"decoder_states": [1, 3, "last"], "method": "head_and_sampled", "k": 64,
      "temperatures": [1.0], "encoder_states": "float16"}),
    (["scores.method=decoder_state", "teacher.short_audio_margin=0.5"],
     {"decoder_states": ["last"], "encoder_states": "float16", "short_audio_margin": 0.5,
      "silence": 2, "silence_level": -0.65, "silence_every": 2}),
    (["scores.method=top_k", "scores.encoder_states_dtype=int8", "loss.temperature=3"],
     {"method": "top_k", "k": 64, "temperatures": [1.0, 3.0], "encoder_states": "int8"}),
])
def test_settings_say_what_scores_depend_on(tiny_run, teacher, overrides, expected):
    found = scores_settings(tiny_run.recipe(*overrides), "r", teacher.processor,
                            teacher.model.config)
    always = {"kind": "token scores", "teacher": str(tiny_run.folder / "teacher"),
              "revision": "r", "vocabulary": 1768, "encoder_states": "float32"}
    assert len(found.pop("tokenizer")) > 8
    assert found == always | expected


# Records


@pytest.fixture(scope="module")
def teacher(tiny_run) -> Teacher:
    return load_teacher(tiny_run.recipe().teacher)


def scorer_of(tiny_run, teacher, *overrides, states=None) -> Scorer:
    recipe = tiny_run.recipe(*overrides)
    return Scorer(recipe, teacher, tiny_run.source(recipe), states)


def assert_same_word(one: Record, other: Record, rtol: float = 2e-3) -> None:
    """Up to the arithmetic of another batch."""
    assert one.key == other.key and one.columns.keys() == other.columns.keys()
    for name, column in one.columns.items():
        theirs = other.columns[name]
        assert column.dtype == theirs.dtype and column.shape == theirs.shape, name
        if name == "indices":
            same = [np.isin(a, b).mean() for a, b in zip(column, theirs, strict=True)]
            assert np.mean(same) > 0.99  # near-ties at the edge change places
        else:
            np.testing.assert_allclose(column.astype(float), theirs.astype(float), rtol=rtol,
                                       atol=rtol, err_msg=name)


def test_records_do_not_depend_on_the_rest_of_the_batch(tiny_run, teacher):
    """Nor on their order and on padding: lengths are from 8 to 45 here."""
    scorer = scorer_of(tiny_run, teacher, *ALL_COLUMNS, NO_STATES)
    views = scorer.source.views_of_run()
    together = scorer.records(views)
    assert [record.key for record in together] == [*map(scorer.source.scores_key, views)]
    backwards = scorer.records(views[::-1])[::-1]
    for view, record, other in zip(views, together, backwards, strict=True):
        alone = scorer.records([view])[0]
        assert_same_word(alone, record)
        assert_same_word(other, record)
        counts = {len(column) for column in record.columns.values()}
        assert counts == {scorer.source.tokens(view).num_valid}
    assert record.columns.keys() == {"indices", "values", "log_rest", "hidden", "inner3"}
    first, second = (each.columns["hidden"][:5].astype(float) for each in together[:2])
    assert np.abs(first - second).max() > 0.1  # another view's record would be noticed


def test_draws_do_not_depend_on_the_rest_of_the_batch(tiny_run, teacher):
    scorer = scorer_of(tiny_run, teacher, SHORT, NO_STATES)
    views = scorer.source.views_of_run()[:3]
    for view, record in zip(views, scorer.records(views), strict=True):
        assert_same_word(scorer.records([view])[0], record)


def test_columns_have_the_smallest_type_that_holds_them(tiny_run, teacher):
    scorer = scorer_of(tiny_run, teacher, *ALL_COLUMNS, NO_STATES)
    view = scorer.source.views_of_run()[0]

    def dtypes() -> dict:
        return {name: str(c.dtype) for name, c in scorer.records([view])[0].columns.items()}

    small = {"indices": "uint16", "values": "float16", "log_rest": "float32",
             "hidden": "float16", "inner3": "float16"}
    assert dtypes() == small
    scorer.settings["vocabulary"] = 100_000
    assert dtypes() == small | {"indices": "uint32"}


def test_states_beyond_float16_are_refused(tiny_run):
    """Written as they are they would be infinite, and the loss with them."""
    teacher = load_teacher(tiny_run.recipe().teacher)
    with torch.no_grad():
        teacher.model.model.decoder.layer_norm.weight.mul_(1e6)
    scorer = scorer_of(tiny_run, teacher, SHORT, "loss.hidden_weight=1", NO_STATES)
    with pytest.raises(ValueError, match="last decoder states of this teacher do not fit float16"):
        scorer.records(scorer.source.views_of_run()[:1])
    large = torch.full((2, 3), 1e6)
    with pytest.raises(ValueError, match="do not fit float16: set .*=bfloat16"):
        states_columns(large, "float16")
    kept = read_states([states_columns(large, "bfloat16")], "bfloat16")[0].float()
    torch.testing.assert_close(kept, large, rtol=0.01, atol=0.0)


# Filling


def shards(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*.h5"))}


def both(recipe) -> dict[str, bytes]:
    found = shards(scores_folder(recipe)), shards(states_folder(recipe))
    assert all(found)
    return found[0] | found[1]


def small_shards(tiny_run, folder, *overrides):
    return tiny_run.recipe(SHORT, "scores.shard_views=3", f"scores.dir={folder}", *overrides)


@pytest.fixture(scope="module")
def filled(tiny_run, tmp_path_factory):
    """A recipe with three shards of each kind, not to be changed."""
    recipe = small_shards(tiny_run, tmp_path_factory.mktemp("filled"))
    score(recipe)
    assert len(both(recipe)) == 6
    return recipe


def test_states_read_back_give_the_same_bytes(tiny_run, filled, tmp_path):
    """Killed after the states, while scoring, or between: the end is the same to the last bit."""
    whole = both(filled)
    for number, lost in enumerate((3, 2, 0)):
        recipe = small_shards(tiny_run, tmp_path / str(number))
        shutil.copytree(filled.scores.dir, recipe.scores.dir)
        names = sorted(shards(scores_folder(recipe)))
        for name in names[:lost] if lost else names:
            (scores_folder(recipe) / name).unlink()
        if not lost:  # not even a manifest
            shutil.rmtree(scores_folder(recipe))
        score(recipe)
        assert both(recipe) == whole


# Verifying


DTYPES = ("float16", "bfloat16", "int8")
FEW = "n=3"


@pytest.fixture(scope="module", params=[
    "float16", "int8", "exact", "short audio",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("bfloat16", "top_k"))])
def store(request, tiny_run):
    """Folder of a store: encoder states of a type, or token scores."""
    overrides = {"exact": EXACT, "top_k": (*ALL_COLUMNS, "scores.k=9999"),
                 "short audio": (SHORT, "teacher.short_audio_margin=0.5")}.get(
        request.param, (SHORT, f"scores.encoder_states_dtype={request.param}"))
    recipe = tiny_run.scored(*overrides, "train.max_steps=1")
    is_states = request.param in (*DTYPES, "short audio")
    return (states_folder if is_states else scores_folder)(recipe)


def test_verify_passes(store, capsys):
    look_after(["verify", str(store)])
    printed = capsys.readouterr().out
    assert "match their checksums" in printed
    assert "views scored again: the teacher still says the same" in printed


def altered(store, target, change) -> None:
    """A store of the same settings and views, sealed as it should be, of other values."""
    old = TeacherStore(store)
    new = TeacherStore(target, old.settings, create=True)
    records = [Record(old.key(row), {n: c.copy() for n, c in old.read(row).items()})
               for row in old.all_rows()]
    for record in records:
        change(record)
    new.add(records)
    new.seal()
    shutil.copy(store / "recipe.yaml", target)


def add_a_tenth(record: Record) -> None:
    """Of the largest number, to all of a column."""
    name = next(n for n in ("values", "states", "hidden") if n in record.columns)
    column = record.columns[name].astype(float)
    record.columns[name] = (column + 0.1 * np.abs(column).max()).clip(-32_000, 32_000).astype(
        record.columns[name].dtype)


def test_verify_notices_other_values(store, tmp_path, capsys):
    altered(store, tmp_path, add_a_tenth)
    with pytest.raises(ValueError, match="is not what this teacher says") as caught:
        look_after(["verify", str(tmp_path), FEW])
    assert "match their checksums" in capsys.readouterr().out  # that was not the reason
    assert re.search(r"\n  (values|states|hidden): differs by \d+\.\d% of the column's largest "
                     r"value, at most 2% is arithmetic; in view \{", str(caught.value))


def test_verify_notices_each_column(tiny_run, tmp_path):
    def change(record: Record) -> None:
        for name in ("log_rest", "indices", "inner3"):
            values = record.columns[name]
            add = 1 if name == "indices" else 0.2 * np.abs(values).max()
            record.columns[name] = (values + add).astype(values.dtype)

    recipe = tiny_run.scored(*ALL_COLUMNS, "scores.method=top_k")
    altered(scores_folder(recipe), tmp_path, change)
    with pytest.raises(ValueError) as caught:
        look_after(["verify", str(tmp_path), FEW])
    assert re.findall(r"\n  (\w+): ", str(caught.value)) == ["indices", "inner3", "log_rest"]


def half_precision(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A thousandth of the largest value as noise, of the same type."""
    wide = values.astype(float)
    noise = generator.standard_normal(values.shape).clip(-2, 2)
    return (wide + 1e-3 * np.abs(wide).max() * noise).astype(values.dtype)


def test_verify_bears_the_arithmetic_of_another_device(store, tmp_path):
    """A store filled on a GPU, in half precision, and verified on a CPU."""
    generator = np.random.default_rng(0)
    dtype = TeacherStore(store).settings.get("dtype")

    def change(record: Record) -> None:
        if dtype:
            wide = read_states([record.columns], dtype)[0].float()
            states = half_precision(wide.numpy(), generator)
            record.columns.update(states_columns(torch.from_numpy(states), dtype))
        else:
            for name in record.columns.keys() - {"indices", "log_rest"}:
                record.columns[name] = half_precision(record.columns[name], generator)

    altered(store, tmp_path, change)
    look_after(["verify", str(tmp_path), FEW])


def test_verify_passes_for_draws(tiny_run):
    """They follow from the view, so that the same ones come again."""
    recipe = tiny_run.scored(SHORT, NO_STATES)
    look_after(["verify", str(scores_folder(recipe)), FEW])


def test_verify_of_augmented_views(tiny_run, capsys):
    recipe = tiny_run.scored(SHORT, "views.augment.probability=0.7",
                             "views.augment.num_time_masks=1")
    for folder in (scores_folder(recipe), states_folder(recipe)):
        texts = [TeacherStore(folder).key(row) for row in TeacherStore(folder).all_rows()]
        assert {'"augmentation"' in text for text in texts} == {True, False}
        look_after(["verify", str(folder)])
        assert "the teacher still says the same" in capsys.readouterr().out


def test_verify_of_views_in_recorded_noise(tiny_run, tmp_path):
    """Until the recordings are others."""
    for index in range(2):
        tone = np.sin(np.arange(16_000) * (0.1 + index)).astype(np.float32)
        soundfile.write(tmp_path / f"{index}.wav", tone, 16_000)
    noise = [f"views.augment.{each}" for each in (
        "probability=1", "noise_probability=1", "noise=[babble,recordings]",
        f"recordings=[{tmp_path}]")]
    recipe = tiny_run.scored(SHORT, *noise)
    store = TeacherStore(states_folder(recipe))
    texts = [json.loads(store.key(row))["augmentation"] for row in store.all_rows()]
    assert {row["noise"] for row in texts} == {"babble", "recordings"}
    assert len({row["recordings"] for row in texts}) == 2
    look_after(["verify", str(states_folder(recipe))])
    (tmp_path / "0.wav").unlink()
    with pytest.raises(ValueError, match="recordings that its noise is made of have changed"):
        look_after(["verify", str(states_folder(recipe))])


# What verifying cannot ask


@pytest.fixture
def relabelled(tiny_run, tmp_path):
    """(recipe whose labels may be changed, its kept rows, how to write them)."""
    recipe = tiny_run.scored(*ALL_COLUMNS)
    labels = tmp_path / "labels"
    shutil.copytree(recipe.labels_dir, labels, ignore=shutil.ignore_patterns("scores"))
    recipe.labels_dir = str(labels)
    return recipe, read_jsonl(labels / "kept.jsonl"), labels / "kept.jsonl"


def texts_of(folder, window: str) -> list[str]:
    store = TeacherStore(folder)
    return [text for text in map(store.key, store.all_rows()) if f'"id":"{window}"' in text]


@pytest.mark.parametrize("folder", [scores_folder, states_folder])
def test_windows_that_are_gone(relabelled, folder):
    recipe, rows, path = relabelled
    gone = rows[2]["id"]
    write_jsonl(path, rows[:2] + rows[3:])
    rescorer = Rescorer(recipe)
    assert rescorer(texts_of(folder(recipe), rows[1]["id"]))
    with pytest.raises(ValueError, match=f"view of window {gone}: it is no longer among the lab"):
        rescorer(texts_of(folder(recipe), gone))


def test_windows_with_another_label_or_other_clips(relabelled):
    recipe, rows, path = relabelled
    rows[0]["tokens"][1] += 1
    rows[1]["pieces"][0]["start"] += 0.5
    write_jsonl(path, rows)
    rescorer = Rescorer(recipe)
    changed = "view of window {}: its label or its clips have changed"
    for row, folder in ((rows[0], scores_folder), (rows[1], scores_folder),
                        (rows[1], states_folder)):
        with pytest.raises(ValueError, match=changed.format(row["id"])):
            rescorer(texts_of(folder(recipe), row["id"]))
    # encoder states do not depend on the label
    text = texts_of(states_folder(recipe), rows[0]["id"])[0]
    assert rescorer([text])[0].key == text


def test_a_rescored_record_is_that_of_the_view(relabelled):
    recipe = relabelled[0]
    store = TeacherStore(scores_folder(recipe))
    rows = store.all_rows()[:3]
    for row, record in zip(rows, Rescorer(recipe)([store.key(r) for r in rows]), strict=True):
        # the states it was scored from had been rounded
        assert_same_word(record, Record(store.key(row), store.read(row)), rtol=0.02)
