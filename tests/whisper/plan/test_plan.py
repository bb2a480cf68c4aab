"""What would run, by arithmetic: against hand counts, real models and the recipes."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from distill.config import read_method
from distill.data.files import write_json
from distill.data.manifest import Row, write_manifest
from distill.methods import load_recipe
from distill.whisper.plan import cost
from distill.whisper.plan.plan import FILL, plan
from distill.whisper.plan.plan_text import describe
from distill.whisper.plan.sizes import find_size
from distill.whisper.plan.window_plan import cut_long

ROOT = Path(__file__).resolve().parents[3]
NAMES = sorted(path.parent.name for path in (ROOT / "recipes").glob("*/recipe.yaml")
               if read_method(path) == "whisper")
READS = ["student.prompt_reader.layers=2", "student.prompt_reader.model=some/model",
         "views.prompts.probability=1", "views.previous_text_probability=0",
         "scores.encoder_states=none"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    from distill.testing import write_tiny_recipe

    return write_tiny_recipe(tmp_path_factory.mktemp("tiny"))


def plan_of(recipe: Path, *overrides: str) -> dict:
    return plan(load_recipe(str(recipe), list(overrides)))


def manifest(path: Path, *clips: tuple[float, str]) -> str:
    """Clips of (seconds, speaker); nobody reads their audio."""
    rows = [Row(f"c{i}", f"{i}.wav", seconds, text="word", speaker=speaker)
            for i, (seconds, speaker) in enumerate(clips)]
    write_manifest(path, rows)
    return str(path)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe(name, tmp_path):
    result = plan_of(ROOT / "recipes" / name, f"output_dir={tmp_path}",
                     f"labels_dir={tmp_path / 'labels'}")
    json.dumps(result)
    train, steps = result["data"]["train"], result["training"]
    assert train["windows"] > 0
    assert math.isclose(steps["epochs"] * train["windows"], steps["views"])
    # updates by tokens have a number of views that is not whole, and shown rounded
    assert math.isclose(steps["views"], steps["steps"] * steps["batch_size"],
                        rel_tol=0.5 / steps["batch_size"])
    text = describe(result)
    if train["missing"]:
        assert "(an estimate)" in text
        for path in train["missing"]:
            path = Path(path)
            made = (f"make {name}.plan" if "runs" in path.parts else
                    f"distill.data.hub_dataset SOURCE data/{path.parent.name} name={path.stem}")
            assert made in text
    if result["time"] is None:
        assert result["disk"] is None and "unknown architecture" in text
    else:
        assert all(s["cpu"] > s["gpu"] > 0 for s in result["time"]["seconds"].values() if s["gpu"])
        assert "Assumed: " in text and "1 x 80 GB GPU" in text


def test_estimate_from_hours(tmp_path):
    data = plan_of(ROOT / "recipes/distil-large-v3", f"output_dir={tmp_path}")["data"]
    assert data["train"]["windows"] == math.ceil(15360 * 3600 / 30 / FILL["sequential"])
    assert data["train"]["fill"] == pytest.approx(0.78, abs=1e-4)
    assert data["train"]["clips"] is None and data["test"]["windows"] is None


def test_demo_is_counted(tmp_path):
    recipe = load_recipe(str(ROOT / "recipes/demo"), [f"output_dir={tmp_path}"])
    result = plan(recipe)
    for split, data in result["data"].items():
        lines = (ROOT / f"recipes/demo/data/{split}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        # three packings, and every clip by itself
        packings = recipe.pseudo_label.num_packings + 1 if split == "train" else 1
        seconds = sum(row["duration"] for row in rows)
        assert data["clips"] == len(rows) and not data["missing"]
        assert data["hours"] == pytest.approx(seconds / 3600)
        assert data["fill"] == pytest.approx(seconds * packings / (30 * data["windows"]))
        assert 0.7 < data["fill"] <= 1 or split == "train"
        assert data["long_clips"] == sum(row["duration"] > 30 for row in rows)
    assert result["student"]["parameters"] == 72_593_920 - 2 * 4_203_008  # layers of whisper-base
    assert all(seconds["cpu"] > 0 for seconds in result["time"]["seconds"].values())


def test_windows_counted_by_hand(tiny, tmp_path):
    clips = [(10, "a"), (10, "a"), (9, "a"), (5, "a"), (20, "b"), (11, "b"), (40, "c")]
    train = manifest(tmp_path / "train.jsonl", *clips)
    result = plan_of(tiny, f"data.train=[{train}]", f"output_dir={tmp_path / 'run'}")
    # 10 + 10 + 9 | 5 | 20 | 11 | and 40 s in two
    assert result["data"]["train"]["windows"] == 6
    assert result["data"]["train"]["fill"] == pytest.approx(105 / 180)
    assert result["data"]["train"]["long_clips"] == 1
    assert result["training"]["views"] == 6 * 4
    assert result["training"]["epochs"] == 4.0
    assert result["done"]["num_shards"] == 3  # of two windows
    assert "1 clip longer than a window" in describe(result)
    packed = plan_of(
        tiny, f"data.train=[{train}]", f"output_dir={tmp_path / 'run'}",
        "scores.encoder_states=memory", "pseudo_label.packing=best_fit",
        "pseudo_label.num_packings=3", "views.previous_text_probability=0",
    )
    # c takes two windows again, b needs two, a has 34 s: two
    assert packed["data"]["train"]["windows"] == 18
    assert packed["memory"]["encoder_states"] == 18 * 1500 * 32 * 2
    # with and without timestamps, half of the time each, in 24 / 18 epochs
    drawn = 2 * (1 - 0.5 ** (24 / 18))
    assert packed["training"]["distinct_views"] == round(18 * drawn) == 22


def test_short_audio_counted_by_hand(tiny, tmp_path):
    """2 and 5 s with a margin of 1 s: 150 and 300 positions of 1,500; each clip is a window."""
    train = manifest(tmp_path / "train.jsonl", (2, "a"), (5, "a"), (2, "b"), (5, "b"))
    common = (f"data.train=[{train}]", f"output_dir={tmp_path / 'run'}",
              "pseudo_label.packing=none", "views.previous_text_probability=0")
    padded = plan_of(tiny, *common)
    short = plan_of(tiny, *common, "teacher.short_audio_margin=1")
    assert short["data"]["train"]["windows"] == 4
    assert [each["data"]["train"]["positions"] for each in (padded, short)] == [1500, 225]
    states = "encoder states, float16 or bfloat16"
    assert chosen(short)[states] == (2 * 150 + 2 * 300) * 32 * 2
    assert chosen(padded)[states] == 4 * 1500 * 32 * 2
    for stage, least in (("label", 5), ("score", 1.5), ("train", 1.0), ("eval", 1.0)):
        slow, fast = (each["time"]["seconds"][stage]["cpu"] for each in (padded, short))
        assert slow > least * fast, stage
    size, tokens = find_size(short["teacher"]["model"]), 4 * 3.5  # 4 a second of 3.5 s in the mean
    work = 4 * (cost.encoder_flops(size, positions=225)
                + cost.cross_attention_flops(size, positions=225)
                + cost.token_flops(size, tokens, positions=225) / 0.5)  # at half of the speed
    assumed, label = (short["time"][key] for key in ("assumed", "seconds"))
    assert label["label"]["cpu"] == pytest.approx(
        work / (assumed["cores"] * assumed["core_flops"]))
    kept = 2 * 2 * 750 + 1500  # keys and values of two layers, and states
    assert short["memory"]["silence"] == {"float32": kept * 32 * 4, "float16": kept * 32 * 2}
    assert "576 kB in float32, 288 kB in float16 for silence" in describe(short)
    assert not padded["memory"]["silence"]["float32"] and "silence" not in describe(padded)
    memory = plan_of(tiny, *common, "teacher.short_audio_margin=1", "scores.encoder_states=memory")
    assert memory["memory"]["encoder_states"] == 4 * 225 * 32 * 2
    own = [plan_of(tiny, *common, margin, "student.freeze_encoder=false",
                   "scores.encoder_states=none")["time"]["seconds"]["train"]["cpu"]
           for margin in ("teacher.short_audio_margin=1", "teacher.short_audio_margin=null")]
    assert own[0] == own[1], "an encoder that is trained pads its clips"


# The teacher store

def chosen(result: dict) -> dict[str, int]:
    """Bytes in all of what a recipe's store holds."""
    return {c["name"]: c["total"] for c in result["store"]["choices"] if c["chosen"]}


