"""The test split clip by clip, for a terminal."""

from __future__ import annotations


def clips_text(clips: dict) -> list[str]:
    """Lines for a terminal."""
    def rate(role: str) -> str:
        low, high = clips[f"{role}_wer_ci"] or (float("nan"),) * 2
        return f"{100 * clips[f'{role}_wer']:.2f} % WER [{100 * low:.1f}, {100 * high:.1f}]"

    lines = [f"Clip by clip: {clips['num_clips']} test clips, {clips['num_words']} words, "
             f"{clips['mean_seconds']:.1f} s on average",
             f"  teacher {rate('teacher')}, student {rate('student')}; "
             f"{clips['looping_clips']} clips of the student loop"]
    if clips["wer_difference_ci"]:
        low, high = (100 * end for end in clips["wer_difference_ci"])
        lines.append(f"  student - teacher: {100 * clips['wer_difference']:+.2f} points of WER "
                     f"[{low:+.1f}, {high:+.1f}], paired bootstrap over clips")
    if "student_int8_wer" in clips:
        low, high = (100 * end for end in clips["int8_wer_difference_ci"] or (float("nan"),) * 2)
        lines.append(f"  student in int8 {rate('student_int8')}; less teacher: "
                     f"{100 * clips['int8_wer_difference']:+.2f} points [{low:+.1f}, {high:+.1f}]")
    timed = clips["timed_clips"]
    lines.append(f"  one at a time, {timed['count']} clips of {timed['mean_seconds']:.1f} s, "
                 "milliseconds a clip: "
                 + "; ".join(f"{name} {each:.0f}" for name, each in clips["milliseconds"].items()))
    batch = dict(clips["milliseconds_in_batch"])
    size = batch.pop("batch_size")
    lines.append(f"  the same {size} clips at once, milliseconds a clip: "
                 + "; ".join(f"{name} {each:.0f}" for name, each in batch.items()))
    lines.append(f"  the student is {clips['speedup_vs_padded_teacher_fp32']:.1f} times as fast as "
                 "the padded teacher, one at a time")
    return lines
