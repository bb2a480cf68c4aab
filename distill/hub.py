"""Publish a student on the Hub: model card, then weights, config and tokenizer in one commit.

    python -m distill.hub RECIPE [key=value ...]

Needs `hub.repo_id`, a student, its evaluation, and a login (`hf auth login`, or HF_TOKEN). The
repository is private unless `hub.private=false`. Every figure of the card is read from
runs/NAME/{eval/results.json, pseudo_labels/filter.json, student.json}.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from distill.config import ConfigError
from distill.data.files import read_json, write_text
from distill.methods import evaluation_settings, load_recipe

# What leaves the machine; anything else in the folder stays.
FILES = (
    "README.md", "config.json", "generation_config.json",
    "model*.safetensors", "model.safetensors.index.json",
    "processor_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "normalizer.json",
)
TASK = "automatic-speech-recognition"


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    recipe = load_recipe(arguments[0], arguments[1:])
    print(f"Published: {push(recipe)}")


def push(recipe: Any) -> str:
    """Write the card and upload runs/NAME/student; returns the commit's address.

    Raises:
        ValueError: hub.repo_id is unset, something has not been run yet, nobody is logged in, the
            repository is public although hub.private is true, or the Hub refuses or is not there.
    """
    if not recipe.hub.repo_id:
        raise ValueError(
            "hub.repo_id is not set: add it to the recipe, or "
            '`make NAME.push SET="hub.repo_id=you/your-model"`'
        )
    run = Path(recipe.output_dir)
    card = write_card(run, recipe)
    from huggingface_hub import get_token
    from huggingface_hub.errors import HTTPError  # of the client it uses; base of its own

    if not get_token():
        raise ValueError("no login for the Hub: run `hf auth login` or set HF_TOKEN")
    try:
        return _upload(card.parent, recipe)
    except (HTTPError, OSError) as error:  # refused, unreachable, or HF_HUB_OFFLINE
        raise ValueError(f"hub.repo_id={recipe.hub.repo_id}: {error}") from error


def _upload(folder: Path, recipe: Any) -> str:
    from huggingface_hub import HfApi

    api, repo = HfApi(), recipe.hub.repo_id
    api.create_repo(repo, private=recipe.hub.private, exist_ok=True)
    # exist_ok leaves a repository that is there as it is, so a public one would stay public.
    if recipe.hub.private and not api.model_info(repo).private:
        raise ValueError(
            f"{repo} is a public repository but hub.private is true: make it private on the Hub, "
            "or set hub.private=false"
        )
    commit = api.upload_folder(
        repo_id=repo, folder_path=folder, allow_patterns=list(FILES),
        commit_message="Student of " + _public_name(recipe.teacher.model),
    )
    return commit.commit_url


def write_card(run: Path, recipe: Any) -> Path:
    """Write runs/NAME/student/README.md from what was measured; nothing is uploaded.

    Raises:
        ValueError: the student or its evaluation is missing, or the evaluation is not of this
            student and recipe.
    """
    from huggingface_hub import ModelCard

    facts = _read_facts(run, recipe)
    header = _metadata(recipe, facts).to_yaml()
    path = run / "student" / "README.md"
    write_text(path, str(ModelCard(f"---\n{header}\n---\n\n{_body(recipe, facts)}")))
    return path


def _read_facts(run: Path, recipe: Any) -> dict:
    """{name, results, labels, trained, config, words}: the files a card is made of."""
    student = run / "student"
    if not (student / "config.json").is_file() or not (run / "student.json").is_file():
        raise ValueError(f"no student in {student}: run `make {run.name}.train` first")
    results = run / "eval" / "results.json"
    if not results.is_file():
        raise ValueError(f"no evaluation in {results}: run `make {run.name}.eval` first")
    facts = {
        "name": run.name,
        "results": read_json(results),
        "labels": read_json(Path(recipe.labels_dir) / "filter.json"),
        "trained": read_json(run / "student.json"),
        "config": read_json(student / "config.json"),
        "generation": read_json(student / "generation_config.json"),
    }
    if facts["results"]["settings"] != evaluation_settings(recipe, facts["trained"]):
        raise ValueError(
            f"{results} is of another student or other settings: run `make {run.name}.eval` with "
            "the same overrides"
        )
    return facts


def _public_name(model: str) -> str:
    """A Hub id as it is; of a local folder the last part only, for a card is public."""
    return Path(model).name if _is_local(model) else model


def _is_local(model: str) -> bool:
    return model.startswith((".", "/", "~")) or model.count("/") != 1 or Path(model).exists()


# The card

def _metadata(recipe: Any, facts: dict):
    """What the Hub indexes. No license: it follows from the teacher and the audio, which a recipe
    does not say."""
    from huggingface_hub import EvalResult, ModelCardData

    student = facts["results"]["student"]
    tests = ", ".join("/".join(Path(p).with_suffix("").parts[-2:]) for p in recipe.data.test)
    normalizer = facts["results"]["normalizer"]
    results = [
        EvalResult(
            task_type=TASK, task_name="Automatic Speech Recognition", dataset_type="manifest",
            dataset_name=tests, dataset_split=facts["results"]["split"], metric_type=metric,
            metric_name=f"{metric.upper()} in %, {normalizer} normaliser",
            metric_value=round(100 * student[metric], 2),
        )
        for metric in ("wer", "cer") if student[metric] is not None
    ]
    base = None if _is_local(recipe.teacher.model) else recipe.teacher.model
    return ModelCardData(
        language=recipe.language, library_name="transformers", pipeline_tag=TASK, base_model=base,
        tags=[TASK, "whisper", "audio-distill"], metrics=[r.metric_type for r in results],
        model_name=facts["name"], eval_results=results,
    )


def _body(recipe: Any, facts: dict) -> str:
    teacher, config = _public_name(recipe.teacher.model), facts["config"]
    return f"""# {facts["name"]}