def test_store_counted_by_hand(tiny, tmp_path):
    train = manifest(tmp_path / "train.jsonl", *[(15, str(i)) for i in range(10)])
    common = (f"data.train=[{train}]", f"output_dir={tmp_path / 'run'}")
    result = plan_of(tiny, *common)
    # 10 windows of 15 s and 60 tokens in 2.4 epochs; four kinds of views, equally likely
    views = round(10 * 4 * (1 - 0.75**2.4))
    assert views == 20
    row = 64 * (2 + 2) + 2 * 4  # ids and logits, the mass of the rest at two temperatures
    state = 1500 * 32 * 2  # of width 32
    assert chosen(result) == {"scores, k = 64": views * 60 * row,
                              "encoder states, float16 or bfloat16": 10 * state}
    assert result["store"]["total"] == sum(chosen(result).values())
    by_name = {c["name"]: c for c in result["store"]["choices"]}
    hours = 15 / 3600
    assert by_name["scores, k = 64"]["bytes_per_hour"] == pytest.approx(60 * row / hours, abs=1)
    assert by_name["scores, k = 16"]["total"] == views * 60 * (16 * 4 + 8)
    int8 = by_name["encoder states, int8"]
    assert int8["total"] == 10 * (state // 2 + 1500 * 4)  # a scale a frame
    assert int8["bytes_per_hour"] == pytest.approx(int8["total"] / 10 / hours, abs=1)
    text = describe(result)
    assert "Teacher store, 20 views: " in text and "* scores, k = 64" in text
    for choice in result["store"]["choices"]:
        assert choice["name"] in text

    live = plan_of(tiny, *common, "teacher.mode=live")
    assert not chosen(live) and live["store"]["total"] == 0
    assert "not used (teacher.mode=live)" in describe(live)
    assert live["memory"]["models"] > result["memory"]["models"], "the teacher stays in memory"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["scores.k=40", "scores.method=top_k"],
         {"scores, k = 40", "encoder states, float16 or bfloat16"}),
        (["scores.encoder_states=none"], {"scores, k = 64"}),
        (["scores.encoder_states=memory"], {"scores, k = 64"}),
        (["scores.encoder_states_dtype=int8"], {"scores, k = 64", "encoder states, int8"}),
        (["scores.method=decoder_state", "scores.encoder_states=none"],
         {"last decoder state (exact KL)"}),
        (["loss.kl_weight=0", "loss.hidden_weight=1", "scores.encoder_states=none"],
         {"all matched decoder states"}),
        (["loss.kl_weight=0", "scores.encoder_states=none"], set()),
    ],
)
def test_what_a_store_holds(tiny, tmp_path, overrides, expected):
    result = plan_of(tiny, f"output_dir={tmp_path}", *overrides)
    assert set(chosen(result)) == expected
    assert result["store"]["total"] == sum(chosen(result).values())


