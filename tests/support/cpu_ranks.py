"""Launch files for GPUs, on CPU ranks that talk by gloo.

    accelerate launch --config_file FILE --num_processes 2 -m tests.support.cpu_ranks NAME ...

accelerate itself gives CPU ranks DDP, whatever the file asks for. Here it takes them for GPUs, and
does with them what it does with those.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from accelerate.state import PartialState
from accelerate.utils import DistributedType

import distill.train
from distill.endings import run as run_command
from distill.training import zero
from distill.whisper.task import WhisperTask


def launch_environment(file: Path, num_processes: int) -> dict[str, str]:
    """What `accelerate launch --config_file file` sets for its ranks."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    words = ["--config_file", str(file), "--num_processes", str(num_processes), "-m", "any.module"]
    arguments, config, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ",".join(config.deepspeed_config)
        made = prepare_deepspeed_cmd_env(arguments)[1]
    else:
        made = prepare_multi_gpu_env(arguments)
    return {name: value for name, value in made.items() if os.environ.get(name) != value}


def _cut_all(configure: Callable[..., None]) -> Callable[..., None]:
    """ZeRO-3 leaves small weights whole on every rank: all that a tiny model has."""

    def configured(plugin: Any, config: Any) -> None:
        configure(plugin, config)
        plugin.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0

    return configured


def _noted(collate: Callable[..., Any], path: str) -> Callable[..., Any]:
    """Writes down the views that a rank trains on, in their order: `index epoch` a line."""

    def noted(self: WhisperTask, samples: list[tuple[int, int]]) -> Any:
        with open(path, "a", encoding="utf-8") as file:
            file.write("".join(f"{index} {epoch}\n" for index, epoch in samples))
        return collate(self, samples)

    return noted


def main(arguments: list[str]) -> None:
    if path := os.environ.get("TESTS_VIEWS"):
        WhisperTask.collate = _noted(WhisperTask.collate, path)
    asked = {name for name in ("FSDP", "DEEPSPEED") if f"ACCELERATE_USE_{name}" in os.environ}
    if not asked:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    else:
        os.environ |= {"ACCELERATE_TORCH_DEVICE": "cpu", "DS_ACCELERATOR": "cpu"}
        PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
    if "DEEPSPEED" in asked:
        # minutes of g++ for a shortcut in shared memory, which gloo does without
        import_module("deepspeed.comm.torch").build_shm_op = lambda: None
        zero.configure = _cut_all(zero.configure)
    distill.train.main(arguments)


if __name__ == "__main__":
    run_command(main)
