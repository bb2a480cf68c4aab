"""A wrong recipe is refused at once, and the message names the key."""


import pytest

from distill.config import ConfigError, TrainConfig, find_recipe, read_method, to_dict
from distill.methods import load_recipe as load_any
from distill.whisper.recipe import load_recipe

MINIMAL = "method: whisper\ndata: {train: [train.jsonl]}\nteacher: {model: t}\n" \
          "views: {previous_text_probability: 0}\n"


@pytest.fixture
def recipe(tmp_path):
    """`recipe(yaml)` writes a recipe: the minimal one and more lines."""

    def write(more: str = "", text: str = MINIMAL):
        folder = tmp_path / "mine"
        folder.mkdir(exist_ok=True)
        (folder / "recipe.yaml").write_text(text + more)
        return folder

    return write


def message(folder, *overrides) -> str:
    with pytest.raises(ConfigError) as error:
        load_recipe(folder, list(overrides))
    return str(error.value)


def test_minimal_recipe(recipe):
    config = load_recipe(recipe(), [])
    assert config.output_dir == "runs/mine" and config.train == TrainConfig()
    assert config.data.train == [str(recipe() / "train.jsonl")]
    loss = config.loss
    assert (loss.ce_weight, loss.kl_weight, loss.temperature) == (0.8, 1.0, 2.0)
    assert load_any(str(recipe()), []) == config
    assert to_dict(config)["train"]["max_steps"] == 1000


def test_overrides_win(recipe):
    folder = recipe("train: {max_steps: 7, batch_size: 16}\n")
    config = load_recipe(folder, ["train.max_steps=9", "output_dir=/x", "data.test=[a.jsonl,/b.j]"])
    assert (config.train.max_steps, config.train.batch_size) == (9, 16)
    assert config.output_dir == "/x"
    assert config.data.test == [str(folder / "a.jsonl"), "/b.j"]
    assert load_recipe(folder / "recipe.yaml", []).output_dir == "runs/mine"


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("train.max_step", "train.max_steps"), ("trian.max_steps", "train"),
     ("loss.temprature", "loss.temperature"), ("teacher.modell", "teacher.model"),
     ("pseudo_labels.packing", "pseudo_label"), ("filters.max_wer", "filter"),
     ("filter.max_wers", "filter.max_wer"), ("filter.check_scripts", "filter.check_script"),
     ("student.decoder_layer", "student.decoder_layers"), ("scores.encoder_state",
     "scores.encoder_states"), ("score.method", "scores"), ("scores.shard_view",
     "scores.shard_views"), ("train.batch_token", "train.batch_tokens"),
     ("views.augmentation", "views.augment")],
)
def test_typos_in_yaml_and_in_overrides(recipe, typo, meant):
    section, key = typo.split(".")
    wrong = typo if meant.count(".") else section
    kept = [line for line in MINIMAL.splitlines() if not line.startswith(section + ":")]
    text = "\n".join(kept) + f"\n{section}: {{{key}: 1}}\n"
    for found in (message(recipe(text=text)), message(recipe(), f"{typo}=1")):
        assert f"unknown key {wrong}; did you mean {meant}?" in found


def test_typos_in_a_section_of_a_section(recipe):
    for found in (message(recipe("  augment: {probabilty: 1}\n", MINIMAL.replace(
            "views: {previous_text_probability: 0}", "views:\n  previous_text_probability: 0"))),
                  message(recipe(), "views.augment.probabilty=1")):
        assert "unknown key views.augment.probabilty; did you mean views.augment.prob" in found


@pytest.mark.parametrize("key", ["teacher.top_k", "pseudo_label.keep_encoder_states",
                                 "pseudo_label.max_wer", "pseudo_label.keep_unreferenced"])
def test_keys_of_old_recipes(recipe, key):
    """Not silently ignored: a store would be missing what they asked for."""
    assert f"unknown key {key}" in message(recipe(), f"{key}=1")