LOOSE = ("pseudo_label.packing=none", "views.previous_text_probability=0",
         "teacher.short_audio_margin=0.5", "train.max_steps=3")


@pytest.mark.parametrize("more", [(), LOOSE], ids=["packed", "short audio"])
def test_the_store_is_as_large_as_planned(tiny, tmp_path, more):
    """The plan's tokens are a guess, all else is the store's own arithmetic."""
    from distill.data.teacher_store import TeacherStore
    from pseudo_label.__main__ import main

    options = [f"output_dir={tmp_path}", "train.max_steps=2", *more]
    main([str(tiny), *options])
    planned = chosen(plan_of(tiny, *options))
    folder = tmp_path / "pseudo_labels" / "scores"
    states, tokens = TeacherStore(folder / "encoder_states"), TeacherStore(folder / "tokens")

    def size(store) -> int:  # without the headers of small shards
        return sum(a.nbytes for row in store.all_rows() for a in store.read(row).values())

    assert size(states) == planned["encoder states, float16 or bfloat16"]
    assert size(tokens) == tokens.num_rows * (64 * 4 + 8)


def test_augmented_views_are_all_different(tiny, tmp_path):
    plain = plan_of(tiny, f"output_dir={tmp_path}", "train.max_steps=50")
    augmented = plan_of(tiny, f"output_dir={tmp_path}", "train.max_steps=50",
                        "views.augment.probability=1")
    assert plain["training"]["distinct_views"] < 200
    assert augmented["training"]["distinct_views"] == augmented["store"]["views"] == 200
    states = "encoder states, float16 or bfloat16"
    assert chosen(augmented)[states] == 200 * 1500 * 32 * 2
    assert chosen(plain)[states] == plain["training"]["windows"] * 1500 * 32 * 2
    seconds = [p["time"]["seconds"]["score"]["cpu"] for p in (plain, augmented)]
    assert seconds[0] < seconds[1], "sound that was changed is encoded again"
    clean = plan_of(tiny, f"output_dir={tmp_path}", "train.max_steps=50",
                    "views.augment.probability=1", "views.teacher_hears=clean")
    assert clean["training"]["scored_views"] == plain["training"]["scored_views"]
    assert clean["time"]["seconds"]["score"]["cpu"] == seconds[0], "a label is scored once"
    assert chosen(clean)[states] == chosen(augmented)[states]


