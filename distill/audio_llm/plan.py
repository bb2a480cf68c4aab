"""What the recipe of an audio language model would run: examples, tokens, weights and time.

Reads manifests and arithmetic only: no model is loaded and no audio is read.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from distill.audio_llm.data.examples import load_examples
from distill.audio_llm.recipe import ENCODER_MS, AudioLlmRecipe, stages_of
from distill.data.manifest import counts_text
from distill.progress import clock

# hidden size, layers, inner size, width of keys and values: of models that recipes name
SIZES = {
    "SmolLM2-135M-Instruct": (576, 30, 1536, 192),
    "Qwen2-1.5B-Instruct": (1536, 28, 8960, 256),
    "Qwen2-7B-Instruct": (3584, 28, 18944, 512),
    "vicuna-7b-v1.1": (4096, 32, 11008, 4096),
}
ENCODER_WIDTHS = {"tiny": 384, "base": 512, "small": 768, "medium": 1024, "large": 1280}
ENCODER_LAYERS = {384: 4, 512: 6, 768: 12, 1024: 24, 1280: 32}
CORE_FLOPS = 60e9  # float32 matrix products a core, as in other plans
_LETTERS_PER_TOKEN = 4.0
_LAYOUT_TOKENS = {"user": 12, "mooer": 24, "ltu_as": 20}


def lora_parameters(sizes: tuple[int, int, int, int], rank: int, targets: list[str]) -> int:
    """Of the factors of all layers.

    Args:
        sizes: as in SIZES.
        targets: names of Llama's and Qwen's projections.
    """
    hidden, layers, inner, kv = sizes
    shapes = {"q_proj": (hidden, hidden), "k_proj": (hidden, kv), "v_proj": (hidden, kv),
              "o_proj": (hidden, hidden), "gate_proj": (hidden, inner), "up_proj": (hidden, inner),
              "down_proj": (inner, hidden)}
    return layers * sum(rank * sum(shapes[each]) for each in targets if each in shapes)


def adapter_parameters(width: int, llm_width: int, stack: int, hidden: int) -> int:
    """Of `StackMlp`."""
    return (width * stack + 1) * hidden + (hidden + 1) * llm_width


def tltr_parameters(width: int, llm_width: int) -> int:
    """Of `TltrProjection`: two blocks, and a linear layer."""
    return 2 * (12 * width**2 + 12 * width) + (width + 1) * llm_width


def describe(recipe: AudioLlmRecipe) -> str:
    """The plan as text.

    Raises:
        ValueError: a manifest cannot be used.
    """
    lines = [f"Plan of {Path(recipe.output_dir or '').name}", "", "Data"]
    tokens: dict[str, list[float]] = {}
    for split in ("train", "validation", "test"):
        paths = [each for each in getattr(recipe.data, split) if Path(each).exists()]
        if not paths:
            hours = recipe.data.expected_hours if split == "train" else None
            lines.append(f"  {split:<12}" + (f"{hours:,.0f} h expected" if hours else "none"))
            continue
        examples, drops = load_examples(recipe, paths)
        counts = Counter(each.task.name for each in examples)
        seconds = sum(each.row.duration for each in examples)
        lines.append(f"  {split:<12}{len(examples):,} examples ({counts_text(counts)}), "
                     f"{seconds / 60:.1f} minutes; left out: {counts_text(drops)}")
        if split == "train":
            for each in examples:
                tokens.setdefault(each.task.name, []).append(
                    1000 * each.row.duration / (400 if recipe.adapter.kind == "tltr"
                                                else recipe.adapter.frame_ms)
                    + _LAYOUT_TOKENS[recipe.layout]
                    + (len(each.question) + len(each.answer)) / _LETTERS_PER_TOKEN)
    lines += ["", *_model_lines(recipe), "", "Stages"]
    lines += _stage_lines(recipe, tokens)
    return "\n".join(lines)


def _model_lines(recipe: AudioLlmRecipe) -> list[str]:
    name = Path(recipe.language_model.model).name
    stack = recipe.adapter.frame_ms // ENCODER_MS
    width = next((value for size, value in ENCODER_WIDTHS.items()
                  if size in Path(recipe.encoder.model).name
                  and recipe.encoder.kind == "whisper"), None)
    lines = ["Model", f"  encoder      {recipe.encoder.model}, frozen; its states are kept on disk"]
    if width:
        vectors = 50.0  # a second
        if recipe.adapter.kind == "tltr":
            vectors = 2.5 * ENCODER_LAYERS[width]
        gigabytes = (recipe.data.expected_hours or 0) * 3600 * vectors * width * 2 / 1e9
        more = f", {gigabytes:,.0f} GB in all" if gigabytes >= 1 else ""
        lines[-1] += f" ({vectors * width * 2 / 1e3:.0f} kB a second{more})"
    sizes = SIZES.get(name)
    if sizes is None or width is None:
        return [*lines, f"  {name}: sizes are known when it is loaded"]
    every = 400 if recipe.adapter.kind == "tltr" else recipe.adapter.frame_ms
    adapter = (tltr_parameters(width, sizes[0]) if recipe.adapter.kind == "tltr" else
               adapter_parameters(width, sizes[0], stack, recipe.adapter.hidden_size))
    lora = lora_parameters(sizes, recipe.lora.rank, recipe.lora.targets)
    return [*lines,
            f"  adapter      {adapter:,} parameters, an embedding per {every} ms",
            f"  LoRA         {lora:,} parameters, rank {recipe.lora.rank}, on "
            f"{', '.join(recipe.lora.targets)} of {name}"]


def _stage_lines(recipe: AudioLlmRecipe, tokens: dict[str, list[float]]) -> list[str]:
    sizes = SIZES.get(Path(recipe.language_model.model).name)
    lines, total = [], 0.0
    for each in stages_of(recipe):
        (stage,), train = each.stages, each.train
        known = [count for name, counts in tokens.items()
                 if not stage.tasks or name in stage.tasks for count in counts]
        size = (f"{train.batch_tokens:,} tokens" if train.batch_tokens
                else f"{train.batch_size} examples")
        line = (f"  {stage.name:<12}{' and '.join(stage.trains)}, loss {stage.loss}, "
                f"{train.max_steps:,} steps of {size}, learning rate {train.learning_rate:g}")
        if known and sizes:
            mean = sum(known) / len(known)
            step = train.batch_tokens or train.batch_size * mean
            line += f", {train.max_steps * step / sum(known):.1f} epochs"
            if stage.loss != "ctc":  # forward, and backward through frozen weights
                hidden, layers, inner, kv = sizes
                weights = layers * hidden * (2 * hidden + 2 * kv + 3 * inner)
                total += train.max_steps * step * 4 * weights / CORE_FLOPS
            else:
                total += 0.5 * train.max_steps
        lines.append(line)
    if total:
        lines += ["", f"About {clock(total)} on one core (float32), validation not counted"]
    return lines