def test_an_unknown_key_like_no_other_lists_the_known(recipe):
    assert "known: ce_weight, kl_weight, hidden_weight, temp" in message(recipe(), "loss.zzz=1")
    assert "override 'loss.zzz=1'" in message(recipe(), "loss.zzz=1")


@pytest.mark.parametrize(
    "override", ["train.max_steps=many", "train.max_steps=1.5", "loss.temperature=hot",
                 "student.freeze_encoder=maybe", "data.train=5", "train=5", "train.max_steps=null"],
)
def test_wrong_types(recipe, override):
    assert override.split("=")[0] in message(recipe(), override)


def test_numbers(recipe):
    """HfArgumentParser keeps `1e-4` a string."""
    folder = recipe("train: {learning_rate: 1e-4}\n")
    assert load_recipe(folder, []).train.learning_rate == 1e-4
    found = load_recipe(folder, ["train.learning_rate=3e-5", "filter.max_wer=null"])
    assert found.train.learning_rate == 3e-5 and found.filter.max_wer is None


def test_missing_values(recipe):
    found = message(recipe(text="method: whisper\n"))
    assert "no value for data.train, teacher.model" in found


@pytest.mark.parametrize("override", ["max_steps", "=5", ""])
def test_not_key_value(recipe, override):
    assert f"expected key=value, got {override!r}" in message(recipe(), override)


@pytest.mark.parametrize("text", ["a: [1\n", "a: b: c\n", "\tx: 1\n"])
def test_broken_yaml(recipe, text):
    folder = recipe(text=text)
    for load in (load_recipe, load_any):
        with pytest.raises(ConfigError, match=r"recipe\.yaml: not valid YAML"):
            load(str(folder), [])


@pytest.mark.parametrize("text", ["- a\n- b\n", "5\n"])
def test_yaml_that_is_no_mapping(recipe, text):
    folder = recipe(text=text)
    for load in (load_recipe, load_any):
        with pytest.raises(ConfigError, match=r"recipe\.yaml"):
            load(str(folder), [])


def test_broken_override(recipe):
    assert "student.decoder_layers=[0" in message(recipe(), "student.decoder_layers=[0")


def test_unknown_recipe(tmp_path, monkeypatch):
    for name in ("demo", "distil-large-v3"):
        (tmp_path / "recipes" / name).mkdir(parents=True)
        (tmp_path / "recipes" / name / "recipe.yaml").write_text(MINIMAL)
    monkeypatch.chdir(tmp_path)
    assert find_recipe("demo").name == "recipe.yaml"
    with pytest.raises(ConfigError, match="no recipe 'distil-larg-v3'; did you mean distil-large-"):
        find_recipe("distil-larg-v3")
    (tmp_path / "mine" / "first").mkdir(parents=True)
    (tmp_path / "mine" / "first" / "recipe.yaml").touch()
    for path in ("mine", "mine/first2", "mine/first/recipe.yml"):
        with pytest.raises(ConfigError, match=rf"no recipe .*; did you mean {tmp_path}/mine/first"):
            find_recipe(tmp_path / path)
    with pytest.raises(ConfigError, match="no recipe 'zzz'; there are: demo, demo-hears, "):
        find_recipe("zzz")


