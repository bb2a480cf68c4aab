"""Measure an audio language model on the test split, beside a cascade of the same parts.

Writes runs/NAME/eval/{predictions.jsonl,results.json}. Part of `python -m eval RECIPE`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distill.audio_llm.answers import answers
from distill.audio_llm.data.examples import Example, load_examples
from distill.audio_llm.data.teacher import shown_pairs
from distill.audio_llm.model import AudioLlm
from distill.audio_llm.recipe import AudioLlmRecipe, load_recipe
from distill.audio_llm.validation import chrf, measure, no_speech
from distill.data.files import hash_of, read_json, write_json, write_jsonl
from distill.data.manifest import counts_text
from distill.data.model_files import model_stamp
from distill.data.noise.kinds import NO_SPEECH
from distill.endings import writing_to
from distill.kept_lines import append, begin
from distill.methods import check_data, manifests_hash
from distill.metrics.error_rates import (
    ErrorCounts,
    bootstrap_interval,
    error_counts,
    paired_bootstrap,
    total,
)
from distill.metrics.normalize import normalizer
from distill.metrics.translation import translation_scores
from eval.audio_llm.cascade import NUM_SHOWN, cascade_answers, whisper_texts
from eval.audio_llm.closed import measure_closed
from eval.audio_llm.closed import table as closed_table
from eval.audio_llm.listening import describe, listen
from eval.audio_llm.parts import Split, load_model, load_split, spread
from eval.machine import describe as describe_machine
from eval.machine import this_machine
from eval.report.write import write_report

LISTENING_CLIPS = 64  # at most, evenly spread: four kinds of audio for each


class _Utterance:
    """What `translation_scores` wants."""

    def __init__(self, reference: str):
        self.reference = reference


def main(arguments: list[str]) -> None:
    recipe = load_recipe(arguments[0], arguments[1:])
    run = Path(recipe.output_dir)
    with writing_to(run):
        print(table(evaluate(recipe, run)), flush=True)
        print(f"\nReport with sound: {write_report(run).resolve()}", flush=True)


def evaluate(recipe: AudioLlmRecipe, run: Path) -> dict:
    """results.json of a run, measured now unless nothing has changed since."""
    check_data(recipe, "eval")
    student = run / "student"
    if not student.is_dir():
        raise ValueError(f"{student}: no student is there; train it first")
    if recipe.num_threads:
        import torch

        torch.set_num_threads(recipe.num_threads)
    key = hash_of([recipe.evaluation, manifests_hash(recipe.data.test), recipe.encoder,
                   recipe.tasks,
                   model_stamp(student), (student / "audio_llm.json").read_text()])
    path = run / "eval" / "results.json"
    if path.is_file() and (found := read_json(path)).get("settings") == key:
        return found
    split = spread(load_split(recipe, "test"), recipe.evaluation.max_test_clips)
    model = load_model(student, split.encoder)
    parts = _Parts(run / "eval" / "partial.jsonl", key)
    results = {"settings": key, "machine": this_machine(), "drops": dict(split.drops),
               **_measure(recipe, model, split, parts, run)}
    write_json(path, results)
    parts.path.unlink(missing_ok=True)
    return results


class _Parts:
    """What was measured before this run was stopped, by name: an evaluation goes on from there."""

    def __init__(self, path: Path, key: str):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.found = {line["name"]: line["value"] for line in begin(path, key)}

    def __call__(self, name: str, compute: Callable[[], Any]) -> Any:
        if name not in self.found:
            self.found[name] = compute()
            append(self.path, {"name": name, "value": self.found[name]})
        return self.found[name]


def _measure(
    recipe: AudioLlmRecipe, model: AudioLlm, split: Split, parts: _Parts, run: Path
) -> dict:
    result, rows = _measure_open(recipe, model, split, parts)
    heard = parts("listening", lambda: _listening(recipe, model, split, parts.found))
    closed = _of_kind(split, True)
    if closed.examples:
        result |= measure_closed(model, closed.examples, closed.states,
                                 recipe.evaluation.num_bootstrap, recipe.seed, parts)
        taken = result.pop("choices")
        rows += [_predicted(each, taken["joint"][n]) | {"options": list(each.options)}
                 | {"is_right": each.is_right(taken["joint"][n])}
                 | {inputs: of[n] for inputs, of in taken.items()}
                 for n, each in enumerate(closed.examples)]
    write_jsonl(run / "eval" / "predictions.jsonl", rows)
    return result | {"nll_gap": heard["nll_gap"], "nll_gap_ci": heard["nll_gap_ci"],
                     "listening": heard}


def _of_kind(split: Split, closed: bool) -> Split:
    """Questions with options, or those without."""
    mine = [n for n, each in enumerate(split.examples) if (each.task.kind == "choice") == closed]
    return replace(split, examples=[split.examples[n] for n in mine],
                   states=[split.states[n] for n in mine])


def _measure_open(
    recipe: AudioLlmRecipe, model: AudioLlm, split: Split, parts: _Parts
) -> tuple[dict, list[dict]]:
    """Results of questions without options, and a row for each."""
    split = _of_kind(split, False)
    config = recipe.evaluation
    if not split.examples:
        return {"tasks": {}}, []
    texts = parts("answers", lambda: answers(model, split.examples, split.states, config,
                                             "answers"))
    result: dict[str, Any] = {"tasks": {}}
    told = no_speech([each.answer for each in split.examples], texts)
    if told["num_without_speech"]:
        result["no_speech"] = told
    said = [n for n, each in enumerate(split.examples) if each.answer != NO_SPEECH]
    silent = [_predicted(e, text) for e, text in zip(split.examples, texts, strict=True)
              if e.answer == NO_SPEECH]
    examples, texts = [split.examples[n] for n in said], [texts[n] for n in said]
    rows = [_predicted(e, text) for e, text in zip(examples, texts, strict=True)]
    whisper: list[str] = []
    if recipe.encoder.kind == "whisper":  # others do not write: there is no cascade
        whisper = parts("whisper", lambda: whisper_texts(split.encoder.teacher, examples,
                                                         config.batch_size))
        rows = [row | {"whisper": text} for row, text in zip(rows, whisper, strict=True)]
    training, _ = load_examples(recipe, recipe.data.train)
    for task in recipe.tasks:
        mine = [n for n, each in enumerate(examples) if each.task.name == task.name]
        if not mine:
            continue
        shown = shown_pairs([each for each in training if each.task.name == task.name],
                            NUM_SHOWN)
        if whisper:
            told = parts(f"cascade of {task.name}", partial(
                cascade_answers, model, task.kind, [whisper[n] for n in mine], shown, config))
            for n, text in zip(mine, told, strict=True):
                rows[n]["cascade"] = text
        entry = _of_task(task.kind, [rows[n] for n in mine], recipe)
        result["tasks"][task.name] = entry
        keys = {"recognition": ("wer", "wer_ci", "cascade_wer", "whisper_wer"),
                "translation": ("bleu", "chrf", "cascade_bleu", "cascade_chrf",
                                "chrf_difference", "chrf_difference_ci")}
        result |= {k: entry[k] for k in keys.get(task.kind, ()) if k in entry and k not in result}
    return result, [*rows, *silent]


def _predicted(example: Example, text: str) -> dict:
    row = example.row
    return {"id": example.id, "task": example.task.name, "question": example.question,
            "reference": example.answer, "answer": text, "spoken": example.spoken,
            "audio_filepath": row.audio_filepath, "offset": row.offset, "duration": row.duration}


def _listening(
    recipe: AudioLlmRecipe, model: AudioLlm, split: Split, found: dict[str, Any]
) -> dict[str, Any]:
    count = len(split.examples)
    some = range(0, count, -(-count // LISTENING_CLIPS))  # of all tasks
    is_open = all(each.task.kind != "choice" for each in split.examples)
    texts = [found["answers"][n] for n in some] if is_open else None  # answered already
    return listen(model, [split.examples[n] for n in some], [split.states[n] for n in some],
                  split.encoder.silence(), recipe.evaluation, texts, recipe.seed)


def _of_task(kind: str, rows: Sequence[dict], recipe: AudioLlmRecipe) -> dict:
    """Metrics of one task; rates are fractions."""
    references = [row["reference"] for row in rows]
    if kind == "recognition":
        return _recognition(rows, references, recipe)
    if kind == "translation":
        return _translation(rows, references, recipe)
    metric, value, _ = measure(kind, references, [row["answer"] for row in rows])
    return {"num_examples": len(rows), metric: value}


def _recognition(rows: Sequence[dict], references: Sequence[str], recipe: AudioLlmRecipe) -> dict:
    clean: Any = normalizer("english", "en")
    samples, seed = recipe.evaluation.num_bootstrap, recipe.seed
    counts: dict[str, list[ErrorCounts]] = {
        role: [error_counts(clean(reference), clean(row[role]))
               for reference, row in zip(references, rows, strict=True)]
        for role in ("answer", "cascade", "whisper") if role in rows[0]}
    mine = total(counts["answer"])
    result = {
        "num_examples": len(rows), "num_words": mine.num_reference, "normalizer": "english",
        "wer": mine.rate, "wer_ci": bootstrap_interval(counts["answer"], samples, seed),
        "errors": {key: getattr(mine, key)
                   for key in ("substitutions", "deletions", "insertions")},
    }
    if "cascade" not in counts:
        return result
    paired = paired_bootstrap(counts["cascade"], counts["answer"], samples, seed)
    return result | {
        "cascade_wer": total(counts["cascade"]).rate,
        "cascade_wer_ci": bootstrap_interval(counts["cascade"], samples, seed),
        "whisper_wer": total(counts["whisper"]).rate,
        "difference_to_cascade": paired.difference,
        "difference_to_cascade_ci": paired.interval,
    }


def _translation(rows: Sequence[dict], references: Sequence[str], recipe: AudioLlmRecipe) -> dict:
    wanted = [_Utterance(each) for each in references]
    result: dict[str, Any] = {"num_examples": len(rows)}
    roles = {role: prefix for role, prefix in (("answer", ""), ("cascade", "cascade_"))
             if role in rows[0]}
    for role, prefix in roles.items():
        found = translation_scores(wanted, [row[role] for row in rows], "en")
        result |= {f"{prefix}{key}": value for key, value in found.items()}
    draws = np.random.default_rng(recipe.seed).integers(
        0, len(rows), (min(recipe.evaluation.num_bootstrap, 500), len(rows)))
    scores: dict[str, list[float]] = {role: [] for role in roles}
    for draw in draws:
        for role, found in scores.items():
            found.append(chrf([references[n] for n in draw], [rows[n][role] for n in draw]))
    for role, prefix in roles.items():
        result[f"{prefix}chrf_ci"] = np.quantile(scores[role], [0.025, 0.975]).tolist()
    if "cascade" not in roles:
        return result
    differences = np.subtract(scores["answer"], scores["cascade"])
    result["chrf_difference"] = result["chrf"] - result["cascade_chrf"]
    result["chrf_difference_ci"] = np.quantile(differences, [0.025, 0.975]).tolist()
    return result


def table(results: dict) -> str:
    """For people."""
    lines = [f"Test split, float32, {describe_machine(results['machine'])}"]
    if results["drops"]:
        lines.append(f"left out: {counts_text(results['drops'])}")
    for name, entry in results["tasks"].items():
        count = f"{entry['num_examples']} clips"
        if "wer" in entry:
            cascade = "" if "cascade_wer" not in entry else (
                f"; cascade {_percent(entry['cascade_wer'], entry['cascade_wer_ci'])}, Whisper "
                f"alone {100 * entry['whisper_wer']:.1f} %")
            lines.append(
                f"{name}: WER {_percent(entry['wer'], entry['wer_ci'])}{cascade} ({count}, "
                f"{entry['num_words']} words, English normaliser)")
        elif "chrf" in entry:
            cascade = ""
            if "cascade_chrf" in entry:
                low, high = entry["chrf_difference_ci"]
                cascade = (
                    f"; cascade BLEU {entry['cascade_bleu']:.1f}, chrF "
                    f"{entry['cascade_chrf']:.1f}; paired difference of chrF "
                    f"{entry['chrf_difference']:+.1f} [{low:+.1f}, {high:+.1f}]")
            lines.append(f"{name}: BLEU {entry['bleu']:.1f}, chrF {entry['chrf']:.1f}{cascade} "
                         f"({count})")
        else:
            lines.append(f"{name}: accuracy {100 * entry['accuracy']:.1f} % ({count})")
    if "no_speech" in results:
        told = results["no_speech"]
        lines.append(" and ".join(
            f"{100 * told[share]:.0f} % [{100 * told[f'{share}_ci'][0]:.0f}, "
            f"{100 * told[f'{share}_ci'][1]:.0f}] of {told[count]} clips {which} speech"
            for which, count, share in (("without", "num_without_speech", "answered_so"),
                                        ("with", "num_with_speech", "speech_answered_so"))
            if told[count]) + f" are answered {NO_SPEECH}")
    if "accuracy" in results:
        lines += closed_table(results)
    return "\n".join([*lines, describe(results["listening"])])


def _percent(rate: float, interval: Sequence[float] | None) -> str:
    ends = "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    return f"{100 * rate:.1f} %{ends}"
