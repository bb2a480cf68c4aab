"""The test split clip by clip, for a terminal: what a user gets, the student first."""

from __future__ import annotations

from dataclasses import dataclass

# way of `eval.speech.clip_times` -> whose errors and size it has; of the padded ways none are known
_WAYS = {"student, int8": "student_int8", "student, float32": "student",
         "teacher, float32": "teacher", "teacher, padded, float32": None,
         "teacher, transformers, float32": None}


@dataclass(frozen=True)
class ClipRow:
    """A way to transcribe clips.

    Attributes:
        milliseconds: a clip, one at a time; `in_batch`: all at once.
        wer, interval: fractions; None where they were not measured.
        megabytes: of its weights; None in results of before.
    """

    name: str
    milliseconds: float
    in_batch: float
    wer: float | None
    interval: tuple[float, float] | None
    megabytes: float | None


def clip_rows(clips: dict) -> list[ClipRow]:
    """Rows of the table, from the entry `clips` of results.json."""
    return [ClipRow(name, clips["milliseconds"][name], clips["milliseconds_in_batch"][name],
                    clips.get(f"{role}_wer"), clips.get(f"{role}_wer_ci"),
                    clips.get("megabytes", {}).get(role))
            for name, role in _WAYS.items() if name in clips["milliseconds"]]


def about_clips(clips: dict, normaliser: str) -> str:
    """What the rows are measured on."""
    timed, size = clips["timed_clips"], clips["milliseconds_in_batch"]["batch_size"]
    return (f"{clips['num_clips']} test clips, each by itself, {clips['mean_seconds']:.1f} s on "
            f"average, {clips['num_words']} words, {normaliser} normaliser; times from samples to "
            f"text, of {timed['count']} clips of {timed['mean_seconds']:.1f} s, one at a time "
            f"(the median) and {size} at once")


def conclusions(clips: dict) -> list[str]:
    """Sentences: errors against the teacher's, speed, loops."""
    found = []
    for name, prefix in (("student", ""), ("student in int8", "int8_")):
        if clips.get(f"{prefix}wer_difference_ci"):
            low, high = (100 * end for end in clips[f"{prefix}wer_difference_ci"])
            found.append(f"{name} - teacher: {100 * clips[f'{prefix}wer_difference']:+.2f} points "
                         f"of WER [{low:+.1f}, {high:+.1f}], paired bootstrap over clips")
    speed = (f"the student is {clips['speedup_vs_padded_teacher_fp32']:.1f} times as fast as the "
             "padded teacher")
    if clips.get("speedup_vs_transformers_int8"):
        speed += (f", in int8 {clips['speedup_vs_transformers_int8']:.1f} times as fast as the "
                  "teacher by transformers")
    return [*found, f"{speed} (one at a time, medians of pairs)",
            f"clips that loop: {clips['looping_clips']} of the student's, "
            f"{clips['teacher_looping_clips']} of the teacher's"]


def clips_text(clips: dict, normaliser: str) -> list[str]:
    """Lines for a terminal."""
    head = ("", "ms a clip", "at once", "WER [95 % CI]", "weights")
    cells = [(row.name, f"{row.milliseconds:.0f}", f"{row.in_batch:.0f}", _rate(row),
              "-" if row.megabytes is None else f"{row.megabytes:.0f} MB")
             for row in clip_rows(clips)]
    widths = [max(len(each[column]) for each in (head, *cells)) for column in range(len(head))]
    lines = ["  ".join([row[0].ljust(widths[0]),
                        *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:],
                                                                   strict=True))])
             for row in (head, *cells)]
    lines.insert(1, "-" * len(lines[0]))
    return [f"Clip by clip: {about_clips(clips, normaliser)}", "", *lines, "", *conclusions(clips)]


def _rate(row: ClipRow) -> str:
    if row.wer is None:
        return "-"
    ends = row.interval
    return f"{100 * row.wer:.2f} %" + (
        f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if ends else "")