def test_steps_of_so_many_tokens(tiny, tmp_path):
    train = manifest(tmp_path / "train.jsonl", *[(15, str(i)) for i in range(10)])
    result = plan_of(tiny, f"data.train=[{train}]", f"output_dir={tmp_path / 'run'}",
                     "train.batch_tokens=600", "train.micro_batch_tokens=240")
    assert result["training"]["batch_size"] == 10  # 60 tokens each
    assert result["training"]["views"] == 6 * 10
    assert result["training"]["micro_batches_per_step"] == 2  # rounded: 10 of 4


def test_same_windows_as_labelling_and_evaluation(tiny, tmp_path):
    from distill.whisper.data.corpus import evaluation_utterances, load_clips
    from pseudo_label.plan import make_plan

    recipe = load_recipe(str(tiny), [f"output_dir={tmp_path}"])
    data = plan(recipe)["data"]
    assert data["train"]["windows"] == make_plan(recipe).num_windows
    recipe.pseudo_label.packing = "none"
    data = plan(recipe)["data"]["train"]
    assert data["windows"] == data["clips"] == make_plan(recipe).num_windows
    for packed in (True, False):
        recipe.evaluation.pack = packed
        utterances, _ = evaluation_utterances(load_clips(recipe.data.test)[0], "test", packed)
        windows = sum(len(utterance.windows) for utterance in utterances)
        assert plan(recipe)["data"]["test"]["windows"] == windows


def test_long_clips_in_even_parts():
    rows = [Row(str(seconds), "a.wav", seconds) for seconds in (30.0, 31.0, 80.0)]
    parts = cut_long(rows, 30)
    assert [part.duration for part in parts] == [30.0, 15.5, 15.5, 20.0, 20.0, 20.0, 20.0]


@pytest.mark.parametrize(
    "overrides",
    [[], ["student.freeze_encoder=false", "student.encoder_layers=1",
          "scores.encoder_states=none"],
     ["student.freeze_embeddings=true", "student.freeze_positions=false"],
     ["student.decoder_layers=[0,2,-1]"],
     READS, [*READS, "student.prompt_reader.train_decoder=true"]],
)
def test_parameters_are_those_of_the_student(tiny, tmp_path, overrides):
    from transformers import WhisperForConditionalGeneration

    from distill.whisper.data.layers import choose_layers
    from distill.whisper.encoder.prompt_reader import PromptReader
    from distill.whisper.student import freeze, make_student

    recipe = load_recipe(str(tiny), [f"output_dir={tmp_path}", *overrides])
    result = plan(recipe)
    teacher = WhisperForConditionalGeneration.from_pretrained(recipe.teacher.model)
    config = recipe.student
    student = make_student(
        teacher, choose_layers(config.decoder_layers, 4, ""),
        choose_layers(config.encoder_layers, 2, ""),
    )
    freeze(student, config.freeze_encoder, config.freeze_embeddings, config.freeze_positions)
    if config.prompt_reader.layers:
        if not config.prompt_reader.train_decoder:
            student.requires_grad_(False)
        student.prompt_reader = PromptReader(2, 2, 32, 32)  # the model's name is not known
    counts = [p.numel() for p in student.parameters()]
    trained = [p.numel() for p in student.parameters() if p.requires_grad]
    assert result["student"]["parameters"] == sum(counts)
    assert result["student"]["trained_parameters"] == sum(trained)
    assert result["teacher"]["parameters"] == sum(p.numel() for p in teacher.parameters())
    student.save_pretrained(tmp_path / "student")
    on_disk = (tmp_path / "student/model.safetensors").stat().st_size
    assert result["disk"]["student"] == pytest.approx(on_disk, rel=0.03)  # names take the rest
    each = 4 * sum(counts) + 8 * sum(trained)
    assert result["disk"]["checkpoint"] == each and result["disk"]["checkpoints"] == 3 * each


