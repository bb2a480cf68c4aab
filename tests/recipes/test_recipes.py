"""Everything in recipes/ is used: recipes load, README commands are right, launch files parse."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from distill import methods
from distill.data.hub_dataset import parse_options
from distill.data.manifest import read_manifest
from distill.whisper.data.corpus import load_clips
from distill.whisper.plan.plan import plan
from distill.whisper.plan.sizes import find_size, num_parameters
from distill.whisper.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"
NAMES = sorted(path.parent.name for path in RECIPES.glob("*/recipe.yaml"))
TEACHERS = sorted(RECIPES.glob("*/teachers/*.yaml"))
# demos bring their audio along, and own-sounds wants its user's
PUBLISHED = [name for name in NAMES if not name.startswith(("demo", "own"))
             and methods.read_method(RECIPES / name) == "whisper"]
LANGUAGE_MODELS = [name for name in NAMES
                   if methods.read_method(RECIPES / name) == "audio_llm"]
LAUNCH_FILES = sorted((RECIPES / "accelerate").glob("*.yaml"))


def section(name: str, title: str) -> str:
    """The shell commands of a section of a recipe's README."""
    text = (RECIPES / name / "README.md").read_text(encoding="utf-8")
    body = text.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return "\n".join(body.split("```")[1::2])


def commands(script: str) -> list[list[str]]:
    """What a shell would start, its loops run and its variables replaced."""
    stubs = "".join(f'{c}() {{ printf "%q " {c} "$@"; echo; }}; ' for c in RECORDED)
    ran = subprocess.run(
        ["bash", "-euc", stubs + script], capture_output=True, text=True, check=True
    )
    return [shlex.split(line) for line in ran.stdout.splitlines()]


RECORDED = ("python", "make", "accelerate")


@pytest.mark.parametrize("name", NAMES)
def test_recipe_loads_and_has_a_readme(name):
    recipe = methods.load_recipe(RECIPES / name, [])
    assert recipe.output_dir == f"runs/{name}"
    readme = (RECIPES / name / "README.md").read_text(encoding="utf-8")
    assert f"make {name}" in readme


def test_the_recipe_of_the_consistency_benchmark():
    """Its teacher and its scenes are what `make demo-tagger` leaves."""
    recipe = methods.load_recipe(RECIPES / "demo-tagger/consistency.yaml", [])
    demo = methods.load_recipe(RECIPES / "demo-tagger", [])
    assert [m.model for m in recipe.teacher.members] == [f"{demo.output_dir}/student"]
    assert recipe.data.test == demo.data.test and recipe.data.classes == demo.data.classes
    scenes = (RECIPES / "demo-tagger/scenes.yaml").read_text(encoding="utf-8")
    assert f"  {Path(recipe.data.train[0]).stem}:" in scenes


def test_missing_clips_that_a_recipe_makes_say_how(tmp_path):
    made = [path for name in ("scenes", "questions", "no_speech")
            for path in RECIPES.glob(f"*/{name}.yaml")]
    assert len(made) >= 4
    for path in made:
        folder = re.search(r"^output_dir: (\S+)$", path.read_text(encoding="utf-8"), re.M)[1]
        with pytest.raises(ValueError, match=f"; `make {path.parent.name}.plan` makes it$"):
            read_manifest(tmp_path / folder / "train.jsonl")


def test_the_demo_in_noise_learns_from_the_demos_labels_and_states():
    """And goes on where its student ended."""
    recipe = methods.load_recipe(RECIPES / "demo/noise.yaml", [])
    demo = methods.load_recipe(RECIPES / "demo", [])
    for section in ("teacher", "filter", "pseudo_label", "scores", "labels_dir"):
        assert getattr(recipe, section) == getattr(demo, section), section
    assert recipe.student.decoder_layers == demo.student.decoder_layers
    assert recipe.student.start == f"{demo.output_dir}/student"
    assert recipe.output_dir != demo.output_dir


