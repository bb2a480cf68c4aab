"""Recipes as dataclasses: a YAML file plus `key=value` overrides, checked key by key.

    recipe = load("recipes/demo", WhisperRecipe, ["train.max_steps=10"])

OmegaConf does the parsing and typing (`1e-4` is a float, an unknown key is an error). Imports no
torch: a typo must be reported in a fraction of a second.
"""

from __future__ import annotations

import difflib
import os
import pickle
import re
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

T = TypeVar("T")

SCHEDULES = ("linear", "constant_with_warmup", "cosine")
OPTIMIZERS = ("adamw", "muon")


class ConfigError(ValueError):
    """A recipe or an override that cannot be used; the message names the key."""


@dataclass
class TrainConfig:
    """The loop; the same for every method. A step is one optimiser update over all ranks."""

    max_steps: int = 1000  # number of updates
    batch_size: int = 32  # views in an update, over all ranks; the result depends on this number
    # alone, not on the number of ranks
    micro_batch_size: int = 8  # views in one forward pass of a rank; memory depends on it
    batch_tokens: int | None = None  # instead of batch_size: an update has views of similar length
    # with about so many decoder tokens, padding counted
    micro_batch_tokens: int | None = None  # tokens in one forward pass of a rank; null:
    # batch_tokens
    optimizer: str = "adamw"  # adamw | muon: Muon for the matrices of stacked layers, AdamW for the
    # rest
    learning_rate: float = 1e-4  # highest learning rate, after the warm-up
    muon_learning_rate: float | None = None  # learning rate of Muon's matrices, on AdamW's scale;
    # it may be higher. null: learning_rate
    warmup_steps: int = 50  # updates in which the learning rate rises from 0
    schedule: str = "linear"  # learning rate after the warm-up: linear | constant_with_warmup |
    # cosine
    weight_decay: float = 0.0  # not applied to biases and norms
    max_grad_norm: float = 1.0  # largest norm of the gradient; longer ones are scaled down
    num_workers: int = 0  # processes that read audio ahead, per rank
    mixed_precision: str = "no"  # no | bf16 | fp16; weights stay float32
    gradient_checkpointing: bool = False  # compute activations again: less memory, more time
    average_decay: float = 0.0  # > 0: a moving average (EMA) of the weights is validated and saved
    log_every: int = 10  # steps between two lines of the log
    save_every: int = 500  # steps between two checkpoints
    validate_every: int = 500  # steps between two validations
    keep_best: bool = True  # true: the student is the checkpoint that validated best | false: it is
    # the last one, for validation splits that are too small to choose by
    keep_checkpoints: int = 2  # how many of the newest checkpoints are kept; the best one is kept,
    # too
    trackers: list[str] = field(default_factory=list)  # where metrics go besides metrics.jsonl,
    # e.g. [tensorboard]


@dataclass
class HubConfig:
    """Where a run is published, and what its card says of licences; the same for every method."""

    repo_id: str | None = None  # repository of the student: OWNER/NAME
    private: bool = True  # whether a new repository is private; a public one is refused while this
    # is true
    dry_run: bool = False  # write the card, list files and sizes, send nothing
    license: str | None = None  # licence of the student, by the Hub's names: mit, apache-2.0, other
    # ...
    teacher_license: str | None = None  # licence of the teacher, for the card; null: the card says
    # that it is unknown
    data_license: str | None = None  # licence of the training audio and its transcripts, for the
    # card
    data_name: str | None = None  # what the training audio is, for readers of the card
    benchmark: str | None = None  # Hub id of a benchmark, if data.test is one of its tasks
    benchmark_task: str | None = None  # which task, by the name in the benchmark's eval.yaml
    labels_repo_id: str | None = None  # repository of the pseudo-labels: OWNER/NAME
    labels_audio: bool = False  # publish the audio with the labels


