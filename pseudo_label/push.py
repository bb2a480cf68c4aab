"""Publish the pseudo-labels of a recipe on the Hub as a data set: parquet files and a card.

    python -m pseudo_label.push RECIPE hub.labels_repo_id=OWNER/NAME [key=value ...]

A row is a window: the teacher's label, the transcript, error rates, and whether the recipe's filter
keeps it or why not, so that others may filter in another way. The audio goes along only with
`hub.labels_audio=true`: is it yours to give away? Private unless `hub.private=false`;
`hub.dry_run=true` lists what would be sent. Files are written to pseudo_labels/hub/, each once;
what the Hub has already is not sent again, and without a change no commit is made.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

from distill.data.files import hash_of, read_json, write_atomic, write_text
from distill.endings import run, writing_to
from distill.progress import progress
from distill.publish.facts import public_name
from distill.publish.remote import describe, find_target, listing, publish
from distill.whisper.data.corpus import load_clips, rebuild_window
from distill.whisper.recipe import WhisperRecipe, load_recipe
from pseudo_label.dataset_card import card_text
from pseudo_label.filter import filter_rows, run_filter
from pseudo_label.filtering.translated import add_translations
from pseudo_label.labelling.shards import label_parts, read_labels

OWNED = ("README.md", "data/train-*.parquet")
ROWS, ROWS_WITH_AUDIO = 20_000, 200  # a file: some 20 MB of text, or 100 MB of FLAC
_KEY = b"audio-distill"  # of a file's metadata: what it was made of
# column -> type; what a label row does not have is null
COLUMNS = {
    "id": "string", "text": "string", "label": "string", "transcript": "string",
    "kept": "bool", "drop_reason": "string", "wer": "float64", "cer": "float64",
    "substitutions": "int32", "deletions": "int32", "insertions": "int32", "num_words": "int32",
    "avg_logprob": "float64", "no_speech_prob": "float64", "compression_ratio": "float64",
    "truncated": "bool", "duration": "float64", "speaker": "string", "language": "string",
    "previous": "string",
}


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    recipe = load_recipe(arguments[0], arguments[1:])
    target = find_target(recipe.hub, "labels_repo_id", "dataset", "push_labels")
    with writing_to(recipe.labels_dir):
        files = write_dataset(recipe)
    if recipe.hub.dry_run:
        print(listing(target, files))
        return
    message = f"Pseudo-labels of {public_name(recipe.teacher.model)}"
    print(describe(target, files, publish(target, files, message, OWNED)))


def write_dataset(recipe: WhisperRecipe) -> dict[str, Path]:
    """Write pseudo_labels/hub/; name in the repository -> file.

    Raises:
        ValueError: the labels are not complete.
    """
    labels = Path(recipe.labels_dir)
    report = run_filter(recipe)
    rows = judged_rows(recipe)
    size = ROWS_WITH_AUDIO if recipe.hub.labels_audio else ROWS
    groups = [rows[at : at + size] for at in range(0, len(rows), size)]
    audio = _Audio(recipe) if recipe.hub.labels_audio else None
    files: dict[str, Path] = {}
    for index, group in progress(enumerate(groups), len(groups), "writing", "files"):
        name = f"data/train-{index:05d}-of-{len(groups):05d}.parquet"
        files[name] = labels / "hub" / name
        write_parquet(files[name], group, audio)
    for path in (labels / "hub" / "data").glob("*.parquet"):  # of other settings
        if path not in files.values():
            path.unlink()
    card = labels / "hub" / "README.md"
    write_text(card, card_text(recipe, report, read_json(labels / "settings.json"), rows))
    return {"README.md": card, **files}


def judged_rows(recipe: WhisperRecipe) -> list[dict]:
    """Label rows in the order of the shards, each with `kept` and `drop_reason`."""
    folder = Path(recipe.labels_dir)
    rows = read_labels(folder)
    translation = recipe.translation if recipe.translation.model else None
    if translation is not None:
        add_translations(recipe, label_parts(folder), rows)
    kept, drops = filter_rows([dict(row) for row in rows], recipe.filter, recipe.language,
                              translation)
    swapped = {row["id"]: row for row in kept}  # of translations: their text is the label
    reasons = {row["id"]: reason for reason, lost in drops.items() for row in lost}
    return [swapped.get(row["id"], row) | {"text": row["reference"], "kept": row["id"] in swapped,
                                           "drop_reason": reasons.get(row["id"])}
            for row in rows]


def write_parquet(path: Path, rows: Sequence[dict], audio: _Audio | None) -> None:
    """Write a file, unless it is there and was made of the same rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [{name: row.get(name) for name in COLUMNS} | {"pieces": row["pieces"]}
               for row in rows]
    key = hash_of([columns, audio is not None]).encode()
    if path.is_file() and (pq.read_schema(path).metadata or {}).get(_KEY) == key:
        return
    piece = pa.struct([("id", pa.string()), *((n, pa.float64()) for n in
                                              ("offset", "duration", "start"))])
    fields = [(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()]
    fields.append(("pieces", pa.list_(piece)))
    if audio is not None:
        columns = [row | {"audio": audio(row)} for row in columns]
        fields.append(("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
    schema = pa.schema(fields)
    schema = schema.with_metadata({_KEY: key, **(_audio_metadata(schema) if audio else {})})
    table = pa.Table.from_pylist(columns, schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def _audio_metadata(schema) -> dict[bytes, bytes]:
    """The metadata by which `datasets` knows that a column is audio."""
    from datasets import Audio, Features

    features = Features.from_arrow_schema(schema)
    features["audio"] = Audio(sampling_rate=16_000)
    return {b"huggingface": json.dumps({"info": {"features": features.to_dict()}}).encode()}


class _Audio:
    """FLAC of a label row's window; read when asked for."""

    def __init__(self, recipe: WhisperRecipe):
        self.clips = {row.id: row for row in load_clips(recipe.data.train)[0]}

    def __call__(self, row: dict) -> dict:
        import soundfile

        from distill.data.audio import SAMPLE_RATE
        from distill.data.speech.windows import load_readable

        # of the row, not of the plan: windows of recordings are found while they are labelled
        _, samples, errors = load_readable(rebuild_window(row, self.clips))
        name = row["id"]
        if errors:
            raise ValueError(f"the audio of window {name} can no longer be read "
                             f"({errors[0][1].detail}); set hub.labels_audio=false, or restore it")
        data = io.BytesIO()
        soundfile.write(data, samples, SAMPLE_RATE, format="FLAC")
        return {"bytes": data.getvalue(), "path": f"{name.replace('/', '_')}.flac"}


if __name__ == "__main__":
    run(main)
