"""The usual way beside it: the whole Whisper writes, and the same language model reads the text.

The language model is as it was, without LoRA. It is shown a few pairs of the training split first:
an instruction alone makes a model this small explain what it was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distill.audio_llm.core import set_lora
from distill.audio_llm.data.examples import Example
from distill.audio_llm.data.sequences import Sequence as Ids
from distill.audio_llm.data.sequences import encode
from distill.audio_llm.model import AudioLlm
from distill.audio_llm.recipe import EvaluationConfig
from distill.data.speech.windows import Piece, Window
from distill.losses.token_losses import IGNORE
from distill.progress import progress
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.recognition.transcribe import by_length, to_text, transcribe

NUM_SHOWN = 3  # pairs of the training split, of middle length
_ASKED = {
    "recognition": "Write the spoken text again.",
    "translation": "Translate the spoken text to English.",
    "answer": "Answer a question about the spoken text.",
}


def whisper_texts(teacher: Any, examples: Sequence[Example], batch_size: int) -> list[str]:
    """What the encoder's own decoder writes of each clip, in the clip's language."""
    by_language: dict[str, list[Example]] = {}
    for example in examples:
        by_language.setdefault(example.row.language or "en", []).append(example)
    found: dict[str, str] = {}
    for language, mine in by_language.items():
        decoder = WhisperDecoder(teacher.model, teacher.processor.tokenizer, language,
                                 "transcribe", on_loop="break")
        windows = [_window(example) for example in mine]
        batches = by_length(windows, batch_size)
        for batch in progress(batches, len(batches), f"whisper, {language}", "batches"):
            hypotheses = transcribe(decoder, teacher.processor, batch, batch_size)
            found |= {name: to_text(teacher.processor.tokenizer, each.tokens)
                      for name, each in hypotheses.items()}
    return [found[example.id] for example in examples]


def _window(example: Example) -> Window:
    row = example.row
    piece = Piece(row.id, row.audio_filepath, row.offset, row.duration, 0.0, None)
    return Window(row.id, (piece,), row.speaker, row.language)


def cascade_answers(
    model: AudioLlm, kind: str, texts: Sequence[str], shown: Sequence[Example],
    config: EvaluationConfig,
) -> list[str]:
    """What the language model alone makes of transcripts; texts of like length together. Answers
    that are twice as long as the longest of them are loops, and cut."""
    sizes = [len(encode(model.tokenizer, text)) for text in texts]
    order = sorted(range(len(texts)), key=sizes.__getitem__)
    found = [""] * len(texts)
    set_lora(model.llm, False)
    try:
        parts = [order[at : at + config.batch_size]
                 for at in range(0, len(order), config.batch_size)]
        for part in progress(parts, len(parts), f"cascade, {kind}", "batches"):
            prompts = [_prompt(model, kind, texts[n], shown) for n in part]
            limit = min(config.max_new_tokens, 16 + 2 * sizes[part[-1]])
            answers = model.answer(prompts, [], limit, config.num_beams)
            for n, text in zip(part, answers, strict=True):
                found[n] = text.split("\n")[0].strip()
    finally:
        set_lora(model.llm, True)
    return found


def _prompt(model: AudioLlm, kind: str, text: str, shown: Sequence[Example]) -> Ids:
    turns = [("user", _ASKED[kind])]
    for example in shown:
        turns += [("user", example.spoken or ""), ("assistant", example.answer)]
    turns.append(("user", text))
    parts, before = [], None
    for role, content in turns:
        if role == before:  # the instruction and the first text are one turn
            parts[-1] = parts[-1].removesuffix("<|im_end|>\n") + f"\n{content}<|im_end|>\n"
        else:
            parts.append(f"<|im_start|>{role}\n{content}<|im_end|>\n")
        before = role
    ids = encode(model.tokenizer, "".join(parts) + "<|im_start|>assistant\n")
    return Ids(ids, [IGNORE] * len(ids), len(ids))
