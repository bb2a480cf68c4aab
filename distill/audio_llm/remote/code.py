"""Code beside an adapter and LoRA, so that they load without this package.

    write_code(folder)    # a folder with audio_llm.json
    AutoModel.from_pretrained(folder, trust_remote_code=True)

The files are copies of ours that import each other relatively.
"""

from __future__ import annotations

import re
from pathlib import Path

from distill.data.files import write_json, write_text

_MODULES = {
    "whisper_at.tltr": "audio_llm_tltr", "audio_llm.adapters": "audio_llm_adapters",
    "audio_llm.ctc": "audio_llm_ctc", "audio_llm.data.layouts": "audio_llm_layouts",
    "audio_llm.data.sequences": "audio_llm_sequences", "audio_llm.core": "audio_llm_core",
    "audio_llm.remote.modeling": "modeling_audio_llm",
}
_CONFIG = {
    "model_type": "audio_llm", "architectures": ["AudioLlmForAnswers"],
    "auto_map": {"AutoConfig": "modeling_audio_llm.AudioLlmConfig",
                 "AutoModel": "modeling_audio_llm.AudioLlmForAnswers"},
}


def write_code(folder: str | Path) -> list[Path]:
    """Write config.json and the code into `folder`."""
    folder = Path(folder)
    write_json(folder / "config.json", _CONFIG)
    written = [folder / "config.json"]
    root = Path(__file__).parents[2]
    for module, name in _MODULES.items():
        source = (root / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        for other, file in _MODULES.items():
            source = source.replace(f"from distill.{other} import", f"from .{file} import")
        code = re.sub(r'"""(?:.|\n)*?"""', "", source)
        assert "distill" not in re.sub("#.*", "", code), f"{module} imports what is not copied"
        write_text(folder / f"{name}.py", source)
        written.append(folder / f"{name}.py")
    return written
