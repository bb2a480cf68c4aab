"""What a Whisper recipe may say. Every key is used; the comments are its documentation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill import config as base
from distill.config import ConfigError, HubConfig, TrainConfig, check
from distill.data.languages import language_code
from distill.data.noise.channels import CHANNELS
from distill.data.noise.kinds import KINDS
from distill.data.views.augment import check_augment
from distill.whisper.data.learner import check_learner
from distill.whisper.encoder.level import EVERY, LEVEL, VERSION
from distill.whisper.outside import OUTSIDE, check_outside
from distill.whisper.prompting.settings import check_prompt_evaluation, check_prompts, check_reader
from distill.whisper.recipe_sections import (
    DataConfig,
    DecodingConfig,
    EvaluationConfig,
    ExportConfig,
    FamilyConfig,
    FilterConfig,
    LossConfig,
    PseudoLabelConfig,
    RobustnessConfig,
    ScoresConfig,
    StudentConfig,
    TaggerConfig,
    TeacherConfig,
    TranslationConfig,
    ViewConfig,
)


@dataclass
class WhisperRecipe:
    method: str = "whisper"  # which kind of recipe this is
    seed: int = 0  # of everything that is drawn
    language: str | None = "en"  # name or code of the spoken language; null: the teacher knows only
    # English, or every row says its language
    task: str = "transcribe"  # what the student learns: transcribe | translate
    output_dir: str | None = None  # folder of the run; default: runs/<recipe>
    labels_dir: str | None = None  # folder of the pseudo-labels; default:
    # <output_dir>/pseudo_labels. Several students may learn from the same labels
    num_threads: int | None = None  # CPU threads of torch; null: its default
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    pseudo_label: PseudoLabelConfig = field(default_factory=PseudoLabelConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    translation: TranslationConfig = field(default_factory=TranslationConfig)
    scores: ScoresConfig = field(default_factory=ScoresConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    tagger: TaggerConfig = field(default_factory=TaggerConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    robustness: RobustnessConfig = field(default_factory=RobustnessConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    family: FamilyConfig = field(default_factory=FamilyConfig)
    hub: HubConfig = field(default_factory=HubConfig)


def load_recipe(recipe: str | Path, overrides: list[str]) -> WhisperRecipe:
    """Load and check a recipe; manifest paths and the run's folders come back resolved.

    Raises:
        ConfigError: names the key and, for typos, the one probably meant.
    """
    path, config = base.load_run(recipe, WhisperRecipe, overrides)
    if config.labels_dir is None:
        config.labels_dir = f"{config.output_dir}/pseudo_labels"
    if config.scores.dir is None:
        config.scores.dir = f"{config.labels_dir}/scores"
    if config.pseudo_label.table.path is not None:
        config.pseudo_label.table.path = base.beside(path, config.pseudo_label.table.path)
    if config.decoding.phrases is not None:
        config.decoding.phrases = base.beside(path, config.decoding.phrases)
    for split in ("train", "validation", "test"):
        names = getattr(config.tagger.data, split)
        found = base.manifest_paths(path, f"tagger.data.{split}", names)
        setattr(config.tagger.data, split, found)
    noises = config.views.augment.recordings
    config.views.augment.recordings = base.manifest_paths(path, "views.augment.recordings", noises)
    for section in (config.views.prompts, config.evaluation.prompts):
        if section.words is not None:
            section.words = base.beside(path, section.words)
    for section in (config.views.prompts, config.student.prompt_reader):
        if section.validation_words is not None:
            section.validation_words = base.beside(path, section.validation_words)
    config.language = _whispers("language", config.language)
    if config.translation.model is None:  # a text model may know more languages than Whisper does
        config.translation.target = _whispers("translation.target", config.translation.target)
    _check(config)
    _check_labelling(config)
    check_outside(config.pseudo_label, teacher_task(config))
    _check_loss(config)
    _check_views(config)
    check_prompts(config.views, config.language)
    check_reader(config.student, config.views, config.teacher, config.scores)
    check_prompt_evaluation(config.evaluation.prompts, config.language)
    _check_evaluation(config)
    _check_filter(config)
    _check_translation(config)
    _check_scores(config)
    _check_export(config)
    _check_family(config)
    _check_robustness(config)
    _check_tagger(config)
    return config


def _whispers(key: str, language: str | None) -> str | None:
    """Whisper's code of a language that may be given by any name."""
    if language == "False":  # what YAML makes of Norwegian
        return "no"
    try:
        return language and language_code(language)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None


