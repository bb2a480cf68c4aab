"""`audio-distill COMMAND`: the same commands under short names, for those without a clone."""

import ast
import importlib.metadata
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distill.cli import forked, stages
from distill.cli import main as cli
from distill.cli.calling import reworded, source_of
from distill.cli.commands import COMMANDS
from distill.cli.completion import script
from distill.cli.main import help_of
from distill.cli.stages import Launch, take_launch_options

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "datasets", "accelerate")


@pytest.fixture
def called(monkeypatch):
    """Calls of modules; what `answer` holds is returned or raised."""
    found, answer = [], [None]

    class Module:
        def __init__(self, name):
            self.name = name

        def main(self, arguments):
            found.append((self.name, arguments, sys.argv[0]))
            if isinstance(answer[0], BaseException):
                raise answer[0]
            return answer[0]

    monkeypatch.setattr(cli.importlib, "import_module", Module)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    found.append(answer)
    return found


@pytest.fixture
def processes(monkeypatch):
    """Processes that would be started: (their words, environment); one that ends with "bad=1"
    fails."""
    found = []

    def wait(command, environment=None):
        found.append((command[1:], environment))
        return 3 if command[-1] == "bad=1" else 0

    monkeypatch.setattr(stages, "wait_for", wait)
    return found


def test_every_command_is_a_module_with_the_same_main():
    for name, command in COMMANDS.items():
        tree = ast.parse(Path(source_of(command)).read_text())
        (main,) = [node for node in tree.body
                   if isinstance(node, ast.FunctionDef) and node.name == "main"]
        assert [each.arg for each in main.args.args] == ["arguments"], name
        ends = [node for node in ast.walk(tree) if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name) and node.func.id in ("run", "run_command")]
        assert ends or name == "run", f"{name}: errors end in a sentence, see distill.endings"


def test_help_imports_nothing_large_and_speaks_of_audio_distill():
    code = ("import sys\nfrom distill.cli.main import COMMANDS, _main\n"
            "_main([])\n_main(['--version'])\n_main(['completion', 'zsh'])\n"
            "for name in COMMANDS: print(f'== {name}'); _main([name, '--help'])\n"
            f"assert not set({HEAVY}) & set(sys.modules), sorted(sys.modules)")
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    usage, *helps = ran.stdout.split("\n== ")
    assert len(helps) == len(COMMANDS)
    for name, text in zip(COMMANDS, helps, strict=True):
        assert re.search(rf"^    {name} +\w", usage, re.MULTILINE)
        assert f"audio-distill {name}" in text and text.startswith(name), name
        for left in re.findall(r"(?:python|launch) -m ([\w.]+)", text):
            assert left not in {command.module for command in COMMANDS.values()}, (name, left)
        assert ("--num-processes" in text) == (
            COMMANDS[name].is_distributed or name in ("run", "family"))


@pytest.mark.parametrize(("answer", "code", "told"), [
    (None, None, ""), (0, None, ""), (3, 3, ""),
    (ValueError("run `make NAME.label` again"), 1, "error: run `audio-distill label NAME` again"),
    (SystemExit("error: see `python -m eval.tag`"), 1, "error: see `audio-distill tag`"),
    (SystemExit(2), 2, ""), (KeyboardInterrupt(), 130, "Stopped."),
    (OSError(28, "No space left on device", "/x/y"), 2, "cannot write to /x"),
])
def test_codes_and_sentences_are_handed_on(called, answer, code, told, capsys):
    called[0][0] = answer
    try:
        cli.main(["tag", "a.wav", "--model", "m"])
        found = None
    except SystemExit as end:
        found = end.code
    said = capsys.readouterr().err
    if isinstance(found, str):  # Python prints it and ends with 1
        said, found = found, 1
    assert found == code and told in said
    assert called[1:] == [("eval.tag", ["a.wav", "--model", "m"], "audio-distill tag")]


def test_which_module_is_called(called):
    for words, module in (
            (["eval", "demo"], "eval.__main__"), (["label", "x", "a=b"], "pseudo_label.__main__"),
            (["store", "stats", "x"], "distill.data.teacher_store.__main__"),
            (["recipes"], "distill.cli.recipes"), (["transcribe"], "eval.transcribe")):
        cli.main(words)
        assert called[-1][:2] == (module, words[1:])


@pytest.mark.parametrize(("words", "told"), [
    (["trian", "demo"], "no command 'trian'; did you mean train?"),
    (["transcibe"], "did you mean transcribe?"), (["push_labels"], "did you mean push-labels?"),
    (["qqq"], "`audio-distill --help` lists them"), (["help", "trian"], "did you mean train?"),
    (["completion", "tcsh"], "completion bash|zsh|fish, got tcsh"),
    (["recipes", "demo"], "takes no arguments, got demo"),
    (["label", "demo", "--num-processes", "two"], "must be a number above 0, got 'two'"),
    (["label", "demo", "--num-processes"], "--num-processes needs a value"),
    (["train", "demo", "--accelerate-config=ddp"], "needs --num-processes, too"),
    (["train", "demo", "--num-processes=2", "--accelerate-config=dpd"],
     "must be a file or one of: cpu2, ddp, deepspeed_zero2, deepspeed_zero3, fsdp; "
     "got 'dpd'"),
    (["scores", "--num-processes=2"], "expected a recipe"),
    (["plan", "dmo"], "no recipe 'dmo'; did you mean demo?"),
    (["run", "dmo"], "no recipe 'dmo'; did you mean demo?"),
])
def test_what_cannot_be_run_is_told_in_a_sentence(words, told, processes):
    with pytest.raises(SystemExit, match="^error: ") as error:
        cli.main(words)
    assert told in str(error.value) and not processes


