"""What others' `generate` reads beside the weights, so that a student is right where it is used.

transformers asks the generation config for language and task. Without them a multilingual Whisper
is asked to go on after its language alone, and as soon as timestamps are wanted the first of them
stands where the task should: text is lost (huggingface/transformers#29938).
"""

from __future__ import annotations

from collections.abc import Iterable

from distill.whisper.special import SpecialTokens


def later_half(num_layers: int, num_heads: int) -> list[list[int]]:
    """(layer, head) of all heads in the later half of a decoder: OpenAI's alignment heads of a
    model of which nobody knows better."""
    return [[layer, head] for layer in range(num_layers // 2, num_layers)
            for head in range(num_heads)]


def complete(config, special: SpecialTokens, languages: Iterable[str | None], task: str,
             context: int) -> None:
    """Fill a student's generation config in, in place.

    A student of one language says which and needs not be told; one of several goes on detecting
    it. English-only models have neither languages nor tasks, and crash on the mention of either.

    Args:
        config: GenerationConfig, a copy of the teacher's.
        languages: of what the student is trained on, as codes; None is a language to be detected.
        task: `transcribe` or `translate`.
        context: decoder positions.
    """
    # the teacher's own wishes; return_timestamps=False makes recordings of over 30 s an error
    for key in ("language", "task", "forced_decoder_ids", "return_timestamps"):
        config.__dict__.pop(key, None)
    config.forced_decoder_ids = None
    config.is_multilingual = special.multilingual
    config.no_timestamps_token_id = special.no_timestamps
    config.prev_sot_token_id = special.previous
    config.num_beams = 1  # what its error rates are measured with; pipelines would take 5
    config.max_length = context  # without it texts end after 20 tokens, or in pipelines 256
    if not special.multilingual:
        for key in ("lang_to_id", "task_to_id"):
            config.__dict__.pop(key, None)
        return
    config.lang_to_id = special.languages
    config.task_to_id = special.tasks
    config.task = task
    if len(known := set(languages)) == 1 and None not in known:
        (config.language,) = known