def keeps_states(recipe: WhisperRecipe) -> bool:
    """Whether training will want the encoder states that labelling computes anyway."""
    on_disk = recipe.teacher.mode == "store" and recipe.scores.encoder_states == "disk"
    views = recipe.views  # of sound that was not changed
    return on_disk and (views.augment.probability < 1 or views.teacher_hears == "clean")


def margin_setting(recipe: WhisperRecipe) -> dict[str, float]:
    """How the teacher hears short audio, as a part of settings that are compared; nothing where it
    pads it, as before there was a choice."""
    margin = recipe.teacher.short_audio_margin
    return {} if margin is None else {"short_audio_margin": margin}


def silence_setting(recipe: WhisperRecipe) -> dict[str, float]:
    """As `margin_setting`, for what also depends on the silence that is put behind a clip."""
    found = margin_setting(recipe)
    if not found:
        return {}
    return found | {"silence": VERSION, "silence_level": round(LEVEL, 6), "silence_every": EVERY}


def teacher_task(recipe: WhisperRecipe) -> str:
    """What the teacher is asked for while labelling; `recipe.task` is what the student learns."""
    return "transcribe" if recipe.translation.model else recipe.task


def label_language(recipe: WhisperRecipe, language: str | None) -> str | None:
    """What the teacher writes for speech of a language; None is an English-only teacher's."""
    translates = teacher_task(recipe) == "translate"
    return recipe.translation.target if translates else language or recipe.language


def written_language(recipe: WhisperRecipe) -> str | None:
    """What the student writes, and the references of validation and test splits are in."""
    return recipe.translation.target if recipe.task == "translate" else recipe.language


def _check(c: WhisperRecipe) -> None:
    base.check_hub(c.hub)
    check(c.task in ("transcribe", "translate"), "task", "transcribe or translate", c.task)
    check(c.teacher.mode in ("live", "store"), "teacher.mode", "live or store", c.teacher.mode)
    for key in ("decoder_layers", "encoder_layers"):
        _check_layers(getattr(c.student, key), f"student.{key}", key == "encoder_layers")


