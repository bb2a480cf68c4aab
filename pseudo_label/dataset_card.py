"""The card of published pseudo-labels: whose they are, how good, and what is in a row."""

from __future__ import annotations

from collections.abc import Sequence

from distill.publish.card import UNKNOWN
from distill.publish.facts import public_name
from distill.publish.show import percent, table
from distill.whisper.outside import whose
from distill.whisper.recipe import WhisperRecipe, teacher_task, written_language

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"),
          (10**7, "1M<n<10M"))
_COLUMNS = [
    ("id", "of the window"),
    ("label", "transcript of the teacher; of translations: its translation"),
    ("text", "the transcript, where the audio came with one"),
    ("transcript", "of translations: transcript in the language that is spoken"),
    ("kept, drop_reason", "whether the filter below keeps the label, and why not"),
    ("wer, cer", "label against transcript, normalised, as fractions"),
    ("substitutions, deletions, insertions, num_words", "the counts behind them"),
    ("avg_logprob", "mean log probability of the label's tokens, nats"),
    ("no_speech_prob", "the teacher's probability that nobody speaks"),
    ("compression_ratio", "bytes of the label over those of its zlib compression"),
    ("truncated", "the label was cut at its length limit"),
    ("duration", "seconds, up to 30"),
    ("speaker, language", "as the corpus says"),
    ("previous", "id of the window before it in the same recording"),
    ("pieces", "the clips in the window: id, offset in its file, duration, start in the window, in "
     "seconds"),
]


def card_text(recipe: WhisperRecipe, report: dict, settings: dict, rows: Sequence[dict]) -> str:
    """README.md of the data set.

    Args:
        report: filter.json. settings: settings.json of the labels. rows: with `kept`.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    header = DatasetCardData(
        language=written_language(recipe), license=recipe.hub.data_license,
        annotations_creators=["machine-generated"],
        task_categories=["automatic-speech-recognition"],
        size_categories=[next((name for size, name in _SIZES if len(rows) < size), "n>10M")],
        pretty_name=_name(recipe), tags=["pseudo-labels", "audio-distill"],
        configs=[{"config_name": "default",
                  "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    ).to_yaml()
    return str(DatasetCard(f"---\n{header}\n---\n\n{_body(recipe, report, settings, rows)}"))


def _name(recipe: WhisperRecipe) -> str:
    return f"Pseudo-labels of {whose(recipe.pseudo_label, public_name(recipe.teacher.model))}"


def _body(recipe: WhisperRecipe, report: dict, settings: dict, rows: Sequence[dict]) -> str:
    repo = recipe.hub.labels_repo_id or "OWNER/NAME"
    audio = ("`audio` is the window, FLAC at 16 kHz." if recipe.hub.labels_audio else
             "The audio is not part of this data set; `pieces` says which clips a window has.")
    columns = [[", ".join(f"`{each}`" for each in names.split(", ")), what]
               for names, what in _COLUMNS]
    teacher = f"{public_name(settings['teacher'])} (revision `{settings['revision'][:7]}`)"
    return f"""# {_name(recipe)}

The audio below was transcribed once by {whose(recipe.pseudo_label, teacher)}, in windows of up to \
30 s, with audio-distill. Labels that the filter drops are here too, with the reason.

{_data(recipe)}{audio}

```python
from datasets import load_dataset

labels = load_dataset("{repo}", split="train")
good = labels.filter(lambda kept: kept, input_columns="kept")
```

## How good they are

{_quality(rows)}

{_drops(report)}

Filter: {_settings(report["filter"])}. How labels were made: \
{_settings(settings["pseudo_label"])}; normaliser `{settings["normalizer"]}`, \
task `{teacher_task(recipe)}`.

## Columns

{table(["column", "what it is"], columns)}

## Licences

{table(["of", "licence"], [["audio and transcripts", recipe.hub.data_license or UNKNOWN],
                           ["teacher", recipe.hub.teacher_license or UNKNOWN]])}

Method: pseudo-labels filtered by their error rate (arXiv:2311.00430).
"""


def _data(recipe: WhisperRecipe) -> str:
    return f"Audio: {recipe.hub.data_name}. " if recipe.hub.data_name else ""


def _quality(rows: Sequence[dict]) -> str:
    """Error rates of all labels, of those kept and of those dropped, over the corpus."""
    lines = []
    for name, wanted in (("all", (True, False)), ("kept", (True,)), ("dropped", (False,))):
        group = [row for row in rows if row["kept"] in wanted]
        scored = [row for row in group if row["num_words"]]
        words = sum(row["num_words"] for row in scored)
        errors = sum(row["substitutions"] + row["deletions"] + row["insertions"] for row in scored)
        lines.append([name, str(len(group)), str(len(scored)), str(words),
                      percent(errors / words if words else None)])
    head = ["labels", "windows", "with a transcript", "words", "WER against it"]
    return table(head, lines)


def _drops(report: dict) -> str:
    hours = report["drop_hours"]
    rows = [["labelled", str(report["total"]), f"{report['total_hours']:.2f}"]]
    rows += [[f"dropped: `{reason}`", str(count), f"{hours[reason]:.2f}"]
             for reason, count in report["drops"].items()]
    rows += [["kept", str(report["kept"]), f"{report['kept_hours']:.2f}"]]
    return table(["", "windows", "hours"], rows)


def _settings(values: dict) -> str:
    """Keys that are not off, as a recipe has them."""
    on = [f"{key}={value}" for key, value in values.items()
          if value is not None and value is not False]
    return ", ".join(f"`{each}`" for each in on) or "none"
