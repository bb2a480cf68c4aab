"""Code beside a transcriber that tags, so that its head loads without this package.

    write_code(folder)    # a folder with tagger.json
    AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True)

The files are copies of ours that import each other relatively.
"""

from __future__ import annotations

import re
from pathlib import Path

from distill.data.files import read_json, write_json, write_text

_MODULES = {"tltr": "whisper_tltr", "heads": "whisper_sound_heads",
            "remote": "modeling_whisper_sounds"}
_AUTO = {"AutoModelForAudioClassification": "modeling_whisper_sounds.WhisperSounds"}


def write_code(folder: str | Path) -> list[Path]:
    """Write the code of the head into `folder`, and name it in config.json.

    Raises:
        OSError: config.json is not there.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", config | {"auto_map": _AUTO})
    written = [folder / "config.json"]
    for module, name in _MODULES.items():
        source = Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8")
        for other, file in _MODULES.items():
            source = source.replace(f"from distill.whisper_at.{other} import",
                                    f"from .{file} import")
        code = re.sub(r'"""(?:.|\n)*?"""', "", source)
        assert "distill" not in re.sub("#.*", "", code), "a module that is not copied"
        write_text(folder / f"{name}.py", source)
        written.append(folder / f"{name}.py")
    return written
