"""How much silence a model needs behind short clips: `python -m eval.speech.short_audio`."""