def _check_labelling(c: WhisperRecipe) -> None:
    p = c.pseudo_label
    orders = ("best_fit", "sequential", "none")
    check(p.packing in orders, "pseudo_label.packing", f"one of {orders}", p.packing)
    ok = not (p.clips_alone and p.packing == "none")
    what = "false with packing none, which has every clip by itself"
    check(ok, "pseudo_label.clips_alone", what, p.clips_alone)
    kinds = ("transformers", "ctranslate2", *OUTSIDE)
    check(p.backend in kinds, "pseudo_label.backend", f"one of {kinds}", p.backend)
    ok = p.compute_type == "auto" or p.backend == "ctranslate2"
    check(ok, "pseudo_label.compute_type", "auto unless backend is ctranslate2", p.compute_type)
    ok = p.temperatures and min(p.temperatures) >= 0
    check(ok, "pseudo_label.temperatures", "one or more numbers >= 0", p.temperatures)
    ok = p.temperatures == [0.0] or p.backend == "transformers"
    what = "[0.0] unless backend is transformers"
    check(ok, "pseudo_label.temperatures", what, p.temperatures)
    drafts = c.decoding.assistant or c.decoding.old_labels
    ok = drafts is None or p.backend == "transformers"
    check(ok, "decoding", "without drafts unless pseudo_label.backend is transformers", drafts)
    _check_phrases(c)
    ok = p.num_packings == 1 or (p.num_packings > 1 and p.packing == "best_fit")
    check(ok, "pseudo_label.num_packings", "1, or more with packing best_fit", p.num_packings)
    ok = 1.0 <= p.window_seconds <= 30.0
    check(ok, "pseudo_label.window_seconds", "between 1 and 30", p.window_seconds)
    ways = ("speech", "quiet", "sequential")
    check(p.long_audio in ways, "pseudo_label.long_audio", f"one of {ways}", p.long_audio)
    able = p.backend == "transformers" and p.timestamps and not p.second_decoding
    ok = p.long_audio != "sequential" or (able and p.window_seconds == 30.0)
    what = ("speech or quiet unless backend is transformers, timestamps true, second_decoding "
            "false and window_seconds 30")
    check(ok, "pseudo_label.long_audio", what, p.long_audio)
    ok = c.decoding.old_labels is None or p.long_audio != "sequential"
    what = "null where pseudo_label.long_audio is sequential: its windows are found anew"
    check(ok, "decoding.old_labels", what, c.decoding.old_labels)
    for key in ("batch_size", "shard_size", "max_tokens_per_second"):
        check(getattr(p, key) > 0, f"pseudo_label.{key}", "> 0", getattr(p, key))


def _check_phrases(c: WhisperRecipe) -> None:
    d = c.decoding
    ok = d.phrases is None or c.pseudo_label.backend == "transformers"
    what = "null unless pseudo_label.backend is transformers"
    check(ok, "decoding.phrases", what, d.phrases)
    ok = d.phrases is None or Path(d.phrases).is_file()
    check(ok, "decoding.phrases", "a text file with one phrase a line", d.phrases)
    ok = 0 < d.phrase_boost < float("inf")
    check(ok, "decoding.phrase_boost", "> 0 and finite", d.phrase_boost)


def _check_loss(c: WhisperRecipe) -> None:
    check(c.loss.temperature > 0, "loss.temperature", "> 0", c.loss.temperature)
    for key in ("ce_weight", "kl_weight", "hidden_weight"):
        check(getattr(c.loss, key) >= 0, f"loss.{key}", ">= 0", getattr(c.loss, key))
    weights = c.loss.ce_weight + c.loss.kl_weight + c.loss.hidden_weight
    check(weights > 0, "loss", "a loss: at least one weight > 0", weights)
    ways = ("all", "agreeing")
    check(c.loss.teacher_tokens in ways, "loss.teacher_tokens", f"one of {ways}",
          c.loss.teacher_tokens)
    kinds = ("forward", "reverse", "total_variation")
    check(c.loss.divergence in kinds, "loss.divergence", f"one of {kinds}", c.loss.divergence)
    knows_all = c.teacher.mode == "live" or c.scores.method == "decoder_state"
    known = "all of the teacher's scores are known (teacher.mode=live, or "
    known += "scores.method=decoder_state)"
    ok = c.loss.divergence == "forward" or knows_all
    check(ok, "loss.divergence", f"forward unless {known}", c.loss.divergence)
    count = c.loss.common_tokens
    ok = count is None or (count > 0 and (knows_all or not c.loss.kl_weight))
    what = f"null, or > 0; with loss.kl_weight only where {known}"
    check(ok, "loss.common_tokens", what, count)


