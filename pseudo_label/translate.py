"""Translate the labels of a recipe with a text model, shard by shard.

    python -m pseudo_label.translate RECIPE [key=value ...]
    accelerate launch -m pseudo_label.translate RECIPE [key=value ...]     one process per GPU

`python -m pseudo_label` does this by itself in a single process. Writes `translations-*.jsonl`
beside the labels and filters. All labels are translated, those that the filter drops too: another
filter needs no new translations. Killed runs lose the shard they were in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from distill.config import read_method
from distill.data.files import hash_of, read_json, read_jsonl, write_json, write_jsonl
from distill.endings import run, writing_to
from distill.methods import find_method
from distill.progress import progress, quiet_libraries
from distill.whisper.recipe import WhisperRecipe, load_recipe
from pseudo_label.filter import describe, run_filter
from pseudo_label.filtering.translated import source_text, translation_path
from pseudo_label.labelling.leases import Leases
from pseudo_label.labelling.shards import label_parts


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    if find_method(read_method(arguments[0])).output != "text":
        print("This recipe has no texts: nothing to translate.")
        return
    recipe = load_recipe(arguments[0], arguments[1:])
    if not recipe.translation.model:
        print("This recipe has no translation.model: nothing to translate.")
        return
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    with writing_to(recipe.labels_dir):
        if translate(recipe, rank, world):
            print(describe(run_filter(recipe)), flush=True)
        else:
            print(f"Rank {rank} is done; other ranks are at what is left.")


def translate(recipe: WhisperRecipe, rank: int = 0, world: int = 1) -> bool:
    """Translate what is missing; whether all of it is there now.

    Raises:
        ValueError: labels are missing, the folder holds translations of other settings, or a label
            does not say its language.
    """
    from pseudo_label.translation import locate_translator

    folder = Path(recipe.labels_dir)
    parts = label_parts(folder)
    settings = _settings(recipe, locate_translator(recipe.translation)[1])
    _check_settings(folder / "translation.json", settings)
    todo = [part for part in parts if _is_missing(part)]
    todo = todo[rank % max(len(todo), 1) :] + todo[: rank % max(len(todo), 1)]
    if not todo:
        print("All translations are there already.", flush=True)
        return True
    if len(todo) < len(parts):
        print(f"{len(parts) - len(todo)} of {len(parts)} shards are translated already", flush=True)
    _translate(recipe, folder, todo, hash_of(settings), len(parts))
    return not any(_is_missing(part) for part in parts)


def _translate(recipe: WhisperRecipe, folder: Path, todo: list[Path], settings: str, total: int):
    import torch

    from distill.whisper.teacher import load_teacher
    from pseudo_label.translation import Translator

    quiet_libraries()
    if recipe.num_threads:
        torch.set_num_threads(recipe.num_threads)
    tokenizer = load_teacher(recipe.teacher, weights=False).processor.tokenizer
    translator = Translator(recipe.translation)
    print(f"Translator: {recipe.translation.model}, revision {translator.revision}", flush=True)

    def shards(leases: Leases) -> Iterator[None]:
        for part in todo:
            name = translation_path(part).stem
            if _is_missing(part) and leases.take(name):
                rows = _rows(recipe, read_jsonl(part), translator, tokenizer, settings)
                write_jsonl(translation_path(part), rows)
                leases.release(name)
            yield

    with Leases(folder) as leases:
        for _ in progress(shards(leases), total, "translating", "shards", True, total - len(todo)):
            pass


def _rows(recipe: WhisperRecipe, labels: list[dict], translator, tokenizer, settings: str):
    """Translation rows of label rows."""
    from distill.metrics.normalize import error_unit

    texts = [source_text(row, recipe) for row in labels]
    languages = [row["language"] or recipe.language for row in labels]
    if None in languages:
        raise ValueError("translation: neither the rows nor the recipe say the language of the "
                         "speech; set `language`")
    before = "" if error_unit(recipe.translation.target) == "char" else " "  # as Whisper writes
    return [
        {
            "id": row["id"], "source": text, "language": language, "text": found.text,
            "target": recipe.translation.target,
            "tokens": tokenizer(before + found.text, add_special_tokens=False)["input_ids"],
            "avg_logprob": round(found.avg_logprob, 6), "truncated": found.truncated,
            "model": recipe.translation.model, "revision": translator.revision,
            "settings": settings,
        }
        for row, text, language, found in zip(
            labels, texts, languages, translator(texts, languages), strict=True)
    ]


def _is_missing(part: Path) -> bool:
    return not translation_path(part).is_file()


def _settings(recipe: WhisperRecipe, revision: str) -> dict:
    """What decides how a text is translated, filters left out."""
    t = recipe.translation
    return {"model": t.model, "revision": revision, "target": t.target, "codes": dict(t.codes),
            "prefix": t.prefix, "text": t.text, "num_beams": t.num_beams,
            "language": recipe.language, "teacher": recipe.teacher.model}


def _check_settings(path: Path, settings: dict) -> None:
    if not path.is_file():
        write_json(path, settings)
        return
    before = read_json(path)
    if before != settings:
        keys = [key for key in settings if settings[key] != before.get(key)]
        changes = ", ".join(f"{k}: {before.get(k)!r} -> {settings[k]!r}" for k in keys)
        raise ValueError(
            f"{path.parent} holds translations made with other settings ({changes}); remove "
            f"{path.name} and translations-*.jsonl there, or choose another output_dir"
        )


if __name__ == "__main__":
    run(main)
