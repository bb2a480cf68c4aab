"""Two ranks with two workers each: every view is read from the store once an epoch."""

import json
from collections import Counter

import pytest

EPOCHS = 3
WAYS = {
    "views": ["train.batch_size=4", "train.micro_batch_size=1"],
    "tokens": ["train.batch_tokens=120", "train.micro_batch_tokens=110"],
}
WORKERS = "train.num_workers=2"


def whole_epochs(tiny_run, *overrides: str) -> tuple[str, ...]:
    """The overrides, and as many steps as three epochs have."""
    source = tiny_run.source(tiny_run.recipe(*overrides))
    size, steps, views = len(source.rows), 0, 0
    while views < EPOCHS * size:
        views += len(source.batches.update(steps))
        steps += 1
    assert views == EPOCHS * size, "the last update straddles two epochs"
    return (*overrides, f"train.max_steps={steps}")


@pytest.fixture(scope="module")
def recipes(tiny_run):
    """name -> overrides of a scored recipe."""
    found = {}
    for name, overrides in WAYS.items():
        overrides = whole_epochs(tiny_run, *overrides)
        recipe = tiny_run.scored(*overrides)
        found[name] = [*overrides, f"scores.dir={recipe.scores.dir}"]
    return found


@pytest.fixture(scope="module")
def ranks(tiny_run, recipes, fork_two, tmp_path_factory) -> list[dict]:
    """What both ranks read."""
    out = tmp_path_factory.mktemp("ranks")
    runs = [[f"output_dir={tiny_run.folder / 'run'}", WORKERS, *overrides]
            for overrides in recipes.values()]
    arguments = [str(tiny_run.recipe_path), str(out), json.dumps(runs)]
    fork_two("tests.whisper.data.rank_reads", arguments, out / "log")
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]


def reads_of_one(tiny_run, overrides) -> list:
    """The same in this process, without workers."""
    from accelerate import Accelerator

    from tests.whisper.data.rank_reads import reads_of

    return reads_of(tiny_run.recipe(*overrides), Accelerator(cpu=True))


def test_both_ranks_were_there_and_their_workers_read(ranks):
    assert [rank["world"] for rank in ranks] == [2, 2]
    for rank in ranks:
        for run in rank["runs"]:
            pids = {pid for step in run for micro in step for _, _, pid in micro}
            assert len(pids) == 2 and rank["pid"] not in pids
    assert ranks[0]["pid"] != ranks[1]["pid"]


@pytest.mark.parametrize("number", range(len(WAYS)), ids=WAYS)
def test_every_view_once_an_epoch(tiny_run, recipes, ranks, number):
    """The last epoch too: nothing is dropped to make ranks equal, nothing is padded."""
    source = tiny_run.source(tiny_run.recipe(*recipes[list(WAYS)[number]]))
    expected = Counter((epoch, source.scores_key(source.view(index, epoch)))
                       for epoch in range(EPOCHS) for index in range(len(source.rows)))
    assert set(expected.values()) == {1}
    found = Counter((epoch, key) for rank in ranks for step in rank["runs"][number]
                    for micro in step for epoch, key, _ in micro)
    assert found == expected


@pytest.mark.parametrize("number", range(len(WAYS)), ids=WAYS)
def test_updates_are_those_of_one_process(tiny_run, recipes, ranks, number):
    one = reads_of_one(tiny_run, recipes[list(WAYS)[number]])
    assert len(one) == len(ranks[0]["runs"][number]) == len(ranks[1]["runs"][number])
    for step, (alone, *shared) in enumerate(
        zip(one, *(rank["runs"][number] for rank in ranks), strict=True)
    ):
        assert len(shared[0]) == len(shared[1]), "a rank would wait for the other one for ever"
        read = [[(epoch, key) for micro in each for epoch, key, _ in micro]
                for each in (alone, *shared)]
        assert sorted(read[0]) == sorted(read[1] + read[2]), f"step {step}"
        assert read[1] and read[2]
    if number == 0:  # micro-batches are dealt out in turn, in the order of one process
        dealt = [micro for step in zip(*(rank["runs"][0] for rank in ranks), strict=True)
                 for pair in zip(*step, strict=True) for micro in pair]
        assert [read[:2] for micro in dealt for read in micro] == [
            list(read[:2]) for step in one for micro in step for read in micro]