def test_recipes_that_came_with_the_package(tmp_path, monkeypatch):
    """They are found last, and read as if they lay in the working directory's recipes/."""
    package, here = tmp_path / "site" / "audio_distill_recipes", tmp_path / "here"
    for folder in (package / "demo", package / "sounds", here / "recipes" / "demo", here / "mine"):
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(MINIMAL.replace(
            "[train.jsonl]", "[a.jsonl, ../demo/b.jsonl, ../../data/c.jsonl, /d.jsonl]"))
    (package / "sounds" / "teachers").mkdir()
    (package / "sounds" / "teachers" / "one.yaml").write_text("")
    monkeypatch.chdir(here)
    monkeypatch.setattr("distill.config.installed_recipes", lambda: package)
    for name, found in (
            ("demo", "recipes/demo/recipe.yaml"), ("mine", "mine/recipe.yaml"),
            ("sounds", package / "sounds" / "recipe.yaml"),
            ("sounds/teachers/one.yaml", package / "sounds" / "teachers" / "one.yaml")):
        assert str(find_recipe(name)) == str(found), name
    ours, theirs = f"{package}/sounds", "recipes/demo"
    assert load_recipe("sounds", []).output_dir == "runs/sounds"
    assert load_recipe("sounds", []).data.train == [
        f"{ours}/a.jsonl", f"{ours}/../demo/b.jsonl", "data/c.jsonl", "/d.jsonl"]
    assert load_recipe("demo", []).data.train == [
        f"{theirs}/a.jsonl", f"{theirs}/../demo/b.jsonl", f"{theirs}/../../data/c.jsonl",
        "/d.jsonl"]
    (tmp_path / "site" / "data").mkdir()
    (tmp_path / "site" / "data" / "c.jsonl").touch()  # a clone's, for one who works elsewhere
    assert load_recipe("sounds", []).data.train[2] == f"{ours}/../../data/c.jsonl"
    (here / "data").mkdir()
    (here / "data" / "c.jsonl").touch()
    assert load_recipe("sounds", []).data.train[2] == "data/c.jsonl"


def test_method(recipe):
    assert read_method(recipe()) == "whisper"
    known = "method must be one of: whisper, ced, whisper_at, audio_llm; got 'cde'"
    with pytest.raises(ConfigError, match=known):
        load_any(str(recipe(text="method: cde\n")), [])
    with pytest.raises(ConfigError, match="no value for method"):
        load_any(str(recipe(text="language: en\n")), [])


IMPOSSIBLE = [
    "task=summarise", "teacher.mode=cloud", "teacher.mode=memory", "pseudo_label.packing=first",
    "pseudo_label.long_audio=loud", "evaluation.long_audio=loud",
    "scores.method=best", "scores.k=0", "scores.encoder_states=ram",
    "scores.encoder_states_dtype=int4", "scores.shard_views=0", "train.batch_tokens=0",
    "views.epochs=0",
    "views.augment.probability=1.5", "views.augment.noise_probability=-0.1",
    "views.augment.gain_db=[6,-6]", "views.augment.snr_db=[5]", "views.augment.noise=[blue]",
    "views.augment.num_time_masks=-1", "views.augment.time_mask_frames=0",
    "views.augment.num_frequency_masks=-1", "views.augment.frequency_mask_bands=0",
    "pseudo_label.num_packings=0", "pseudo_label.window_seconds=31",
    "pseudo_label.window_seconds=0.5", "pseudo_label.batch_size=0",
    "pseudo_label.shard_size=0", "pseudo_label.max_tokens_per_second=0",
    "filter.max_wer=-0.1", "filter.max_wer=nan", "filter.min_avg_logprob=0.5",
    "filter.max_compression_ratio=-1", "filter.max_repeated_ngrams=1.1",
    "filter.max_no_speech_prob=50", "filter.min_chars_per_second=-1",
    "filter.max_chars_per_second=-1", "filter.max_disagreement=-0.1",
    "loss.temperature=0.0", "loss.ce_weight=-1", "loss.divergence=sideways",
    "loss.kl_weight=-1", "loss.hidden_weight=-1",
    "loss.common_tokens=0", "loss.common_tokens=100", "views.timestamp_probability=1.1",
    "student.decoder_layers=0", "student.decoder_layers=null",
    "student.decoder_layers=[]", "student.decoder_layers=[0,x]", "student.encoder_layers=1.5",
    "student.decoder_layers=true", "evaluation.normalizer=none", "train.max_steps=0",
    "train.learning_rate=0", "train.micro_batch_size=0", "train.batch_size=12",
    "train.batch_size=0", "train.schedule=poly", "train.mixed_precision=int8",
    "train.average_decay=1", "train.log_every=0", "train.save_every=0",
    "train.validate_every=0", "train.keep_checkpoints=0",
]