def test_sentences_are_reworded():
    for text, wanted in (
            ("`make demo.train` first", "`audio-distill train demo` first"),
            ('`make NAME.push SET="hub.repo_id=you/x hub.private=false"`',
             "`audio-distill push NAME hub.repo_id=you/x hub.private=false`"),
            ("make distil-small.en.push_labels", "audio-distill push-labels distil-small.en"),
            ("`make NAME.teachers` does it", "`audio-distill run NAME` does it"),
            ("make NAME.clean", "make NAME.clean"), ("make demo", "make demo"),
            ("python -m distill.hub X", "audio-distill push X"),
            ("python -m pseudo_label.tag_scores X", "audio-distill scores X"),
            ("python -m pseudo_label.nothing X", "python -m pseudo_label.nothing X"),
            ("python -m eval X", "audio-distill eval X"),
            ("python -m eval.benchmark.tag X", "python -m eval.benchmark.tag X"),
            ("accelerate launch -m pseudo_label X", "audio-distill label --num-processes N X")):
        assert reworded(text) == wanted


def test_launch_options():
    for words, left, options in (
            (["demo", "a=1"], ["demo", "a=1"], None),
            (["demo", "--num-processes", "8", "a=1"], ["demo", "a=1"], Launch(8, None)),
            (["--num-processes=2", "demo", "--accelerate-config", "fsdp"], ["demo"],
             Launch(2, "fsdp")),
            (["demo", "--num-processes=1"], ["demo"], None),
            (["demo", "--num-processes=1", "--accelerate-config=my.yaml"], ["demo"],
             Launch(1, "my.yaml"))):
        assert take_launch_options(words) == (left, options)


def test_all_steps_of_a_recipe(processes, monkeypatch, tmp_path, capsys):
    """As `make demo-tagger NGPU=2` has them, the recipe found wherever the package is."""
    monkeypatch.chdir(tmp_path)
    assert stages.main(["demo-tagger", "--num-processes=2", "seed=1"]) == 0
    found = [words for words, _ in processes]
    assert all(words[:2] == ["-m", "distill"] for words in found)
    several = "--num-processes=2"
    assert [words[2:] for words in found] == [
        ["plan", "demo-tagger", "seed=1"],
        ["train", "demo-tagger/teachers/mini.yaml", several],
        ["train", "demo-tagger/teachers/whisper.yaml", several],
        ["label", "demo-tagger", "seed=1", several],
        ["train", "demo-tagger", "seed=1", several], ["eval", "demo-tagger", "seed=1"]]
    assert "== demo-tagger: label" in capsys.readouterr().out
    processes.clear()
    path = str(ROOT / "recipes" / "demo")
    assert stages.main([path, "bad=1"]) == 3 and [w[2:] for w, _ in processes] == [
        ["plan", path, "bad=1"]]


def test_what_comes_before(processes, called, monkeypatch, tmp_path):
    """A plan needs scenes to count and a student scores, as in the Makefile."""
    monkeypatch.chdir(tmp_path)
    for words, before in (
            (["plan", "demo"], []), (["train", "demo", "seed=1"], [["scores", "demo", "seed=1"]]),
            (["plan", "demo-tagger"], [["scenes", "demo-tagger/scenes.yaml"]]),
            (["plan", "demo-listen"], [["scenes", "demo-listen/scenes.yaml"],
                                       ["questions", "demo-listen/questions.yaml"]]),
            (["plan", "demo-llm"], [["no-speech", "demo-llm/no_speech.yaml"]]),
            (["plan", "demo-two-layers"], [["read-aloud", "demo-two-layers/read_aloud.yaml"]]),
            (["plan", str(ROOT / "recipes/demo-tagger/recipe.yaml")],
             [["scenes", str(ROOT / "recipes/demo-tagger/scenes.yaml")]])):
        processes.clear()
        cli.main(words)
        assert [found[2:] for found, _ in processes] == before
        assert called[-1][1] == words[1:]
    count = len(called)
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "demo", "bad=1"])
    assert end.value.code == 3 and len(called) == count


