"""One of LTU-AS's seven evaluations of an audio language model.

    python -m eval.audio_llm.ltu_as esc50 ESC-50-master --model runs/ltu-as/student
    python -m eval.audio_llm.ltu_as iemocap IEMOCAP/Session5 --model DIR --inputs audio_only

Sets: esc50, audiocaps (CIDEr-D), librispeech (WER), iemocap, voxceleb2_gender (macro F1),
voxceleb2_age (mean absolute error), gtzan; folders as their publishers ship them. Answers are
greedy. A label is found in three ways, each with its own figure: by likelihood (which label is the
likeliest answer), by alias (which one the answer names), and by embedding (which one the answer is
nearest to). An answer that cannot be understood, and a clip that cannot be read, is wrong; how many
can be understood is said. Writes OUT.json and OUT.jsonl, the answers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill.audio_llm.settings import read_settings
from distill.data.files import write_json, write_jsonl
from distill.endings import program, run
from eval.audio_llm.ltu_as.captions import cider_d
from eval.audio_llm.ltu_as.readers import READERS, Items
from eval.audio_llm.ltu_as.scoring import (
    find_age,
    find_label,
    nearest_labels,
    score_ages,
    score_labels,
    without,
)
from eval.audio_llm.ltu_as.sets import EVALUATIONS, Evaluation

INPUTS = ("joint", "audio_only", "text_only")


def main(arguments: list[str]) -> None:
    options = _parser().parse_args(arguments)
    settings = read_settings(options.model)
    if options.inputs == "text_only" and not settings.tell_transcript:
        raise ValueError("--inputs text_only: this model is told no transcript")
    items = READERS[options.set](options.folder)
    items.found = _spread(items.found, options.limit)
    out = options.out or options.model.parent / "eval" / f"{options.set}-{options.inputs}"
    results, rows = measure(EVALUATIONS[options.set], items, options)
    write_jsonl(out.with_name(out.name + ".jsonl"), rows)
    write_json(out.with_name(out.name + ".json"), results)
    print(table(results), flush=True)


def _parser() -> argparse.ArgumentParser:
    about, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=program("eval.audio_llm.ltu_as"), description=about, epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=sorted(READERS), help="which one")
    parser.add_argument("folder", type=Path, help="where it is")
    parser.add_argument("--model", required=True, type=Path, help="folder of the model")
    parser.add_argument("--inputs", choices=INPUTS, default=INPUTS[0],
                        help="what is given: audio and, where the model is told one, a transcript "
                        "by the encoder's Whisper; or one of the two")
    parser.add_argument("--embeddings", help="folder or Hub id of a transformers AutoModel that "
                        "embeds texts; default: the language model without LoRA")
    parser.add_argument("--limit", type=int, help="so many clips, evenly spread")
    parser.add_argument("--max-new-tokens", type=int, default=100, help="longest answer")
    parser.add_argument("--batch-size", type=int, default=8, help="clips at once")
    parser.add_argument("--out", type=Path, help="name of the files, without an ending; default: "
                        "eval/SET-INPUTS beside the model")
    return parser


def _spread(items: Sequence[Any], limit: int | None) -> list[Any]:
    if limit is None or limit >= len(items):
        return list(items)
    if limit < 1:
        raise ValueError(f"--limit must be 1 or more, got {limit}")
    return [items[n * len(items) // limit] for n in range(limit)]


def measure(evaluation: Evaluation, items: Items, options: argparse.Namespace
            ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Results, and a row for each clip."""
    from eval.audio_llm.ltu_as.clips import Asked

    asked = Asked(evaluation, items.found, options)
    texts = [without(each, evaluation.told) for each in asked.answers()]
    references = [each.references for each in items.found]
    rows = [{"id": item.id, "audio_filepath": str(item.path), "references": list(item.references),
             "answer": text} for item, text in zip(items.found, texts, strict=True)]
    results = {
        "set": evaluation.name, "inputs": options.inputs, "model": str(options.model),
        "prompt": evaluation.prompt, "num_clips": len(rows), "num_missing": items.num_missing,
        "num_unreadable": len(asked.unreadable)}
    if evaluation.kind in ("labels", "gender"):
        by_label = _labels(evaluation, asked, texts, [each[0] for each in references], options)
        for name, (scores, found) in by_label.items():
            results[name] = scores
            for row, label in zip(rows, found, strict=True):
                row[name] = label
    elif evaluation.kind == "age":
        results |= score_ages([find_age(each) for each in texts],
                              [float(each[0]) for each in references])
    elif evaluation.kind == "captions":
        score, of_clips = cider_d(texts, references)
        results |= {"cider_d": score, "parse_rate": float(np.mean([bool(t) for t in texts]))}
        for row, value in zip(rows, of_clips, strict=True):
            row["cider_d"] = value
    else:
        results |= _words(texts, [each[0] for each in references])
    return results, rows


def _labels(evaluation: Evaluation, asked: Any, texts: Sequence[str], references: Sequence[str],
            options: argparse.Namespace) -> dict[str, tuple[dict[str, Any], list[str | None]]]:
    """{way: (scores, the label of each clip)}."""
    labels = sorted(set(references))
    by_mean, by_sum = asked.likeliest(labels)
    found = {
        "likelihood": by_mean,
        "alias": [find_label(each, labels, evaluation.aliases) for each in texts],
        "embedding": nearest_labels(texts, labels, evaluation.prefix,
                                    asked.embedder(options.embeddings)),
    }
    scored = {name: (score_labels(each, references), each) for name, each in found.items()}
    scored["likelihood"][0]["accuracy_by_sum"] = score_labels(by_sum, references)["accuracy"]
    scored["embedding"][0]["model"] = options.embeddings or "the language model"
    return scored


def _words(texts: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    from distill.metrics.error_rates import bootstrap_interval, error_counts, total
    from distill.metrics.normalize import normalizer

    clean: Any = normalizer("english", "en")
    counts = [error_counts(clean(a), clean(b)) for a, b in zip(references, texts, strict=True)]
    return {"wer": total(counts).rate, "wer_ci": bootstrap_interval(counts),
            "num_words": total(counts).num_reference, "normalizer": "english",
            "parse_rate": float(np.mean([bool(each) for each in texts]))}


def table(results: dict[str, Any]) -> str:
    """For people."""
    lines = [f"{results['set']}, {results['inputs']}: {results['num_clips']:,} clips, "
             f"{results['num_missing']:,} more are not there, "
             f"{results['num_unreadable']:,} cannot be read (wrong)"]
    for name in ("likelihood", "alias", "embedding"):
        if name in results:
            each = results[name]
            low, high = each["accuracy_ci"]
            lines.append(
                f"  by {name}: accuracy {100 * each['accuracy']:.1f} % [{100 * low:.1f}, "
                f"{100 * high:.1f}], macro F1 {100 * each['macro_f1']:.1f} %, understood "
                f"{100 * each['parse_rate']:.1f} %")
    for key, text in (("mae", "mean absolute error {:.1f} years"), ("cider_d", "CIDEr-D {:.3f}"),
                      ("wer", "WER {:.3f}")):
        if key in results:
            lines.append(f"  {text.format(results[key])}, understood "
                         f"{100 * results['parse_rate']:.1f} %")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
