"""What the documents take from the code and from measurements, so that neither is told twice.

    python docs/generate.py           # writes tables and pictures into README.md and docs/
    mkdocs build --strict             # calls this file as a hook, see mkdocs.yml

Marks in a page are filled in:

    <!-- table: NAME -->...<!-- end -->  the figures of docs/benchmarks/NAME.json; also in the file,
                                         so that they can be read without building the site
    <!-- rooms -->...<!-- end -->        the rooms of distill, floor by floor; also in the file
    <!-- keys: METHOD -->                every key of a recipe, from the dataclasses and their
                                         comments; only in the site
    <!-- benchmarks -->, <!-- imports -->, <!-- modules -->  all figures; who may import whom;
                                         every module and its docstring; only in the site
"""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import os
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from inspect import getdoc, getsource
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin, get_type_hints

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent

TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.S)
ROOMS = re.compile(r"(<!-- rooms -->\n).*?(<!-- end -->)", re.S)
LINK = re.compile(r"\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


# Recipe keys

@dataclass(frozen=True)
class Key:
    """One line of a reference: `name` as it is written in an override."""

    name: str
    kind: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Section:
    name: str  # "" is the top of the file
    about: str
    keys: list[Key]


def schemas() -> dict[str, type]:
    """The dataclass of each kind of file that a user writes."""
    from distill.audio_llm.data.no_speech import NoSpeechConfig
    from distill.audio_llm.recipe import AudioLlmRecipe
    from distill.ced.recipe import CedRecipe
    from distill.data.scenes import ScenesConfig
    from distill.data.speech.read_aloud import ReadAloudConfig
    from distill.whisper.recipe import WhisperRecipe
    from distill.whisper_at.recipe import WhisperAtRecipe
    from pseudo_label.aqa import QuestionsConfig

    return {"whisper": WhisperRecipe, "ced": CedRecipe, "whisper_at": WhisperAtRecipe,
            "audio_llm": AudioLlmRecipe, "scenes": ScenesConfig,
            "questions": QuestionsConfig, "no_speech": NoSpeechConfig,
            "read_aloud": ReadAloudConfig}


def sections(schema: type, name: str = "") -> Iterator[Section]:
    """Sections of a schema, itself first; a section inside another is no key of it."""
    hints, told = get_type_hints(schema), comments(schema)
    keys, below = [], []
    for field in fields(schema):
        hint, full = hints[field.name], f"{name}.{field.name}".lstrip(".")
        inner, suffix = _inner(hint)
        if inner:
            below.append((inner, full + suffix))
        if inner is not hint:
            kind = _kind(hint) if not inner else f"sections `{full}{suffix}`"
            keys.append(Key(full, kind, _default(field), told.get(field.name, "")))
    about = getdoc(schema) or ""
    yield Section(name, "" if about.startswith(f"{schema.__name__}(") else about, keys)
    for inner, full in below:
        yield from sections(inner, full)


def _inner(hint: Any) -> tuple[Any, str]:
    """The dataclass in a type, and how its keys are written: `teacher.members[].model`."""
    if is_dataclass(hint):
        return hint, ""
    for part in get_args(hint):
        found, suffix = _inner(part)
        if found:
            return found, ("[]" if get_origin(hint) is list else ".NAME") + suffix
    return None, ""


def comments(schema: type) -> dict[str, str]:
    """The comment of each field: behind it and on the lines below it, or else above it."""
    source = getsource(schema)
    found: dict[int, tuple[str, bool]] = {}  # line -> text, does it stand alone
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            found[token.start[0]] = token.string.removeprefix("#").strip(), alone
    told, end_before = {}, 0
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if not isinstance(node, ast.AnnAssign):
            end_before = node.end_lineno or 0
            continue
        after = node.end_lineno + 1
        lines = [found[line][0] for line in range(node.lineno, after) if line in found]
        while lines and after in found and found[after][1]:
            lines.append(found[after][0])
            after += 1
        if not lines:  # nothing behind it: what stands above
            lines = [found[line][0] for line in range(end_before + 1, node.lineno) if line in found]
        told[node.target.id] = " ".join(lines)  # type: ignore[attr-defined]
        end_before = after - 1
    return told


def _kind(hint: Any) -> str:
    """`float or null`, `list of text`: a type for people who write YAML."""
    names = {str: "text", int: "integer", float: "number", bool: "true or false", Any: "any",
             type(None): "null"}
    if hint in names:
        return names[hint]
    parts = [_kind(part) for part in get_args(hint)]
    if get_origin(hint) is dict:
        return "mapping"
    return f"list of {parts[0]}s" if get_origin(hint) is list else " or ".join(parts)


def _default(field: Field) -> str:
    value = field.default if field.default is not MISSING else field.default_factory()
    if value == "???":  # omegaconf.MISSING
        return "required"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value}`" if isinstance(value, str) and value else f"`{json.dumps(value)}`"


def keys_page(method: str) -> str:
    """The reference of a method, as Markdown."""
    parts = []
    for section in sections(schemas()[method]):
        if section.name:
            parts.append(f"## {section.name}")
        if section.about:
            parts.append(_escape(section.about))
        rows = [f"| `{key.name}` | {key.kind} | {key.default} | {_escape(key.meaning)} |"
                for key in section.keys]
        if rows:
            head = ["| key | type | default | meaning |", "|---|---|---|---|"]
            parts.append("\n".join(['<div class="keys" markdown>', "", *head, *rows, "", "</div>"]))
    return "\n\n".join(parts)


def _escape(text: str) -> str:
    text = re.sub(r"(?<!`)\b([a-z_]+\.[a-z_]+(?:[=.]\w+)*)(?=[\s,:;.)]|$)", _as_code, text)
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _as_code(match: re.Match) -> str:
    sections_named = ("teacher", "scores", "pseudo_label", "student", "views", "train", "data",
                      "translation", "evaluation", "loss", "filter", "decoding", "hub", "export")
    return f"`{match[1]}`" if match[1].split(".")[0] in sections_named else match[1]


