"""One store of scores serves every student whose states are in it."""

import pytest

from distill.data.teacher_store import StoreError, TeacherStore
from distill.whisper.data.layers import family_layers, states_to_store
from distill.whisper.data.scoring import scores_folder
from pseudo_label.scores import score

STATES = ("loss.hidden_weight=1", "scores.encoder_states=none", "train.max_steps=1")
FAMILY = "family.decoder_layers=[1,[0,2],3]"  # of 4: [3], [0, 2] and [0, 1, 3]


def test_a_store_has_what_all_of_the_family_learn_from(tiny_run):
    recipe = tiny_run.recipe(*STATES, FAMILY)
    assert family_layers(recipe, 4) == [[3], [0, 2], [0, 1, 3]]
    assert states_to_store(recipe, 4) == [1, 2, 3, "last"]
    assert states_to_store(tiny_run.recipe(*STATES), 4) == [3, "last"]
    assert states_to_store(tiny_run.recipe(FAMILY), 4) == []
    exact = tiny_run.recipe("scores.method=decoder_state", FAMILY)
    assert states_to_store(exact, 4) == ["last"]


@pytest.mark.parametrize("layers", ["[1,[1,5]]", "[5]", "[2,[0,-1]]"])
def test_a_family_has_different_students_of_the_teachers_layers(tiny_run, layers):
    recipe = tiny_run.recipe(f"family.decoder_layers={layers}")
    with pytest.raises(ValueError, match=r"family\.decoder_layers must be"):
        family_layers(recipe, 4)


def batch_of(tiny_run, recipe) -> tuple[dict, float]:
    """What the first batch has of the teacher, and its loss."""
    task = tiny_run.task(recipe)
    batch = task.collate(task.batches.update(0))
    return batch["teacher"], task.model(batch)[0].item()


def test_students_learn_the_same_from_a_store_that_holds_more(tiny_run):
    family = tiny_run.scored(*STATES, FAMILY)
    alone = tiny_run.scored(*STATES, "student.decoder_layers=[0,2]")
    member = tiny_run.recipe(*STATES, "student.decoder_layers=[0,2]",
                             f"scores.dir={family.scores.dir}")
    columns, loss = batch_of(tiny_run, alone)
    shared, same = batch_of(tiny_run, member)
    assert shared.keys() == columns.keys() >= {"hidden", "inner2"}
    assert loss == pytest.approx(same, rel=1e-6)
    scores = tiny_run.recipe(*STATES, "loss.hidden_weight=0", f"scores.dir={family.scores.dir}")
    assert "hidden" not in batch_of(tiny_run, scores)[0]


def test_a_store_of_one_student_stays_its_own(tiny_run):
    """Whoever gives a recipe a family later can still train from the store that is there."""
    own = tiny_run.scored(*STATES)
    before = TeacherStore(scores_folder(own)).num_views
    wider = tiny_run.recipe(*STATES, FAMILY, f"scores.dir={own.scores.dir}")
    score(wider)
    store = TeacherStore(scores_folder(own))
    assert store.settings["decoder_states"] == [3, "last"] and store.num_views == before
    batch_of(tiny_run, wider)
    other = tiny_run.recipe(*STATES, "student.decoder_layers=[0,1,3]",
                            f"scores.dir={own.scores.dir}")
    with pytest.raises(StoreError, match="decoder_states: the store has"):
        tiny_run.task(other)
