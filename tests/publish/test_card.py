"""A model card says what was measured: every number in it is one of the run's own files."""

import copy
import random
import re

import pytest
import yaml

from distill.config import to_yaml
from distill.data.files import hash_of, read_json, write_json, write_text
from distill.data.model_files import model_stamp
from distill.hub import prepare
from distill.publish import card as card_module
from distill.publish.card import benchmark_results, card_text
from distill.publish.facts import public, public_name, read_facts
from tests.publish.conftest import LABELS, load

# Numbers of the text itself: what an interval covers, Whisper's window and rate, names of things.
CONSTANTS = {"95", "5", "1,000", "30", "16"}
SCALES = (1, 100, 60, 1e-6)


def card_of(folder, *overrides: str) -> str:
    """Of a student that was trained with these overrides, too."""
    recipe = load(folder, *overrides)
    write_text(folder / "runs" / "tiny" / "config.yaml", to_yaml(recipe))
    return prepare(recipe)["README.md"].read_text(encoding="utf-8")


def leaves(value, found: list | None = None) -> list[float]:
    """All numbers of a JSON value."""
    found = [] if found is None else found
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            leaves(each, found)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found.append(value)
    elif isinstance(value, str):
        found += [float(text) for text in re.findall(r"\d+(?:\.\d+)?", value)]
    return found


def shaken(value, draw: random.Random):
    """The same JSON with other numbers: of the same kind, and with many digits."""
    if isinstance(value, dict):
        return {key: each if key == "settings" else shaken(each, draw)
                for key, each in value.items()}
    if isinstance(value, list):
        return [shaken(each, draw) for each in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, int):
        return draw.randrange(10_000, 100_000) if value < 10**6 else draw.randrange(10**7, 10**9)
    return draw.uniform(0.01, 0.99) if abs(value) < 1 else draw.uniform(20, 90)


def numbers(card: str) -> list[str]:
    """Of what a reader sees: no code, no names of papers, files, revisions and pictures."""
    text = card.split("\n---\n", 1)[1]
    for pattern in (r"```.*?```", r"`[^`]*`", r"<img[^>]*>", r"arXiv:\S+", r"chrF2"):
        text = re.sub(pattern, " ", text, flags=re.S)
    return re.findall(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?![\w])", text)


def is_rounded(text: str, value: float) -> bool:
    digits = len(text.partition(".")[2])
    return abs(float(text.replace(",", "")) - abs(value)) <= 0.5000001 * 10**-digits


def traced(text: str, sources: list[float]) -> bool:
    return any(is_rounded(text, scale * value) for value in sources for scale in SCALES)


def shaken_card(folder, seed: int) -> tuple[list[str], list[float]]:
    """Numbers of the card of a run all of whose figures are made up, and those figures."""
    draw, recipe = random.Random(seed), load(folder)
    facts = read_facts(recipe)
    for name in ("results", "labels", "trained", "unread"):
        setattr(facts, name, shaken(copy.deepcopy(getattr(facts, name)), draw))
    facts.config |= {f"{part}_layers": draw.randrange(10**4) for part in ("encoder", "decoder")}
    recipe.train.batch_size = draw.randrange(1000, 2000)
    recipe.loss.ce_weight, recipe.loss.kl_weight = draw.uniform(2, 3), draw.uniform(3, 4)
    recipe.loss.temperature = draw.uniform(5, 6)
    teacher, student = facts.results["teacher"], facts.results["student"]
    sources = leaves([facts.results, facts.labels, facts.trained, facts.unread,
                      facts.config["encoder_layers"], facts.config["decoder_layers"],
                      recipe.train.batch_size])
    sources += [float(f"{value:g}") for value in (
        recipe.loss.ce_weight, recipe.loss.kl_weight, recipe.loss.temperature)]
    sources += [student[key] / teacher[key] for key in ("parameters", "rtfx")]
    return numbers(card_text(facts, recipe, [])), sources