# Benchmarks

@cache
def benchmark(name: str) -> dict[str, Any]:
    """docs/benchmarks/NAME.json: title, what, command, machine, date, columns, rows, note."""
    return json.loads((DOCS / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def benchmarks() -> list[str]:
    return sorted(path.stem for path in (DOCS / "benchmarks").glob("*.json"))


def table(name: str) -> str:
    """The figures as a Markdown table, with where, when and how they were measured."""
    found = benchmark(name)
    rows = [found["columns"], ["---"] * len(found["columns"]), *found["rows"]]
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    machine = found["machine"]
    if isinstance(machine, dict):  # as benchmarks record it
        from eval.machine import describe

        machine = describe(machine)
    machine = machine[0].upper() + machine[1:]
    source = f"<small>{machine}; {found['date']}; `{found['command']}`</small>"
    return "\n".join([*(re.sub(" {2,}", " ", line) for line in lines), "", source])


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        low, high = value["interval"]
        return f"{value['value']}{' ' + value['unit'] if value['unit'] else ''} [{low}, {high}]"
    return "" if value is None else str(value)


def benchmarks_page() -> str:
    parts = []
    for name in benchmarks():
        found = benchmark(name)
        parts += [f"## {found['title']}", found["what"], table(name)]
        parts += [found["note"]] if "note" in found else []
        parts.append(f"As JSON: [{name}.json](benchmarks/{name}.json)")
    return "\n\n".join(parts)


def pictures() -> dict[Path, str]:
    """The pictures of README.md, drawn from the benchmarks."""
    from distill.html.charts import Bar, bar_chart
    from eval.plots import standalone

    def bar(label: str, cell: dict, text: str, style: str) -> Bar:
        low, high = cell["interval"]
        return Bar(label[0].upper() + label[1:], cell["value"], f"{cell['value']} %, {text}", style,
                   (low, high))

    demo, tagger = benchmark("demo"), benchmark("demo_tagger")
    rows = {name: cells for name, *cells in demo["rows"]}
    wer, size = rows["WER of single clips [95 % CI]"], rows["parameters"]
    times = (rows["ms a clip, float32, padded to 30 s"][0],
             rows["ms a clip, float32, at its own length"][1])
    speech = [bar(name, cell, f"{parameters}, {time} ms", style) for name, cell, parameters, time,
              style in zip(("whisper-base, padded", "student, 4 layers"), wer, size, times,
                           ("teacher", "student"), strict=True)]
    sounds = [bar(row[0], row[1], f"{row[2]}, {row[3]}/s",
                  "student" if "student" in row[0] else "teacher") for row in tagger["rows"]]
    titles = ("Speech: WER, parameters, ms a short clip", "Sounds: mAP, parameters, clips a second")
    axes = ("WER (%) with 95 % interval, lower is better",
            "mAP (%) with 95 % interval, higher is better")
    charts = [standalone(title, bar_chart(title, bars, axis))
              for title, bars, axis in zip(titles, (speech, sounds), axes, strict=True)]
    return dict(zip((DOCS / "img/speech.svg", DOCS / "img/sounds.svg"), charts, strict=True))


# Imports

@cache
def import_rules() -> ModuleType:
    """tests/test_imports.py."""
    spec = importlib.util.spec_from_file_location("imports", ROOT / "tests/test_imports.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def imports_table() -> str:
    """Who may import whom, from the table of tests/test_imports.py."""
    module = import_rules()
    lines = ["| room | may import, of ours, besides itself |", "|---|---|"]
    for name, allowed in module.ALLOWED.items():
        lines.append(f"| `{name}` | {_names(set(allowed)) or 'nothing'} |")
    return "\n".join(lines)


def rooms_picture() -> str:
    """The rooms, each on the lowest floor from which it looks down only; the top floor first."""
    below = import_rules().rooms_below()

    def floor(room: str) -> int:
        return max((floor(other) + 1 for other in below[room]), default=0)

    floors: dict[int, list[str]] = {}
    for room in below:
        floors.setdefault(floor(room), []).append(f"[ {room.removeprefix('distill.')} ]")
    lines = [f" {number}   {' '.join(floors[number])}" for number in sorted(floors, reverse=True)]
    return "\n".join(["```", *lines, "```"])


def _names(modules: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(modules))


def modules_page() -> str:
    """Every module of every package, by the first sentence of its docstring."""
    parts = []
    for package in ("distill", "pseudo_label", "eval"):
        for door in sorted((ROOT / package).rglob("__init__.py")):
            folder = door.parent
            rows = [f"| `{path.stem}` | {_escape(_told(path).split(chr(10) * 2)[0])} |"
                    for path in sorted(folder.glob("*.py")) if path != door]
            name = ".".join(folder.relative_to(ROOT).parts)
            parts += [f"## {name}", _escape(_told(door))]
            parts.append("\n".join(["| module | what it does |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def _told(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first, _, rest = text.partition("\n\n")
    return f"{' '.join(first.split())}\n\n{rest}".strip()


# Pages

def fill_tables(text: str) -> str:
    text = TABLE.sub(lambda match: f"{match[1]}{table(match[2])}\n{match[3]}", text)
    return ROOMS.sub(lambda match: f"{match[1]}{rooms_picture()}\n{match[2]}", text)


def fill(text: str) -> str:
    """A page as the site shows it."""
    text = fill_tables(text)
    text = re.sub(r"<!-- keys: (\w+) -->", lambda match: keys_page(match[1]), text)
    made = {"benchmarks": benchmarks_page, "imports": imports_table, "modules": modules_page}
    for name, make in made.items():
        if (mark := f"<!-- {name} -->") in text:
            text = text.replace(mark, make())
    return text


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def outputs() -> dict[Path, str]:
    """What files of the repository should say: pages with tables, and pictures."""
    texts = {path: fill_tables(path.read_text(encoding="utf-8")) for path in pages()}
    return texts | pictures()


def on_config(config: Any) -> Any:
    """mkdocs: the packages of this repository, wherever mkdocs was started."""
    sys.path.insert(0, str(ROOT))
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """mkdocs: fill in a page; a link to a file of the repository outside docs/ becomes its name."""
    folder = Path(page.file.abs_src_path).parent

    def outside(match: re.Match) -> str:
        target = Path(os.path.normpath(folder / match[2]))
        if target.is_relative_to(DOCS):
            return match[0]
        if not target.exists():
            raise ValueError(f"{page.file.src_uri}: no {match[2]} in the repository")
        name = f"`{target.relative_to(ROOT)}`"
        same = match[1].strip("`").rstrip("/") in str(target)
        return name if same else f"{match[1]} ({name})"

    return LINK.sub(outside, fill(markdown))


def main() -> None:
    for path, text in outputs().items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
