"""Choose how much silence a model needs behind short clips, on validation clips.

    python -m eval.speech.short_audio runs/demo/student data/validation.jsonl
    python -m eval.speech.short_audio runs/demo/student data/validation.jsonl --write

Whisper pads every clip to 30 s. With `short_audio: {margin_seconds: 1.0}` in its config.json it
encodes a clip and one second of the silence behind it. Every margin is tried beside the padded
model, clip by clip, and the smallest one is chosen at which nothing is lost: at most 0.2 points of
WER and an interval of the difference that includes 0, no more insertions or loops, words at the
same times, the same languages detected. --write puts it into the model's config.json. The model is
a folder, a Hub id, or a recipe's name, which means its teacher.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from distill.data.files import read_json, write_json
from distill.data.hub_ids import check_hub_id
from distill.data.languages import language_code
from distill.endings import Stopped, program, run, writing_to

MARGINS = (0.5, 1.0, 2.0, 4.0)
_FEWEST = 30  # clips: fewer say little about loops


def main(arguments: list[str]) -> int:
    """0; 1 if no margin will do."""
    options = _parser().parse_args(arguments)
    from distill.config import known_recipes  # after --help, which is quick

    folder, recipes = Path(options.model), known_recipes()
    if options.write and not (folder / "config.json").is_file():
        raise ValueError(f"--write needs a model's folder, and {folder}/config.json is not there")
    if options.model not in recipes:
        check_hub_id(options.model, "MODEL", recipes)
    if options.batch_size < 1:
        raise ValueError(f"--batch-size must be 1 or more, got {options.batch_size}")
    language = None if options.language is None else language_code(options.language)
    try:
        result = measure(options.model, options.manifest, language, options.margins,
                         options.batch_size)
    except KeyboardInterrupt:
        raise Stopped("Stopped. The same command measures everything again.") from None
    print(table(result))
    out = options.output or Path("runs/short-audio") / f"{folder.name}.json"
    with writing_to(out.parent):
        write_json(out, result)
    print(f"Written to {out}")
    if result["chosen"] is None:
        return 1
    if options.write:
        with writing_to(folder):
            write_entry(folder, entry(result))
        print(f"{folder}/config.json: short_audio = {entry(result)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    about, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=program("eval.speech.short_audio"), description=about, epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder, Hub id, or recipe (its teacher)")
    parser.add_argument("manifest", help="validation clips with their texts; none longer than "
                        "30 s is used")
    parser.add_argument("--language", help="name or code of all clips; default: the manifest's, "
                        "or detected")
    parser.add_argument("--margins", type=_margins, default=MARGINS, metavar="SECONDS,...",
                        help="default: 0.5,1,2,4")
    parser.add_argument("--batch-size", type=int, default=8, help="clips decoded together")
    parser.add_argument("--write", action="store_true", help="put the margin into the model's "
                        "config.json")
    parser.add_argument("--output", type=Path, help="JSON; default: runs/short-audio/MODEL.json")
    return parser


def _margins(text: str) -> tuple[float, ...]:
    try:
        found = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected seconds such as 0.5,1,2, got {text!r}") from None
    if not all(0 <= margin <= 30 for margin in found):
        raise argparse.ArgumentTypeError(f"a margin is 0 to 30 seconds, got {text!r}")
    return found


def measure(
    name: str, manifest: str, language: str | None, margins: tuple[float, ...], batch_size: int = 8
) -> dict:
    """All rows of the table, and the margin that is chosen.

    Returns:
        `padded` and `margins` (see `eval.speech.margins.compare`), `chosen` (seconds or None),
        `num_clips`, `left_out` (counts by reason), `model` and `manifest`.

    Raises:
        ValueError: no such model or manifest, or no clip of it can be used.
        AudioError: a clip cannot be read.
    """
    from distill.whisper.decoding.whisper_decoder import AUTO, WhisperDecoder
    from distill.whisper.encoder.lengths import set_margin
    from distill.whisper.recognition.loading import load
    from distill.whisper.special import SpecialTokens
    from eval.speech.margins import compare, transcribe_clips

    clips, left_out = clips_of(manifest, language)
    model, processor = load(name)
    is_multilingual = bool(SpecialTokens(processor.tokenizer, model.generation_config).languages)
    set_margin(model, margins[0])  # the decoder shares silence if its model may have short clips
    decoder = WhisperDecoder(model, processor.tokenizer, AUTO if is_multilingual else None,
                             detect_language=is_multilingual)

    def transcribe(margin: float | None) -> list:
        return transcribe_clips(model, processor, clips, margin, decoder, batch_size)

    padded = transcribe(None)
    rows = [compare(clips, padded, transcribe(margin), margin) for margin in margins]
    chosen = next((row["margin_seconds"] for row in rows if not row["reasons"]), None)
    return {"model": name, "manifest": manifest, "num_clips": len(clips), "left_out": left_out,
            "chosen": chosen, "padded": compare(clips, padded, padded, None), "margins": rows}


def clips_of(manifest: str, language: str | None) -> tuple[list, dict[str, int]]:
    """Clips of up to 30 s that have a text, as `eval.speech.margins` wants them; and how many were
    left out, by reason.

    Args:
        language: of all clips; None takes the manifest's.

    Raises:
        ValueError: no such manifest, or nothing in it can be used.
    """
    from distill.data.speech.windows import is_long
    from distill.metrics.normalize import error_unit, normalizer
    from distill.whisper.data.corpus import evaluation_utterances, load_clips
    from eval.speech.margins import Clip

    rows, drops = load_clips([manifest])
    short = [row if language is None else replace(row, language=language)
             for row in rows if not is_long(row)]
    drops["longer_than_30_s"] = len(rows) - len(short)
    utterances, more = evaluation_utterances(short, "clip", packed=False)
    clips = []
    for each in utterances:
        (window,) = each.windows
        unit = error_unit(window.language, each.reference)
        clean = normalizer("auto", window.language, unit)
        clips.append(Clip(window, clean(each.reference), clean, unit))
    drops["no_words"] = sum(not clip.reference for clip in clips)
    clips = [clip for clip in clips if clip.reference]
    if not clips:
        raise ValueError(f"{manifest}: no clip of at most 30 s has a text")
    return clips, dict(+(drops + more))


def entry(result: dict) -> dict:
    """What `--write` puts into a config: `max_wer_difference` is the upper end of the interval."""
    from distill.whisper.encoder.silence import LEVEL

    row = next(r for r in result["margins"] if r["margin_seconds"] == result["chosen"])
    most = row["interval"][1] if row["interval"] else row["wer_difference"]
    return {"margin_seconds": result["chosen"], "silence_level": round(LEVEL, 6),
            "max_wer_difference": round(most, 6), "num_clips": result["num_clips"]}


def write_entry(folder: Path, found: dict) -> None:
    """Put it into the model's config.json, and leave the rest as it is."""
    path = folder / "config.json"
    write_json(path, read_json(path) | {"short_audio": found})


