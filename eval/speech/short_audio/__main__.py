"""Choose how much silence a model needs behind short clips, on validation clips.

    python -m eval.speech.short_audio runs/demo/student data/validation.jsonl
    python -m eval.speech.short_audio runs/demo/student data/validation.jsonl --write

Whisper pads every clip to 30 s. With `short_audio: {margin_seconds: 1.0}` in its config.json it
encodes a clip and one second of the silence behind it. Every margin is tried beside the padded
model, clip by clip, and the smallest one is chosen at which nothing is lost: at most 0.2 points of
WER and an interval of the difference that includes 0, no more insertions or loops, words at the
same times, the same languages detected. --write puts it into the model's config.json. The model is
a folder, a Hub id, or a recipe's name, which means its teacher.

--noise white mixes noise under the clips, at 10 dB; --noise MUSIC.jsonl recordings of a manifest.
Transcripts are kept in kept/ beside the output: the same command goes on where it was stopped, and
with more margins it does not decode the others again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distill.data.files import read_json, write_json
from distill.data.hub_ids import check_hub_id
from distill.data.languages import language_code
from distill.endings import Stopped, program, run, writing_to
from distill.whisper.encoder.level import LEVEL

MARGINS = (0.5, 1.0, 2.0, 4.0)
OUT = Path("runs/short-audio")


def main(arguments: list[str]) -> int:
    """0; 1 if no margin will do."""
    options = _parser().parse_args(arguments)
    from distill.config import known_recipes  # after --help, which is quick
    from eval.speech.short_audio.measure import measure
    from eval.speech.short_audio.noise import Noise
    from eval.speech.short_audio.table import table

    folder, recipes = Path(options.model), known_recipes()
    if options.write and not (folder / "config.json").is_file():
        raise ValueError(f"--write needs a model's folder, and {folder}/config.json is not there")
    if options.model not in recipes:
        check_hub_id(options.model, "MODEL", recipes)
    if options.batch_size < 1:
        raise ValueError(f"--batch-size must be 1 or more, got {options.batch_size}")
    language = None if options.language is None else language_code(options.language)
    noise = None if options.noise is None else Noise(options.noise, options.snr)
    out = options.output or OUT / f"{folder.name}.json"
    try:
        result = measure(options.model, options.manifest, language, options.margins,
                         options.batch_size, with_segments=options.segments, noise=noise,
                         kept=out.parent / "kept")
    except KeyboardInterrupt:
        raise Stopped("Stopped. The same command goes on from here.") from None
    print(table(result))
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
    parser.add_argument("--segments", action="store_true", help="decode all clips once more with "
                        "timestamps, and compare those")
    parser.add_argument("--noise", metavar="KIND|MANIFEST", help="mixed under the clips: white, "
                        "pink, brown, or a recording of a manifest")
    parser.add_argument("--snr", type=float, default=10.0, metavar="DB",
                        help="speech without its pauses over the noise; default: 10")
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


def entry(result: dict) -> dict:
    """What `--write` puts into a config: `max_wer_difference` is the upper end of the interval."""
    row = next(r for r in result["margins"] if r["margin_seconds"] == result["chosen"])
    most = row["interval"][1] if row["interval"] else row["wer_difference"]
    return {"margin_seconds": result["chosen"], "silence_level": round(LEVEL, 6),
            "max_wer_difference": round(most, 6), "num_clips": result["num_clips"]}


def write_entry(folder: Path, found: dict) -> None:
    """Put it into the model's config.json, and leave the rest as it is."""
    path = folder / "config.json"
    write_json(path, read_json(path) | {"short_audio": found})


if __name__ == "__main__":
    run(main)