def test_operations_of_whisper_base():
    size = find_size("openai/whisper-base")
    d, frames = 512, 1500
    layer = 2 * frames * (4 * d * d + 2 * d * 4 * d) + 4 * frames * frames * d
    convolutions = 2 * 3 * 80 * d * 3000 + 2 * 3 * d * d * frames
    assert cost.encoder_flops(size) == convolutions + 6 * layer
    # one token: all weights of the decoder's layers and the output layer, twice
    weights = 6 * (6 * d * d + 2 * d * 2048) + 51_865 * d
    attention = 6 * 4 * 1500.5 * d
    assert cost.token_flops(size, 1) == 2 * weights + attention
    without = 2 * (weights - 51_865 * d) + attention
    assert cost.token_flops(size, 1, output=False) == without
    assert cost.cross_attention_flops(size, 2) == 2 * 4 * d * d * frames
    assert cost.silence_bytes(size, "float16") == (2 * 6 * 750 + 1500) * 512 * 2
    # decoding sees 150 positions of a short clip, and every second one of the silence behind
    decoding = cost.token_flops(size, 9, positions=150)
    assert cost.token_flops(size, 9) - decoding == 6 * 4 * (1350 - 1350 / 2) * d * 9
    less = 6 * 4 * 150 * (1350 - 1350 / 2) * d  # the encoder as well
    assert cost.encoder_flops(size, positions=150) == cost.encoder_flops(size) / 10 - less


def test_what_is_there_already(tiny, tmp_path):
    fresh = plan_of(tiny, f"output_dir={tmp_path}")
    assert "no student, no checkpoint" in describe(fresh)
    labels = tmp_path / "pseudo_labels"
    write_json(labels / "settings.json", {"num_shards": 5})
    write_json(labels / "filter.json", {"kept": 3})
    for index in range(2):
        (labels / f"part-{index:05d}.jsonl").touch()
    for name in ("step-000002", "step-000010", ".step-000012.tmp", "best"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    write_json(tmp_path / "student.json", {"steps": 6})
    write_json(tmp_path / "eval/results.json", {})
    result = plan_of(tiny, f"output_dir={tmp_path}")
    assert result["done"] == {
        "shards": 2, "num_shards": 5, "kept_windows": 3, "checkpoint_step": 10,
        "student_steps": 6, "evaluation": True,
    }
    assert result["training"]["epochs"] == 8.0  # 24 views of the 3 windows that were kept
    text = describe(result)
    assert "2 of 5 shards" in text and "checkpoint at step 10" in text
    assert "passed the filter" in text


def test_without_a_test_split_there_is_no_time_of_it(tiny):
    found = plan_of(tiny, "data.test=[]", "data.validation=[]")
    assert found["data"]["test"]["clips"] == 0
    assert found["time"]["seconds"]["eval"]["cpu"] is None


def test_errors(tiny, tmp_path):
    with pytest.raises(ValueError, match="data.expected_hours") as error:
        plan_of(tiny, f"data.train=[{tmp_path}/none.jsonl]")
    assert "hub_dataset" in str(error.value)
    with pytest.raises(ValueError, match="student.decoder_layers must be at most 4"):
        plan_of(tiny, "student.decoder_layers=5")


def test_command_line(tmp_path):
    command = [sys.executable, "-m", "distill.plan"]
    ran = subprocess.run([*command, "demo", f"output_dir={tmp_path}"], cwd=ROOT, check=True,
                         capture_output=True, text=True)
    assert ran.stdout.startswith(f"Plan of {tmp_path.name}") and "Already there" in ran.stdout
    ran = subprocess.run([*command, "demoo"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 1 and "did you mean demo" in ran.stderr
