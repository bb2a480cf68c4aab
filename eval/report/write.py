"""The page of a run: heading, the parts that its output has, and its recipe."""

from __future__ import annotations

from pathlib import Path

from distill.methods import find_method
from eval.report.run_folder import read_config, write_page


def write_report(run_folder: str | Path, output: str | None = None) -> Path:
    """Write `<run_folder>/report/index.html` and return its path.

    Args:
        output: of the method, text | tags | answers; None: as the run's config.yaml says.

    Raises:
        ValueError: there is no such folder, or no such method.
    """
    run = Path(run_folder)
    config = read_config(run)
    if output is None:
        output = find_method(config["method"]).output if "method" in config else "text"
    if output == "tags":
        from eval.report import tagging as parts
    elif output == "answers":
        from eval.report import answers as parts
    else:
        from eval.report import speech as parts
    seed = f"seed {config['seed']}" if "seed" in config else ""
    return write_page(run, parts.TITLE, [*parts.facts(config), seed], parts.sections(run, config))
