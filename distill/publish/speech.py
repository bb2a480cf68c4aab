"""The parts of a card that are about a Whisper student."""

from __future__ import annotations

import json
from typing import Any

from distill.publish.facts import Facts, is_local, public_name
from distill.publish.prompts import prompts
from distill.publish.show import Show, compare, number, percent, rate, ratio, table

TASK = "automatic-speech-recognition"
LIBRARY = "transformers"
METRICS = (("wer", 100, "WER"), ("cer", 100, "CER"), ("bleu", 1, "BLEU"), ("chrf", 1, "chrF2"))

WHISPER = "Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision " \
    "(arXiv:2212.04356): the teacher's architecture"
DISTIL_WHISPER = "Gandhi, von Platen, Rush, Distil-Whisper (arXiv:2311.00430): pseudo-labels, " \
    "their filter, students from a teacher's layers"
KL = "Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (arXiv:1503.02531): " \
    "learning from a teacher's probabilities"
SAMPLED = "Anshumann et al., Sparse Logit Sampling (arXiv:2503.16870): learning from some of them"
DRAFTS = "Leviathan, Kalman, Matias, Fast Inference from Transformers via Speculative Decoding " \
    "(arXiv:2211.17192): a student that drafts for its teacher"


def teachers(recipe: Any) -> str:
    """The name of the teacher."""
    return public_name(recipe.teacher.model)


def main_metric(facts: Facts, recipe: Any) -> tuple[str, int, str]:
    """The one of METRICS that says whether it is good: BLEU of translations, CER of languages
    whose words are not spaced."""
    key = "cer" if facts.results.get("error_unit") == "char" else "wer"
    key = "bleu" if recipe.task == "translate" else key
    return next(metric for metric in METRICS if metric[0] == key)


def headline(facts: Facts, recipe: Any) -> list[tuple[str, str]]:
    """The first table: what it is, and whether it is good."""
    student, config = facts.models["student"], facts.config
    key, scale, label = main_metric(facts, recipe)
    size = ratio(facts.models, "parameters")
    speed = ratio(facts.models, "rtfx")
    revision = getattr(recipe.teacher, "revision", None)
    teacher = teachers(recipe)
    teacher += f", revision `{revision[:7]}`" if revision else ""
    show = rate(key) if scale == 100 else number(key, digits=2)
    drafts = " with drafts" if facts.models["teacher"].get("speculation") else ""
    return [
        ("teacher", teacher),
        ("layers", f"{config['encoder_layers']} encoder, {config['decoder_layers']} decoder"),
        ("parameters", number("parameters", 1e6, 1, " M")(student)
         + (f", {percent(size, 0)} of the teacher's" if size else "")),
        ("language", recipe.language or "see the teacher's"),
        ("task", recipe.task),
        ("learned from", f"{facts.labels['kept_hours']:.2f} h of windows{_packings(recipe)}"),
        (f"{label} on the {facts.results['split']} split",
         f"{show(student)}; teacher {show(facts.models['teacher'])}"),
        *([("speed", f"{speed:.2f} times the teacher's{drafts}")] if speed else []),
    ]


def _packings(recipe: Any) -> str:
    count = recipe.pseudo_label.num_packings
    alone = " and each clip by itself" if recipe.pseudo_label.clips_alone else ""
    return f", {count} packings of the same audio{alone}" if count > 1 or alone else ""


def results(facts: Facts) -> str:
    text = f"""{compare(facts.models, _ROWS)}

{_conditions(facts.results)}

### Text that nobody said

{compare(facts.models, _HALLUCINATION)}

A model that is not sure goes on with what is likely: it inserts words, or says the same again and \
again. Repetitions that are in the audio count too; the teacher's column tells what is normal."""
    rest = [line for line in (_paired(facts.results), _apart(facts.results),
                              _noise(facts.robustness), prompts(facts.prompts)) if line]
    return "\n\n".join([text, *rest])


_ROWS: list[tuple[str, str, Show]] = [
    ("BLEU", "bleu", number("bleu", digits=2)),
    ("chrF2", "chrf", number("chrf", digits=2)),
    ("WER [95 % CI]", "wer", rate("wer")),
    ("CER [95 % CI]", "cer", rate("cer")),
    ("WER with case and punctuation [95 % CI]", "wer_orthographic", rate("wer_orthographic")),
    ("CER with case and punctuation [95 % CI]", "cer_orthographic", rate("cer_orthographic")),
    ("audio seconds per second (RTFx)", "rtfx", number("rtfx")),
    ("parameters", "parameters", number("parameters", 1e6, 1, " M")),
    ("decoder parameters", "decoder_parameters", number("decoder_parameters", 1e6, 1, " M")),
    ("weights", "file_bytes", number("file_bytes", 1e6, 0, " MB")),
    ("peak memory", "peak_memory_bytes", number("peak_memory_bytes", 1e6, 0, " MB")),
]
_HALLUCINATION: list[tuple[str, str, Show]] = [
    ("inserted words", "insertions", number("insertions", digits=0)),
    ("... per 1,000 words", "insertions_per_1000_words", number("insertions_per_1000_words")),
    ("repeated 5-grams per 1,000 words", "repeated_5grams_per_1000_words",
     number("repeated_5grams_per_1000_words")),
    ("texts that loop", "looping_units", number("looping_units", digits=0)),
    ("texts that do not, since decoded in halves", "halved_units",
     number("halved_units", digits=0)),
]


