"""Ask an audio language model about files.

    python -m eval.audio_llm.ask call.ogg "What is said?" --model runs/demo-llm/student
    python -m eval.audio_llm.ask call.ogg --model runs/demo-llm/student --task translate

Without a question it is asked what it was trained to be asked (--task, by default its first one).
A model that was trained to be told what is said is told what the encoder's Whisper writes, or
--transcript. The encoder and the language model come from where the model's audio_llm.json says.
Files of up to 30 s; cut longer ones.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distill.audio_llm.settings import Settings, read_settings
from distill.data.audio import AudioError
from distill.endings import program, run


def main(arguments: list[str]) -> int:
    """0; 1 if some file could not be read."""
    options = _parser().parse_args(arguments)
    files, question = options.words, options.question
    if question is None and len(files) > 1 and not _is_file(files[-1]):
        *files, question = files  # ask FILE "question"
    settings = read_settings(options.model)
    prompt = question or _prompt(settings, options.task)
    if options.max_new_tokens < 1 or options.beams < 1:
        raise ValueError("--max-new-tokens and --beams must be 1 or more")
    return _ask(files, prompt, settings, options)


def _is_file(word: str) -> bool:
    """A file, or the name of one that is not there: it must not become the question."""
    return bool(re.fullmatch(r"\S+\.[A-Za-z]\w{1,4}", word)) or os.path.exists(word)


def _parser() -> argparse.ArgumentParser:
    about, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=program("eval.audio_llm.ask"), description=about, epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="+", metavar="FILE", help="audio files; what comes last may "
                        "be the question")
    parser.add_argument("--model", required=True, type=Path, help="folder of the model")
    parser.add_argument("--question", help="what is asked")
    parser.add_argument("--task", help="ask as the model was asked in this task while trained")
    parser.add_argument("--transcript", help="what is said, for models that are told it; default: "
                        "what the encoder's Whisper writes")
    parser.add_argument("--language", default="en", help="that it writes; default: en")
    parser.add_argument("--beams", type=int, default=1, help="default: 1, which is greedy")
    parser.add_argument("--max-new-tokens", type=int, default=200, help="longest answer")
    parser.add_argument("--end-bias", type=float, default=0.0,
                        help="added to the score of an answer's end; below 0 they are longer")
    return parser


def _prompt(settings: Settings, task: str | None) -> str:
    name = task or next(iter(settings.prompts))
    if name not in settings.prompts:
        raise ValueError(f"--task must be one of {', '.join(settings.prompts)}, got {name!r}")
    return settings.prompts[name]


def _ask(files: list[str], prompt: str, settings: Settings, options: argparse.Namespace) -> int:
    from distill.audio_llm.data.states import EncoderStates, window
    from distill.data.audio import load_audio
    from eval.audio_llm.parts import device_of, load_model

    encoder = EncoderStates(settings.encoder, settings.adapter, Path(), device_of(), False)
    written = _writer(settings, options, encoder)
    model, failed = None, 0
    for name in files:
        try:
            wave = window(load_audio(name))
        except AudioError as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        model = model or load_model(options.model, encoder)
        states = encoder.encode([wave])
        if not len(model.hear(states)[0]):
            print(f"{name}: nothing in it that the language model could be shown: the answer is "
                  "to the question alone", file=sys.stderr, flush=True)
        (answer,) = model.generate(
            states, [prompt], [written(name, wave)], max_new_tokens=options.max_new_tokens,
            num_beams=options.beams, end_bias=options.end_bias)
        print(f"{name}: {answer}" if len(files) > 1 else answer, flush=True)
    return int(failed > 0)


def _writer(
    settings: Settings, options: argparse.Namespace, encoder: Any
) -> Callable[[str, np.ndarray], str | None]:
    """What the model is told that is said in a file.

    Raises:
        ValueError: a transcript is given to a model that was trained without.
    """
    given = options.transcript
    if given is not None and not settings.tell_transcript:
        raise ValueError("--transcript: this model was not trained to be told what is said")
    if given is not None or not settings.tell_transcript or encoder.teacher is None:
        return lambda _name, _wave: given or None
    from distill.audio_llm.data.examples import Example
    from distill.audio_llm.recipe import PromptTask
    from distill.data.audio import SAMPLE_RATE
    from distill.data.manifest import Row
    from eval.audio_llm.cascade import whisper_texts

    def write(name: str, wave: np.ndarray) -> str | None:
        row = Row(name, name, len(wave) / SAMPLE_RATE, language=options.language)
        (text,) = whisper_texts(encoder.teacher, [Example(row, PromptTask("", ""), "", "", None)],
                                1)
        return text or None

    return write


if __name__ == "__main__":
    run(main)
