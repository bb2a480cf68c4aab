"""The result of `eval.benchmark.train` as a table and as a page with its curves."""

from __future__ import annotations

from distill.html.charts import Series, line_chart
from distill.html.page import figure, render_page, section, tiles
from distill.html.page import table as html_table

NAMES = {"usual": "usual way, targets padded to 448", "unpadded": "usual way, unpadded",
         "ours": "ours, from the teacher store"}


def rows(result: dict) -> list[tuple[str, ...]]:
    """Way, seconds a step, windows a second, how many times slower than ours, peak memory."""
    slower = {"usual": result["speedup_vs_usual"], "unpadded": result["speedup_vs_unpadded"],
              "ours": 1.0}
    return [
        (name, f"{result['median_step_seconds'][way]:.2f} s",
         f"{result['windows_per_second'][way]:.2f}", f"{slower[way]:.1f}x",
         f"{result['peak_memory_bytes'][way] / 1e9:.2f} GB")
        for way, name in NAMES.items()
    ]


def head(result: dict) -> tuple[str, ...]:
    windows = f"{result['batch_windows']} windows"
    return ("", f"step of {windows}", "windows/s", "time, ours = 1",
            f"peak memory, {result['memory_batch_windows']} windows")


def setting(result: dict) -> str:
    return (f"{result['teacher']} to 2 decoder layers, embeddings trained, "
            f"{result['batch_tokens']:.0f} tokens a step, {result['dtype']}, {result['device']}, "
            f"{result['threads']} threads; medians of {len(result['pairs'])} rounds in turn")


def costs(result: dict) -> list[str]:
    """Sentences about filling the store and about time to a WER."""
    fill = result["fill"]
    each = {name: value / fill["windows"] for name, value in fill["seconds"].items()}
    lines = [
        f"Filling the store: {sum(each.values()):.2f} s a window (encoder {each['encode']:.2f}, "
        f"writing {each['write']:.2f}, scores {each['score']:.2f}), paid back after "
        f"{result['break_even_epochs']:.2f} epochs; where labelling has encoded the windows, as it "
        f"does, after {result['break_even_epochs_beyond_labelling']:.2f}.",
        f"Memory: ours / usual {result['peak_memory_ratio']:.2f}.",
    ]
    seconds = result["seconds_to_wer"]
    return [
        *lines,
        f"Validation WER of {result['target_wer']:.1%}: {seconds['usual']:.0f} s of steps the "
        f"usual way, {seconds['ours']:.0f} s ours: {result['time_to_wer_ratio']:.1f}x with "
        f"filling the store, {result['time_to_wer_ratio_with_encoding']:.1f}x with encoding all "
        "windows again.",
    ]


def table(result: dict) -> str:
    """For a terminal."""
    lines = [head(result), *rows(result)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(w) if i == 0 else cell.rjust(w)
                      for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
            for line in lines]
    return "\n".join([setting(result), "", *text, "", *costs(result)])


def page(result: dict) -> str:
    """HTML with both curves over wall time."""
    filling = result["fill"]["seconds"]
    start = {"ours": filling["write"] + filling["score"], "usual": 0.0}
    styles = {"ours": "b", "usual": "a"}

    def lines(kind: str, value: str) -> list[Series]:
        return [
            Series(NAMES[way],
                   [(start[way] + row["seconds"], row[value])
                    for row in result["curves"][way][kind]],
                   styles[way], markers=kind == "validations")
            for way in ("usual", "ours")
        ]

    losses, wers = lines("steps", "loss"), lines("validations", "wer")
    note = ("Seconds of optimiser updates, validation left out; ours starts with what filling the "
            "store costs beyond labelling. The KL to a sample of the teacher's scores has a "
            "constant of its own: shapes can be compared, heights cannot.")
    pictures = (
        figure("Loss: CE and KL, nats a token",
               line_chart("Loss", losses, "seconds", "loss"), note)
        + figure("Validation WER",
                 line_chart("Validation WER", wers, "seconds", "WER"),
                 f"Times are compared at {result['target_wer']:.0%}.")
    )
    facts = [
        ("Step", f"{result['speedup_vs_usual']:.1f}x", "faster than the usual way"),
        ("Step", f"{result['speedup_vs_unpadded']:.1f}x", "faster than the usual way, unpadded"),
        ("Peak memory", f"{result['peak_memory_ratio']:.2f}", "of the usual way's"),
    ]
    body = (
        "<h1>Training from the teacher store</h1>"
        + f"<p>{setting(result)}.</p>" + tiles(facts)
        + section("A step", html_table(head(result), rows(result)))
        + section("Over time", f'<div class="grid-2">{pictures}</div>',
                  " ".join(costs(result)))
    )
    return render_page("Training from the teacher store", body)
