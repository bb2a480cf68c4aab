"""What leaves the machine with a student, and nothing else that may lie beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from distill.data.files import read_json, write_json, write_text
from distill.publish.card import benchmark_results, card_text
from distill.publish.facts import Facts, public
from distill.publish.remote import fits

# Patterns of names; training states, data and notes fit none of them.
FILES = (
    "README.md", "results.json", "training_config.yaml", "plots/*.svg", ".eval_results/*.yaml",
    "config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json",
    "processor_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "normalizer.json",
    "*_ced.py", "ced_*.py",  # code of an architecture that transformers does not have
    "prompt_reader.json", "prompt_reader.safetensors",  # of an encoder that reads prompts
    "tagger.json", "tagger.safetensors",  # a head beside a Whisper, and the code that reads it
    "modeling_whisper_sounds.py", "whisper_sound_heads.py", "whisper_tltr.py",
)
# Keys of a recipe that say where things lie, or how a run was started: nothing of the student.
_LOCAL_KEYS = ("output_dir", "labels_dir", "num_threads", "hub")


def write_student_files(facts: Facts, recipe: Any) -> dict[str, Path]:
    """Complete runs/NAME/student; returns name in the repository -> file, of all that is published.

    Adds README.md, results.json, training_config.yaml, plots/, .eval_results/ and the
    preprocessor_config.json that runtimes other than transformers 5 look for.
    """
    student = facts.run / "student"
    plots = _copy_plots(facts.run / "eval" / "plots", student / "plots")
    write_json(student / "results.json", public(facts.results))
    settings = {key: value for key, value in facts.settings.items() if key not in _LOCAL_KEYS}
    text = yaml.safe_dump(public(settings), sort_keys=False, allow_unicode=True)
    write_text(student / "training_config.yaml", text)
    _write_features(student)
    _write_benchmark(student / ".eval_results", benchmark_results(facts, recipe), recipe)
    write_text(student / "README.md", card_text(facts, recipe, plots))
    return published(student)


def published(student: Path) -> dict[str, Path]:
    """Files of a student that are for others."""
    names = {path.relative_to(student).as_posix(): path
             for path in sorted(student.rglob("*")) if path.is_file()}
    return {name: path for name, path in names.items()
            if any(fits(name, pattern) for pattern in FILES)}


def _copy_plots(source: Path, target: Path) -> list[Path]:
    found = sorted(source.glob("*.svg"))
    for path in target.glob("*.svg"):  # of an older evaluation
        if path.name not in {each.name for each in found}:
            path.unlink()
    for path in found:
        write_text(target / path.name, path.read_text(encoding="utf-8"))
    return [target / path.name for path in found]


def _write_features(student: Path) -> None:
    """transformers 5 keeps the features' settings in processor_config.json. faster-whisper,
    transformers.js and transformers 4 read preprocessor_config.json; without it large-v3's 128 mel
    bands would be taken for 80."""
    path = student / "processor_config.json"
    features = read_json(path).get("feature_extractor") if path.is_file() else None
    if features and not (student / "preprocessor_config.json").is_file():
        write_json(student / "preprocessor_config.json", features)


def _write_benchmark(folder: Path, entries: list[dict] | None, recipe: Any) -> None:
    for path in folder.glob("*.yaml"):
        path.unlink()
    if entries:
        name = re.sub(r"\W+", "_", recipe.hub.benchmark.split("/")[1]).strip("_").lower()
        text = yaml.safe_dump(json.loads(json.dumps(entries)), sort_keys=False, allow_unicode=True)
        write_text(folder / f"{name}.yaml", text)