@dataclass
class HeadConfig:
    head_type: str = "layer_sum"  # layer_sum: a weighted sum of the layers and one hidden layer,
    # for thousands of clips | tltr: time and layer transformer of arXiv:2307.03183, for millions
    head_size: int | None = 256  # width of the head; null, for tltr alone: that of the encoder
    head_dropout: float = 0.3  # dropout of the head
    mixup_probability: float = 0.5  # share of clips whose states are mixed with another clip's; the
    # weight is drawn from Beta(5, 5), labels are mixed alike
    mask_steps: int = 3  # longest run of hidden steps of 0.4 s
    precision: float = 0.8  # a head beside a transcriber comes with thresholds: a class counts as
    # heard from where so many of the clips that count are right
    confidence: float = 0.9  # that the precision holds for clips that nobody has looked at; few
    # validation clips prove little. 0.5: of the validation clips alone it does
    scores: str | None = None  # folder of what a tagger's teachers think of the training clips
    # (scores.dir of their recipe), which is learned then; clips need no labels. null: the labels
    label_weight: float = 0.0  # of the labels, beside scores


def load(recipe: str | Path, schema: type[T], overrides: list[str]) -> T:
    """Merge `<recipe>/recipe.yaml` and `key=value` overrides into an instance of `schema`.

    Args:
        recipe: a folder with a recipe.yaml, the file itself, or the name of a folder in recipes/.

    Raises:
        ConfigError: unknown key (the nearest known one is named), wrong type, missing value.
    """
    path = find_recipe(recipe)
    from_file = _read(path)
    wanted = getattr(schema, "method", None)
    if (got := from_file.get("method", wanted)) != wanted:
        raise ConfigError(f"{path}: method is {got}; this command is for {wanted} only")
    _check_keys(OmegaConf.to_container(from_file), schema, str(path), "")
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"expected key=value, got {override!r}")
        _check_keys(_nested(key.split(".")), schema, f"override {override!r}", "")
        try:
            OmegaConf.from_dotlist([override])
        except Exception as error:
            raise ConfigError(f"override {override!r}: not valid YAML: {error}") from None
    try:
        typed = pickle.loads(_typed(schema))
        merged = OmegaConf.unsafe_merge(typed, from_file, OmegaConf.from_dotlist(overrides))
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except MissingMandatoryValue:
        missing = ", ".join(sorted(OmegaConf.missing_keys(merged)))
        raise ConfigError(f"{path}: no value for {missing}") from None
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        reason = _in_words(str(error).splitlines()[0])
        raise ConfigError(f"{path}: {key}: {reason}") from None


def load_run(recipe: str | Path, schema: type[T], overrides: list[str]) -> tuple[Path, T]:
    """What all methods do to a recipe: `load` it, find its manifests, name the run's folder, and
    check the sections that they share.

    Args:
        schema: has `data` with lists of manifests, `output_dir` and `train`.

    Returns:
        the recipe's file, and the recipe.

    Raises:
        ConfigError: names the key and, for typos, the one probably meant.
    """
    path = find_recipe(recipe)
    config: Any = load(path, schema, overrides)
    for split in ("train", "validation", "test"):
        if hasattr(config.data, split):
            names = manifest_paths(path, f"data.{split}", getattr(config.data, split))
            setattr(config.data, split, names)
    if config.output_dir is None:
        config.output_dir = f"runs/{recipe_name(path)}"
    if config.train.mixed_precision == "False":
        config.train.mixed_precision = "no"  # which YAML takes for false
    check_train(config.train)
    share = config.data.max_unreadable
    check(0 <= share <= 1, "data.max_unreadable", "in [0, 1], a share of the clips", share)
    return path, config


@cache
def _typed(schema: type) -> bytes:
    """The schema with its defaults, pickled: to make it takes as long as to load a recipe, and to
    copy it a third of that."""
    return pickle.dumps(OmegaConf.structured(schema))


def _in_words(reason: str) -> str:
    """What OmegaConf says of a value of another kind, for people."""
    if "is not a ListConfig" in reason:
        return "expected a list, as in [this, that]"
    if "is not Optional" in reason:
        return f"expected a value, got null ({reason})"
    return reason


def _read(path: Path) -> DictConfig:
    try:
        content = OmegaConf.load(path)
    except Exception as error:  # PyYAML's errors share no useful base with OmegaConf's
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, DictConfig):
        raise ConfigError(f"{path}: expected `key: value` lines, got a list")
    return content


def manifest_paths(recipe: Path, key: str, names: list[str]) -> list[str]:
    """Paths of manifests, see `beside`.

    Raises:
        ConfigError: something in the list is no path.
    """
    for name in names:
        check(isinstance(name, str) and bool(name.strip()), key, "a list of paths", name)
    return [beside(recipe, name) for name in names]