def _check_views(c: WhisperRecipe) -> None:
    v, p = c.views, c.pseudo_label
    for key in ("timestamp_probability", "previous_text_probability"):
        check(0 <= getattr(v, key) <= 1, f"views.{key}", "in [0, 1]", getattr(v, key))
    check_learner(c)
    check(v.epochs is None or v.epochs > 0, "views.epochs", "> 0 or null", v.epochs)
    ok = v.previous_text_probability == 0 or p.packing == "sequential"
    what = "0 unless pseudo_label.packing is sequential (others have no previous text)"
    check(ok, "views.previous_text_probability", what, v.previous_text_probability)
    ok = v.timestamp_probability == 0 or p.timestamps
    what = "0 unless pseudo_label.timestamps is true"
    check(ok, "views.timestamp_probability", what, v.timestamp_probability)
    check(v.teacher_hears in ("same", "clean"), "views.teacher_hears", "same or clean",
          v.teacher_hears)


def _check_evaluation(c: WhisperRecipe) -> None:
    e = c.evaluation
    for key in ("batch_size", "validation_packings", "num_bootstrap"):
        check(getattr(e, key) > 0, f"evaluation.{key}", "> 0", getattr(e, key))
    choices = {
        "long_audio": ("speech", "quiet", "sequential"), "on_loop": ("keep", "end", "break"),
        "normalizer": ("auto", "english", "basic", "unaccented"),
    }
    for key, names in choices.items():
        check(getattr(e, key) in names, f"evaluation.{key}", f"one of {names}", getattr(e, key))
    ok = e.validation_packings == 1 or e.pack
    what = "1 unless evaluation.pack is true"
    check(ok, "evaluation.validation_packings", what, e.validation_packings)


def _check_filter(c: WhisperRecipe) -> None:
    f = c.filter
    rates = ("max_wer", "max_compression_ratio", "min_chars_per_second", "max_chars_per_second",
             "max_disagreement")
    for key in rates:
        value = getattr(f, key)
        check(value is None or value >= 0, f"filter.{key}", ">= 0 or null", value)
    for key in ("max_repeated_ngrams", "max_no_speech_prob"):
        value = getattr(f, key)
        check(value is None or 0 <= value <= 1, f"filter.{key}", "in [0, 1] or null", value)
    ok = f.min_avg_logprob is None or f.min_avg_logprob <= 0
    check(ok, "filter.min_avg_logprob", "<= 0 or null", f.min_avg_logprob)
    if f.min_chars_per_second is not None and f.max_chars_per_second is not None:
        what = f"at least filter.min_chars_per_second ({f.min_chars_per_second})"
        ok = f.max_chars_per_second >= f.min_chars_per_second
        check(ok, "filter.max_chars_per_second", what, f.max_chars_per_second)
    ok = not f.check_script or teacher_task(c) == "transcribe"
    what = "false where the teacher translates, which writes every language in English"
    check(ok, "filter.check_script", what, f.check_script)


def _check_translation(c: WhisperRecipe) -> None:
    t = c.translation
    check(t.text in ("label", "reference"), "translation.text", "label or reference", t.text)
    for key in ("num_beams", "batch_size"):
        check(getattr(t, key) > 0, f"translation.{key}", "> 0", getattr(t, key))
    ok = t.max_length_ratio is None or t.max_length_ratio >= 1
    check(ok, "translation.max_length_ratio", ">= 1 or null", t.max_length_ratio)
    for key in ("max_repeated_ngrams", "max_copied"):
        value = getattr(t, key)
        check(value is None or 0 <= value <= 1, f"translation.{key}", "in [0, 1] or null", value)
    ok = t.min_avg_logprob is None or t.min_avg_logprob <= 0
    check(ok, "translation.min_avg_logprob", "<= 0 or null", t.min_avg_logprob)
    if t.model is None:
        check(t.target == "en", "translation.target", "en unless there is a translation.model: "
              "Whisper translates into English only", t.target)
        return
    what = "translate with translation.model"
    check(c.task == "translate", "task", what, c.task)
    what = "0 with translation.model: translations have no timestamps"
    ok = c.views.timestamp_probability == 0
    check(ok, "views.timestamp_probability", what, c.views.timestamp_probability)
    for key in ("kl_weight", "hidden_weight"):
        value, what = getattr(c.loss, key), "0 where translation.target is not en: Whisper knows "
        what += "no other translation, so there is nothing to learn from its scores"
        check(value == 0 or t.target == "en", f"loss.{key}", what, value)