def test_every_number_is_one_of_the_files(trained):
    cards = [shaken_card(trained, seed) for seed in (1, 2, 3)]
    for shown, sources in cards:
        assert len(shown) > 60
        untraced = [text for text in shown if text not in CONSTANTS and not traced(text, sources)]
        assert not untraced
    # what stays when every figure changes is no figure
    same = {first for first, *others in zip(*(shown for shown, _ in cards), strict=True)
            if set(others) == {first}}
    assert same <= CONSTANTS, same


def test_the_figures_themselves(trained):
    card = card_of(trained)
    assert "| WER [95 % CI] | 7.12 % [5.1, 9.3] | 8.35 % [5.1, 9.3] | `wer` |" in card
    assert "| CER [95 % CI] | 3.45 % | - | `cer` |" in card
    assert "| parameters | 55.8 M, 77 % of the teacher's |" in card
    assert "| audio seconds per second (RTFx) | 41.3 | 97.3 | `rtfx` |" in card
    assert "| speed | 2.36 times the teacher's |" in card
    assert "| ... per 1,000 words | 3.3 | 3.3 | `insertions_per_1000_words` |" in card
    assert "| texts that loop | 1 | 1 | `looping_units` |" in card
    assert "+1.22 points of WER [-0.5, +3.1], paired bootstrap, p = 0.172" in card
    assert "17 units, 913 words, 5.6 minutes" in card
    assert "| dropped: `truncated` | 2 | 0.01 |\n| dropped: `wer` | 11 | 0.03 |" in card
    assert "| kept | 131 | 0.29 |" in card and "5 `unreadable`" in card
    assert "500 steps of 32 windows with 0.8 x cross-entropy to the labels + 1 x KL div" in card
    assert "weights of step 400, whose validation score (WER) of 7.12 %" in card
    assert "its parts have no end" in " ".join(card.split())


def test_what_the_recipe_changes(trained):
    assert "squared error" in card_of(trained, "loss.hidden_weight=1")
    assert "arXiv:2503.16870" in card_of(trained)
    card = card_of(trained, "loss.divergence=total_variation", "scores.method=decoder_state")
    assert "1 x total variation distance to the teacher" in card
    assert "arXiv:2503.16870" not in card
    assert "4 packings of the same audio" in card_of(trained, "pseudo_label.num_packings=4")
    assert "about 900 tokens" in card_of(trained, "train.batch_tokens=900")


def test_every_filter_is_told(trained):
    path = trained / "runs" / "tiny" / "pseudo_labels" / "filter.json"
    more = {"max_wer": None, "check_script": True, "max_repeated_ngrams": 0.0}
    write_json(path, LABELS | {"filter": LABELS["filter"] | more})
    set_ = [f"filter.{key}={'null' if value is None else value}" for key, value in more.items()]
    assert "with any WER against the transcript, where there is one, were kept if " \
        "they pass `check_script`, `max_repeated_ngrams=0` too:" in card_of(trained, *set_)


def test_labels_filtered_for_somebody_else_are_not_told(trained):
    """By another recipe that shares them, or by `make NAME.push_labels`."""
    path = trained / "runs" / "tiny" / "pseudo_labels" / "filter.json"
    write_json(path, LABELS | {"filter": LABELS["filter"] | {"max_wer": 0.3}})
    with pytest.raises(ValueError, match=r"filtered again .*\(filter.max_wer: 0.1 -> 0.3\)"):
        prepare(load(trained))
    with pytest.raises(ValueError, match=r"not the one .*filter.max_wer: 0.1 -> 0.3"):
        prepare(load(trained, "filter.max_wer=0.3"))
    for content in ({"max_wer": 0.2, "kept": 3}, None):  # of an older version; none
        write_json(path, content) if content else path.unlink()
        with pytest.raises(ValueError, match="filter.json is not there, or .*pseudo_label.filter"):
            prepare(load(trained))