def beside(recipe: Path, name: str) -> str:
    """Path of a file that a recipe names, which is relative to the recipe's folder.

    Recipes that came with the package are read as if they lay in ./recipes: what they look for
    outside of recipes/, such as `../../data`, is sought in the working directory first.
    """
    path, root = recipe.parent / name, installed_recipes()
    normal = Path(os.path.abspath(path))
    is_ours = recipe.is_absolute() and recipe.is_relative_to(root)
    if is_ours and not Path(name).is_absolute() and not normal.is_relative_to(root):
        here = Path(os.path.relpath(normal, root.parent))
        if here.exists() or not path.exists():
            return str(here)
    return str(path)


def read_method(recipe: str | Path) -> str:
    """The `method:` of a recipe, without checking anything else."""
    path = find_recipe(recipe)
    method = OmegaConf.to_container(_read(path)).get("method")
    if not isinstance(method, str):
        raise ConfigError(f"{path}: no value for method")
    return method


@cache
def installed_recipes() -> Path:
    """The folder of the recipes that came with the package: of a wheel, or of a clone."""
    packages = Path(__file__).resolve().parents[1]
    ours = packages / "audio_distill_recipes"
    return ours if ours.is_dir() else packages / "recipes"


def recipe_folders() -> tuple[Path, Path]:
    """Where recipes are looked for by name, in this order."""
    return Path("recipes"), installed_recipes()


def known_recipes() -> list[str]:
    """Names of all recipes that can be found."""
    found = (path for folder in recipe_folders() for path in folder.glob("*/recipe.yaml"))
    return sorted({path.parent.name for path in found})


def find_recipe(recipe: str | Path, file: str = "recipe.yaml") -> Path:
    """Path of the recipe.yaml meant by a folder, a file or a name.

    Args:
        recipe: a path; or in ./recipes or among those that came with the package, a folder's name
            (`demo`) or a file's (`demo-tagger/teachers/mini.yaml`).
        file: what is looked for in a folder.
    """
    recipe = Path(recipe)
    places = [recipe, recipe / file]
    for folder in recipe_folders():
        places += [folder / recipe / file, folder / recipe]
    for path in places:
        if path.is_file():
            return path
    known = known_recipes()
    near = _near_paths(recipe, file) or difflib.get_close_matches(recipe.name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(known)}"
    raise ConfigError(f"no recipe {str(recipe)!r}{hint}")


def _near_paths(recipe: Path, file: str) -> list[str]:
    """What a misspelt path means; [] of a name alone."""
    if recipe.is_dir():
        return sorted(str(path.parent) for path in recipe.glob(f"*/{file}"))[:1]
    if len(recipe.parts) < 2 or not recipe.parent.is_dir():
        return []
    names = [path.name for path in recipe.parent.iterdir()]
    return [str(recipe.parent / name) for name in difflib.get_close_matches(recipe.name, names, 1)]


def recipe_name(recipe: str | Path) -> str:
    return find_recipe(recipe).resolve().parent.name


def to_dict(config: Any) -> dict:
    """A config as plain containers, for hashing and saving."""
    return asdict(config)


def to_yaml(config: Any) -> str:
    """Text that `load` reads back: values such as `"1e-4"` keep their quotes."""
    return OmegaConf.to_yaml(OmegaConf.create(asdict(config)))


def check(condition: bool, key: str, expected: str, got: Any) -> None:
    """Raise a ConfigError that says which key, what was expected and what came."""
    if not condition:
        raise ConfigError(f"{key} must be {expected}, got {got!r}")


