"""Passes of teacher, student and unprompted twin over the test split, and what they show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from distill.data.files import hash_of
from distill.data.model_files import model_stamp
from distill.metrics.normalize import error_unit, normalizer
from distill.whisper.data.corpus import EvaluationUtterance, evaluation_utterances, load_clips
from distill.whisper.decoding.phrases.files import read_phrases
from distill.whisper.decoding.phrases.trie import RULE
from distill.whisper.prompting.reader_files import SETTINGS
from distill.whisper.recipe import WhisperRecipe, written_language
from distill.whisper.recognition.halves import loop_rule
from distill.whisper.teacher import load_teacher
from eval.machine import this_machine
from eval.prompts.lists import SIZES, ClipList, clip_lists
from eval.prompts.passes import KeptPasses, Speaker
from eval.prompts.table import Texts, results_of
from eval.speech.measure import load_folder, windows_hash

WRONG = 100  # distractors of the lists that are given to the wrong clip


def twin_folder(run: Path) -> Path:
    """Where the student that never saw a prompt is."""
    return run / "twin" / "student"


def measure(recipe: WhisperRecipe, run: Path) -> dict:
    """prompts.json.

    Raises:
        ValueError: there is no list of words, or no text of the split has any of them.
    """
    config, split = recipe.evaluation.prompts, recipe.evaluation.prompts.split
    if config.words is None:
        raise ValueError("evaluation.prompts.words: a file of rare words that the split says")
    manifests = getattr(recipe.data, split)
    rows, _ = load_clips(manifests)
    utterances = evaluation_utterances(rows, split, False)[0]
    references = [each.reference for each in utterances]
    lists = clip_lists(references, [each.id for each in utterances], read_phrases(config.words),
                       recipe.seed)
    texts = say_all(recipe, run, utterances, lists, run / "eval" / f".prompts.{split}.jsonl")
    language = written_language(recipe)
    unit = error_unit(language, " ".join(references))
    normalise = normalizer(recipe.evaluation.normalizer, language, unit)
    found = results_of(texts, lists, normalise, recipe.evaluation.num_bootstrap)
    about = {
        "split": split, "clips": len(rows), "listed_words": sum(len(each.said) for each in lists),
        "minutes": round(sum(row.duration for row in rows) / 60, 2),
        "speakers": len({row.speaker for row in rows}), "normalizer": unit,
        "boost": config.boost, "most_words": config.most_words,
        "decoding": f"greedy, float32, batch {recipe.evaluation.batch_size}, on_loop="
                    f"{recipe.evaluation.on_loop}",
        "machine": this_machine(),
        "stamp": hash_of(model_stamp(run / "student")) if (run / "student").is_dir() else None,
    }
    return found | {"about": about, "examples": examples(texts)}


def say_all(recipe: WhisperRecipe, run: Path, utterances: Sequence[EvaluationUtterance],
            lists: Sequence[ClipList], path: Path) -> Texts:
    """Texts of all passes."""
    ids = [each.id for each in utterances]
    speakers = _speakers(recipe, run, utterances, path)
    texts = Texts([each.reference for each in utterances], ids, {}, {})
    for role, speaker in speakers.items():
        plain = speaker.say("plain")
        texts.said[role, "plain", 0] = plain
        if role == "twin":
            continue
        for style in recipe.evaluation.prompts.styles:
            texts.said[role, f"style {style}", 0] = speaker.styled(style)
        for size in SIZES:
            of = [clip.of(size, name) for clip, name in zip(lists, ids, strict=True)]
            for way, say in _ways(speaker, of, plain, role == "student").items():
                texts.said[role, way, size] = say(f"{way}/{size}")
        wrong = [lists[at - 1].of(WRONG, ids[at - 1]) for at in range(len(lists))]
        texts.said[role, f"{'b' if speaker.reads else 'a'}, another's list", WRONG] = (
            speaker.read if speaker.reads else speaker.prompted)(f"wrong/{WRONG}", wrong, plain)
        texts.said[role, "c, another's list", WRONG] = speaker.boosted(f"wrong c/{WRONG}", wrong)
    for speaker in speakers.values():
        texts.seconds |= {name: line["seconds"] for name, line in speaker.kept.found.items()}
    return texts


def _ways(speaker: Speaker, lists: Sequence[Sequence[str]], plain: Sequence[str], both: bool
          ) -> dict[str, Callable[[str], list[str]]]:
    """How lists are given to a model."""
    given = {"lists": lists, "first": plain}
    ways: dict[str, Callable[[str], list[str]]] = {"c": partial(speaker.boosted, lists=lists)}
    if speaker.reads:
        return {"b": partial(speaker.read, **given), **ways,
                "b+c": partial(speaker.read, boosted=True, **given)}
    ways = {"a": partial(speaker.prompted, **given)} | ways
    return ways | ({"a+c": partial(speaker.both, **given)} if both else {})


def asked_of(recipe: WhisperRecipe, utterances: Sequence[EvaluationUtterance]) -> list:
    """What the passes of a model depend on, for the key of those that are kept."""
    config = recipe.evaluation
    return [config.prompts.most_words, config.prompts.boost, RULE, loop_rule(config.on_loop),
            recipe.seed, windows_hash(utterances), read_phrases(config.prompts.words)]


def _speakers(recipe: WhisperRecipe, run: Path, utterances: Sequence[EvaluationUtterance],
              path: Path) -> dict[str, Speaker]:
    """{role: speaker}; a twin only where one was trained."""
    asked = asked_of(recipe, utterances)
    shared: list = []

    def teacher() -> tuple:
        found = load_teacher(recipe.teacher)
        return found.model, found.processor

    loads: dict[str, tuple[Callable[[], tuple], object]] = {}
    for role, folder in (("student", run / "student"), ("twin", twin_folder(run))):
        if folder.is_dir():
            loads[role] = partial(load_folder, folder), model_stamp(folder)
    loads["teacher"] = teacher, [recipe.teacher.model, recipe.teacher.revision]
    return {role: Speaker(role, load, recipe, utterances,
                          KeptPasses(path.with_suffix(f".{role}.jsonl"), hash_of([asked, which])),
                          shared, role == "student" and (run / role / SETTINGS).is_file())
            for role, (load, which) in loads.items()}


def examples(texts: Texts) -> list[dict]:
    """What every way made of each clip, for the page."""
    return [{"id": name, "reference": texts.references[at]}
            | {" ".join((role, way, str(size))): said[at]
               for (role, way, size), said in texts.said.items()}
            for at, name in enumerate(texts.ids)]
