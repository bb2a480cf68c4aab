"""What a long list costs: time and steps of decoding with the first 0 to 10,000 of some phrases.

    python -m eval.prompts.cost RECIPE phrases=names.txt [key=value ...]

names.txt has one phrase a line. The recipe's teacher writes the clips of evaluation.prompts.split,
which are encoded before, one by one and 8 together, with all lists in turn. Time is the
processor's, not the clock's, of one thread. Most of what a list costs are beginnings of phrases
that may not go on: while one is open, the text without it is read beside it, as one row more in a
step of the decoder. Such rows are counted (`beside`), and differ with the speech, as do the steps
that a changed text takes. Writes runs/NAME/eval/prompts_cost.json.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from distill.data.files import write_json
from distill.endings import run as run_command
from distill.endings import writing_to
from distill.whisper.recipe import WhisperRecipe, load_recipe

SIZES = (0, 100, 1_000, 10_000)  # phrases
BATCHES = (1, 8)
ROUNDS = 3
_PHRASES = "phrases="


@dataclass
class Pass:
    """Seconds of the processor, steps of the decoder, rows in them that were read beside others,
    beginnings that were undone, and texts."""

    seconds: float
    steps: int
    beside: int
    undone: int
    texts: list[list[int]]


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    files = [word.removeprefix(_PHRASES) for word in arguments if word.startswith(_PHRASES)]
    if len(files) != 1:
        raise ValueError(f"one file of phrases is needed, as in {_PHRASES}names.txt")
    recipe = load_recipe(arguments[0], [word for word in arguments[1:]
                                        if not word.startswith(_PHRASES)])
    folder = Path(recipe.output_dir)
    import torch

    from distill.whisper.decoding.phrases.files import read_phrases
    from eval.machine import describe, this_machine

    phrases = read_phrases(files[0])
    if not phrases:
        raise ValueError(f"{files[0]} has no phrases")
    torch.set_num_threads(1)
    with writing_to(folder):
        found = measure(recipe, phrases)
        about = {"clips": found.pop("clips"), "split": recipe.evaluation.prompts.split,
                 "boost": recipe.evaluation.prompts.boost, "machine": this_machine()}
        write_json(folder / "eval" / "prompts_cost.json", found | {"about": about})
        print(table(found), f"{about['clips']} clips of the {about['split']} split, float32, "
              f"medians of {ROUNDS} rounds. Machine: {describe(about['machine'])}", sep="\n")


def measure(recipe: WhisperRecipe, phrases: Sequence[str], rounds: int = ROUNDS) -> dict:
    """{batch: {phrases: figures}}, and how many clips there were."""
    from distill.whisper.data.corpus import evaluation_utterances, load_clips, windows_of
    from distill.whisper.decoding.phrases.trie import PhraseList
    from distill.whisper.decoding.whisper_decoder import WhisperDecoder
    from distill.whisper.recognition.transcribe import transcribe
    from distill.whisper.teacher import load_teacher

    teacher, split = load_teacher(recipe.teacher), recipe.evaluation.prompts.split
    tokenizer = teacher.processor.tokenizer
    windows = windows_of(evaluation_utterances(
        load_clips(getattr(recipe.data, split))[0], split, False)[0])
    decoder = WhisperDecoder(teacher.model.eval(), tokenizer, recipe.language, recipe.task,
                             on_loop=recipe.evaluation.on_loop)
    lists = {len(names): names for size in SIZES for names in [PhraseList(
        tokenizer, phrases[:size], recipe.evaluation.prompts.boost)]}
    states: dict[str, Any] = {}

    def decode(batch: int, names: PhraseList) -> Pass:
        report = decoder.report
        before, begun = (report.passes, report.beside, report.taken_back), time.process_time()
        found = transcribe(decoder, teacher.processor, windows, batch, states_cache=states,
                           phrases={window.id: names for window in windows})
        seconds = time.process_time() - begun
        after = report.passes, report.beside, report.taken_back
        return Pass(seconds, *(b - a for a, b in zip(before, after, strict=True)),
                    [found[window.id].tokens for window in windows])

    result: dict[str, Any] = {"clips": len(windows)}
    for batch in BATCHES:
        decode(batch, lists[0])  # untimed: encodes, and warms up
        turns = [{size: decode(batch, names) for size, names in lists.items()}
                 for _ in range(rounds)]
        result[str(batch)] = {str(size): figures(turns, size) for size in lists}
    return result


def figures(turns: Sequence[dict[int, Pass]], size: int) -> dict:
    """Medians of a list's rounds; what it costs more is a share of the same round without one."""
    more = [turn[size].seconds / turn[0].seconds - 1 for turn in turns]
    first = turns[0]
    return {"seconds": median(turn[size].seconds for turn in turns), "more": median(more),
            "more_from": min(more), "more_to": max(more), "steps": first[size].steps,
            "beside": first[size].beside, "undone": first[size].undone,
            "changed_texts": sum(one != two for one, two in
                                 zip(first[size].texts, first[0].texts, strict=True))}


def table(found: dict) -> str:
    """For the terminal."""
    counts = {"steps": 7, "beside": 8, "undone": 8, "changed_texts": 15}  # and their widths
    lines = ["batch  phrases  seconds   more (rounds from, to)".ljust(50)
             + "".join(f"{name.replace('_', ' '):>{width}}" for name, width in counts.items())]
    lines += [(f"{batch:>5}  {int(size):>7,}  {each['seconds']:7.2f}  {each['more']:+6.1%} "
               f"({each['more_from']:+.1%}, {each['more_to']:+.1%})").ljust(50)
              + "".join(f"{each[name]:{width}}" for name, width in counts.items())
              for batch, sizes in found.items() for size, each in sizes.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