def check_train(train: TrainConfig) -> None:
    """Raise a ConfigError for values no loop can run with."""
    check(train.max_steps > 0, "train.max_steps", "> 0", train.max_steps)
    check(train.learning_rate > 0, "train.learning_rate", "> 0", train.learning_rate)
    check(train.micro_batch_size > 0, "train.micro_batch_size", "> 0", train.micro_batch_size)
    multiple = train.batch_size > 0 and train.batch_size % train.micro_batch_size == 0
    multiple = multiple or train.batch_tokens is not None  # then it is not used
    what = f"a multiple of train.micro_batch_size ({train.micro_batch_size})"
    check(multiple, "train.batch_size", what, train.batch_size)
    if train.micro_batch_tokens is not None:
        ok = 0 < train.micro_batch_tokens <= (train.batch_tokens or 0)
        what = f"> 0 and at most train.batch_tokens ({train.batch_tokens})"
        check(ok, "train.micro_batch_tokens", what, train.micro_batch_tokens)
    ok = train.batch_tokens is None or train.batch_tokens > 0
    check(ok, "train.batch_tokens", "> 0 or null", train.batch_tokens)
    check(train.optimizer in OPTIMIZERS, "train.optimizer", f"one of {OPTIMIZERS}",
          train.optimizer)
    rate = train.muon_learning_rate
    ok = rate is None or (rate > 0 and train.optimizer == "muon")
    check(ok, "train.muon_learning_rate", "> 0, with train.optimizer=muon only", rate)
    check(train.schedule in SCHEDULES, "train.schedule", f"one of {SCHEDULES}", train.schedule)
    precisions = ("no", "bf16", "fp16")
    ok = train.mixed_precision in precisions
    check(ok, "train.mixed_precision", f"one of {precisions}", train.mixed_precision)
    check(0 <= train.average_decay < 1, "train.average_decay", "in [0, 1)", train.average_decay)
    for key in ("log_every", "save_every", "validate_every", "keep_checkpoints"):
        check(getattr(train, key) > 0, f"train.{key}", "> 0", getattr(train, key))


def check_no_tokens(train: TrainConfig) -> None:
    """Raise a ConfigError for batches of tokens, which taggers do not have."""
    check(train.batch_tokens is None, "train.batch_tokens", "null: taggers have no tokens",
          train.batch_tokens)


def check_head(head: HeadConfig, where: str) -> None:
    """Raise a ConfigError for a tagging head that cannot be made or trained."""
    check(head.head_type in ("layer_sum", "tltr"), f"{where}.head_type", "layer_sum or tltr",
          head.head_type)
    if head.head_type == "layer_sum":
        check((head.head_size or 0) > 0, f"{where}.head_size", "> 0", head.head_size)
    else:
        ok = head.head_size is None or (head.head_size > 0 and head.head_size % 8 == 0)
        check(ok, f"{where}.head_size", "null or a multiple of 8 (heads)", head.head_size)
    check(0 <= head.head_dropout < 1, f"{where}.head_dropout", "in [0, 1)", head.head_dropout)
    check(0 <= head.mixup_probability <= 1, f"{where}.mixup_probability", "in [0, 1]",
          head.mixup_probability)
    check(head.mask_steps >= 0, f"{where}.mask_steps", ">= 0", head.mask_steps)
    check(0 < head.precision <= 1, f"{where}.precision", "in (0, 1]", head.precision)
    check(0.5 <= head.confidence < 1, f"{where}.confidence", "in [0.5, 1)", head.confidence)
    ok = 0 <= head.label_weight <= (head.scores is not None)
    check(ok, f"{where}.label_weight", "in [0, 1], 0 without scores", head.label_weight)
    check(head.precision < 1 or head.confidence == 0.5, f"{where}.confidence",
          "0.5 with a precision of 1, which no number of clips proves", head.confidence)


def check_hub(hub: HubConfig) -> None:
    """Raise a ConfigError for what no Hub could take."""
    for key in ("repo_id", "labels_repo_id", "benchmark"):
        value = getattr(hub, key)
        ok = value is None or bool(re.fullmatch(r"[\w.-]+/[\w.-]+", value))
        check(ok, f"hub.{key}", "OWNER/NAME", value)
    ok = (hub.benchmark is None) == (hub.benchmark_task is None)
    check(ok, "hub.benchmark_task", "set with hub.benchmark, and only then", hub.benchmark_task)


_hints = cache(get_type_hints)


def _nested(keys: list[str]) -> dict:
    return {keys[0]: _nested(keys[1:]) if len(keys) > 1 else None}


def _check_keys(values: dict, schema: Any, where: str, prefix: str) -> None:
    """Name the first unknown key and the one that was probably meant."""
    hints = _hints(schema)
    known = [field.name for field in fields(schema)]
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"{where}: unknown key {prefix}{key}; {hint}")
        if not is_dataclass(hints[key]) or value is None:
            continue
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: {prefix}{key}: expected a section of `key: value` lines, "
                              f"got {value!r}")
        _check_keys(value, hints[key], where, f"{prefix}{key}.")