def test_the_demo_of_two_layers():
    """It learns from the demo's clips and more, and is measured as the demo is."""
    recipe = load_recipe(RECIPES / "demo-two-layers", [])
    demo = load_recipe(RECIPES / "demo", [])
    assert recipe.student.decoder_layers == [0, 5] and recipe.output_dir != demo.output_dir
    for split in ("validation", "test"):
        (ours,), (theirs,) = (getattr(each.data, split) for each in (recipe, demo))
        assert Path(ours).samefile(theirs)
    assert Path(recipe.data.train[0]).samefile(demo.data.train[0]) and len(recipe.data.train) == 4
    assert recipe.teacher == demo.teacher and recipe.loss.common_tokens
    *embedded, read = recipe.data.train
    assert read.endswith("runs/demo-two-layers/read-aloud/read.jsonl")
    rows = load_clips(embedded)[0]
    assert len(rows) == len({row.id for row in rows}) == 1328


def test_the_recipe_whose_encoder_reads_prompts():
    """It is demo-prompted with another reader."""
    recipe = load_recipe(RECIPES / "demo-prompted/encoder.yaml", [])
    demo = load_recipe(RECIPES / "demo-prompted", [])
    assert recipe.student.prompt_reader.layers > 0
    assert (recipe.data.validation, recipe.data.test) == (demo.data.validation, demo.data.test)
    assert recipe.teacher == demo.teacher and recipe.output_dir == "runs/demo-prompted-encoder"
    plan_, words = plan(recipe), recipe.evaluation.prompts.words
    assert plan_["student"]["trained_parameters"] < 3e6 and words == demo.evaluation.prompts.words


@pytest.mark.parametrize("path", TEACHERS, ids=lambda path: str(path.relative_to(RECIPES)))
def test_teachers_are_where_their_recipe_expects_them(path):
    teacher = methods.load_recipe(path, [])
    recipe = methods.load_recipe(path.parents[1], [])
    models = [member.model for member in recipe.teacher.members]
    assert f"{teacher.output_dir}/student" in models
    assert teacher.output_dir == f"{recipe.output_dir}/teachers/{path.stem}"


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipe(name):
    recipe = load_recipe(RECIPES / name, [])
    assert recipe.data.expected_hours > 0
    assert recipe.data.validation and recipe.data.test
    readme = (RECIPES / name / "README.md").read_text(encoding="utf-8")
    assert "**Source.**" in readme and "**Not run by us.**" in readme


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_language_models_are_planned(name):
    """Their README has the plan's sizes; what is published was not run."""
    recipe = methods.load_recipe(RECIPES / name, [])
    plan = methods.describe_plan(recipe)
    readme = (RECIPES / name / "README.md").read_text(encoding="utf-8")
    sizes = re.findall(r"([\d,]{7,}) parameters", plan)
    assert len(sizes) == 2 and all(size in readme for size in sizes), sizes
    for stage in recipe.stages:
        assert stage.name in plan and stage.name in readme
    if not name.startswith("demo"):
        assert "**Source.**" in readme and "**Not run by us.**" in readme


@pytest.mark.parametrize("name", PUBLISHED)
def test_cost_of_the_teacher_is_the_plans(name):
    """With a store and without; no recipe wants a disk that nobody has."""
    def planned(mode: str) -> dict:
        recipe = load_recipe(RECIPES / name, [f"teacher.mode={mode}", "output_dir=none"])
        if not recipe.teacher.model.startswith("openai/"):
            recipe.teacher.model = "openai/whisper-small"  # which this one was made of
        return plan(recipe)

    live, store = planned("live"), planned("store")
    total = store["store"]["total"] / 1e9
    assert total < 1000
    readme = (RECIPES / name / "README.md").read_text(encoding="utf-8")
    assert f"{total:.0f} GB" in readme or f"{total:.1f} GB" in readme
    for result in (live, store):
        seconds = result["time"]["seconds"]["train"]["gpu"]
        long = seconds > 7200
        number = f"{seconds / (3600 if long else 60):.0f}"
        assert re.search(rf"\b{number}{' h' if long else ''}\b", readme), number