@pytest.mark.skipif(not forked.can_fork(), reason="its steps are new processes")
def test_one_process_imports_once(processes, monkeypatch, capsys):
    """Steps are copies of it, and scores, which labelling made, are not looked for again."""
    copies = []

    def copy(name, arguments):
        copies.append([name, *arguments])
        return 3 if len(copies) == 3 else 0

    monkeypatch.setattr(stages, "call_forked", copy)
    monkeypatch.setattr(stages, "import_shared", lambda: copies.append("import"))
    assert stages.main(["demo", "seed=1"]) == 3
    assert [words[2:] for words, _ in processes] == [["plan", "demo", "seed=1"]]
    assert copies == ["import", ["label", "demo", "seed=1"], ["train", "demo", "seed=1"]]
    copies.clear()
    assert stages.main(["demo-tagger"]) == 3
    assert copies[1:] == [[name, "demo-tagger/teachers/mini.yaml"] for name in ("scores", "train")]
    assert "== demo-tagger/teachers/mini.yaml: train" in capsys.readouterr().out


@pytest.mark.skipif(not forked.can_fork(), reason="its steps are new processes")
def test_copies_end_as_processes(monkeypatch, capfd):
    def fail(sentence):
        raise ValueError(sentence)

    ends = {"seven": lambda: 7, "nothing": lambda: None, "wrong": lambda: fail("python -m eval"),
            "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
            "stopped": lambda: (os.kill(os.getppid(), signal.SIGTERM), time.sleep(60))}
    monkeypatch.setattr(forked, "call_here", lambda name, arguments: ends[name]())
    for name, code in (("seven", 7), ("nothing", 0), ("wrong", 1), ("killed", 137),
                       ("stopped", 130)):
        assert forked.call_forked(name, []) == code, name
    told = capfd.readouterr().err
    assert "error: audio-distill eval" in told and "the same command goes on" in told


def test_several_processes(processes, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "mine.yaml"
    mine.write_text("use_cpu: false\n")
    for words, config, modules in (
            (["label", "demo", "--num-processes", "8", "--accelerate-config", "ddp"], "ddp",
             ["pseudo_label", "pseudo_label.translate", "pseudo_label.scores"]),
            (["train", "demo", "--num-processes", "2", "--accelerate-config", "cpu2"], "cpu2",
             ["pseudo_label.scores", "distill.train"]),
            (["scores", "demo", "--num-processes", "2", f"--accelerate-config={mine}"], "mine",
             ["pseudo_label.scores"])):
        processes.clear()
        cli.main(words)
        for (found, environment), module in zip(processes, modules, strict=True):
            assert found[:3] == ["-m", "accelerate.commands.launch", "--config_file"]
            assert Path(found[3]).stem == config and Path(found[3]).is_file()
            assert found[4:] == ["--num_processes", words[3], "-m", module, "demo"]
            assert environment.get("ACCELERATE_USE_CPU") == ("true" if config == "cpu2" else None)
    processes.clear()
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "demo", "--num-processes=2", "--accelerate-config=cpu2", "bad=1"])
    assert end.value.code == 3 and len(processes) == 1


def test_processes_end_as_in_a_shell(monkeypatch, tmp_path):
    """SIGTERM is handed on; whoever gets it says how far it got."""
    wait = stages.wait_for
    assert wait([sys.executable, "-c", "raise SystemExit(7)"]) == 7
    assert wait([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == 137
    code = ("import os, signal, sys\n"
            "signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))\n"
            f"os.kill({os.getpid()}, signal.SIGTERM)\nsignal.pause()")
    before = signal.getsignal(signal.SIGTERM)
    assert wait([sys.executable, "-c", code]) == 130
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # no terminal that tells the whole group
    code = code.replace(f"os.kill({os.getpid()}, signal.SIGTERM)",
                        f"os.kill({os.getpid()}, signal.SIGINT)").replace("SIGTERM,", "SIGINT,")
    assert wait([sys.executable, "-c", code]) == 130


def test_completion():
    about = {name: command.about for name, command in COMMANDS.items()}
    bash = script(about, ["bash"])
    asked = "".join(
        f'\nCOMP_WORDS=(audio-distill {words}); COMP_CWORD={at}; _audio_distill; '
        'echo "${COMPREPLY[@]}"' for words, at in (("tra", 1), ("plan demo-", 2)))
    ran = subprocess.run(["bash", "-uc", bash + asked], cwd=ROOT, capture_output=True, text=True)
    recipes = "demo-hears demo-listen demo-llm demo-prompted demo-tagger demo-two-layers"
    assert ran.stdout.splitlines() == ["translate train transcribe", recipes], ran.stderr
    for shell in ("zsh", "fish"):
        text = script(about, [shell])
        assert all(name in text for name in COMMANDS) and "demo-tagger" in text
        assert text.count("'") % 2 == 0


def test_version_is_that_of_the_package(capsys, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"of {name}: 1.2.3")
    cli.main(["--version"])
    assert capsys.readouterr().out == "audio-distill of audio-distill: 1.2.3\n"


def test_recipes_are_listed(capsys, monkeypatch, tmp_path):
    (tmp_path / "recipes" / "mine").mkdir(parents=True)
    (tmp_path / "recipes" / "mine" / "recipe.yaml").write_text("# Ours.\nmethod: whisper\n")
    monkeypatch.chdir(tmp_path)
    cli.main(["recipes"])
    found = capsys.readouterr().out
    assert "mine\n    recipes/mine\n    Ours.\n" in found and f"demo\n    {ROOT}" in found
    assert "audio-distill recipes" in help_of("recipes")
