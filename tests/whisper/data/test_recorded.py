"""Training on what a teacher said before is training with the live teacher."""

import gc
import json
from functools import cache
from weakref import WeakSet

import pytest
import torch
from transformers import WhisperForConditionalGeneration

from distill.data.speech.windows import load_window
from distill.data.teacher_store import TeacherStore
from distill.data.views.augment import augment_audio, mask_features
from distill.data.views.draws import View
from distill.losses.token_losses import IGNORE
from distill.whisper.data.corpus import rebuild_window
from distill.whisper.data.scoring import read_states, scores_folder, states_folder
from distill.whisper.encoder.lengths import margin_of, positions_of
from distill.whisper.encoder.padded import log_mel
from distill.whisper.encoder.short import short_features

ALL = "scores.k=9999"  # of 1768 ids
NO_STATES = "scores.encoder_states=none"
NUM_UPDATES = 1
# views that are not compared need no scores; this seed draws all kinds among few views
SHORT = (f"train.max_steps={NUM_UPDATES}", "seed=8")


def updates(task) -> list[tuple]:
    """(loss, its parts, gradient) of the first updates; nothing is changed in between."""
    found = []
    for step in range(NUM_UPDATES):
        task.student.zero_grad()
        total, parts = task.model(task.collate(task.batches.update(step)))
        total.backward()
        gradient = [p.grad.flatten() for p in task.student.parameters() if p.grad is not None]
        found.append((total.detach(), parts, torch.cat(gradient)))
    return found


def differences(one: list, other: list) -> dict[str, float]:
    """Largest relative ones, by what is compared."""
    largest: dict[str, float] = {}
    for (total, parts, gradient), (total2, parts2, gradient2) in zip(one, other, strict=True):
        assert parts.keys() == parts2.keys()
        found = {"loss": abs(total2 / total - 1),
                 "gradient": (gradient2 - gradient).norm() / gradient.norm()}
        found |= {name: abs(parts2[name] / parts[name] - 1) for name in parts}
        largest = {name: max(value.item(), largest.get(name, 0.0))
                   for name, value in found.items()}
    return largest


@pytest.fixture(scope="module")
def live(tiny_run):
    """`live(*overrides)`: updates with the live teacher, made once."""
    known: dict[tuple, list] = {}

    def get(*overrides: str) -> list:
        if overrides not in known:
            known[overrides] = updates(tiny_run.task(
                tiny_run.recipe("teacher.mode=live", *SHORT, *overrides)
            ))
        return known[overrides]

    return get


@pytest.fixture(scope="module")
def stored(tiny_run):
    """`stored(*overrides)`: the task of a recipe that was scored as it says."""
    return lambda *overrides: tiny_run.task(tiny_run.scored(*SHORT, *overrides))


@pytest.fixture(scope="module")
def replayed(stored):
    """`replayed(*overrides)`: updates from a store, made once."""
    return cache(lambda *overrides: updates(stored(*overrides)))


def test_the_batches_have_prompts_timestamps_and_padding(stored):
    """Or the comparisons below would show less than they seem to."""
    task = stored(ALL, NO_STATES)
    special = task.source.rules.special
    batches = [task.collate(task.batches.update(step)) for step in range(NUM_UPDATES)]
    assert any((b["decoder_input_ids"][:, 0] == special.previous).any() for b in batches)
    assert any((b["decoder_input_ids"] == special.no_timestamps).any() for b in batches)
    assert any((b["decoder_input_ids"] > special.timestamp_begin).any() for b in batches)
    assert all((b["labels"][:, -1] == IGNORE).any() for b in batches)
    for batch in batches:
        num_valid = (batch["labels"] != IGNORE).sum()
        assert all(len(column) == num_valid for column in batch["teacher"].values())
        assert batch["num_valid"] == num_valid and "input_features" in batch


def test_all_scores_give_the_live_loss(live, replayed):
    """Values are float16, encoder states are computed anew."""
    found = differences(live(), replayed(ALL, NO_STATES))
    assert found["loss"] < 1e-5 and found["gradient"] < 1e-4
    assert found["ce"] < 1e-6 and found["kl"] < 1e-5


def test_fewer_scores_are_a_little_less(live, replayed):
    """The KL is a lower bound; the gradient still points the same way."""
    few = replayed(NO_STATES, "scores.method=top_k")
    found = differences(live(), few)
    assert 1e-3 < found["loss"] < 0.1 and 0.01 < found["gradient"] < 0.3
    for (_, parts, gradient), (_, less, other) in zip(live(), few, strict=True):
        assert 0 < less["kl"] < parts["kl"]
        torch.testing.assert_close(less["ce"], parts["ce"])
        assert torch.cosine_similarity(gradient, other, dim=0) > 0.95


