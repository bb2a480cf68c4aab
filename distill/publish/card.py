"""The model card: every figure from the run's own JSON, with the key it stands under.

The parts that depend on the kind of model are in `speech` and `tags`; both have the same functions.
"""

from __future__ import annotations

import re
from html import escape, unescape
from pathlib import Path
from types import ModuleType
from typing import Any

from distill.methods import find_method
from distill.publish import speech, tags
from distill.publish.facts import Facts, is_local, public_name
from distill.publish.show import table

UNKNOWN = "unknown: the publisher has not said"


def parts_of(recipe: Any) -> ModuleType:
    """The module with the parts of a method's card."""
    return speech if find_method(recipe.method).output == "text" else tags


def card_text(facts: Facts, recipe: Any, plots: list[Path]) -> str:
    """README.md as the Hub shows it.

    Args:
        plots: SVG files that will lie in `plots/` of the repository.
    """
    from huggingface_hub import ModelCard

    header = metadata(facts, recipe).to_yaml()
    return str(ModelCard(f"---\n{header}\n---\n\n{_body(facts, recipe, plots)}"))


def _body(facts: Facts, recipe: Any, plots: list[Path]) -> str:
    kind = parts_of(recipe)
    return f"""# {facts.name}

A compact student, distilled with audio-distill.

{table(["", ""], [list(row) for row in kind.headline(facts, recipe)])}

## Results

{kind.results(facts)}

{_pictures(plots)}All figures are in `results.json`, unrounded there.

## How to use

{kind.usage(facts, recipe)}

## How it was made

{_data(recipe)}{kind.making(facts, recipe)}

## Limits

{_list(kind.limits(facts, recipe))}

## Licences

{_licences(recipe)}

## Methods

{_list(kind.citations(recipe))}
"""


def _list(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _data(recipe: Any) -> str:
    return f"Training audio: {recipe.hub.data_name}. " if recipe.hub.data_name else ""


def _pictures(plots: list[Path]) -> str:
    """Two in a row where there is room; a picture is described by its own title and text."""
    images = []
    for path in plots:
        svg = path.read_text(encoding="utf-8")
        said = [re.search(rf"<{tag}[^>]*>(.*?)</{tag}>", svg, re.S) for tag in ("title", "desc")]
        text = ". ".join(unescape(found[1]) for found in said if found)
        images.append(f'<img src="plots/{path.name}" width="400" alt="{escape(text)}">')
    return "\n".join(["<p>", *images, "</p>\n\n"]) if images else ""


def _licences(recipe: Any) -> str:
    hub = recipe.hub
    student = hub.license or (
        "not stated. It follows from the two above; until its publisher states one, nobody else "
        "has a right to use the weights")
    rows = [["teacher", hub.teacher_license or UNKNOWN],
            ["training audio and transcripts", hub.data_license or UNKNOWN],
            ["this student", student]]
    return table(["of", "licence"], rows)


# Metadata


def metadata(facts: Facts, recipe: Any):
    """What the Hub indexes. Without `hub.license` there is none: it is not for us to guess."""
    from huggingface_hub import EvalResult, ModelCardData

    kind, hub, student = parts_of(recipe), recipe.hub, facts.models["student"]
    normalizer = facts.results.get("normalizer")
    cleaned = f", {normalizer} normaliser" if normalizer else ""
    found = [
        EvalResult(
            task_type=kind.TASK, task_name=kind.TASK.replace("-", " ").capitalize(),
            dataset_type=hub.benchmark or "manifest", dataset_name=test_name(recipe),
            dataset_config=hub.benchmark_task, dataset_split=facts.results["split"],
            metric_type=key, metric_value=round(scale * student[key], 2),
            metric_name=_metric(label, scale) + cleaned,
        )
        for key, scale, label in kind.METRICS if student.get(key) is not None
    ]
    return ModelCardData(
        language=getattr(recipe, "language", None), license=hub.license,
        library_name=kind.LIBRARY, pipeline_tag=kind.TASK, base_model=_base_models(recipe),
        tags=[kind.TASK, facts.config["model_type"], "distillation", "audio-distill"],
        metrics=[result.metric_type for result in found], model_name=facts.name,
        eval_results=found,
    )


def _metric(label: str, scale: int) -> str:
    return f"{label} in %" if scale == 100 else label


def test_name(recipe: Any) -> str:
    return recipe.hub.benchmark or ", ".join(
        "/".join(Path(path).with_suffix("").parts[-2:]) for path in recipe.data.test)


def _base_models(recipe: Any) -> list[str] | str | None:
    """Teachers that the Hub has."""
    members = getattr(recipe.teacher, "members", None)
    names = [recipe.teacher.model] if members is None else [each.model for each in members]
    names = [public_name(name) for name in names if not is_local(name)]
    return names[0] if len(names) == 1 else names or None


def benchmark_results(facts: Facts, recipe: Any) -> list[dict] | None:
    """What `.eval_results/*.yaml` holds, from which the Hub's leaderboards take results; None
    where the recipe names no benchmark of the Hub, since only those may be named there."""
    if not recipe.hub.benchmark:
        return None
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    kind, student = parts_of(recipe), facts.models["student"]
    key, scale, label = kind.main_metric(facts, recipe)
    notes = [_metric(label, scale)]
    notes += [facts.results[name] for name in ("normalizer", "decoding") if name in facts.results]
    entry = EvalResultEntry(
        dataset_id=recipe.hub.benchmark, task_id=recipe.hub.benchmark_task,
        value=round(scale * student[key], 2), notes="; ".join(notes))
    return eval_result_entries_to_yaml([entry])