A compact student of {teacher}: {config["encoder_layers"]} encoder and {config["decoder_layers"]} \
decoder layers, {facts["results"]["student"]["parameters"] / 1e6:.1f} M parameters, distilled with \
audio-distill.

## Results

{_table(facts["results"], teacher)}

{_conditions(facts["results"])}

## How to use

{_usage(recipe)}

## How it was made

{_making(recipe, facts)}

## Limits

{_limits(recipe, facts)}
"""


def _table(results: dict, teacher: str) -> str:
    """Markdown; the last column says which keys of results.json a row shows."""
    rows = [
        ("WER [95 % CI]", "wer", _rate),
        ("CER [95 % CI]", "cer", _rate),
        ("WER with case and punctuation [95 % CI]", "wer_orthographic", _rate),
        ("insertions per 1,000 words", "insertions_per_1000_words", _number(1, 1)),
        ("repeated 5-grams per 1,000 words", "repeated_5grams_per_1000_words", _number(1, 1)),
        ("texts that loop", "looping_units", _number(1, 0)),
        ("audio seconds per second (RTFx)", "rtfx", _number(1, 1)),
        ("parameters", "parameters", _number(1e6, 1, " M")),
        ("decoder parameters", "decoder_parameters", _number(1e6, 1, " M")),
        ("weights", "file_bytes", _number(1e6, 0, " MB")),
    ]
    lines = [f"| | teacher ({teacher}) | student | in results.json |", "|---|---|---|---|"]
    lines += [
        f"| {label} | {show(results['teacher'], key)} | {show(results['student'], key)} | `{key}` |"
        for label, key, show in rows
    ]
    return "\n".join(lines)


def _rate(model: dict, key: str) -> str:
    if model[key] is None:
        return "-"
    ends = model.get(f"{key}_ci")
    interval = f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if ends else ""
    return f"{100 * model[key]:.2f} %{interval}"


def _number(size: float, digits: int, unit: str = ""):
    def show(model: dict, key: str) -> str:
        return "-" if model[key] is None else f"{model[key] / size:.{digits}f}{unit}"

    return show


def _conditions(results: dict) -> str:
    student, paired = results["student"], results["paired"]
    text = (
        f"{results['split'].capitalize()} split: {results['num_units']} units, "
        f"{results['num_words']} words, {60 * results['hours']:.1f} minutes. "
        f"{results['normalizer'].capitalize()} normaliser; decoding: {results['decoding']}; "
        f"{student['dtype']} on {student['device']}, {results['threads']} threads."
    )
    if paired["wer_difference_ci"]:
        low, high = (100 * end for end in paired["wer_difference_ci"])
        text += (
            f" Student minus teacher: {100 * paired['wer_difference']:+.2f} points of WER "
            f"[{low:+.1f}, {high:+.1f}], paired bootstrap, p = {paired['p_value']:.3f}."
        )
    return text


def _usage(recipe: Any) -> str:
    repo = recipe.hub.repo_id or "FOLDER"
    options = {"language": recipe.language, "task": recipe.task} if recipe.language else {}
    generate = "".join(f", {key}={value!r}" for key, value in options.items())
    keywords = f", generate_kwargs={options}" if options else ""
    return f"""```python
from transformers import pipeline

recogniser = pipeline("{TASK}", model="{repo}")
print(recogniser("audio.wav"{keywords})["text"])
```

