"""The report's first section where clips were measured one by one: what a user of short audio
gets."""

from __future__ import annotations

from html import escape

from distill.html.charts import Bar, bar_chart
from distill.html.page import figure, interval, percent, table, tiles
from eval.machine import describe
from eval.speech.clips_text import about_clips, clip_rows, conclusions

_DASH = "\N{EN DASH}"


def render_clips(results: dict) -> str:
    """HTML of the entry `clips` of results.json."""
    clips = results["clips"]
    about = about_clips(clips, results["normalizer"])
    if machine := results.get("machine"):
        about += f". {describe(machine)}"
    said = "".join(f"<p>{escape(each[0].upper() + each[1:])}.</p>" for each in conclusions(clips))
    return (f"<p>{escape(about[0].upper() + about[1:])}.</p>{tiles(_key_figures(clips))}"
            f'<div class="grid-2">{_times(clips)}<div class="card">{said}</div></div>'
            f'<div class="card">{_table(clips)}</div>')


def _key_figures(clips: dict) -> list[tuple[str, str, str]]:
    fastest = min((row for row in clip_rows(clips) if row.name.startswith("student")),
                  key=lambda row: row.milliseconds)
    size = "" if fastest.megabytes is None else f"; {fastest.megabytes:.0f} MB of weights"
    items = [("Milliseconds a clip", f"{fastest.milliseconds:.0f}",
              f"{fastest.name}, one at a time{size}")]
    for role, name in (("teacher", "Teacher"), ("student", "Student"),
                       ("student_int8", "Student in int8")):
        if f"{role}_wer" in clips:
            items.append((f"{name} WER", percent(clips[f"{role}_wer"], 2),
                          f"95 % interval {interval(clips[f'{role}_wer_ci'])}"))
    times = "\N{MULTIPLICATION SIGN}"
    items.append(("Speed", f"{clips['speedup_vs_padded_teacher_fp32']:.1f}{times}",
                  "of the teacher that hears 30 s for every clip; float32"))
    return items


def _times(clips: dict) -> str:
    bars = [Bar(row.name, row.milliseconds, f"{row.milliseconds:.0f} ms", row.name.split(",")[0])
            for row in clip_rows(clips)]
    title = "Milliseconds a clip"
    return figure(title, bar_chart(title, bars, "milliseconds, one clip at a time"),
                  "From samples to text. Lower is better.")


def _table(clips: dict) -> str:
    head = ("", "ms a clip", f"of {clips['milliseconds_in_batch']['batch_size']} at once", "WER",
            "Weights")
    return table(head, [
        (row.name, f"{row.milliseconds:.0f}", f"{row.in_batch:.0f}",
         _DASH if row.wer is None else f"{percent(row.wer, 2)}\n{interval(row.interval)}",
         _DASH if row.megabytes is None else f"{row.megabytes:.0f} MB")
        for row in clip_rows(clips)])
