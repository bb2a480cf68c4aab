"""Is it the teacher's output? Token for token, on all test and validation windows of the demo.

    python -m eval.benchmark.identical

Speculative decoding with the demo's student, at batch 1 and 8, with and without timestamps and
prompts (the text of the window before): in float32 against transformers' own greedy
decoding of one window at a time, in int8 against our plain decoding. An int8 teacher is another
teacher: its WER stands beside that in float32. Writes runs/bench/identical.json; near ties are
listed, and decided by plain decoding (`exact`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, product
from pathlib import Path

import torch
from torch import Tensor

from distill.metrics.error_rates import bootstrap_interval, error_counts, error_rate, total
from distill.metrics.normalize import normalizer
from distill.progress import progress
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.recognition.transcribe import to_text
from distill.whisper.special import SpecialTokens
from eval.benchmark.pairs import Pair, whisper_base
from eval.benchmark.result import run_benchmark, write_result

OUT = Path("runs/bench/identical.json")
LIMIT = 220


def main(arguments: list[str]) -> None:
    if arguments:
        print(__doc__)
        return
    pair = whisper_base(most=10_000)
    print(f"{len(pair.states)} windows", flush=True)
    rows, rates = [], {}
    cases = list(product((False, True), (False, True)))
    for timestamps, prompted in progress(cases, len(cases), "comparing", "settings"):
        theirs = decode_with_transformers(pair, timestamps, None)
        prompts = [[]] * len(theirs)
        if prompted:
            end = pair.tokenizer.convert_tokens_to_ids("<|notimestamps|>")
            prompts = [[], *[[t for t in row if t < end] for row in theirs[:-1]]]
            theirs = decode_with_transformers(pair, timestamps, prompts)
        plain = decode_with_ours(pair, timestamps, prompts, 1, int8=True, drafts=False)[0]
        if not timestamps and not prompted:
            rates = error_rates(pair, {"fp32": theirs, "int8": plain})
        for int8, batch in product((False, True), (1, 8)):
            found, decoder = decode_with_ours(pair, timestamps, prompts, batch, int8, drafts=True)
            wanted = plain if int8 else theirs
            rows.append({
                "timestamps": timestamps, "prompts": prompted, "batch": batch,
                "type": "int8" if int8 else "fp32", "windows": len(found),
                "tokens": sum(map(len, found)),
                "against": "ours, plain" if int8 else "transformers",
                "identical": sum(a == b for a, b in zip(found, wanted, strict=True)),
                "acceptance": decoder.report.acceptance,
                "near_ties": [{"gap": tie.gap, "tokens": tie.tokens, "chosen": tie.chosen,
                               "resolved": tie.resolved} for tie in decoder.report.near_ties],
            })
            print(describe(rows[-1]), flush=True)
    write_result(OUT, {"settings": rows, "wer": rates}, _rates_text(pair, rates))


def _rates_text(pair: Pair, rates: dict) -> str:
    lines = []
    for kind, rate in rates.items():
        low, high = rate["interval"]
        lines.append(f"WER of the teacher, {kind}: {100 * rate['wer']:.2f} % [{100 * low:.1f}, "
                     f"{100 * high:.1f}], {rate['words']} words, {len(pair.references)} "
                     "utterances of test and validation, English normaliser")
    return "\n".join(lines)


def error_rates(pair: Pair, tokens_by_type: dict[str, list[list[int]]]) -> dict:
    """WER of plain decoding, with a 95 % bootstrap interval over utterances."""
    normalise = normalizer("english", "en")
    found = {}
    for kind, rows in tokens_by_type.items():
        texts, counts = iter([to_text(pair.tokenizer, tokens) for tokens in rows]), []
        for reference, windows in pair.references:
            text = " ".join(islice(texts, windows))
            counts.append(error_counts(normalise(reference), normalise(text)))
        found[kind] = {"wer": error_rate(counts), "interval": bootstrap_interval(counts),
                       "words": total(counts).num_reference}
    return found


def describe(row: dict) -> str:
    options = [name for name in ("timestamps", "prompts") if row[name]]
    unresolved = sum(not tie["resolved"] for tie in row["near_ties"])
    gaps = ", ".join(f"{tie['gap']:.1e}" for tie in row["near_ties"])
    return (f"{row['type']} batch {row['batch']}, {' and '.join(options) or 'plain text'}: "
            f"{row['identical']} of {row['windows']} windows as {row['against']} "
            f"({row['tokens']} tokens, {row['acceptance']:.0%} of drafts accepted); "
            f"{len(row['near_ties'])} near ties, {unresolved} unresolved {gaps}")


@torch.no_grad()
def decode_with_transformers(
    pair: Pair, timestamps: bool, prompts: Sequence[list[int]] | None
) -> list[list[int]]:
    """One window after the other, in one pass each, from the same encoder states; with Whisper's
    rules for timestamps where there are any."""
    from transformers import GenerationConfig, GenerationMixin
    from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor
    from transformers.modeling_outputs import BaseModelOutput

    generation = pair.teacher.generation_config
    special = SpecialTokens(pair.tokenizer, generation)
    config = GenerationConfig(
        max_new_tokens=LIMIT, max_length=None, do_sample=False, num_beams=1,
        eos_token_id=special.end, pad_token_id=special.end, decoder_start_token_id=special.start,
        suppress_tokens=generation.suppress_tokens,
        begin_suppress_tokens=generation.begin_suppress_tokens)
    found = []
    for index, states in enumerate(pair.states):
        before = [special.previous, *prompts[index][-223:]] if prompts and prompts[index] else []
        ids = [*before, *special.prefix("en", "transcribe", timestamps)]
        rules = [WhisperTimeStampLogitsProcessor(generation, begin_index=len(ids))] * timestamps
        row = GenerationMixin.generate(
            pair.teacher, encoder_outputs=BaseModelOutput(last_hidden_state=states[None]),
            decoder_input_ids=torch.tensor([ids]), generation_config=config,
            logits_processor=rules)[0].tolist()
        tokens = row[len(ids) :]
        found.append(tokens[: tokens.index(special.end)] if special.end in tokens else tokens)
    return found


def decode_with_ours(
    pair: Pair, timestamps: bool, prompts: Sequence[list[int]], batch: int, int8: bool, drafts: bool
) -> tuple[list[list[int]], WhisperDecoder]:
    decoder = WhisperDecoder(
        pair.teacher, pair.tokenizer, "en", timestamps=timestamps, on_loop="keep", int8=int8,
        student=pair.student if drafts else None, exact=True, draft_length=4 if drafts else None)
    tokens: list[list[int]] = []
    for at in range(0, len(pair.states), batch):
        states: Tensor = pair.states[at : at + batch]
        found = decoder(states, [LIMIT] * len(states), previous=prompts[at : at + batch])
        tokens += [each.tokens for each in found]
    return tokens, decoder


if __name__ == "__main__":
    run_benchmark(main)
