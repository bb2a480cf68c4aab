"""Who may import whom, read from the source: see "Who may import whom" in the design."""

import ast
from collections import Counter
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OURS = ("distill", "eval", "pseudo_label", "recipes", "tests")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("distill", "eval", "pseudo_label")
    for path in sorted((ROOT / package).rglob("*.py"))
}
TESTS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted((ROOT / "tests").rglob("*.py"))
}
KINDS = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.Name, ast.arg)
MAX_LINES = 400  # of a file
MAX_CLASS_LINES = 250
MAX_FILES = 14  # of a folder
METHODS = ("distill.whisper", "distill.ced", "distill.whisper_at",
           "distill.audio_llm")  # of distill/methods.py
ENTRY_POINTS = ("distill.train", "distill.plan", "distill.hub", "distill.export", "eval.__main__",
                "eval.transcribe", "eval.tag", "eval.linear_probe", "pseudo_label.__main__",
                "distill.data.teacher_store.__main__")
BASE = ("distill.config", "distill.progress", "distill.endings", "distill.data", "distill.losses",
        "distill.metrics", "distill.training.task")
# Room -> what it may import of ours besides itself; the longest prefix that fits a module counts.
# From the ground floor up: whoever stands higher may look down, nobody looks up.
ALLOWED = {
    "distill": (),  # and whatever has no line of its own
    "distill.config": (),
    "distill.progress": (),
    "distill.endings": (),
    "distill.html": (),
    "distill.losses": (),
    "distill.data": ("distill.progress", "distill.endings"),
    "distill.data.scenes": ("distill.data", "distill.config", "distill.progress",
                            "distill.endings"),
    "distill.data.speech.read_aloud": ("distill.data", "distill.config", "distill.progress",
                                       "distill.endings"),
    "distill.metrics": ("distill.data.languages",),
    "distill.training": ("distill.config", "distill.progress", "distill.data"),
    "distill.testing": ("distill.data",),
    "distill.publish": ("distill.data", "distill.methods"),
    "distill.cli": ("distill.config", "distill.endings"),
    "distill.__main__": ("distill.cli",),
    "distill.kept_lines": ("distill.data",),  # what a long command has done already
    "distill.whisper": (*BASE, "distill.kept_lines"),
    "distill.ced": BASE,
    "distill.whisper_at": (  # a head on a Whisper, which comes from where all others come
        *BASE, "distill.whisper.teacher", "distill.whisper.recipe_sections",
        "distill.whisper.encoder"),
    "distill.audio_llm": (  # a language model on a Whisper's encoder
        *BASE, "distill.whisper.teacher", "distill.whisper.recipe_sections",
        "distill.whisper.encoder", "distill.whisper_at"),
    "distill.methods": ("distill.config", "distill.data", *METHODS),
    "distill.plan": ("distill.config", "distill.endings", "distill.methods"),
    "distill.train": ("distill.config", "distill.endings", "distill.data", "distill.methods",
                      "distill.training"),
    "distill.hub": ("distill.endings", "distill.methods", "distill.publish"),
    "distill.export": ("distill.config", "distill.endings", "distill.methods"),
    "distill.data.teacher_store.__main__": ("distill.data", "distill.progress", "distill.endings",
                                            "distill.methods"),
    "pseudo_label": (*BASE, "distill.html", "distill.publish",
                     "distill.methods", "distill.whisper", "distill.ced"),
    "eval": ("distill",),
}


def within(module: str, prefixes: tuple[str, ...]) -> bool:
    return any(module == p or module.startswith(p + ".") for p in prefixes)


def imports(nodes: list[ast.AST]) -> list[tuple[int, str, bool]]:
    """(line, module of ours, is `import x` rather than `from x import`), also inside functions."""
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, True) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            base = node.module or ""
            # `from distill import config` imports the module distill.config
            parts = [f"{base}.{alias.name}" for alias in node.names]
            found += [(node.lineno, p if p in FILES else base, False) for p in parts]
    return [item for item in found if item[1].split(".")[0] in OURS]


@cache
def nodes_of(module: str) -> list[ast.AST]:
    """What a test here looks at, found in one walk."""
    return looked_at((FILES | TESTS)[module].read_text(encoding="utf-8"))


def looked_at(source: str) -> list[ast.AST]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, KINDS)
            and not (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))]


@cache
def imports_of(module: str) -> list[tuple[int, str, bool]]:
    return imports(nodes_of(module))


def problems(module: str, found_imports: list[tuple[int, str, bool]]) -> list[str]:
    """Broken rules of one module."""
    rule = max((prefix for prefix in ALLOWED if within(module, (prefix,))), key=len)
    found = []
    for line, name, is_plain in found_imports:
        where = f"{module}:{line} imports {name}"
        itself = (rule,) * (rule != "distill")
        if not within(name, (*itself, *ALLOWED[rule])):
            found.append(f"{where}, not in {ALLOWED[rule]}")
        if name in ENTRY_POINTS:
            found.append(f"{where}, an entry point")
        if name == "eval" or (is_plain and within(name, ("eval",))):
            found.append(f"{where}: only `from eval.module import name`")
    return found