def test_metadata_is_what_the_hub_reads(trained):
    from huggingface_hub import ModelCard

    data = ModelCard(card_of(trained)).data
    assert data.base_model == "openai/whisper-base" and data.language == "en"
    assert data.pipeline_tag == "automatic-speech-recognition"
    assert data.metrics == ["wer"] and data.license is None  # the CER was not measured
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("wer", 8.35)  # 100 * 0.08351, rounded
    assert result.dataset_name == "corpus/test" and data.model_name == "tiny"
    assert ModelCard(card_of(trained, "hub.license=mit")).data.license == "mit"


def test_results_of_a_benchmark_of_the_hub(trained):
    from huggingface_hub import EvalResultEntry, ModelCard, parse_eval_result_entries

    assert benchmark_results(read_facts(load(trained)), load(trained)) is None
    named = ("hub.benchmark=hf-audio/open-asr", "hub.benchmark_task=ami")
    files = prepare(load(trained, *named))
    entries = yaml.safe_load(files[".eval_results/open_asr.yaml"].read_text())
    assert parse_eval_result_entries(entries) == [EvalResultEntry(
        dataset_id="hf-audio/open-asr", task_id="ami", value=8.35,
        notes="WER in %; english; greedy, batch 16, no timestamps")]
    (result,) = ModelCard(files["README.md"].read_text()).data.eval_results
    assert (result.dataset_type, result.dataset_config) == ("hf-audio/open-asr", "ami")
    assert not [name for name in prepare(load(trained)) if "eval_results" in name]  # no more


@pytest.mark.parametrize(("overrides", "changes", "entries", "shown"), [
    ((), {"error_unit": "char"}, {"cer": 0.0421}, ("CER in %", 4.21, "CER on the test split | 4.")),
    (("task=translate",), {}, {"bleu": 31.415}, ("BLEU", 31.41, "BLEU on the test split | 31.41")),
])
def test_the_metric_that_tells(trained, overrides, changes, entries, shown):
    recipe = load(trained, *overrides, "hub.benchmark=hf-audio/open-asr", "hub.benchmark_task=x")
    facts = read_facts(recipe)
    facts.results |= changes
    for role in ("teacher", "student"):
        facts.results[role] |= entries
    (entry,) = benchmark_results(facts, recipe)
    assert entry["notes"].split(";")[0] == shown[0] and entry["value"] == shown[1]
    assert shown[2] in card_text(facts, recipe, [])


def test_batches_of_a_student_of_many_languages(trained):
    many = card_text(read_facts(load(trained)), load(trained, "language=null"), [])
    assert 'WhisperDecoder(teacher, processor.tokenizer, "auto", student=student)' in many
    path = trained / "runs/tiny/student/generation_config.json"
    write_json(path, read_json(path) | {"is_multilingual": False})
    one = card_text(read_facts(load(trained)), load(trained, "language=null"), [])
    assert "processor.tokenizer, None, student=" in one


def test_a_teacher_with_drafts_is_told(trained):
    facts = read_facts(load(trained))
    assert "with drafts" not in card_text(facts, load(trained), [])
    facts.results["teacher"]["speculation"] = "12 tokens, one by one, none drafted"
    assert "2.36 times the teacher's with drafts" in card_text(facts, load(trained), [])


def test_names_that_are_public(tmp_path):
    assert public_name("runs/own-sounds/teachers/mini/student") == "mini"
    assert public_name("/data/my-teacher") == "my-teacher"
    assert public_name("a/student") == "a/student"  # on the Hub
    paths = {"a": "../my data/of me/test set.jsonl", "b": "my data/of me/test set.jsonl"}
    assert set(public(paths).values()) == {"of me/test set.jsonl"}
    folder = tmp_path / "my data" / "one two"
    folder.mkdir(parents=True)
    assert public([str(folder)]) == ["one two"]
    text = "greedy; one and/or the other/both at 3.5 tokens/s"
    assert public(text) == text


