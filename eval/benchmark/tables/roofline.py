"""The tables of eval.benchmark.roofline, for a terminal."""

from __future__ import annotations

Place = tuple[str, str, str]  # pair, device, setting


def table(result: dict) -> str:
    """For a terminal."""
    low, high = result["fitted"]["all_within_25_percent"]
    published, main = result["published"], result["main_pair"]
    lines = ["Arithmetic; nothing was measured on a GPU.", "",
             f"{published['pair']}, {published['device']}, eager, a token accepted if all rows "
             "agree;", f"acceptance {result['fitted']['acceptance']} is the one fit; {low} to "
             f"{high}: all within 25 %",
             "batch  published   model   error  drafted  predicted if per row"]
    for row in result["published_speedups"]:
        lines.append(f"{row['batch']:>5}{row['published']:>10.1f}x{row['model']:>7.2f}x"
                     f"{row['relative_error']:>+8.0%}{row['mean_draft_length']:>9.1f}"
                     f"{row['predicted_if_per_row']:>21.2f}x")
    lines.append("latency of large-v2 over distil-large-v2 (batch 1 gave the time of the host): "
                 + "; ".join(f"batch {row['batch']} published {row['published']:.1f}x, model "
                             f"{row['model']:.1f}x" for row in result["published_latency_ratios"]))
    places = dict.fromkeys(_place(row) for row in result["plain_steps"])
    for place in places:
        if place[0] == main:
            lines += ["", *_block(result, place), *_short_lines(result, place)]
    return "\n".join([*lines, "", f"{published['pair']}: alike, one token of vocabulary less; in "
                      "the JSON", "", *result["finding"]])


def at_place(rows: list[dict], place: Place) -> list[dict]:
    return [row for row in rows if _place(row) == place]


def _place(row: dict) -> Place:
    return row["pair"], row["device"], row["setting"]


def _block(result: dict, place: Place) -> list[str]:
    """One pair on one device in one setting: plain steps, and drafting at every acceptance."""
    acceptances = sorted({row["acceptance"] for row in result["predictions"]})
    lines = [f"predicted: {', '.join(place)}. A plain step in ms; by acceptance: tokens drafted, "
             "gain of decoding [with encoder] (all rows agreeing)",
             "batch   step  weights  head  cross  self  comp.  launch  largest part    "
             + "".join(f"{f'acceptance {a}':<26}" for a in acceptances).rstrip()]
    for step in at_place(result["plain_steps"], place):
        weights, head, cross, own, compute, launches = step["parts_ms"].values()
        line = (f"{step['batch']:>5}{step['step_ms']:>7.2f}{weights:>9.2f}{head:>6.2f}{cross:>7.2f}"
                f"{own:>6.2f}{compute:>7.2f}{launches:>8.2f}  {step['bound']:<16}")
        for row in at_place(result["predictions"], place):
            if row["batch"] == step["batch"]:
                cell = (f"{row['draft_length']:>2} {row['speedup']:.2f}x "
                        f"[{row['speedup_with_encoder']:.2f}x] ({row['all_rows_speedup']:.2f}x)")
                line += f"{cell:<26}"
        lines.append(line.rstrip())
    return lines


def _short_lines(result: dict, place: Place) -> list[str]:
    """Short clips beside padded ones, without drafts."""
    rows = at_place(result["short_clips"], place)
    return [f"clips of {rows[0]['seconds']:g} s, not padded (padded), without drafts; ms",
            "batch     encoder           step              cross-attention   from audio to text",
            *(f"{row['batch']:>5}     " + "".join(
                f"{row['short'][part]:.2f} ({row['padded'][part]:.2f})".ljust(18)
                for part in ("encoder_ms", "step_ms", "cross_attention_ms"))
              + f"{row['speedup']:.2f}x" for row in rows)]
