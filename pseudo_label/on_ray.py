"""Label and score on the machines of a Ray cluster, through Ray Data
(`pip install 'audio-distill[ray]'`).

    python -m pseudo_label.on_ray RECIPE [key=value ...]

Run it where the cluster's head is, on a file system that all machines share; without a cluster it
uses this machine. Ray starts a worker per GPU (without GPUs, per two cores), hands out shards, and
hands out again those of a machine that died; shards that are there are skipped. Labels are then
filtered, and the teacher store (teacher.mode: store) is filled in the same way. The same command,
or `python -m pseudo_label RECIPE`, goes on with what may be left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.data.unreadable import Unreadable
from distill.endings import run
from distill.whisper.recipe import WhisperRecipe, load_recipe

_CORES = 2.0  # of a worker without a GPU
_SHARES = 4  # of the views, for each worker: a machine that dies loses a part of one


class Worker:
    """Holds a teacher; labels the shards it is given."""

    def __init__(self, arguments: list[str]):
        from distill.whisper.teacher import locate
        from pseudo_label.labelling.transcripts import load_labeller
        from pseudo_label.plan import label_settings, make_plan

        recipe = load_recipe(arguments[0], arguments[1:])
        self.plan, self.folder = make_plan(recipe), Path(recipe.labels_dir)
        settings = label_settings(recipe, locate(recipe.teacher)[1], self.plan)
        self.labeller = load_labeller(recipe, settings)
        self.faults = Unreadable(self.plan.num_clips, recipe.data.max_unreadable, "labelling")

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """`id`: indices of shards."""
        from pseudo_label.labelling.transcripts import label_shards

        planned = [index for index in batch["id"].tolist() if self.plan.shards[index]]
        label_shards(self.labeller, self.plan, self.folder, planned, self.faults)
        return batch


class ScoringWorker:
    """Fills the teacher store with the shares it is given; whose a view is follows from it."""

    def __init__(self, arguments: list[str], shares: int):
        self.recipe, self.shares = load_recipe(arguments[0], arguments[1:]), shares

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """`id`: numbers of shares."""
        from pseudo_label.scores import score

        for share in batch["id"].tolist():
            score(self.recipe, share, self.shares)
        return batch


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    import ray

    from distill.whisper.teacher import locate
    from pseudo_label.labelling.compare import recount
    from pseudo_label.plan import check_settings, label_settings, make_plan

    recipe = load_recipe(arguments[0], arguments[1:])
    plan, folder = make_plan(recipe), Path(recipe.labels_dir)
    recount(recipe)
    check_settings(folder, label_settings(recipe, locate(recipe.teacher)[1], plan))
    plan.save(folder)
    ray.init(ignore_reinit_error=True)
    print(f"{len(plan.shards)} shards", flush=True)
    _map(Worker, [arguments], len(plan.shards))
    if left := plan.missing(folder):
        raise ValueError(f"{len(left)} of {len(plan.shards)} shards are not labelled, see above: "
                         "`python -m pseudo_label` says why, and goes on")
    _score(recipe, arguments)


def _score(recipe: WhisperRecipe, arguments: list[str]) -> None:
    from pseudo_label.filter import describe, run_filter
    from pseudo_label.labelling.references import add_references

    add_references(recipe)
    print(describe(run_filter(recipe)), flush=True)
    if recipe.teacher.mode == "store":
        shares = _SHARES * _workers()[0]
        _map(ScoringWorker, [arguments, shares], shares)


def _workers() -> tuple[int, dict[str, float]]:
    """How many the cluster has room for, and what each takes of it."""
    import ray

    if gpus := int(ray.cluster_resources().get("GPU", 0)):
        return gpus, {"num_gpus": 1, "num_cpus": 0}
    cores = ray.cluster_resources().get("CPU", 1) - 1  # one is Ray Data's own, or it would wait
    share = min(_CORES, max(cores, 1))
    return max(int(cores // share), 1), {"num_gpus": 0, "num_cpus": share}


def _map(worker: type, arguments: list[Any], count: int) -> None:
    """Call workers with the numbers below `count`, one at a time."""
    import ray

    workers, takes = _workers()
    workers = min(workers, count)
    print(f"{workers} workers", flush=True)
    ray.data.range(count, override_num_blocks=count).map_batches(
        worker, fn_constructor_args=arguments, batch_size=1, concurrency=workers,
        **takes).materialize()


if __name__ == "__main__":
    run(main)
