"""Labels of a tiny recipe, and processes that train on them as after `accelerate launch`."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

import pseudo_label.__main__
from distill.testing import write_tiny_recipe, write_tiny_teacher
from tests.support.cpu_ranks import launch_environment
from tests.support.launches import FILES, OPTIONS


@pytest.fixture(scope="session")
def labelled(tmp_path_factory) -> tuple[Path, Path]:
    """(recipe, run folder with labels)."""
    folder = tmp_path_factory.mktemp("launch")
    teacher = write_tiny_teacher(folder / "teacher", decoder_layers=3, encoder_layers=1)
    recipe = write_tiny_recipe(folder, teacher, train=16, validation=3, test=4)
    pseudo_label.__main__.main([str(recipe), f"output_dir={folder / 'run'}", *OPTIONS])
    return recipe, folder / "run"


@pytest.fixture(scope="session")
def ranks(fork):
    """`ranks(file, count, arguments, log)`: processes with what `accelerate launch` would set.
    The views that they train on are in `log` with the suffix .views."""

    def ranks(file: str, count: int, arguments: list[str], log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        together = {**launch_environment(FILES / f"{file}.yaml", count), "MASTER_PORT": port,
                    "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(count),
                    "LOCAL_WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1",
                    "TESTS_VIEWS": str(log.with_suffix(".views"))}
        processes = [fork("tests.support.cpu_ranks", arguments, log, **together, RANK=str(rank),
                          LOCAL_RANK=str(rank)) for rank in range(count)]
        try:
            for process in processes:
                process.join(240)
                assert process.exitcode == 0, log.read_text()
        finally:
            for process in processes:
                process.kill()  # one that waits for another that has failed

    return ranks