AUGMENTED = ("views.augment.probability=1", "views.augment.num_time_masks=2",
             "views.augment.num_frequency_masks=2", "views.augment.noise_probability=1")
EXACT = ("scores.method=decoder_state", NO_STATES)
CLEAN = "views.teacher_hears=clean"
SHORT_AUDIO = "teacher.short_audio_margin=0.5"
# what shapes views and loss, how it is stored; largest differences of the KL and of the gradient
WAYS = {
    "float16": ([], [ALL], 2e-4, 1e-3),
    "bfloat16": ([], [ALL, "scores.encoder_states_dtype=bfloat16"], 1e-3, 6e-3),
    "int8": ([], [ALL, "scores.encoder_states_dtype=int8"], 4e-3, 2e-2),
    "memory": ([], [ALL, "scores.encoder_states=memory"], 2e-4, 1e-3),
    "decoder states": ([], EXACT, 1e-4, 1e-4),
    "frozen output": (["student.freeze_embeddings=true"], EXACT, 1e-4, 1e-4),
    "reverse KL": (["loss.divergence=reverse"], EXACT, None, 1e-4),
    "matched states": (["loss.hidden_weight=1"], [ALL], 2e-4, 1e-3),
    "matched states, exact KL": (["loss.hidden_weight=1"], EXACT, 1e-4, 3e-4),
    "matched states alone": (
        ["loss.hidden_weight=1", "loss.kl_weight=0", "loss.ce_weight=0"], [], None, 3e-3),
    "labels alone": (["loss.kl_weight=0"], [], None, 1e-3),
    "augmented, batches of tokens": (
        [*AUGMENTED, "train.batch_tokens=150"], [ALL, NO_STATES], 1e-4, 1e-4),
    "some augmented": (["views.augment.probability=0.5", *AUGMENTED[1:]], [ALL], 3e-4, 1e-3),
    "the teacher hears clean": ([*AUGMENTED, CLEAN], [ALL], 3e-4, 1e-3),
    "short audio, the teacher hears clean": ([SHORT_AUDIO, *AUGMENTED, CLEAN], EXACT, 1e-4, 1e-4),
    "short audio": ([SHORT_AUDIO], [ALL], 2e-4, 1e-3),
    "short audio, memory": ([SHORT_AUDIO], [ALL, "scores.encoder_states=memory"], 2e-4, 1e-3),
    "short audio, augmented": ([SHORT_AUDIO, *AUGMENTED], EXACT, 1e-4, 1e-4),
    "short audio, trained encoder": (
        [SHORT_AUDIO, "student.freeze_encoder=false"], [ALL, NO_STATES], 1e-4, 1e-4),
    "trained encoder": (["student.freeze_encoder=false"], [ALL, NO_STATES], 1e-4, 1e-4),
}


ONCE_MORE = {"memory", "bfloat16", "matched states, exact KL", "matched states alone",
             "some augmented", "the teacher hears clean", "trained encoder", "short audio",
             "short audio, memory", "short audio, augmented"}


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow] * (name in ONCE_MORE)) for name in WAYS])
def test_every_way_to_store_gives_the_live_loss(live, replayed, name):
    shaping, storing, kl, gradient = WAYS[name]
    found = differences(live(*shaping), replayed(*storing, *shaping))
    assert found["loss"] < 1e-4 and found["gradient"] < gradient
    assert found.get("ce", 0.0) < 1e-4 and found.get("hidden", 0.0) < 3e-4
    assert kl is None or found["kl"] < kl


def test_augmentation_is_heard(live):
    """Or the comparison of augmented views would be one of plain ones."""
    some = WAYS["some augmented"][0]
    assert differences(live(), live(*some))["gradient"] > 0.01


def test_a_teacher_that_hears_clean_scores_a_label_once(live, tiny_run):
    """Its scores are those of views without augmentation, and the student's sound is not."""
    from distill.data.teacher_store import TeacherStore
    from distill.whisper.data.scoring import scores_folder

    plain, recipe = (tiny_run.scored(*ways) for ways in ((), (*AUGMENTED, CLEAN)))
    found = [TeacherStore(scores_folder(each)) for each in (plain, recipe)]
    keys = [{store.key(row) for row in store.all_rows()} for store in found]
    assert keys[0] == keys[1]
    source = tiny_run.source(recipe)
    noisy = source.view(0, 0)
    assert noisy.augmentation and source.heard_by_teacher(noisy).augmentation is None
    assert differences(live(*AUGMENTED, CLEAN), live(*AUGMENTED))["gradient"] > 0.01
    assert differences(live(*AUGMENTED, CLEAN), live())["gradient"] > 0.01


