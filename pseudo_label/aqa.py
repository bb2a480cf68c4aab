"""Closed-ended questions about audio, made from its labels by templates: no model writes any.

    python -m pseudo_label.aqa recipes/demo-listen/questions.yaml [key=value ...]
    python -m pseudo_label.aqa demo-listen [key=value ...]          the same: those of a recipe

writes `<output_dir>/<split>.jsonl`, rows for recipes of method audio_llm, and levels.json: edges
between levels of style, fitted on the split `train`. What is asked about a clip depends on what its
row says: a question whose fields are missing is left out, and nothing is guessed.

| task | asked about clips with | options |
|---|---|---|
| sound | one label besides speech | all labels but speech |
| presence | labels | yes, no: about one of its labels, or another; see `presence_answer` |
| pitch, rate, volume | a text, and speech alone | five levels, see `pseudo_label.style` |
| spoken | a text | it, and three texts of other clips |
| joint | a text, and one label besides speech | label and longest word: right or wrong, either |

The questions of each task are paraphrases. Which one is taken, and all else that is drawn, depends
on the seed, the clip's id and the task alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import MISSING

from distill.config import check, find_recipe, load, manifest_paths
from distill.data.files import hash_of, write_json, write_jsonl
from distill.data.formats.errors import AudioError
from distill.data.manifest import Row, counts_text, load_rows
from distill.data.sources.output import refuse_other_rows
from distill.data.views.draws import generator
from distill.endings import run
from distill.progress import progress
from pseudo_label.style import WORDS, Levels, fit_levels, measure

TASKS = ("sound", "presence", *WORDS, "spoken", "joint")
_OTHER_TEXTS = 3  # options of `spoken` besides the right one


@dataclass
class QuestionsConfig:
    """Every key of a questions file."""

    output_dir: str = MISSING  # manifests are written there
    splits: dict[str, list[str]] = MISSING  # manifests of clips, relative to the file this is
    # written in; levels of style are fitted on `train`
    questions: dict[str, list[str]] = MISSING  # paraphrases of each task; {label}: what it asks for
    speech: str = "speech"  # the label of speech
    seed: int = 0  # of everything that is drawn
    every: dict[str, float] = field(default_factory=dict)  # share of clips that a task asks about,
    # where it is not 1
    presence_answer: str = "{answer}"  # {answer}: yes or no; {heard}: a sound that is there. With
    # "{heard}, so {answer}" what is heard is named before it is decided


@dataclass(frozen=True)
class Clip:
    """A row, and what else is known.

    Attributes:
        sounds: its labels besides speech.
        style: a level of each, where the clip is speech alone.
    """

    row: Row
    sounds: tuple[str, ...]
    style: dict[str, str]

    @property
    def heard(self) -> str:
        """What CTC learns to say of it."""
        said = ["speech"] if self.row.text and not self.style else []
        return " ".join([*said, *self.sounds, *self.style.values()])


class Asked(NamedTuple):
    answer: str
    options: list[str]
    label: str = ""  # what stands for {label}
    means: Sequence[str] = ()  # what each option says, where several say the same


class Maker:
    """Makes the questions of a split."""

    def __init__(self, config: QuestionsConfig, clips: Sequence[Clip], classes: Sequence[str]):
        self.config, self.clips, self.classes = config, clips, classes
        self.texts = sorted({clip.row.text for clip in clips if clip.row.text})
        self.words = sorted({longest_word(text) for text in self.texts})

    def rows(self) -> Iterator[dict[str, Any]]:
        makers: dict[str, Callable[[Clip, np.random.Generator], Asked | None]] = {
            "sound": self._sound, "presence": self._presence, "spoken": self._spoken,
            "joint": self._joint, **{name: _of_style(name) for name in WORDS}}
        for clip in self.clips:
            for task in ("sound", "presence", "spoken", "joint", *WORDS):
                draws = generator(self.config.seed, f"{clip.row.id}/{task}", 0)
                drawn, template = draws.random(), draws.random()
                if (task not in self.config.questions
                        or drawn >= self.config.every.get(task, 1.0)):
                    continue
                if asked := makers[task](clip, draws):
                    yield self._row(clip, task, asked, template)

    def _row(self, clip: Clip, task: str, asked: Asked, drawn: float) -> dict[str, Any]:
        row = clip.row
        questions = self.config.questions[task]
        number = int(drawn * len(questions))
        found = {
            "id": f"{row.id}/{task}", "audio_filepath": row.audio_filepath,
            "offset": row.offset, "duration": row.duration, "task": task,
            "question": questions[number].replace("{label}", asked.label), "answer": asked.answer,
            "options": asked.options, "heard": clip.heard, "template": f"{task}/{number}",
            "seed": self.config.seed}
        return (found | ({"means": asked.means} if asked.means else {})
                | ({"spoken": row.text} if row.text else {}))

    def _sound(self, clip: Clip, _: np.random.Generator) -> Asked | None:
        return Asked(clip.sounds[0], list(self.classes)) if len(clip.sounds) == 1 else None

    def _presence(self, clip: Clip, draws: np.random.Generator) -> Asked | None:
        """An option for each sound that may be heard; or yes and no, where none is named."""
        absent = [each for each in self.classes if each not in clip.sounds]
        if not clip.sounds or not absent:
            return None
        label = _one_of(clip.sounds if draws.random() < 0.5 else absent, draws)
        heard = label if label in clip.sounds else clip.sounds[0]
        says = {each: ("no", "yes")[each == label] for each in self.classes}
        written = {each: self.config.presence_answer.replace("{heard}", each)
                   .replace("{answer}", answer) for each, answer in says.items()}
        options = {written[each]: says[each] for each in self.classes}
        means = list(options.values())
        return Asked(written[heard], list(options), label, () if len(means) == 2 else means)

    def _spoken(self, clip: Clip, draws: np.random.Generator) -> Asked | None:
        text = clip.row.text
        others = [each for each in self.texts if text and each.lower() != text.lower()]
        if not text or len(others) < _OTHER_TEXTS:
            return None
        picked = draws.choice(len(others), _OTHER_TEXTS, replace=False)
        return Asked(text, _shuffled([text, *(others[n] for n in picked)], draws))

    def _joint(self, clip: Clip, draws: np.random.Generator) -> Asked | None:
        """Who hears the sound alone has two options left, and so has who reads the text alone."""
        text = clip.row.text
        if not text or len(clip.sounds) != 1:
            return None
        said = set(words_of(text))
        words = [each for each in self.words if each not in said]
        sounds = [each for each in self.classes if each not in clip.sounds]
        if not words or not sounds or not longest_word(text):
            return None
        pairs = [(sound, word) for sound in (clip.sounds[0], _one_of(sounds, draws))
                 for word in (longest_word(text), _one_of(words, draws))]
        options = [f"{sound}, {word}" for sound, word in pairs]
        return Asked(options[0], _shuffled(options, draws))


def _of_style(name: str) -> Callable[[Clip, np.random.Generator], Asked | None]:
    return lambda clip, _: Asked(clip.style[name], list(WORDS[name])) if clip.style else None


def words_of(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())


def longest_word(text: str) -> str:
    """The first of the longest; empty: there is none."""
    return max(words_of(text), key=len, default="")


def _one_of(values: Sequence[str], draws: np.random.Generator) -> str:
    return values[int(draws.integers(0, len(values)))]


def _shuffled(values: list[str], draws: np.random.Generator) -> list[str]:
    return [values[n] for n in draws.permutation(len(values))]


# Splits


def write_questions(config: QuestionsConfig) -> dict[str, Counter]:
    """Write all splits; {split: how many questions of each task}.

    Raises:
        ValueError: a manifest cannot be used, there are too few clips for levels of style, or what
            would be written over is somebody else's.
    """
    out = Path(config.output_dir)
    for split in config.splits:
        refuse_other_rows(out / f"{split}.jsonl", ("task", "question"))
    refuse_other_rows(out / "levels.json", ("edges", "corpus"))
    rows = {split: load_rows(paths)[0] for split, paths in config.splits.items()}
    classes = sorted({label for each in rows.values() for row in each for label in row.labels or ()
                      if label != config.speech})
    styles = {split: _styles(split, each, config.speech) for split, each in rows.items()}
    levels = None
    if set(WORDS) & set(config.questions) and styles["train"]:
        levels = fit_levels(list(styles["train"].values()))
        write_json(out / "levels.json", {
            "edges": levels.edges, "words": WORDS, "num_clips": len(styles["train"]),
            "corpus": hash_of([[row.id, row.text, row.duration] for row in rows["train"]])})
    counts = {}
    for split, each in rows.items():
        clips = [_clip(row, config.speech, styles[split].get(row.id), levels) for row in each]
        made = list(Maker(config, clips, classes).rows())
        write_jsonl(out / f"{split}.jsonl", made)
        counts[split] = Counter(row["task"] for row in made)
    return counts


def _styles(split: str, rows: Sequence[Row], speech: str) -> dict[str, Any]:
    """By id, of clips in which speech alone is heard."""
    alone = [row for row in rows if row.text and (row.labels or [speech]) == [speech]]
    found, drops = {}, Counter()
    for row in progress(alone, len(alone), f"style, {split}", "clips"):
        try:
            style = measure(row)
        except AudioError as error:
            drops[error.reason] += 1
            continue
        if style is None:
            drops["little_voice"] += 1
        else:
            found[row.id] = style
    if drops:
        print(f"{split}: no level of style for {counts_text(drops)}", flush=True)
    return found


def _clip(row: Row, speech: str, style: Any, levels: Levels | None) -> Clip:
    sounds = tuple(each for each in row.labels or () if each != speech)
    return Clip(row, sounds, levels.of(style) if style and levels else {})


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    path = find_recipe(arguments[0], "questions.yaml")
    config = load(path, QuestionsConfig, arguments[1:])
    check("train" in config.splits, "splits", "splits, one of them `train`", list(config.splits))
    unknown = sorted(set(config.questions) - set(TASKS))
    check(not unknown, "questions", f"tasks of {TASKS}", unknown)
    check("{answer}" in config.presence_answer, "presence_answer", "a text with {answer}",
          config.presence_answer)
    config.splits = {split: manifest_paths(path, f"splits.{split}", list(names))
                     for split, names in config.splits.items()}
    for split, counts in write_questions(config).items():
        print(f"{split}: {sum(counts.values()):,} questions ({counts_text(counts)}): "
              f"{Path(config.output_dir) / split}.jsonl", flush=True)


if __name__ == "__main__":
    run(main)