def test_values_that_cannot_work(recipe):
    folder = recipe()
    for override in IMPOSSIBLE:
        found = message(folder, override)
        assert found.startswith(f"{override.partition('=')[0]} must be ") and "got" in found, found


def test_no_is_a_word_here(recipe):
    """YAML takes it for false."""
    assert load_recipe(recipe(), ["train.mixed_precision=no"]).train.mixed_precision == "no"


def test_previous_text_needs_order(recipe):
    found = message(recipe(), "views.previous_text_probability=0.2")
    assert found.startswith("views.previous_text_probability must be 0 unless pseudo_label.packing")
    order = "pseudo_label.packing=sequential"
    load_recipe(recipe(), ["views.previous_text_probability=0.2", order])


def test_values_that_need_each_other(recipe):
    assert "pseudo_label.num_packings must be 1, or more with packing best_fit" in message(
        recipe(), "pseudo_label.num_packings=2", "pseudo_label.packing=sequential")
    assert "views.timestamp_probability must be 0 unless" in message(
        recipe(), "pseudo_label.timestamps=false")
    assert "pseudo_label.long_audio must be speech or quiet unless" in message(
        recipe(), "pseudo_label.long_audio=sequential", "pseudo_label.window_seconds=20")
    assert "loss must be a loss: at least one weight > 0" in message(
        recipe(), "loss.ce_weight=0", "loss.kl_weight=0")
    states = "scores.encoder_states must be none unless the student has the teacher's encoder"
    for own in ("student.freeze_encoder=false", "student.encoder_layers=2"):
        assert states in message(recipe(), own)
        load_recipe(recipe(), [own, "scores.encoder_states=none"])
        load_recipe(recipe(), [own, "teacher.mode=live"])
    for layers in ("[0,-1]", "3"):
        load_recipe(recipe(), [f"student.decoder_layers={layers}"])


def test_divergences_need_all_scores(recipe):
    for kind in ("reverse", "total_variation"):
        kind = f"loss.divergence={kind}"
        assert "loss.divergence must be forward unless all of the teacher's scores are known" in (
            message(recipe(), kind))
        assert "got" in message(recipe(), kind, "scores.method=top_k")
        load_recipe(recipe(), [kind, "teacher.mode=live"])
        load_recipe(recipe(), [kind, "scores.method=decoder_state"])
    load_recipe(recipe(), ["loss.divergence=forward"])


def test_filters_that_need_each_other(recipe):
    rates = ("filter.min_chars_per_second=5", "filter.max_chars_per_second=4")
    assert "filter.max_chars_per_second must be at least filter.min_chars_per_second (5.0)" in (
        message(recipe(), *rates))
    load_recipe(recipe(), [rates[0], "filter.max_chars_per_second=5"])
    script = "filter.check_script=true"
    assert "filter.check_script must be false where the teacher translates" in message(
        recipe(), script, "task=translate")
    load_recipe(recipe(), [script])


def test_token_budgets(recipe):
    budget = "train.batch_tokens=4096"
    load_recipe(recipe(), [budget, "train.micro_batch_tokens=4096"])
    assert "train.micro_batch_tokens must be > 0 and at most train.batch_tokens (4096)" in message(
        recipe(), budget, "train.micro_batch_tokens=4097")
    assert message(recipe(), budget, "train.micro_batch_tokens=0").startswith(
        "train.micro_batch_tokens must be ")
    assert message(recipe(), "train.micro_batch_tokens=64").startswith("train.")


def test_where_scores_are(recipe):
    assert load_recipe(recipe(), []).scores.dir == "runs/mine/pseudo_labels/scores"
    # several students may learn from the same labels, and then from the same scores
    assert load_recipe(recipe(), ["labels_dir=/l"]).scores.dir == "/l/scores"
    assert load_recipe(recipe(), ["labels_dir=/l", "scores.dir=/s"]).scores.dir == "/s"


def test_a_recipe_of_another_method(recipe):
    with pytest.raises(ConfigError, match="method is ced; this command is for whisper only"):
        load_recipe(recipe(text="method: ced\nviews: {shift: 0.1}\n"), [])