def table(result: dict) -> str:
    """For a terminal."""
    from distill.data.manifest import counts_text

    head = ("margin", "WER", "difference", "same text", "inserted", "loops", "again", "word times",
            "language", "encoded", "")
    lines = [head, *(_line(row) for row in (result["padded"], *result["margins"]))]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    rows = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines]
    clips, short = result["num_clips"], result["margins"][0]["num_short"]
    about = f"{clips} clips, {clips - short} of them padded in any case"
    if result["left_out"]:
        about += f"; left out: {counts_text(result['left_out'])}"
    said = [f"{about}.",
            "Difference: points of WER, with a paired 95 % interval. again: texts that went wrong "
            "and were", "replaced by those of the padded clip. encoded: share of the 30 s that the "
            "encoder reads."]
    if clips < _FEWEST:
        said.append(f"{clips} clips say little: take {_FEWEST} or more.")
    if result["chosen"] is None:
        said.append("No margin will do: try larger ones (--margins 4,8), or leave clips padded.")
    else:
        said.append(f"Chosen: {result['chosen']:g} s.")
    return "\n".join([*rows, "", *said])


def _line(row: dict) -> tuple[str, ...]:
    if row["margin_seconds"] is None:
        return ("padded", f"{100 * row['wer']:.2f} %", "", "", str(row["insertions"]),
                str(row["loops"]), "", "", "", "100 %", "")
    ends = row["interval"]
    around = f" [{100 * ends[0]:+.2f}, {100 * ends[1]:+.2f}]" if ends else ""
    return (f"{row['margin_seconds']:g} s", f"{100 * row['wer']:.2f} %",
            f"{100 * row['wer_difference']:+.2f}{around}", f"{100 * row['same_text']:.1f} %",
            str(row["insertions"]), str(row["loops"]), str(row["again"]),
            f"{row['time_difference']:.3f} s", f"{100 * row['same_language']:.1f} %",
            f"{100 * row['encoded']:.0f} %", ", ".join(row["reasons"]) or "good")


if __name__ == "__main__":
    run(main)
