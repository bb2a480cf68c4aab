"""The parts of a card that are about an audio tagger."""

from __future__ import annotations

from typing import Any

from distill.data.manifest import counts_text
from distill.publish.facts import Facts, public_name
from distill.publish.show import Show, compare, number, percent, rate, ratio, table
from distill.publish.speech import repository

TASK = "audio-classification"
LIBRARY = "transformers"
METRICS = (("mean_average_precision", 100, "mAP"), ("auc", 100, "AUC"), ("lwlrap", 100, "lwlrap"))

CED = "Dinkel et al., CED: Consistent ensemble distillation for audio tagging " \
    "(arXiv:2308.11957): teacher and student hear the same view; the student's architecture"

_ROWS: list[tuple[str, str, Show]] = [
    ("mAP [95 % CI]", "mean_average_precision", rate("mean_average_precision")),
    ("AUC [95 % CI]", "auc", rate("auc")),
    ("d' of the mean AUC [95 % CI]", "d_prime_of_mean_auc", number("d_prime_of_mean_auc", 1, 3)),
    ("lwlrap [95 % CI]", "lwlrap", rate("lwlrap")),
    ("calibration error (ECE)", "ece", rate("ece")),
    ("Brier score", "brier", number("brier", 1, 5)),
    ("parameters", "parameters", number("parameters", 1e6, 2, " M")),
    ("clips per second", "clips_per_second", number("clips_per_second")),
    ("time for 10 s of audio", "ms_per_10_s", number("ms_per_10_s", 1, 1, " ms")),
    ("weights", "bytes", number("bytes", 1e6, 1, " MB")),
]


def teachers(recipe: Any) -> str:
    """The members by their public names; "labels alone" where there are none."""
    names = [public_name(member.model) for member in recipe.teacher.members]
    return ", ".join(names) or "none: labels alone"


def main_metric(facts: Facts, recipe: Any) -> tuple[str, int, str]:
    """The one of METRICS that says whether it is good."""
    return METRICS[0]


def headline(facts: Facts, recipe: Any) -> list[tuple[str, str]]:
    student, teacher = facts.models["student"], facts.models.get("teacher")
    show, size = rate("mean_average_precision"), ratio(facts.models, "parameters")
    data = facts.trained.get("data")  # students of earlier versions do not say
    return [
        ("teachers" if len(recipe.teacher.members) > 1 else "teacher", teachers(recipe)),
        ("classes", str(len(facts.config["id2label"]))),
        ("parameters", number("parameters", 1e6, 2, " M")(student)
         + (f", {percent(size, 1)} of the teachers'" if size else "")),
        *([("learned from", f"{data['count']:,} clips, {data['hours']:.2f} h")] if data else []),
        (f"mAP on the {facts.results['split']} split",
         show(student) + (f"; teachers {show(teacher)}" if teacher else "")),
    ]


def results(facts: Facts) -> str:
    student = facts.models["student"]
    return "\n\n".join([compare(facts.models, _ROWS), _conditions(facts.results, student),
                        *_paired(facts.results), *_worst(student)])


def _conditions(results: dict, student: dict) -> str:
    return (
        f"{results['split'].capitalize()} split: {student['num_clips']} recordings, "
        f"{60 * results['hours']:.1f} minutes, {student['num_labels']} labels; "
        f"{student['num_classes_with_positives']} of {student['num_classes']} classes have "
        f"positives. On {results['device']}, {results['threads']} threads, batches of "
        f"{results['batch_size']}. Intervals: bootstrap over recordings, "
        f"{student['num_bootstrap']} draws."
    )


def _paired(results: dict) -> list[str]:
    paired = results.get("paired") or {}
    if not paired.get("map_difference_ci"):
        return []
    low, high = (100 * end for end in paired["map_difference_ci"])
    return [f"Student minus teacher: {100 * paired['map_difference']:+.2f} points of mAP "
            f"[{low:+.1f}, {high:+.1f}], paired bootstrap, p = {paired['p_value']:.3f}."]


def _worst(student: dict) -> list[str]:
    known = [row for row in student.get("classes", []) if row["average_precision"] is not None]
    if not known:
        return []
    known = sorted(known, key=lambda row: row["average_precision"])[:5]
    rows = [[row["name"], str(row["num_positives"]), percent(row["average_precision"], 1)]
            for row in known]
    head = ["class", "positives", "average precision"]
    return [f"The classes it knows least:\n\n{table(head, rows)}"]


def usage(facts: Facts, recipe: Any) -> str:
    repo = repository(recipe)
    return f"""The architecture is not part of transformers: its code lies beside the weights, and
`trust_remote_code` lets it run. (With audio-distill, `import distill.ced.model.modeling` does
without.)

```python
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

features = AutoFeatureExtractor.from_pretrained("{repo}", trust_remote_code=True)
student = AutoModelForAudioClassification.from_pretrained("{repo}", trust_remote_code=True).eval()
# samples: float array, mono, 16 kHz, of any length
with torch.inference_mode():
    inputs = features(samples, sampling_rate=16_000, return_tensors="pt")
    scores = student(**inputs).logits.sigmoid()[0]
for index in scores.argsort(descending=True)[:5].tolist():
    print(f"{{student.config.id2label[index]}}: {{scores[index]:.3f}}")
```"""


def making(facts: Facts, recipe: Any) -> str:
    trained = facts.trained
    if not recipe.teacher.members:
        source = "It learned from labels alone"
    else:
        source = (
            "Its teachers scored augmented views of every training clip, and it was trained on "
            f"exactly those views with their mean {recipe.teacher.average}, as soft targets of a "
            f"binary cross-entropy (label weight {recipe.loss.label_weight:g})")
    best = recipe.train.keep_best and recipe.data.validation
    chosen = "which was the best on the validation split" if best else "the last one"
    return (
        f"{source}, for {trained['steps']} steps of {recipe.train.batch_size} clips of up to "
        f"{recipe.data.clip_seconds:g} s. These are the weights of step {trained['best_step']}, "
        f"{chosen}.{_data_text(trained.get('data'))} Everything else is in `training_config.yaml`.")


def _data_text(data: dict | None) -> str:
    if not data:
        return ""
    return (f" It heard {data['count']:,} clips of training audio ({data['hours']:.2f} h); left "
            f"out: {counts_text(data['drops'])}.")


def limits(facts: Facts, recipe: Any) -> list[str]:
    student = facts.models["student"]
    lines = [
        f"Measured on {student['num_clips']} recordings of the test split above and on nothing "
        "else.",
        "It repeats the mistakes of its teachers." if recipe.teacher.members else
        "It knows what its labels know, mistakes included.",
        "Scores are of single classes, sigmoid, and need a threshold for each.",
    ]
    if without := student["num_classes"] - student["num_classes_with_positives"]:
        lines.append("Not in the test split, so that nothing is known of them: "
                     f"{without} of {student['num_classes']} classes.")
    return lines


def citations(recipe: Any) -> list[str]:
    return [CED]
