"""The same stages on 8 and on 64 GPUs, and what each waits for: GPU, processor, disk or network.

What pieces cost was measured (`MEASURED`); what cards, disks and links do is stated (`STATED`).
Change neither to fit: a plan says what it assumed. A stage takes as long as its slowest part, for
all of them run at the same time.
"""

from __future__ import annotations

from distill.whisper.recipe import WhisperRecipe

GPUS = (8, 64)
GPUS_A_MACHINE = 8
# AMD EPYC, one core, torch 2.13.0: FLAC of 44.1 kHz decoded and brought to 16 kHz in 4.7 s, log-mel
# of 128 bands in 1.3 s; of 16 kHz FLAC it is 0.9 s and 1.3 s
MEASURED = {"audio_core_seconds": 6.0}  # of a core, for an hour of audio
STATED = {
    "cores": 12,  # of a GPU's share of its machine
    "flac_bytes": 115e6,  # of an hour of speech, 16 kHz mono, 16 bits
    "disk_bytes": 2e9,  # a second, read by all machines together
    "disk_reads": 20_000,  # a second, of all machines together
    "link_bytes": 25e9,  # a second, between two machines (200 Gb/s)
    "inner_bytes": 300e9,  # a second, between two GPUs of a machine
}


def plan_scale(recipe: WhisperRecipe, planned: dict) -> dict:
    """Seconds of each stage and part, for each number of GPUs.

    Args:
        planned: of `plan`: `data`, `training`, `store`, `student` and `time`.

    Returns:
        `stages`: {number of GPUs: {stage: {"gpu", "cpu", "disk", "network": seconds, "seconds": of
        the slowest, "bottleneck": its name}}}, and what was `measured` and `stated`.
    """
    one_gpu = {stage: each["gpu"] for stage, each in planned["time"]["seconds"].items()
               if stage != "eval"}
    return {"measured": MEASURED, "stated": STATED, "stages": {
        count: {stage: _with_bottleneck(_parts(recipe, planned, stage, seconds, count))
                for stage, seconds in one_gpu.items()}
        for count in GPUS}}


def _parts(
    recipe: WhisperRecipe, planned: dict, stage: str, seconds: float, count: int
) -> dict[str, float]:
    heard, stored, reads = _read(recipe, planned, stage)
    disk = (heard * STATED["flac_bytes"] + stored) / STATED["disk_bytes"]
    cores = STATED["cores"] * count
    return {"gpu": seconds / count,
            "cpu": heard * MEASURED["audio_core_seconds"] / cores,
            "disk": max(disk, reads / STATED["disk_reads"]),
            "network": _exchange(planned, count) if stage == "train" else 0.0}


def _read(recipe: WhisperRecipe, planned: dict, stage: str) -> tuple[float, float, float]:
    """Hours of audio, bytes of the store, and single reads of a stage."""
    data, training, store = planned["data"]["train"], planned["training"], planned["store"]
    hours, windows = data["hours"] * data["packings"], data["windows"]
    clips = data["clips"] or windows
    stored = store["used"] and recipe.scores.encoder_states == "disk"
    encoded = sum(each["total"] for each in store["choices"]
                  if each["chosen"] and each["name"].startswith("encoder states"))
    if stage == "label":
        return hours, encoded if stored else 0.0, clips  # audio is read, states are written
    if stage == "score":
        return (0.0 if stored else hours), store["total"], training["distinct_views"]
    views = training["views"]
    again = views / training["distinct_views"]
    heard = 0.0 if stored else hours * views / windows
    read = store["total"] * again if store["used"] else 0.0
    if stored:  # of a window's states, whichever view it is
        read += encoded * (views / min(windows, views) - again)
    return heard, read, views * (1 if stored else max(clips / windows, 1.0))


def _exchange(planned: dict, count: int) -> float:
    """Gradients in float32 around a ring, at the speed of its slowest link."""
    link = STATED["inner_bytes"] if count <= GPUS_A_MACHINE else STATED["link_bytes"]
    size = 4 * planned["student"]["trained_parameters"]
    return planned["training"]["steps"] * 2 * size * (count - 1) / count / link


def _with_bottleneck(parts: dict[str, float]) -> dict:
    slowest = max(parts, key=parts.__getitem__)
    return {**parts, "seconds": parts[slowest], "bottleneck": slowest}
