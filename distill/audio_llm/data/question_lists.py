"""Lists of questions and answers as LTU and LTU-AS publish them -> a manifest.

    python -m distill.audio_llm.data.question_lists open_asqa.json data/open-asqa/all.jsonl \\
        audio=/corpora closed=cla_label,gender_cla

The list is JSON: `{instruction, input, audio_id, dataset, task, output}` each; `input` is the
transcript, `audio_id` a path (relative ones: in `audio`). Rows of a task in `closed` get the task
`closed`, others `open`; without `closed`, names of tasks are kept. `answerable=true` drops answers
that say there is no answer. Every row that is left out is counted with its reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from distill.data.audio import AudioError, audio_info
from distill.data.files import read_json, write_jsonl
from distill.data.manifest import counts_text
from distill.data.sources.output import refuse_other_rows
from distill.endings import run

_FIELDS = ("instruction", "output", "audio_id", "task")
# sentences, not words: "enough" and "cannot" are in many good answers
_NO_ANSWER = re.compile(
    r"(cannot|can't|can not|impossible to|not possible to|unable to|difficult to|hard to) "
    r"(be )?(determine|infer|tell|say|know|answer|identif|conclude)|no (indication|information)|"
    r"not (provided|specified|mentioned)|without (additional|more|further) (context|information)|"
    r"more context", re.IGNORECASE)
# what Whisper writes where nothing is said
_MADE_UP = re.compile(r"(thanks|thank you)( so much)? for watching[.!]*", re.IGNORECASE)


def rows_of(
    items: Iterable[dict[str, Any]], audio: Path, closed: frozenset[str], answerable: bool,
    drops: Counter,
) -> Iterator[dict[str, Any]]:
    """Rows of a manifest.

    Args:
        audio: folder of relative paths.
        closed: tasks with closed-ended questions; empty: names of tasks are kept.
        drops: counts what is left out, by reason; added to.
    """
    seconds: dict[Path, float | None] = {}
    for number, item in enumerate(items):
        lacks = [key for key in _FIELDS if not isinstance(item.get(key), str)]
        if lacks:
            drops[f"no_{lacks[0]}"] += 1
            continue
        path = audio / item["audio_id"]
        if path not in seconds:
            seconds[path] = _seconds(path)
        length, answer = seconds[path], item["output"].strip()
        if length is None:
            drops["unreadable_audio"] += 1
        elif not answer:
            drops["no_answer"] += 1
        elif answerable and _NO_ANSWER.search(answer):
            drops["not_answerable"] += 1
        else:
            task = item["task"]
            row = {"id": f"{Path(item['audio_id']).stem}-{number}",
                   "audio_filepath": str(path.resolve()), "duration": length,
                   "task": ("closed" if task in closed else "open") if closed else task,
                   "question": item["instruction"].strip(), "answer": answer}
            spoken = _MADE_UP.sub("", str(item.get("input") or "")).strip()
            yield row | ({"spoken": spoken} if spoken else {})


def _seconds(path: Path) -> float | None:
    try:
        return round(audio_info(path)[0], 4)
    except AudioError:
        return None


def main(arguments: list[str]) -> None:
    if len(arguments) < 2 or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    source, out = map(Path, arguments[:2])
    options = dict(each.partition("=")[::2] for each in arguments[2:])
    if unknown := set(options) - {"audio", "closed", "answerable"}:
        raise ValueError(f"unknown key {sorted(unknown)[0]}; known: audio, closed, answerable")
    if options.get("answerable", "false") not in ("true", "false"):
        raise ValueError(f"answerable must be true or false, got {options['answerable']!r}")
    if not source.is_file():
        raise ValueError(f"{source}: there is no such file")
    refuse_other_rows(out, ("question", "answer"))
    items = read_json(source)
    if not isinstance(items, list) or not all(isinstance(each, dict) for each in items):
        raise ValueError(f"{source}: expected a JSON list of objects")
    drops: Counter = Counter()
    closed = frozenset(filter(None, options.get("closed", "").split(",")))
    rows = list(rows_of(items, Path(options.get("audio", source.parent)), closed,
                        options.get("answerable") == "true", drops))
    if not rows:
        raise ValueError(f"{source}: no row is left (left out: {counts_text(drops)})")
    write_jsonl(out, rows)
    tasks = Counter(row["task"] for row in rows)
    print(f"{out}: {len(rows):,} questions ({counts_text(tasks)}); left out: {counts_text(drops)}")


if __name__ == "__main__":
    run(main)
