"""What `python -m eval.speech.short_audio` prints."""

from __future__ import annotations

from distill.data.manifest import counts_text

_FEWEST = 30  # clips: fewer say little about loops


def table(result: dict) -> str:
    """For a terminal."""
    head = ("margin", "WER", "difference", "same text", "inserted", "loops", "again", "word times",
            "segments", "language", "encoded", "")
    lines = [head, *(_line(row) for row in (result["padded"], *result["margins"]))]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    rows = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines]
    clips, short = result["num_clips"], result["margins"][0]["num_short"]
    about = (f"{clips} clips ({result['num_words']} words), {clips - short} of them padded in any "
             "case")
    if noise := result["noise"]:
        about += f"; under them: {noise['source']}, {noise['snr_db']:g} dB weaker than speech"
    if result["left_out"]:
        about += f"; left out: {counts_text(result['left_out'])}"
    said = [f"{about}.",
            "Difference: points of WER, with a paired 95 % interval. again: texts that went wrong "
            "and were", "replaced by those of the padded clip. encoded: share of the 30 s that the "
            "encoder reads."]
    if clips < _FEWEST:
        said.append(f"{clips} clips say little: take {_FEWEST} or more.")
    if result["chosen"] is None:
        said.append("No margin will do: try larger ones (--margins 4,8), or leave clips padded.")
    else:
        said.append(f"Chosen: {result['chosen']:g} s.")
    return "\n".join([*rows, "", *said])


def _line(row: dict) -> tuple[str, ...]:
    if row["margin_seconds"] is None:
        return ("padded", f"{100 * row['wer']:.2f} %", "", "", str(row["insertions"]),
                str(row["loops"]), "", "", "", "", "100 %", "")
    ends, moved = row["interval"], row["segment_difference"]
    around = f" [{100 * ends[0]:+.2f}, {100 * ends[1]:+.2f}]" if ends else ""
    return (f"{row['margin_seconds']:g} s", f"{100 * row['wer']:.2f} %",
            f"{100 * row['wer_difference']:+.2f}{around}", f"{100 * row['same_text']:.1f} %",
            str(row["insertions"]), str(row["loops"]), str(row["again"]),
            f"{row['time_difference']:.3f} s", "" if moved is None else f"{moved:.3f} s",
            f"{100 * row['same_language']:.1f} %",
            f"{100 * row['encoded']:.0f} %", ", ".join(row["reasons"]) or "good")