def test_licences(trained):
    card = card_of(trained)
    assert card.count(card_module.UNKNOWN) == 2 and "not stated" in card
    card = card_of(trained, "hub.teacher_license=mit", "hub.data_license=cc-by-sa-3.0",
                   "hub.license=cc-by-sa-3.0", "hub.data_name='telephone prompts'")
    assert "| teacher | mit |\n| training audio and transcripts | cc-by-sa-3.0 |" in card
    assert "| this student | cc-by-sa-3.0 |" in card and card_module.UNKNOWN not in card
    assert "Training audio: telephone prompts." in card


def test_a_local_teacher_is_not_told(trained):
    card = card_of(trained, "teacher.model=/data/secret/my-teacher")
    assert "my-teacher" in card and "secret" not in card and "base_model" not in card
    assert "assistant_model" not in card  # nobody else could load it


def test_pictures_show_the_results(trained):
    files = prepare(load(trained))
    card = files["README.md"].read_text()
    assert re.findall(r'src="(plots/[^"]+)"', card) == sorted(n for n in files if "plots/" in n)
    assert 'alt="WER on the test split, with 95 % intervals. ' in card
    svg = files["plots/1-quality.svg"].read_text()
    assert "8.4\u00a0% [5.1, 9.3]" in svg and "7.1\u00a0% [5.1, 9.3]" in svg
    import xml.etree.ElementTree as ElementTree

    for name in files:
        if name.endswith(".svg"):
            assert ElementTree.fromstring(files[name].read_text()).tag.endswith("svg")


def test_noise_is_told_of_this_student_only(trained):
    run = read_facts(load(trained)).run
    found = {
        "split": "test", "num_clips": 119, "num_words": 818,
        "models": {"student": {"stamp": hash_of(model_stamp(run / "student"))}},
        "noises": {"student": {"white": {"40": {}, "-10": {}}, "pub": {"40": {}, "-10": {}}}},
        "area": {"student": {"white": 0.02, "pub": 0.03, "all": 0.025}},
        "area_ci": {"student": [0.011, 0.042]},
    }
    path = run / "robustness" / "results.json"
    write_json(path, found)
    try:
        assert ("In noise (white, pub; SNR 40 to -10 dB) its WER lies +2.50 points [+1.1, +4.2] "
                "from the teacher's on average, over 119 single clips, 818 words, of the test "
                "split.") in card_of(trained)
        write_json(path, found | {"models": {"student": {"stamp": "of another"}}})
        assert "In noise" not in card_of(trained)
    finally:
        path.unlink()


def test_what_is_missing_is_said(trained, tmp_path):
    with pytest.raises(ValueError, match=r"no student in .*make empty.train"):
        prepare(load(trained, f"output_dir={tmp_path}/empty"))
    run = tmp_path / "unmeasured"
    write_json(run / "student.json", read_json(trained / "runs/tiny/student.json"))
    write_json(run / "student" / "config.json", {})
    with pytest.raises(ValueError, match=r"no evaluation in .*make unmeasured.eval"):
        prepare(load(trained, f"output_dir={run}"))
    with pytest.raises(ValueError, match="another student or other settings"):
        prepare(load(trained, "evaluation.num_bootstrap=51"))


def test_a_recipe_that_changed_since_training_is_refused(trained):
    """Its card would tell of a loss that the student never saw."""
    changes = ["loss.kl_weight=0.5", "teacher.model=openai/whisper-tiny", "train.batch_size=64"]
    with pytest.raises(ValueError, match=r"teacher.model: 'openai/whisper-base' -> "
                       r"'openai/whisper-tiny', loss.kl_weight: 1.0 -> 0.5, train.batch_size: 32"):
        prepare(load(trained, *changes))
    prepare(load(trained, "train.log_every=1", "num_threads=1"))  # which shape nothing
