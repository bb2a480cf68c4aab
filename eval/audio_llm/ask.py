"""Ask an audio language model about files.

    python -m eval.audio_llm.ask call.ogg "What is said?" --model runs/demo-llm/student
    python -m eval.audio_llm.ask call.ogg --model runs/demo-llm/student --task translate

Without a question it is asked what it was trained to be asked (--task, by default its first one).
The encoder and the language model come from where the model's audio_llm.json says. Files of up to
30 s; cut longer ones.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from distill.audio_llm.settings import Settings, read_settings
from distill.data.audio import AudioError
from distill.endings import program, run


def main(arguments: list[str]) -> int:
    """0; 1 if some file could not be read."""
    options = _parser().parse_args(arguments)
    files, question = options.words, options.question
    if question is None and len(files) > 1 and not Path(files[-1]).exists():
        *files, question = files  # ask FILE "question"
    settings = read_settings(options.model)
    prompt = question or _prompt(settings, options.task)
    if options.max_new_tokens < 1 or options.beams < 1:
        raise ValueError("--max-new-tokens and --beams must be 1 or more")
    return _ask(files, prompt, settings, options)


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
    model, failed = None, 0
    for name in files:
        try:
            wave = window(load_audio(name))
        except AudioError as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        model = model or load_model(options.model, encoder)
        (answer,) = model.generate(
            encoder.encode([wave]), [prompt], max_new_tokens=options.max_new_tokens,
            num_beams=options.beams, end_bias=options.end_bias)
        print(f"{name}: {answer}" if len(files) > 1 else answer, flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    run(main)
