"""Label on the machines of a Ray cluster, through Ray Data (`pip install 'audio-distill[ray]'`).

    python -m pseudo_label.on_ray RECIPE [key=value ...]

Run it where the cluster's head is, on a file system that all machines share; without a cluster it
uses this machine. Ray starts a worker per GPU (without GPUs, per two cores), hands out shards, and
hands out again those of a machine that died; shards that are there are skipped. Afterwards
`python -m pseudo_label RECIPE` labels what may be left, filters, and scores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.data.unreadable import Unreadable
from distill.endings import run
from distill.whisper.recipe import load_recipe

_CORES = 2.0  # of a worker without a GPU


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
    gpus = int(ray.cluster_resources().get("GPU", 0))
    cores = ray.cluster_resources().get("CPU", 1) - 1  # one is Ray Data's own, or it would wait
    share = min(_CORES, max(cores, 1))
    workers = min(gpus or max(int(cores // share), 1), len(plan.shards))
    print(f"{len(plan.shards)} shards, {workers} workers", flush=True)
    shards = ray.data.range(len(plan.shards), override_num_blocks=len(plan.shards))
    shards.map_batches(
        Worker, fn_constructor_args=(arguments,), batch_size=1, concurrency=workers,
        num_gpus=1 if gpus else 0, num_cpus=0 if gpus else share).materialize()
    if left := plan.missing(folder):
        raise ValueError(f"{len(left)} of {len(plan.shards)} shards are not labelled, see above: "
                         "`python -m pseudo_label` says why, and goes on")


if __name__ == "__main__":
    run(main)
