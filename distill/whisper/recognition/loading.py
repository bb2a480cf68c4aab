"""Models of commands: a folder, a Hub id, or the name of a recipe, which means its teacher.

    model, processor = load("runs/demo/student")
"""

from __future__ import annotations

from pathlib import Path


def load(name: str) -> tuple:
    """(model, processor) of a folder, a Hub id, or a recipe's teacher; on the GPU if there is one.

    Raises:
        ValueError: there is no such model.
    """
    import torch
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    from distill.config import known_recipes
    from distill.progress import quiet_libraries
    from distill.whisper.prompting.reader_files import attach
    from distill.whisper.recipe import load_recipe
    from distill.whisper.teacher import load_teacher

    quiet_libraries()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    if name in known_recipes() and not (Path(name) / "config.json").is_file():
        teacher = load_teacher(load_recipe(name, []).teacher)
        return teacher.model.to(device, dtype), teacher.processor
    try:
        model = WhisperForConditionalGeneration.from_pretrained(name, dtype=dtype)
        processor = WhisperProcessor.from_pretrained(name)
    except OSError as error:
        raise ValueError(f"--model or --assistant: no Whisper model {name!r}: {error}") from None
    attach(model, name)
    return model.to(device).eval().requires_grad_(False), processor