or

```python
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

processor = WhisperProcessor.from_pretrained("{repo}")
model = WhisperForConditionalGeneration.from_pretrained("{repo}", dtype=torch.float32)
# samples: float array, mono, 16 kHz, up to 30 s
inputs = processor(samples, sampling_rate=16_000, return_tensors="pt")
tokens = model.generate(inputs.input_features{generate})
print(processor.batch_decode(tokens, skip_special_tokens=True)[0])
```

On a GPU, `dtype=torch.float16` halves memory."""


def _making(recipe: Any, facts: dict) -> str:
    labels, trained = facts["labels"], facts["trained"]
    max_wer = labels["filter"]["max_wer"]
    limit = "any WER" if max_wer is None else f"a WER of at most {max_wer:.0%}"
    drops = ", ".join(f"{count} {reason}" for reason, count in labels["drops"].items()) or "none"
    return (
        f"Recipe `{facts['name']}` of audio-distill. The teacher labelled the training audio; "
        f"labels with {limit} against the transcript, where there is one, were kept"
        f"{_other_filters(labels['filter'])}: "
        f"{labels['kept']} of {labels['total']} windows, {labels['kept_hours']:g} of "
        f"{labels['total_hours']:g} h (dropped: {drops}). The student starts from layers of its "
        f"teacher and was trained for {trained['steps']} steps of {recipe.train.batch_size} "
        f"windows with {_loss(recipe.loss)} (arXiv:2311.00430); these are "
        f"the weights of step {trained['best_step']}."
    )


def _other_filters(config: dict) -> str:
    """What else was asked of a label, as it stands in the recipe."""
    on = [key if value is True else f"{key}={value:g}" for key, value in config.items()
          if value is not None and value is not False  # 0 is a threshold
          and key not in ("max_wer", "keep_unreferenced")]
    return f" if they pass {', '.join(f'`{each}`' for each in on)} too" if on else ""


def _loss(loss: Any) -> str:
    distance = {"forward": "KL divergence", "reverse": "reverse KL divergence",
                "total_variation": "total variation distance"}[loss.divergence]
    terms = {
        "cross-entropy to the labels": loss.ce_weight,
        f"{distance} to the teacher at temperature {loss.temperature:g}": loss.kl_weight,
        "squared error to the teacher's decoder states": loss.hidden_weight,
    }
    return " + ".join(f"{weight:g} x {name}" for name, weight in terms.items() if weight)


def _limits(recipe: Any, facts: dict) -> str:
    results = facts["results"]
    lines = [
        f"Measured on {60 * results['hours']:.1f} minutes of the test split above and on nothing "
        "else: other speakers, noise and topics may cost more errors.",
        "It repeats the mistakes of its teacher and may invent text in silence or noise.",
        "Inputs longer than 30 s have to be cut (the pipeline does it with `chunk_length_s=30`).",
    ]
    if recipe.language:
        lines.append(f"Trained for {recipe.language} only, whatever the tokenizer knows.")
    if not recipe.views.timestamp_probability:
        lines.append("Trained without timestamps: do not ask for `return_timestamps=True`.")
    if not facts["generation"].get("alignment_heads"):
        lines.append("No alignment heads: `return_timestamps=\"word\"` does not work.")
    lines.append("Its licence depends on those of the teacher and of the training audio.")
    return "\n".join(f"- {line}" for line in lines)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ConfigError, ValueError) as error:
        sys.exit(f"error: {error}")
