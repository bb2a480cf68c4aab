"""The pages of docs/: every one in the menu, every key and figure from where it is kept."""

import ast
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from tests.support.commands import blocks

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted((ROOT / "recipes").rglob("README.md")),
         *sorted(DOCS.rglob("*.md"))]
MESSAGES = DOCS / "troubleshooting.md"
PACKAGES = ("distill", "pseudo_label", "eval")


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it
    spec.loader.exec_module(module)
    return module


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_every_page_is_in_the_menu():
    def pages(menu) -> list[str]:
        if isinstance(menu, str):
            return [menu]
        below = menu.values() if isinstance(menu, dict) else menu
        return [page for each in below for page in pages(each)]

    listed = pages(yaml.safe_load(read(ROOT / "mkdocs.yml"))["nav"])
    assert sorted(listed) == sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md"))


def test_tables_and_pictures_are_of_the_figures(generate):
    stale = [str(path.relative_to(ROOT)) for path, text in generate.outputs().items()
             if not path.is_file() or read(path) != text]
    assert not stale, "run `python docs/generate.py`"
    shown = {name for path in PAGES for name in re.findall(r"<!-- table: (\w+)", read(path))}
    assert shown == set(generate.benchmarks()), "figures that no page shows"
    for name in generate.benchmarks():
        found = generate.benchmark(name)
        assert {"title", "what", "command", "machine", "date", "columns", "rows"} <= set(found)
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"])
        assert {len(row) for row in found["rows"]} == {len(found["columns"])}, name
    assert "`make bench.decode`" in generate.fill("<!-- benchmarks -->")


def test_a_recorded_machine_is_named_under_its_table(generate, monkeypatch):
    from eval.machine import describe, this_machine

    found = {"columns": ["", "s"], "rows": [["a", 1]], "date": "2026-01-01", "command": "make x",
             "machine": this_machine()}
    monkeypatch.setattr(generate, "benchmark", lambda name: found)
    assert f"{describe(found['machine'])[1:]}; 2026-01-01; `make x`" in generate.table("x")


def leaves(value, prefix: str = "") -> list[str]:
    """Keys of a recipe as OmegaConf knows them, which is not how the reference finds them."""
    if not isinstance(value, dict) or not value:
        return [prefix]
    return [key for name, each in value.items()
            for key in leaves(each, f"{prefix}.{name}".lstrip("."))]


def test_the_reference_has_every_key_once(generate):
    for name, schema in generate.schemas().items():
        page = generate.fill(f"<!-- keys: {name} -->")
        rows = re.findall(r"^\| `([\w.\[\]]+)` \| (.*?) \| (.*?) \| (.*) \|$", page, re.MULTILINE)
        keys = [row[0] for row in rows]
        plain = [key for key in keys if "[]" not in key and ".NAME." not in key]
        assert sorted(plain) == sorted(leaves(OmegaConf.to_container(OmegaConf.structured(schema))))
        assert len(keys) == len(set(keys))
        assert not [row[0] for row in rows if not row[3].strip()], "a key needs a comment"
        assert f"<!-- keys: {name} -->" in "".join(read(p) for p in (DOCS / "reference").glob("*"))