@pytest.mark.parametrize("name", PUBLISHED)
def test_data_commands_make_every_manifest(name):
    made = set()
    for words in commands(section(name, "Data")):
        assert words[:3] == ["python", "-m", "distill.data.hub_dataset"], words
        options = parse_options(words[5:])
        made.add((ROOT / words[4] / f"{options.manifest}.jsonl").resolve())
        assert options.language, "rows of a manifest say their language"
    data = load_recipe(RECIPES / name, []).data
    wanted = {Path(path).resolve() for path in data.train + data.validation + data.test}
    assert wanted <= made, f"no command makes {sorted(map(str, wanted - made))}"


@pytest.mark.parametrize("name", PUBLISHED)
def test_run_commands(name):
    ran = commands(section(name, "Run"))
    targets = [words[1] for words in ran if words[0] == "make"]
    assert targets == [f"{name}.{step}" for step in ("plan", "label", "train", "eval")]
    (launch,) = [words for words in ran if words[0] == "accelerate"]
    at = launch.index("distill.train")
    assert load_recipe(ROOT / launch[at + 1], launch[at + 2 :])  # its overrides are accepted
    if "--config_file" in launch:
        assert (ROOT / launch[launch.index("--config_file") + 1]) in LAUNCH_FILES


def test_the_list_is_complete():
    table = (RECIPES / "README.md").read_text(encoding="utf-8")
    rows = {line.split("](")[0].strip("| ["): line for line in table.splitlines() if "](" in line}
    assert set(rows) >= set(NAMES)
    assert not list(RECIPES.rglob("*.py")), "recipes are data only"
    for name in PUBLISHED:
        recipe = load_recipe(RECIPES / name, [])
        if recipe.teacher.model.startswith("openai/"):
            size = find_size(recipe.teacher.model)
            count = num_parameters(size, None, recipe.student.decoder_layers)
            assert f"{count / 1e6:.0f} M" in rows[name]


def test_there_are_launch_files():
    names = {path.stem for path in LAUNCH_FILES}
    assert names == {"ddp", "fsdp", "deepspeed_zero2", "deepspeed_zero3", "cpu2"}


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.stem)
def test_launch_file(path):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    config = load_config_from_file(str(path))  # refuses unknown keys, but only at the top level
    known = vars(launch_command_parser().parse_args(["script.py"]))
    for key in (*config.fsdp_config, *config.deepspeed_config):
        assert key in known, f"accelerate launch does not know {key}"
    assert config.mixed_precision == "no", "the recipe decides"
    # The loop accumulates by itself.
    assert config.deepspeed_config.get("gradient_accumulation_steps", 1) == 1
    # MULTI_CPU starts one process, whatever num_processes says.
    assert config.distributed_type != "MULTI_CPU" and config.num_processes >= 2


def test_sharded_launch_files():
    from accelerate.commands.config.config_args import load_config_from_file
    from transformers.models.whisper.modeling_whisper import WhisperPreTrainedModel

    fsdp = load_config_from_file(str(RECIPES / "accelerate/fsdp.yaml")).fsdp_config
    assert fsdp["fsdp_version"] == 2
    wrapped = fsdp["fsdp_transformer_layer_cls_to_wrap"].split(",")
    assert sorted(wrapped) == sorted(WhisperPreTrainedModel._no_split_modules)
    for stage in (2, 3):
        zero = load_config_from_file(str(RECIPES / f"accelerate/deepspeed_zero{stage}.yaml"))
        assert zero.deepspeed_config["zero_stage"] == stage
        assert "gradient_clipping" not in zero.deepspeed_config, "the recipe says it"
