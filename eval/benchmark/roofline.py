"""Roofline of Whisper decoding on GPUs: what a decoder pass costs, and what drafting gains.

    python -m eval.benchmark.roofline

Arithmetic only: nothing here was run on a GPU. Writes runs/bench/roofline.json in a few seconds.

A decoder pass over T tokens of B rows reads the weights once, and each row's cross-attention keys
and values once: shared by the T tokens of the row, never between rows. Only the kept silence behind
short clips is one for all rows. On the device, the larger of reading and computing counts, part by
part; every kernel adds a gap; in eager mode the host issues kernels meanwhile and the slower of the
two counts.

- Published: the speed of large-v2 with distil-large-v2 as its assistant, on an A100 in eager
  PyTorch (arXiv:2311.00430 tables 9 and 22): 2.0, 1.3, 0.8 at batch 1, 4, 16. There a token is
  accepted only if all rows agree, and draft lengths follow a schedule of transformers.
- Fitted to those three: `FITTED_ACCEPTANCE`, the share of drafted tokens the teacher would have
  said too; nothing else. Any from 0.68 to 0.91 is within 25 %: the points support the rule that
  all rows must agree, not this number. The host's time in eager mode is from the published
  latencies of both models without drafting at batch 1 (table 24). The rest are data sheets and
  the assumptions below.
- Predicted, and marked so wherever printed or written: each row keeps its own accepted tokens,
  and the draft length is the best for the batch.

Left out: activations (mostly in the L2 cache), logits processors for every candidate, rows that
end before others, rounds for unlucky rows. Most of it makes drafting look better than it is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from distill.data.files import write_json
from distill.whisper.encoder.lengths import positions_of
from distill.whisper.plan.cost import cross_attention_flops, encoder_flops, seen_positions
from distill.whisper.plan.sizes import (
    SOURCE_POSITIONS,
    WhisperSize,
    find_size,
    num_decoder_parameters,
)
from eval.benchmark.tables.roofline import at_place, table

OUT = Path("runs/bench/roofline.json")
BYTES = 2  # bfloat16 or float16: weights, keys and values, logits
# Between gpt-fast's 7B model on an A100 (1397 of 2039 GB/s, gaps of kernels included) and what its
# authors found attainable there (1700 GB/s): decoding reads matrices of a few MB each.
MEMORY_SHARE = 0.75
# Products of 1500 x 1280 in the encoder, and of tens to hundreds of rows in the decoder.
COMPUTE_SHARE = 0.5
# norm, q, k, v, 2 cache writes, attention in 2 (split, combine), out, add | norm, q, attention in
# 2, out, add | norm, 2 products, activation, add: 21, and 3 copies of heads.
KERNELS_PER_LAYER, KERNELS_PER_ENCODER_LAYER = 24, 13
KERNELS_PER_PASS = 8  # two embeddings and their sum, norm, head, argmax, comparison, copy
# On the device from the end of one kernel to full speed of the next, in a CUDA graph. Assumed; half
# or twice as much moves the gains with graphs by up to 7 %.
GAP_SECONDS = 1.5e-6
GRAPH_PASS_SECONDS = 30e-6  # replay of a graph, and reading back what was accepted. Assumed.

TOKENS_PER_AUDIO_SECOND = 3.3  # of English speech. Assumed; speed-ups hardly depend on it
WINDOW_TOKENS = 100  # of a full window of 30 s, ours
CLIP_TOKENS = 30  # of a published clip: 9 s, padded to 30 s for the encoder. Assumed.
CONTEXT = WINDOW_TOKENS // 2  # tokens in the self-attention cache, on average
SHORT_SECONDS, MARGIN = 2.0, 1.0  # of a short clip, and of the silence encoded with it

BATCHES = (1, 2, 4, 8, 16, 32, 64)
ACCEPTANCES = (0.7, 0.8, 0.9)
MAX_DRAFT = 16
MAIN_PAIR, PUBLISHED_PAIR = "large-v3 + 2 layers", "large-v2 + distil-large-v2"
PAIRS = {
    MAIN_PAIR: ("openai/whisper-large-v3", "distil-whisper/distil-large-v3"),
    PUBLISHED_PAIR: ("openai/whisper-large-v2", "distil-whisper/distil-large-v2"),
}

PUBLISHED_SPEEDUPS = {1: 2.0, 4: 1.3, 16: 0.8}  # by batch; tables 9 and 22
# Seconds per second of audio by batch: large-v2, distil-large-v2; table 24, A100, no flash
# attention. Batch 1 gives the host's time; 4 and 16 are for a check.
PUBLISHED_LATENCIES = {1: (0.1372, 0.0251), 4: (0.0549, 0.0099), 16: (0.0213, 0.0065)}
# The largest of the three relative errors is smallest here. "At least 70-80 %" is what the
# authors ask of an assistant (huggingface.co/blog/whisper-speculative-decoding).
FITTED_ACCEPTANCE = 0.81


@dataclass(frozen=True)
class Device:
    """Peaks of the data sheet: bytes per second, dense bf16/fp16 operations per second."""

    name: str
    bandwidth: float
    flops: float


A100_40GB = Device("A100 40 GB", 1.555e12, 312e12)  # the published setup
A100 = Device("A100 80 GB SXM", 2.039e12, 312e12)
H100 = Device("H100 SXM", 3.35e12, 989e12)


@dataclass(frozen=True)
class Setting:
    """Seconds of the host, per kernel and per pass of a decoder."""

    name: str
    kernel_seconds: float
    pass_seconds: float


GRAPHS = Setting("CUDA graphs", 0.0, GRAPH_PASS_SECONDS)


def pass_parts(
    size: WhisperSize, device: Device, setting: Setting, rows: int, tokens: int = 1,
    positions: int = SOURCE_POSITIONS,
) -> dict[str, float]:
    """Seconds for `tokens` new tokens of each of `rows` rows, with caches, in parts that add up.

    Four are reading memory; `compute` is what computing takes beyond reading; `launches` are gaps
    between kernels and what the host takes beyond the device.

    Args:
        positions: of each row that are encoded; the kept silence behind them is read once.
    """
    d, layers = size.d_model, size.decoder_layers
    layer = num_decoder_parameters(size, 1) - num_decoder_parameters(size, 0)
    layer -= 2 * d * d + d  # keys and values of the encoder states are made once a window
    head = size.vocab * d
    states = 2 * layers * d  # a position of a cache: key and value in every layer
    seen = seen_positions(positions)
    # Numbers read (logits are written, then read for the argmax), and multiply-adds of a token.
    parts = {
        "weights": (layers * layer, layers * layer),
        "head": (head + 2 * rows * tokens * size.vocab, head),
        "cross_attention": (((rows - 1) * positions + seen) * states, seen * states),
        "self_attention": (rows * CONTEXT * states, CONTEXT * states),
    }
    memory = {part: BYTES * read / (device.bandwidth * MEMORY_SHARE)
              for part, (read, _) in parts.items()}
    # Kernels pad the queries of attention to tiles of up to 64: still below reading the keys.
    compute = sum(max(0.0, 2 * rows * tokens * n / (device.flops * COMPUTE_SHARE) - memory[part])
                  for part, (_, n) in parts.items())
    kernels = layers * KERNELS_PER_LAYER + KERNELS_PER_PASS
    busy = sum(memory.values()) + compute + kernels * GAP_SECONDS
    host = layers * KERNELS_PER_LAYER * setting.kernel_seconds + setting.pass_seconds
    # A replayed graph is waited for, kernels issued one by one overlap with their work.
    waiting = host if setting.kernel_seconds == 0 else max(0.0, host - busy)
    return memory | {"compute": compute, "launches": kernels * GAP_SECONDS + waiting}


def encoder_seconds(
    sizes: Sequence[WhisperSize], device: Device, kernel_seconds: float, rows: int,
    positions: int = SOURCE_POSITIONS,
) -> float:
    """Once a window: the encoder, and keys and values for the decoders that share it."""
    flops = encoder_flops(sizes[0], positions=positions) + sum(
        cross_attention_flops(size, positions=positions) for size in sizes)
    kernels = sizes[0].encoder_layers * KERNELS_PER_ENCODER_LAYER
    return max(rows * flops / (device.flops * COMPUTE_SHARE),
               kernels * max(GAP_SECONDS, kernel_seconds))


def published_eager() -> Setting:
    """The host's time in the published setup, from the latencies of both models at batch 1.

    They differ by 30 decoder layers alone, which gives the time of a layer: 1.1 ms, over
    ten times what the device needs. What distil-large-v2 takes beyond encoder and two layers is
    the time of a pass: `generate`, logits processors, the argmax and the like.
    """
    teacher, student = _sizes(PUBLISHED_PAIR)
    slow, fast = (each / TOKENS_PER_AUDIO_SECOND for each in PUBLISHED_LATENCIES[1])  # per token
    layer = (slow - fast) / (teacher.decoder_layers - student.decoder_layers)
    kernel = layer / KERNELS_PER_LAYER
    encoder = encoder_seconds([student], A100_40GB, kernel, rows=1) / CLIP_TOKENS
    return Setting("eager", kernel, fast - encoder - student.decoder_layers * layer)


def _sizes(pair: str) -> tuple[WhisperSize, WhisperSize]:
    teacher, student = PAIRS[pair]
    return find_size(teacher), find_size(student)


EAGER = published_eager()
SETTINGS = (GRAPHS, EAGER)


def expected_tokens(acceptance: float, num_drafted: int) -> float:
    """Tokens a verifying pass yields: those accepted and one of the teacher (arXiv:2211.17192
    eq. 1), each drafted token being accepted with the same chance if all before it were."""
    if acceptance == 1:
        return num_drafted + 1.0
    return (1 - acceptance ** (num_drafted + 1)) / (1 - acceptance)


def all_rows(acceptance: float, rows: int) -> float:
    """Chance that all rows accept a token, when rows are independent."""
    return acceptance**rows


def round_seconds(
    pair: str, device: Device, setting: Setting, rows: int, num_drafted: int
) -> float:
    """Draft one token after another, then verify them in one pass; without drafts a plain step."""
    teacher, student = _sizes(pair)
    draft = pass_parts(student, device, setting, rows)
    verify = pass_parts(teacher, device, setting, rows, num_drafted + 1)
    return num_drafted * sum(draft.values()) + sum(verify.values())


def schedule(acceptance: float, longest: int = CLIP_TOKENS) -> dict[int, float]:
    """How often each draft length is used by the default of transformers at that time (assumed).

    "heuristic": two more after a draft accepted whole, else one less, at least 1; kept from call to
    call, so that the start (5) does not matter: the stationary distribution of that walk.
    """
    shares = dict.fromkeys(range(1, longest + 1), 0.0) | {5: 1.0}
    for _ in range(500):
        following = dict.fromkeys(shares, 0.0)
        for length, share in shares.items():
            whole = acceptance**length
            following[min(longest, length + 2)] += share * whole
            following[max(1, length - 1)] += share * (1 - whole)
        shares = following
    return shares


def published_speedup(rows: int, acceptance: float, per_row: bool = False) -> float:
    """Latency of large-v2 alone over that with distil-large-v2, in the published setup; with
    `per_row`, if each row kept its own accepted tokens."""
    agreed = acceptance if per_row else all_rows(acceptance, rows)
    shares = schedule(agreed)
    seconds = sum(share * round_seconds(PUBLISHED_PAIR, A100_40GB, EAGER, rows, length)
                  for length, share in shares.items())
    tokens = sum(share * expected_tokens(agreed, length) for length, share in shares.items())
    plain = round_seconds(PUBLISHED_PAIR, A100_40GB, EAGER, rows, 0)
    teacher, student = _sizes(PUBLISHED_PAIR)
    alone = encoder_seconds([teacher], A100_40GB, EAGER.kernel_seconds, rows)
    both = encoder_seconds([teacher, student], A100_40GB, EAGER.kernel_seconds, rows)
    return (alone + CLIP_TOKENS * plain) / (both + CLIP_TOKENS * seconds / tokens)


def fit_errors() -> dict[float, float]:
    """By acceptance, the largest relative error of the three published speed-ups: the one fit."""
    return {n / 100: max(abs(published_speedup(rows, n / 100) / speedup - 1)
                         for rows, speedup in PUBLISHED_SPEEDUPS.items()) for n in range(50, 100)}


def reproduce() -> list[dict]:
    """Model beside published, with the fitted acceptance."""
    found = []
    for rows, published in PUBLISHED_SPEEDUPS.items():
        lengths = schedule(all_rows(FITTED_ACCEPTANCE, rows))
        found.append(_beside(rows, published, published_speedup(rows, FITTED_ACCEPTANCE)) | {
            "mean_draft_length": sum(length * share for length, share in lengths.items()),
            "predicted_if_per_row": published_speedup(rows, FITTED_ACCEPTANCE, per_row=True)})
    return found


def check_latencies() -> list[dict]:
    """large-v2 over distil-large-v2 without drafting; only batch 1 was used, for the host."""
    def seconds(size: WhisperSize, rows: int) -> float:
        encoder = encoder_seconds([size], A100_40GB, EAGER.kernel_seconds, rows)
        return encoder + CLIP_TOKENS * sum(pass_parts(size, A100_40GB, EAGER, rows).values())

    teacher, student = _sizes(PUBLISHED_PAIR)
    return [_beside(rows, slow / fast, seconds(teacher, rows) / seconds(student, rows))
            for rows, (slow, fast) in PUBLISHED_LATENCIES.items()]


def _beside(rows: int, published: float, model: float) -> dict:
    return {"batch": rows, "published": published, "model": model,
            "relative_error": model / published - 1}


def best(pair: str, device: Device, setting: Setting, rows: int, acceptance: float) -> dict:
    """The draft length with most tokens per second (of all rows); 0: plain decoding is fastest."""
    def rate(num_drafted: int) -> float:
        seconds = round_seconds(pair, device, setting, rows, num_drafted)
        return rows * expected_tokens(acceptance, num_drafted) / seconds

    length = max(range(MAX_DRAFT + 1), key=rate)
    return {"draft_length": length, "tokens_per_second": rate(length),
            "speedup": rate(length) / rate(0), "plain_tokens_per_second": rate(0)}


def predict(pair: str, device: Device, setting: Setting, rows: int, acceptance: float) -> dict:
    """Ours: per-row acceptance. Beside it all rows agreeing, with its own best draft length."""
    ours = best(pair, device, setting, rows, acceptance)
    agreeing = best(pair, device, setting, rows, all_rows(acceptance, rows))
    teacher, student = _sizes(pair)
    used = [teacher, student] if ours["draft_length"] else [teacher]
    alone, both = (encoder_seconds(sizes, device, setting.kernel_seconds, rows)
                   for sizes in ([teacher], used))
    tokens = rows * WINDOW_TOKENS
    return _place(pair, device, setting, rows) | ours | {
        "acceptance": acceptance,
        "speedup_with_encoder": (alone + tokens / ours["plain_tokens_per_second"])
                                / (both + tokens / ours["tokens_per_second"]),
        "all_rows_draft_length": agreeing["draft_length"], "all_rows_speedup": agreeing["speedup"]}


def split(pair: str, device: Device, setting: Setting, rows: int) -> dict:
    """Where the time of a plain step goes; milliseconds."""
    parts = pass_parts(_sizes(pair)[0], device, setting, rows)
    return _place(pair, device, setting, rows) | {
        "step_ms": 1e3 * sum(parts.values()), "bound": max(parts, key=parts.__getitem__),
        "parts_ms": {part: 1e3 * seconds for part, seconds in parts.items()}}


def short_clips(pair: str, device: Device, setting: Setting, rows: int) -> dict:
    """Plain decoding of clips of SHORT_SECONDS at their own length, and padded; milliseconds of the
    encoder and of a step."""
    teacher, tokens = _sizes(pair)[0], SHORT_SECONDS * TOKENS_PER_AUDIO_SECOND
    ways = {"short": positions_of(SHORT_SECONDS, MARGIN), "padded": SOURCE_POSITIONS}
    found, seconds = {}, {}
    for way, positions in ways.items():
        encoder = encoder_seconds([teacher], device, setting.kernel_seconds, rows, positions)
        parts = pass_parts(teacher, device, setting, rows, positions=positions)
        step = sum(parts.values())
        seconds[way] = encoder + tokens * step
        found[way] = {"positions": positions, "encoder_ms": 1e3 * encoder, "step_ms": 1e3 * step,
                      "cross_attention_ms": 1e3 * parts["cross_attention"]}
    return _place(pair, device, setting, rows) | found | {
        "seconds": SHORT_SECONDS, "tokens": tokens,
        "speedup": seconds["padded"] / seconds["short"]}


def _place(pair: str, device: Device, setting: Setting, rows: int) -> dict:
    return {"predicted": True, "batch": rows, "pair": pair, "device": device.name,
            "setting": setting.name}


def run() -> dict:
    """Everything that is printed and written."""
    places = list(product(PAIRS, (A100, H100), SETTINGS))
    predicted = [predict(*place, rows, acceptance) for place in places
                 for acceptance in ACCEPTANCES for rows in BATCHES]
    splits, short = ([make(*place, rows) for place in places for rows in BATCHES]
                     for make in (split, short_clips))
    fits = [acceptance for acceptance, error in fit_errors().items() if error <= 0.25]
    return {
        "measured": False, "main_pair": MAIN_PAIR, "assumed": {
            "memory_share": MEMORY_SHARE, "compute_share": COMPUTE_SHARE,
            "gap_seconds": GAP_SECONDS, "kernels_per_layer": KERNELS_PER_LAYER,
            "window_tokens": WINDOW_TOKENS, "context": CONTEXT},
        "published": {"pair": PUBLISHED_PAIR, "device": A100_40GB.name},
        "fitted": {"acceptance": FITTED_ACCEPTANCE, "to": "the published speed-ups",
                   "all_within_25_percent": [fits[0], fits[-1]]},
        "host_seconds": {setting.name: asdict(setting) for setting in SETTINGS},
        "published_speedups": reproduce(), "published_latency_ratios": check_latencies(),
        "predictions": predicted, "plain_steps": splits, "short_clips": short,
        "finding": finding(predicted, splits)}


def finding(predicted: list[dict], splits: list[dict]) -> list[str]:
    """In words: large-v3 on an H100 with CUDA graphs, acceptance 0.8. All predicted."""
    place = (MAIN_PAIR, H100.name, GRAPHS.name)
    steps = {row["batch"]: row for row in at_place(splits, place)}
    ours = {row["batch"]: row for row in at_place(predicted, place) if row["acceptance"] == 0.8}
    first, last = BATCHES[0], BATCHES[-1]
    cross = {rows: step["parts_ms"]["cross_attention"] for rows, step in steps.items()}
    caches = cross[last] + steps[last]["parts_ms"]["self_attention"]  # the rest is shared by rows
    return [
        "Batching shares weights, head and launches between rows, but not cross-attention: each "
        "row reads its own keys and values. Several tokens a pass share those too.",
        f"predicted, {', '.join(place)}: cross-attention takes "
        f"{cross[first] / steps[first]['step_ms']:.0%} of a plain step at batch {first} and "
        f"{cross[last] / steps[last]['step_ms']:.0%} at {last}. The largest part by batch: "
        + ", ".join(f"{rows}: {step['bound']}" for rows, step in steps.items()) + ".",
        f"predicted: plain decoding yields {ours[last]['plain_tokens_per_second']:,.0f} tokens per "
        f"second at batch {last} and at no batch more than {1e3 * last / caches:,.0f}; with drafts "
        f"{ours[last]['tokens_per_second']:,.0f} at {last} (acceptance 0.8).",
        "predicted at acceptance 0.8, gain of decoding by batch: each row by its own tokens "
        + ", ".join(f"{rows}: {row['speedup']:.2f}x" for rows, row in ours.items())
        + "; all rows agreeing "
        + ", ".join(f"{rows}: {row['all_rows_speedup']:.2f}x" for rows, row in ours.items())
        + " (1.00x: not drafting is best)."]


def main(arguments: list[str]) -> None:
    if arguments:
        print(__doc__)
        return
    write_json(OUT, result := run())
    print(table(result), f"Written to {OUT}", sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
