"""How a benchmark ends: JSON that names the machine, a table, or one sentence of what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from distill.data.files import write_json
from distill.endings import Stopped, run
from eval.machine import describe, this_machine


def write_result(path: Path, result: dict, table: str) -> None:
    """Write `result` and the machine to `path`; print `table`, the machine and the path."""
    machine = this_machine()
    write_json(path, {**result, "machine": machine})
    print(table, f"Machine: {describe(machine)}", f"Written to {path}", sep="\n")


def run_benchmark(main: Callable[[list[str]], None]) -> None:
    """Call the `main` of a benchmark that keeps nothing of a run that is stopped."""

    def stoppable(arguments: list[str]) -> None:
        try:
            main(arguments)
        except KeyboardInterrupt:
            raise Stopped("Stopped. The same command measures everything again.") from None

    run(stoppable)