def test_comments_belong_to_their_keys(generate, tmp_path):
    (tmp_path / "a_schema.py").write_text("from dataclasses import dataclass\n\n\n@dataclass\n"
        "class A:\n    # above\n    a: int = 0\n    b: int = 1  # behind\n    # and below\n"
        "    c: dict = (  # first\n        3)\n    d: int = 4\n")
    spec = importlib.util.spec_from_file_location("a_schema", tmp_path / "a_schema.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["a_schema"] = module
    spec.loader.exec_module(module)
    assert generate.comments(module.A) == {
        "a": "above", "b": "behind and below", "c": "first", "d": ""}


def test_who_imports_whom_is_drawn(generate):
    picture = generate.fill("<!-- rooms -->\n<!-- end -->").splitlines()
    floor = {room: line[:3] for line in picture for room in re.findall(r"\[ (\w+) \]", line)}
    assert floor["losses"] < floor["whisper"] < floor["methods"] < floor["train"] < floor["eval"]
    assert "\n".join(picture) in read(DOCS / "architecture.md"), "run `python docs/generate.py`"
    table = generate.fill("<!-- imports -->")
    assert "| `pseudo_label` |" in table and "| `distill.losses` |" in table


def test_every_module_says_what_it_does(generate):
    page = generate.fill("<!-- modules -->")
    packages = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    listed = {f"{package.splitlines()[0]}.{name}" for package in packages
              for name, what in re.findall(r"^\| `(\w+)` \| (.+) \|$", package, re.MULTILINE)}
    files = [path.relative_to(ROOT).with_suffix("") for package in PACKAGES
             for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py"]
    have_doors = {".".join(path.parts) for path in files
                  if (ROOT / path.parent / "__init__.py").is_file()}
    assert listed == have_doors and len(listed) > 100, "a module needs a docstring"


def test_settings_in_pages_are_keys(generate):
    """Every block of YAML is a part of some recipe."""
    known = {re.sub(r"\[\]|\.NAME", "", key.name) for schema in generate.schemas().values()
             for section in generate.sections(schema) for key in section.keys}
    known |= {key.rsplit(".", 1)[0] for key in known if "." in key}
    free = ("translation.codes",)  # their names are the user's
    for path in PAGES:
        for language, code in blocks(read(path)):
            if language != "yaml":
                continue
            for key in leaves(yaml.safe_load(code)):
                assert key in known or key.startswith(free), f"{path}: {key}"


def test_python_in_pages_is_python():
    for path in PAGES:
        for language, code in blocks(read(path)):
            if language != "python":
                continue
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in PACKAGES:
                    source = read(ROOT / (node.module.replace(".", "/") + ".py"))
                    for alias in node.names:
                        found = re.search(rf"^(?:class|def) {alias.name}\b", source, re.MULTILINE)
                        assert found, f"{path}: {node.module}.{alias.name}"


def texts_of_the_code() -> str:
    """The source with strings that stand side by side joined; what is filled in is a tab."""
    source = "\n".join(read(path) for package in PACKAGES
                       for path in sorted((ROOT / package).rglob("*.py")))
    joined = re.sub(r"""(?:"|')\s*\n\s*f?(?:"|')""", "", source)
    return re.sub(r"\{[^{}\n]*\}", "\t", joined)


def test_messages_are_what_the_code_says():
    """Of every message in a first column, the longest part that is not filled in."""
    text, count = texts_of_the_code(), 0
    not_ours = ("No space left", "Read-only file", "Permission denied", "processes were launched")
    for row in re.findall(r"^\| (`.*?) \|", read(MESSAGES), re.MULTILINE):
        for message in re.findall(r"`([^`]+)`", row):
            part = max(message.split("..."), key=len).strip()
            if not any(each in message for each in not_ours):
                assert part in text, f"no message says {part!r}"
                count += 1
    assert count > 90


def test_walks_are_through_commits_that_are_there():
    """And show files, where the command asks for some."""
    walks = re.findall(r"`(git show --stat [0-9a-f]{7,}[^`]*)`", read(DOCS / "contributing.md"))
    assert len(walks) >= 6

    def run(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)

    shallow = run("git", "rev-parse", "--is-shallow-repository")
    if shallow.stdout.strip() != "false":
        pytest.skip("this clone has no history")
    for walk in walks:
        assert re.search(r"\d+ files? changed", run(*shlex.split(walk)).stdout), walk


def test_names_in_walks_are_those_of_today():
    walks = read(DOCS / "contributing.md")
    names = set(re.findall(r"`([A-Za-z_]*_\w+|[A-Z]\w+)`", walks)) - {"HASH"}
    source = "\n".join(read(path) for folder in (*PACKAGES, "tests")
                       for path in (ROOT / folder).rglob("*.py") if path != Path(__file__))
    words = set(re.findall(r"\w+", source + read(ROOT / "Makefile")))
    assert len(names) > 25 and not names - words


@pytest.mark.slow
def test_the_site_is_built_strictly(tmp_path):
    pytest.importorskip("mkdocs")
    ran = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "views.augment.snr_db" in read(tmp_path / "reference/whisper/index.html")
    assert json.loads(read(tmp_path / "benchmarks/decode.json"))["rows"]
