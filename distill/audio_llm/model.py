"""A language model that is given audio: adapter, LoRA, generation, saving.

    model = AudioLlm.new(language_model, settings, width=512)
    model = AudioLlm.from_pretrained("runs/demo-llm/student")
    model.generate([states], ["Transcribe speech to text."])

Only what is trained is saved: the adapter and LoRA's factors. Language model and encoder come from
where the settings say, and are refused if they are others than it was trained with.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from distill.audio_llm.core import AudioLlmCore, inject_lora
from distill.audio_llm.language_model import LanguageModel, load_language_model
from distill.audio_llm.remote.code import write_code
from distill.audio_llm.settings import SETTINGS, WEIGHTS, Settings, read_settings
from distill.data.files import write_json
from distill.data.packaged.text_models import require
from distill.losses.matmul import fast_linears


class AudioLlm(AudioLlmCore):
    """A core that is made, loaded and saved."""

    fast = staticmethod(fast_linears)

    @classmethod
    def new(cls, found: LanguageModel, settings: Settings) -> AudioLlm:
        """With a random adapter, and LoRA that changes nothing yet."""
        require("peft")
        return cls(inject_lora(found.model, settings.lora), found.tokenizer, settings)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> AudioLlm:
        """What `save_pretrained` wrote, and the language model from where it was.

        Raises:
            ValueError: weights are missing, left over or of other shapes, or the language model is
                another one.
        """
        settings = read_settings(folder)
        state = read_weights(folder)
        found = load_language_model(settings.language_model)
        if found.revision != settings.language_model_revision:
            raise ValueError(f"{folder}: trained with revision {settings.language_model_revision} "
                             f"of {settings.language_model.model}; {found.source} has "
                             f"{found.revision}")
        model = cls.new(found, settings)
        model.load_trained(state, str(folder))
        return model

    def save_pretrained(self, folder: str | Path) -> None:
        """Adapter, LoRA, settings, tokenizer, and code that loads them; nothing of the language
        model itself."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: each.cpu() for name, each in self.trained_state().items()}
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
        write_json(folder / SETTINGS, asdict(self.settings))
        self.tokenizer.save_pretrained(folder)
        write_code(folder)


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """What is trained, by name.

    Raises:
        ValueError: there is no such file, or it is not whole.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise ValueError(f"{folder}: not a whole model: it has no {WEIGHTS}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