def test_all_packages_are_seen():
    assert {"distill.config", "distill.whisper.task", "eval.__main__", "pseudo_label"} <= set(FILES)
    assert len(FILES) > 30
    rooms = {".".join(module.split(".")[:2]) for module in FILES if module.startswith("distill.")}
    assert rooms <= set(ALLOWED), f"a new room needs a line of its own: {rooms - set(ALLOWED)}"


def test_no_folder_is_a_pile():
    counts = Counter(path.parent for path in (FILES | TESTS).values())
    assert counts[ROOT / "tests" / "whisper"] > 1
    assert not {str(folder): count for folder, count in counts.items() if count > MAX_FILES}


def rooms_below() -> dict[str, set[str]]:
    """Each room: those that it looks into. The picture in docs/architecture.md is drawn from it."""
    rooms = [room for room in ALLOWED if room.count(".") <= 1 and room != "distill"]
    return {room: {other for other in rooms if other != room and any(
        within(other, (name,)) or within(name, (other,)) for name in ALLOWED[room])}
        for room in rooms}


def test_nobody_looks_up():
    assert not circles(rooms_below())


def test_import_rules():
    broken = [problem for module in FILES for problem in problems(module, imports_of(module))]
    assert not broken, "\n".join(broken)


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that a walk along the arrows comes back to, one walk for each."""
    done, found = set(), []

    def walk(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            found.append(" -> ".join([*path[path.index(module):], module]))
        elif module not in done:
            for other in sorted(arrows.get(module, ())):
                walk(other, (*path, module))
            done.add(module)

    for module in arrows:
        walk(module, ())
    return found


def test_no_circles():
    arrows = {module: {name for _, name, _ in imports_of(module) if name in FILES}
              for module in FILES}
    assert not circles(arrows)
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a -> b -> c -> a"]


BROKEN = [
    ("distill.config", "from distill.data.files import hash_of"),
    ("distill.losses.token_losses", "import distill.config"),
    ("distill.data.audio", "from distill import config"),
    ("distill.data.audio", "from distill.methods import load_recipe"),
    ("distill.training.loop", "from distill.whisper.task import WhisperTask"),
    ("distill.training.loop", "def f():\n    from distill.methods import build_task"),
    ("distill.training.checkpoint", "import distill.whisper"),
    ("distill.ced_like", "from distill.whisper.student import freeze"),
    ("distill.whisper.task", "from distill.training.loop import fit"),
    ("distill.whisper.task", "from distill.ced.recipe import CedRecipe"),
    ("distill.whisper.task", "from eval.speech.asr import measure"),
    ("distill.whisper.task", "from distill.html.charts import svg"),
    ("distill.metrics.error_rates", "from distill.html.page import plural"),
    ("eval.speech.asr", "from pseudo_label.filter import run_filter"),
    ("pseudo_label.plan", "from eval.speech.asr import measure"),
    ("pseudo_label.sweep", "from eval.report import write_report"),
    ("eval.speech.asr", "from distill.train import train"),
    ("pseudo_label.plan", "from distill.train import main"),
    ("eval.speech.asr", "import recipes.demo"),
    ("eval.speech.asr", "import eval.memory"),
    ("eval.speech.asr", "import eval"),
    ("eval.speech.asr", "from eval import metrics_of_all"),
    ("distill.data.audio", "from tests.conftest import x"),
]


def test_the_rules_catch():
    assert not [(module, source) for module, source in BROKEN
                if not problems(module, imports(looked_at(source)))]


def names_given(nodes: list[ast.AST]) -> set[str]:
    """To variables, arguments, functions and classes."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
    return found


def test_nothing_of_ours_is_named_eval():
    """It would hide the builtin, and read like the package."""
    assert names_given(looked_at("def f(eval): pass")) == {"f", "eval"}
    assert not [module for module in FILES if "eval" in names_given(nodes_of(module))]


def test_files_are_short():
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines())
               for module, path in (FILES | TESTS).items()}
    assert not {name: count for name, count in lengths.items() if count > MAX_LINES}
    assert lengths["distill.training.loop"] <= 300


def class_lengths(nodes: list[ast.AST]) -> dict[str, int]:
    """Name of a class, also inside functions: its lines."""
    return {node.name: node.end_lineno - node.lineno + 1 for node in nodes
            if isinstance(node, ast.ClassDef)}


def test_classes_are_short():
    assert class_lengths(looked_at("class A:\n    x = 1\n\n    class B:\n        y = 2\n")) == {
        "A": 5, "B": 2}
    lengths = {f"{module}.{name}": count for module in FILES
               for name, count in class_lengths(nodes_of(module)).items()}
    assert lengths["distill.data.teacher_store.store.TeacherStore"] > 100
    assert not {name: count for name, count in lengths.items() if count > MAX_CLASS_LINES}


def test_recipes_hold_no_code():
    assert not list((ROOT / "recipes").rglob("*.py"))


def test_no_package_files_under_tests():
    assert not list((ROOT / "tests").rglob("__init__.py"))