def _check_scores(c: WhisperRecipe) -> None:
    s = c.scores
    choices = {
        "method": ("head_and_sampled", "top_k", "decoder_state"),
        "encoder_states": ("disk", "memory", "none"),
        "encoder_states_dtype": ("float16", "bfloat16", "int8"),
    }
    for key, names in choices.items():
        value = getattr(s, key)
        check(value in names, f"scores.{key}", f"one of {names}", value)
    for key in ("k", "shard_views"):
        check(getattr(s, key) > 0, f"scores.{key}", "> 0", getattr(s, key))
    try:
        check_augment(c.views.augment)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    shared = c.student.freeze_encoder and c.student.encoder_layers is None
    shared = shared or c.student.learns == "encoder"  # whose clean states they are
    ok = c.teacher.mode == "live" or s.encoder_states == "none" or shared
    what = ("none unless the student has the teacher's encoder (student.freeze_encoder=true, "
            "student.encoder_layers=null)")
    check(ok, "scores.encoder_states", what, s.encoder_states)


def _check_export(c: WhisperRecipe) -> None:
    e = c.export
    check(e.max_wer_increase >= 0, "export.max_wer_increase", ">= 0", e.max_wer_increase)
    ok = 0 <= e.min_token_agreement <= 1
    check(ok, "export.min_token_agreement", "in [0, 1]", e.min_token_agreement)
    check(e.max_token_loss > 0, "export.max_token_loss", "> 0", e.max_token_loss)
    ok = e.max_word_time_error is None or e.max_word_time_error > 0
    check(ok, "export.max_word_time_error", "> 0 or null", e.max_word_time_error)


def _check_family(c: WhisperRecipe) -> None:
    budget = c.family.budget
    for choice in c.family.decoder_layers:
        _check_layers(choice, "family.decoder_layers", False)
    for key in ("milliseconds", "megabytes"):
        value = getattr(budget, key)
        check(value is None or value > 0, f"family.budget.{key}", "> 0 or null", value)
    ok = 0 < budget.clip_seconds <= 30
    check(ok, "family.budget.clip_seconds", "> 0 and at most 30", budget.clip_seconds)


def _check_robustness(c: WhisperRecipe) -> None:
    r = c.robustness
    known = (*KINDS, *CHANNELS)
    ok = set(r.kinds) <= set(known)
    check(ok, "robustness.kinds", f"some of {', '.join(known)}", r.kinds)
    ok = all(math.isfinite(snr) for snr in r.snrs) and len(set(r.snrs)) == len(r.snrs)
    check(ok, "robustness.snrs", "different numbers of decibels", r.snrs)
    ok = all(0 < seconds <= 3600 for seconds in r.without_speech_seconds)
    check(ok, "robustness.without_speech_seconds", "in (0, 3600]", r.without_speech_seconds)


def _check_tagger(c: WhisperRecipe) -> None:
    t = c.tagger
    ok = bool(t.data.train) or not (t.data.validation or t.data.test)
    check(ok, "tagger.data.train", "clips to learn from, where there are others", t.data.train)
    check(t.layers is None or t.layers > 0, "tagger.layers", "> 0 or null", t.layers)
    base.check_head(t.head, "tagger.head")
    if t.data.train:
        base.check_train(t.train)
        base.check_no_tokens(t.train)


def _check_layers(value: Any, key: str, may_be_null: bool) -> None:
    if value is None and may_be_null:
        return
    is_list = isinstance(value, list) and value and all(type(i) is int for i in value)
    is_count = type(value) is int and value > 0
    check(is_list or is_count, key, "a count > 0 or a list of layer indices", value)