def test_views_that_come_again_are_scored_once(tiny_run):
    few, many = (tiny_run.source(tiny_run.recipe(*AUGMENTED, *more))
                 for more in (("views.epochs=2",), ()))
    for index in range(len(few.rows)):
        first, second, third, fourth = (few.view(index, epoch) for epoch in range(4))
        assert (first, second) == (third, fourth) and first != second
        assert first == many.view(index, 0) and third != many.view(index, 2)
    assert len(few.views_of_run()) == 2 * len(few.rows) < len(many.views_of_run())


def test_views_are_heard_as_they_were_drawn(tiny_run):
    """Both kinds of augmentation, and each view as it is alone."""
    source = tiny_run.source(tiny_run.recipe(*AUGMENTED))
    views = source.views_of_run()[:3]
    plain = [View(view.id, view.timestamps, view.previous) for view in views]
    audios = [load_window(rebuild_window(source.by_id[v.id], source.clips)) for v in views]
    short = tiny_run.source(tiny_run.recipe(*AUGMENTED, SHORT_AUDIO)).features(views)
    for clip, positions, own in ((clip, positions, own) for clips, positions, each in short.groups
                                 for clip, own in zip(clips, each, strict=True)):
        drawn = views[clip].augmentation
        (mels,), _ = short_features(source.processor, [augment_audio(audios[clip], drawn)],
                                    positions)
        assert (own.numpy() == mask_features(mels.numpy(), drawn)).all()
        assert own.shape[1] < 3000 and (own != mels).any(), "nothing was masked"
    both = source.features([*views, *plain])
    for view, audio, heard, without in zip(views, audios, both[:3], both[3:], strict=True):
        drawn = view.augmentation
        mel = log_mel(source.processor, [augment_audio(audio, drawn)])[0].numpy()
        assert (heard.numpy() == mask_features(mel, drawn)).all()
        assert (heard.numpy() != mel).any() and drawn.noise, "nothing was masked"
        assert torch.equal(without, log_mel(source.processor, [audio])[0])
        assert torch.equal(heard, source.features([view])[0])


def test_states_of_short_audio_are_those_of_the_clips_alone(stored):
    """And a batch is of several lengths, or the comparisons above would show less."""
    task = stored(SHORT_AUDIO, ALL)
    store = TeacherStore(states_folder(task.recipe))
    for row in store.all_rows():
        window = task.source.by_id[json.loads(store.key(row))["id"]]
        frames = positions_of(window["duration"], 0.5)
        assert store.read(row)["states"].shape == (frames, 32) and frames < 1500
    batch = task.collate(task.batches.update(0))
    assert len({len(states) for states in batch["encoder_states"]}) > 1
    assert margin_of(task.student) == 0.5 and "short audio" not in task.describe()


@pytest.mark.parametrize("change", ["student.freeze_encoder=false", "student.encoder_layers=1"])
def test_a_student_with_another_encoder_pads_its_clips(tiny_run, change):
    """Its teacher does not, at every step and on the windows that both are validated on."""
    task = tiny_run.task(tiny_run.recipe(SHORT_AUDIO, change, "teacher.mode=live", *SHORT))
    assert margin_of(task.student) is None and margin_of(task.model.teacher) == 0.5
    assert "its encoder is not the teacher's, so it pads short audio to 30 s" in task.describe()
    batch = task.collate(task.batches.update(0))
    assert batch["input_features"].shape[1:] == (80, 3000)
    assert len(batch["teacher_features"].groups) > 1
    assert task.model(batch)[0].isfinite()
    assert task.validate()["num_words"] > 0


def test_coarser_states_are_coarser(live, replayed):
    """Each type is what its name says; and the tolerances above are no larger than they must be."""
    errors = [differences(live(), replayed(*WAYS[name][1]))
              for name in ("float16", "bfloat16", "int8")]
    float16, bfloat16, int8 = (found["gradient"] for found in errors)
    assert 1e-5 < float16 < bfloat16 / 3 and bfloat16 < int8 / 1.5


def test_drawn_scores(live, replayed):
    """The default. The KL of a few draws is large; the gradient is the live one and noise."""
    found = replayed(NO_STATES)
    for (_, parts, gradient), (total, drawn, other) in zip(live(), found, strict=True):
        assert total.isfinite() and other.isfinite().all()
        assert drawn["kl"] > parts["kl"]
        torch.testing.assert_close(drawn["ce"], parts["ce"])
        assert torch.cosine_similarity(gradient, other, dim=0) > 0.9


