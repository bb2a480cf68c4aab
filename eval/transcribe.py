"""Transcribe files and folders of any length with a student, a teacher, or both together.

    python -m eval.transcribe talk.mp3 calls/ --model runs/demo/student
    python -m eval.transcribe talk.mp3 --model demo --assistant runs/demo/student --format srt vtt
    python -m eval.transcribe talk.mp3 --model runs/demo-prompted/student --style lower \\
        --context notes.txt --hotwords names.txt

The model is a folder, a Hub id, or a recipe's name, which means its teacher. With an assistant (a
student with the model's encoder) the text is the model's own, sooner. `talk.mp3` becomes
`talk.mp3.txt` beside it or in --output-dir (`talk.txt` may be what somebody typed); each file is
written when it is done, and one that is there already is left alone. Where no voice is found
nothing is decoded, so that silence, noise and music without a singer have no text.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from distill.data.audio import AudioError
from distill.data.files import write_text
from distill.data.hub_ids import check_hub_id
from distill.data.languages import language_code
from distill.endings import Stopped, program, run, writing_to
from distill.progress import clock
from distill.whisper.recognition.loading import load
from eval.audio_files import output_places, printable

FORMATS = ("txt", "srt", "vtt", "json")


def main(arguments: list[str]) -> int:
    """0; 1 if some file could not be read."""
    options = _parser().parse_args(arguments)
    if options.batch_size < 1:
        raise ValueError(f"--batch-size must be 1 or more, got {options.batch_size}")
    from distill.config import known_recipes  # after --help, which is quick

    if options.words and "json" not in options.format:
        raise ValueError("--words are written into the json: add --format json")
    if options.sounds and options.format == ["txt"]:
        raise ValueError("--sounds are written into subtitles and json: add --format vtt json")
    check_hotwords(options)
    check_prompt(options)
    recipes = known_recipes()
    for key, name in (("--model", options.model), ("--assistant", options.assistant)):
        if name is not None and name not in recipes:
            check_hub_id(name, key, recipes)
    places = output_places(options.files, options.output_dir)
    todo = {path: place for path, place in places.items() if options.overwrite
            or not all(Path(f"{place}.{kind}").is_file() for kind in options.format)}
    if len(todo) < len(places):
        print(f"{len(places) - len(todo)} of {len(places)} files are transcribed already "
              "(--overwrite does them again)", flush=True)
    if not todo:
        return 0
    try:
        return _transcribe(todo, options)
    except KeyboardInterrupt:
        raise Stopped("Stopped. Finished files are written, and the same command goes on."
                      ) from None


def _parser() -> argparse.ArgumentParser:
    about, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=program("eval.transcribe"), description=about, epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="audio files, or folders of them")
    parser.add_argument("--model", required=True, help="folder, Hub id, or recipe (its teacher)")
    parser.add_argument("--assistant", help="folder of a student that drafts for the model")
    parser.add_argument("--language", default="auto", help="name or code; default: "
                        "detected in each file")
    parser.add_argument("--task", choices=("transcribe", "translate"), default="transcribe")
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=["txt"],
                        help="default: txt")
    parser.add_argument("--words", action="store_true", help="times of words, in the json")
    parser.add_argument("--output-dir", type=Path, help="default: beside the audio")
    parser.add_argument("--batch-size", type=int, default=8, help="files decoded together")
    parser.add_argument("--int8", action="store_true", help="encoder and decoder in int8, on CPUs")
    parser.add_argument("--previous-text", action="store_true", help="the text of a window is "
                        "the prompt of the next: names stay the same, but so do mistakes")
    parser.add_argument("--hotwords", type=Path, help="text file of names and terms, one a line, "
                        "that are preferred where the model nearly writes them")
    parser.add_argument("--boost", type=float, help="of --hotwords, added to logits; default: 6")
    parser.add_argument("--style", help="the text is then written so, exactly: upper, lower "
                        "(without punctuation), digits, words (English numbers), mixed (as it is), "
                        "or module:function")
    parser.add_argument("--style-prompt", help="the model is asked by a prompt to write so; for "
                        "students that were trained with prompts")
    parser.add_argument("--context", type=Path, help="text file of what it is about: names, or "
                        "what was said before; read before every window, its end if it is long")
    parser.add_argument("--no-vad", action="store_true", help="also decode audio without "
                        "detected speech: songs, crowds. Text made up in silence then stays")
    parser.add_argument("--sounds", nargs="?", const="gaps", choices=("gaps", "all"),
                        help="also [music] and the like, by a model that tags: where nobody "
                        "speaks (gaps, as without a word behind it) or all of them")
    parser.add_argument("--overwrite", action="store_true", help="also files that exist already")
    return parser


def check_hotwords(options: argparse.Namespace) -> None:
    """Now, and not after the model is loaded.

    Raises:
        ValueError: the list cannot be read, or the boost is not positive.
    """
    from distill.whisper.decoding.phrases.files import read_phrases

    if options.boost is not None and options.hotwords is None:
        raise ValueError("--boost is that of --hotwords: add --hotwords FILE")
    if options.boost is not None and not 0 < options.boost < float("inf"):
        raise ValueError(f"--boost must be > 0 and finite, got {options.boost}")
    if options.hotwords is not None:
        read_phrases(options.hotwords)


def check_prompt(options: argparse.Namespace) -> None:
    """Now, too.

    Raises:
        ValueError: there is no such style, or the context cannot be read.
    """
    from distill.whisper.prompting.styles import find_style

    for style in filter(None, (options.style, options.style_prompt)):
        find_style(style)
    if options.context is not None:
        context_of(options.context)


def context_of(path: Path) -> str:
    """Lines of a text file, joined.

    Raises:
        ValueError: there is no such file, or it is not UTF-8.
    """
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--context: {path} must be a text file in UTF-8: {error}") from None


def prompt_of(options: argparse.Namespace, tokenizer) -> list[int]:
    """Tokens of --style-prompt and --context; half of the room stays for the text so far, if that
    is read, too."""
    from distill.whisper.prompting.compose import prompt_tokens

    if options.style_prompt is None and options.context is None:
        return []
    content = "" if options.context is None else context_of(options.context)
    limit = 111 if options.previous_text else 223
    return prompt_tokens(tokenizer, options.style_prompt, content, limit)


def text_of(options: argparse.Namespace, model):
    """What the encoder reads of --style-prompt and --context; None of models whose decoder does."""
    from distill.whisper.encoder.prompt_reader import has_reader
    from distill.whisper.prompting.reader_files import texts_of

    if not has_reader(model):
        return None
    content = "" if options.context is None else context_of(options.context)
    return texts_of(model, options.style_prompt, [content])[0]


def _transcribe(places: dict[Path, Path], options: argparse.Namespace) -> int:
    from distill.whisper.prompting.rendered import rendered
    from distill.whisper.recognition.sequential import (
        LongAudio,
        Segment,
        audio_file,
        speech_of,
        transcribe_long,
    )
    from eval.speech.subtitles import Heard, write

    recordings, paths, failed = [], {}, 0
    for path in places:
        try:
            audio = audio_file(path)
            audio.speech = None if options.no_vad else partial(speech_of, audio)
            recordings.append(audio)
        except AudioError as error:
            print(error, file=sys.stderr, flush=True)
            failed += 1
        else:
            paths[id(recordings[-1])] = path
    if not recordings:
        return 1
    for place in {places[path].parent for path in paths.values()}:
        check_writable(place)  # now, and not after an hour's work
    decoder, processor = load_decoder(options)
    track = _sound_track(options, decoder, processor) if options.sounds else None
    text = text_of(options, decoder.model)
    prompt = [] if text is not None else prompt_of(options, processor.tokenizer)
    for audio in recordings:
        audio.prompt, audio.text = prompt, text
    silent = 0

    def finished(audio: LongAudio, segments: list[Segment], error: AudioError | None) -> None:
        nonlocal failed, silent
        path, heard = paths[id(audio)], None
        if error is None and track is not None:
            try:
                heard = Heard(track.finish(audio), options.sounds == "gaps")
            except AudioError as unread:
                error = unread
        if error is not None:
            print(error, file=sys.stderr, flush=True)
            failed += 1
            return
        silent += not segments
        if options.style is not None:
            segments = rendered(options.style, segments, options.task)
        language = segments[0].language if segments else None
        about = {"file": printable(path), "duration": audio.seconds, "language": language,
                 "task": options.task, "model": options.model, "assistant": options.assistant}
        for kind in options.format:
            is_plain = kind == "json" and not options.words  # subtitles always need their times
            shown = [replace(each, words=[]) for each in segments] if is_plain else segments
            with writing_to(places[path].parent):
                write_text(f"{places[path]}.{kind}", write(kind, shown, about, heard))

    start = time.perf_counter()
    transcribe_long(decoder, processor, recordings, options.batch_size,
                    previous_text=options.previous_text, words=options.format != ["txt"],
                    on_finished=finished, on_heard=None if track is None else track.take,
                    description="transcribing")
    took, seconds = time.perf_counter() - start, sum(audio.seconds for audio in recordings)
    print(f"{len(places) - failed} files, {clock(seconds)} of audio in {clock(took)}: "
          f"{seconds / took:.1f} times real time; {failed} could not be read"
          + (f"; no speech in {silent}" if silent else ""))
    if decoder.drafter is not None:
        print(f"Decoding: {decoder.report}")
    return min(failed, 1)


def _sound_track(options: argparse.Namespace, decoder, processor):
    """What hears sounds besides the speech.

    Raises:
        ValueError: the model has no head that tags.
    """
    from distill.whisper_at.joint import TranscriberStates, find_head
    from eval.speech.sounds import SoundTrack

    sounds = find_head(options.model, decoder.model.device)
    if sounds is None:
        raise ValueError(f"--sounds: {options.model} does not tag: it has no tagger.json; a recipe "
                         "with tagger.data trains such a head (make demo-hears)")
    return SoundTrack(sounds, TranscriberStates(decoder.model, processor))


def check_writable(folder: Path) -> None:
    """Make a folder and write to it.

    Raises:
        OutputError: that is not possible.
    """
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")


def load_decoder(options: argparse.Namespace) -> tuple:
    """(decoder, processor).

    Raises:
        ValueError: no such model, the model does not know the language, or the assistant cannot
            draft for it.
    """
    from distill.whisper.decoding.whisper_decoder import AUTO, WhisperDecoder
    from distill.whisper.encoder.int8 import with_int8_encoder
    from distill.whisper.special import SpecialTokens

    model, processor = load(options.model)
    language = options.language.strip()
    if language.lower() == AUTO:
        language = AUTO
    else:
        with suppress(ValueError):  # a code of this model's own, or none: it says which it knows
            language = language_code(language)
    known = SpecialTokens(processor.tokenizer, model.generation_config).languages
    codes = sorted(name.strip("<|>") for name in known) or ["en"]
    if language not in (AUTO, *codes):
        raise ValueError(
            f"--language {options.language}: {options.model} knows {', '.join(codes)}")
    if not known:
        language = None
    student = load(options.assistant)[0] if options.assistant else None
    decoder = WhisperDecoder(model, processor.tokenizer, language, options.task, timestamps=True,
                            on_loop="keep", student=student, int8=options.int8, exact=True,
                            max_slots=options.batch_size,
                            phrases=_phrases(options, processor.tokenizer))
    if options.int8:  # not before: the assistant's encoder was compared with that in float
        decoder.model = with_int8_encoder(model)
    return decoder, processor


def _phrases(options: argparse.Namespace, tokenizer):
    """The list of --hotwords; None without."""
    from distill.whisper.decoding.phrases.files import read_phrases
    from distill.whisper.decoding.phrases.trie import BOOST, PhraseList

    if options.hotwords is None:
        return None
    return PhraseList(tokenizer, read_phrases(options.hotwords),
                      BOOST if options.boost is None else options.boost)


if __name__ == "__main__":
    run(main)
