"""Published CED weights -> a folder that `from_pretrained` loads, and back.

    python -m distill.ced.convert audiotransformer_tiny_mAP_4814.pt my-tiny --labels labels.csv
    python -m distill.ced.convert my-tiny tiny.pt

Labels are AudioSet's table (`index,mid,display_name`) or a text file with a name a line; without
them classes are numbered. See `distill.ced.model.checkpoint` for the layouts that are read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distill.endings import program, run


def main(arguments: list[str]) -> int:
    about, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=program("distill.ced.convert"), description=about, epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a file of weights, or a folder")
    parser.add_argument("target", type=Path, help="a new folder, or a .pt file")
    parser.add_argument("--labels", type=Path, help="names of the classes")
    parser.add_argument("--target-length", type=int, help="frames to have time positions for")
    parser.add_argument("--port", action="store_true", help="write it as the port on the Hub does")
    try:
        _convert(parser.parse_args(arguments))
    except OSError as error:
        raise ValueError(str(error)) from error
    return 0


def _convert(options: argparse.Namespace) -> None:
    from distill.ced.model.checkpoint import load_checkpoint, read_labels, save_port, save_published
    from distill.ced.model.extractor import CedFeatureExtractor

    labels = read_labels(options.labels) if options.labels else None
    model = load_checkpoint(options.source, labels, options.target_length)
    if options.target.suffix in (".pt", ".pth"):
        save_published(model, options.target)
    elif options.port:
        save_port(model, options.target)
    else:
        model.save_pretrained(options.target)
        CedFeatureExtractor().save_pretrained(options.target)
    count = sum(p.numel() for p in model.parameters())
    print(f"{options.target}: {count:,} parameters, {model.config.num_labels} classes")


if __name__ == "__main__":
    run(main)