def test_training_hears_the_states_of_labelling(tiny_run):
    """They are written once; scoring and training read the same bytes."""
    recipe = tiny_run.recipe()
    task = tiny_run.task(recipe)
    samples = task.batches.update(0)
    views = [task.source.view(*sample) for sample in samples]
    batch = task.recorded(samples)
    assert batch["encoder_states"].dtype == torch.float16
    store = TeacherStore(states_folder(recipe))
    assert store.num_views == len(task.source.rows)
    teacher = tiny_run.task(tiny_run.recipe("teacher.mode=live")).model.teacher
    for view, states in zip(views, batch["encoder_states"], strict=True):
        row = store.rows([task.source.states_key(view)])[0]
        assert torch.equal(states, read_states([store.read(row)], "float16")[0])
        with torch.no_grad():
            again = teacher.model.encoder(task.source.features([view])).last_hidden_state[0]
        torch.testing.assert_close(states.float(), again, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("states", ["disk", "memory"])
def test_workers_read_the_same_tensors(tiny_run, states):
    from accelerate import Accelerator

    from distill.training.loop import _loader

    kind = [] if states == "disk" else ["scores.encoder_states=memory"]
    recipe = tiny_run.scored(*SHORT, ALL, *kind, "loss.hidden_weight=1")
    recipe.train.num_workers = 2
    task = tiny_run.task(recipe)
    loader = _loader(task, recipe.train, Accelerator(cpu=True), 0)
    for step in range(NUM_UPDATES):
        for places in task.batches.micro_batches(step, 0, 1):
            found, expected = next(loader), task.collate(places)
            assert found.keys() == expected.keys() and "encoder_states" in found
            columns = found.pop("teacher"), expected.pop("teacher")
            assert columns[0].keys() == columns[1].keys() == {
                "indices", "values", "log_rest", "hidden", "inner3"}
            for one, other in ((found, expected), columns):
                for name, value in one.items():
                    assert value == other[name] if name == "num_valid" else torch.equal(
                        value, other[name]), name
    assert next(loader, None) is None


@pytest.fixture
def num_models(monkeypatch):
    """How many models made since then are still held."""
    made, init = WeakSet(), WhisperForConditionalGeneration.__init__

    def remember(self, *args, **kwargs):
        init(self, *args, **kwargs)
        made.add(self)

    monkeypatch.setattr(WhisperForConditionalGeneration, "__init__", remember)

    def count() -> int:
        gc.collect()
        return len(made)

    return count


@pytest.mark.parametrize("overrides", [(ALL,), EXACT], ids=["scores", "decoder states"])
def test_no_teacher_is_held(stored, num_models, overrides):
    task = stored(*overrides)
    assert num_models() == 1 and task.model.teacher is None


def test_a_live_teacher_is_held(tiny_run, num_models):
    """That counting counts."""
    task = tiny_run.task(tiny_run.recipe("teacher.mode=live"))
    assert num_models() == 2 and task.model.teacher is not None


@pytest.mark.parametrize("frozen", [False, True])
def test_the_teachers_output_layer_stays_as_it_was(stored, frozen):
    """The student's own serves where it is not trained: no need to hold two."""
    task = stored(*EXACT, *WAYS["frozen output"][0][: int(frozen)])
    layer, batch = task.student.proj_out.weight, task.collate(task.batches.update(0))
    output = task.model._teacher_scores(batch, None, None).weight
    assert (output.data_ptr() == layer.data_ptr()) == frozen == (not layer.requires_grad)
    assert torch.equal(output, layer)  # before the first step


def test_the_last_column_is_of_the_temperature_of_the_loss(stored):
    task = stored(NO_STATES, "scores.method=top_k")
    store = TeacherStore(scores_folder(task.recipe))
    assert store.settings["temperatures"] == [1.0, task.recipe.loss.temperature]
    sample = task.batches.update(0)[0]
    view = task.source.view(*sample)
    stored = store.read(store.rows([task.source.scores_key(view)])[0])
    columns = task.recorded([sample])["teacher"]
    assert columns["log_rest"].tolist() == stored["log_rest"][:, 1].tolist()
    assert (stored["log_rest"][:, 1] > stored["log_rest"][:, 0]).all()  # a flatter distribution
    assert columns["indices"].dtype == torch.int64 and columns["values"].dtype == torch.float16