def _conditions(results: dict) -> str:
    student = results["student"]
    return (
        f"{results['split'].capitalize()} split: {results['num_units']} units, "
        f"{results['num_words']} words, {60 * results['hours']:.1f} minutes. "
        f"{results['normalizer'].capitalize()} normaliser; decoding: {results['decoding']}; "
        f"{student['dtype']} on {student['device']}, {results['threads']} threads. Intervals: "
        f"bootstrap over units, {results['num_bootstrap']} draws."
    )


def _paired(results: dict) -> str:
    paired = results["paired"]
    if not paired.get("wer_difference_ci"):
        return ""
    low, high = (100 * end for end in paired["wer_difference_ci"])
    return (f"Student minus teacher: {100 * paired['wer_difference']:+.2f} points of WER "
            f"[{low:+.1f}, {high:+.1f}], paired bootstrap, p = {paired['p_value']:.3f}.")


def _apart(results: dict) -> str:
    apart = results.get("student_against_teacher", {}).get("wer")
    return "" if apart is None else (
        f"With the teacher's text as the reference the student's WER is {percent(apart)}: what "
        "distillation itself lost.")


def _noise(robustness: dict) -> str:
    """How much more than its teacher the student loses in noise."""
    area = robustness.get("area", {}).get("student")
    if not area:
        return ""
    noises = robustness["noises"]["student"]
    snrs = [float(snr) for snr in next(iter(noises.values()))]
    ends = robustness["area_ci"]["student"]
    around = " [{:+.1f}, {:+.1f}]".format(*(100 * end for end in ends)) if ends else ""
    return (f"In noise ({', '.join(noises)}; SNR {max(snrs):g} to {min(snrs):g} dB) its WER lies "
            f"{100 * area['all']:+.2f} points{around} from the teacher's on average, over "
            f"{robustness['num_clips']} single clips, {robustness['num_words']} words, of the "
            f"{robustness['split']} split.")


def usage(facts: Facts, recipe: Any) -> str:
    parts = [_transformers(recipe)]
    if not is_local(recipe.teacher.model) and recipe.task == "transcribe":
        parts.append(_speculative(facts, recipe))
    parts.append(_faster_whisper(recipe))
    return "\n\n".join(parts)


def repository(recipe: Any) -> str:
    return recipe.hub.repo_id or "OWNER/NAME"


def _options(recipe: Any) -> dict:
    return {"language": recipe.language, "task": recipe.task} if recipe.language else {}


def _arguments(recipe: Any) -> str:
    return "".join(f', {key}="{value}"' for key, value in _options(recipe).items())


def _has_timestamps(recipe: Any) -> bool:
    """Whether the student learned to write them."""
    return recipe.views.timestamp_probability > 0


def _transformers(recipe: Any) -> str:
    repo, options = repository(recipe), _options(recipe)
    generate = _arguments(recipe)
    keywords = f", generate_kwargs={json.dumps(options)}" if options else ""
    # what makes the pipeline take recordings of any length
    chunks = "" if _has_timestamps(recipe) else ", chunk_length_s=30"
    keywords += ", return_timestamps=True" if _has_timestamps(recipe) else ""
    return f"""### transformers

With ffmpeg, which reads the file:

```python
from transformers import pipeline

recogniser = pipeline("{TASK}", model="{repo}"{chunks})
print(recogniser("audio.wav"{keywords})["text"])
```

or

```python
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

processor = WhisperProcessor.from_pretrained("{repo}")
student = WhisperForConditionalGeneration.from_pretrained("{repo}", dtype=torch.float32)
# samples: float array, mono, 16 kHz, up to 30 s
features = processor(samples, sampling_rate=16_000, return_tensors="pt").input_features
tokens = student.generate(features{generate})
print(processor.batch_decode(tokens, skip_special_tokens=True)[0])
```

On a GPU, `dtype=torch.float16` halves memory."""


def _speculative(facts: Facts, recipe: Any) -> str:
    teacher, generate = recipe.teacher.model, _arguments(recipe)
    text = f"""### Speculative decoding

The student drafts, the teacher checks several tokens at once: the teacher's own text, sooner. \
With `student`, `processor` and `features` from above:

```python
teacher = WhisperForConditionalGeneration.from_pretrained(
    "{teacher}", dtype=torch.float32)
# one recording at a time
tokens = teacher.generate(features, assistant_model=student{generate})
print(processor.batch_decode(tokens, skip_special_tokens=True)[0])
```"""
    if not (recipe.student.freeze_encoder and recipe.student.encoder_layers is None):
        return text
    spoken = recipe.language or ("auto" if facts.generation.get("is_multilingual", True) else None)
    language = json.dumps(spoken) if spoken else None
    return text + f"""

or with audio-distill, in batches, the encoder run once for both:

```python
from distill.whisper.decoding.whisper_decoder import WhisperDecoder

with torch.inference_mode():
    states = teacher.model.encoder(features).last_hidden_state
decoder = WhisperDecoder(teacher, processor.tokenizer, {language}, student=student)
for hypothesis in decoder(states, max_new_tokens=[200] * len(states)):
    print(processor.decode(hypothesis.tokens, skip_special_tokens=True))
```"""


