"""Code beside the weights, so that a published tagger loads without this package.

    write_code(folder)    # a folder of `save_pretrained`, with its feature extractor
    AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True)

The files are copies of ours that import each other relatively and register nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

from distill.data.files import read_json, write_json, write_text

_MODULES = {"frontend": "ced_frontend", "configuration": "configuration_ced",
            "blocks": "ced_blocks", "modeling": "modeling_ced",
            "extractor": "feature_extraction_ced"}
_CONFIG = {
    "AutoConfig": "configuration_ced.CedConfig",
    "AutoModel": "modeling_ced.CedModel",
    "AutoModelForAudioClassification": "modeling_ced.CedForAudioClassification",
}
_EXTRACTOR = {"AutoFeatureExtractor": "feature_extraction_ced.CedFeatureExtractor"}


def write_code(folder: str | Path) -> list[Path]:
    """Write the code of model and feature extractor into `folder`, and name it in its JSON files.

    Raises:
        OSError: config.json or preprocessor_config.json is not there.
    """
    folder, written = Path(folder), []
    for name, auto_map in (("config.json", _CONFIG), ("preprocessor_config.json", _EXTRACTOR)):
        config = read_json(folder / name)
        write_json(folder / name, config | {"auto_map": auto_map})
        written.append(folder / name)
    for module, name in _MODULES.items():
        source = Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8")
        write_text(folder / f"{name}.py", standalone(source))
        written.append(folder / f"{name}.py")
    return written


def standalone(source: str) -> str:
    """A module of this folder without `distill`."""
    for module, name in _MODULES.items():
        source = source.replace(f"from distill.ced.model.{module} import", f"from .{name} import")
    source = re.sub(r"^Auto\w+\.register\(.*\)\n", "", source, flags=re.MULTILINE)
    code = re.sub(r'"""(?:.|\n)*?"""', "", source)
    assert "distill" not in re.sub("#.*", "", code), "a module that is not copied"
    return source