def _faster_whisper(recipe: Any) -> str:
    repo = repository(recipe)
    language = f', language="{recipe.language}"' if recipe.language else ""
    task = ', task="translate"' if recipe.task == "translate" else ""
    timestamps = "" if _has_timestamps(recipe) else " without_timestamps=True,"
    return f"""### faster-whisper

```
ct2-transformers-converter --model {repo} --output_dir student-ct2 --quantization int8 \\
  --copy_files tokenizer.json preprocessor_config.json
```

```python
from faster_whisper import WhisperModel

recogniser = WhisperModel("student-ct2", compute_type="int8")
segments, _ = recogniser.transcribe("audio.wav"{language}{task},{timestamps}
                                    condition_on_previous_text=False)
print(" ".join(segment.text for segment in segments))
```"""


def making(facts: Facts, recipe: Any) -> str:
    labels, trained = facts.labels, facts.trained
    max_wer = labels["filter"]["max_wer"]
    limit = "any WER" if max_wer is None else f"a WER of at most {max_wer:.0%}"
    windows = recipe.train.batch_size if recipe.train.batch_tokens is None else None
    size = f"{windows} windows" if windows else f"about {recipe.train.batch_tokens} tokens"
    key = "CER" if facts.results.get("error_unit") == "char" else "WER"
    chosen = "whose validation score ({}) of {} was the lowest" if recipe.train.keep_best else \
        "the last one, whose validation score ({}) was {}"
    chosen = chosen.format(key, percent(trained["best_score"]))
    return f"""{_writer(recipe)} transcribed the training audio once, in windows of up to 30 s\
{_packings(recipe)}. Labels \
with {limit} against the transcript, where there is one, were kept\
{_other_filters(labels["filter"])}:

{_drops(labels)}

{_unread(facts.unread)}The student starts from layers of its teacher and was trained for \
{trained["steps"]} steps of {size} with {_loss(recipe.loss)}. These are the weights of step \
{trained["best_step"]}, {chosen}. Everything else is in `training_config.yaml`."""


def _writer(recipe: Any) -> str:
    """Who wrote the labels, to begin a sentence with."""
    config = recipe.pseudo_label
    others = {"http": config.http.model, "table": "Another system"}
    return others.get(config.backend, "The teacher")


def _drops(labels: dict) -> str:
    hours = labels.get("drop_hours", {})
    rows = [["labelled", str(labels["total"]), f"{labels['total_hours']:.2f}"]]
    rows += [[f"dropped: `{reason}`", str(count),
              f"{hours[reason]:.2f}" if reason in hours else "-"]
             for reason, count in labels["drops"].items()]
    rows += [["kept", str(labels["kept"]), f"{labels['kept_hours']:.2f}"]]
    return table(["", "windows", "hours"], rows)


def _unread(unread: dict) -> str:
    lost = {reason: n for reason, n in unread.items() if reason != "split_long"}  # not lost
    named = ", ".join(f"{count} `{reason}`" for reason, count in lost.items())
    return f"Clips that were never labelled: {named}. " if lost else ""


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


def limits(facts: Facts, recipe: Any) -> list[str]:
    results, lines = facts.results, []
    lines.append(
        f"Measured on {60 * results['hours']:.1f} minutes of the test split above and on nothing "
        "else: other speakers, noise and topics may cost more errors.")
    lines.append("It repeats the mistakes of its teacher and may invent text in silence or noise.")
    student = results["student"]
    if loops := (student.get("looping_units") or 0) + (student.get("halved_units") or 0):
        lines.append(f"{loops} of {results['num_units']} test units made it repeat itself; "
                     "decode with a limit on tokens, or break loops.")
    lines.append("It hears up to 30 s at once; longer recordings have to be cut, as the pipeline "
                 "above does.")
    if recipe.language:
        lines.append(f"Trained for `{recipe.language}` only, whatever the tokenizer knows.")
    if not _has_timestamps(recipe):
        lines.append("Trained without timestamps: with `return_timestamps=True` the text is the "
                     "same, but its parts have no end; `return_timestamps=\"word\"` gives times.")
    if not facts.generation.get("alignment_heads"):  # of a student of an earlier version
        lines.append("No alignment heads: `return_timestamps=\"word\"` does not work.")
    return lines


def citations(recipe: Any) -> list[str]:
    found = [DISTIL_WHISPER, WHISPER]
    if recipe.loss.kl_weight and recipe.loss.divergence == "forward":
        found.append(KL)
        if recipe.teacher.mode == "store" and recipe.scores.method == "head_and_sampled":
            found.append(SAMPLED)
    return [*found, DRAFTS]
