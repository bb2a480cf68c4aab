"""Teacher and student side by side, for a terminal: single clips first, if measured."""

from __future__ import annotations

from eval.machine import describe
from eval.speech.clips_text import clips_text


def text_table(results: dict) -> str:
    """A plain table of results.json; every row says what it is."""
    teacher, student = results["teacher"], results["student"]

    def rate(key: str):
        def show(model: dict) -> str:
            if model.get(key) is None:
                return "-"
            ends = model.get(f"{key}_ci")
            interval = f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if ends else ""
            return f"{100 * model[key]:.2f} %{interval}"

        return show

    def number(key: str, size: float = 1, digits: int = 1, unit: str = ""):
        return lambda m: "-" if m.get(key) is None else f"{m[key] / size:.{digits}f}{unit}"

    norm = results["normalizer"]
    rows = [
        (f"WER, {norm} normaliser [95 % CI]", rate("wer")),
        (f"CER, {norm} normaliser [95 % CI]", rate("cer")),
        ("WER, orthographic [95 % CI]", rate("wer_orthographic")),
        ("substitutions / deletions / insertions",
         lambda m: f"{m['substitutions']} / {m['deletions']} / {m['insertions']}"),
        ("insertions per 1,000 words", number("insertions_per_1000_words")),
        ("repeated 5-grams per 1,000 words", number("repeated_5grams_per_1000_words")),
        (f"texts that loop, of {results['num_units']}", number("looping_units", digits=0)),
        ("texts that do not, since decoded in halves", number("halved_units", digits=0)),
        ("RTFx (audio seconds per second)", number("rtfx")),
        ("parameters", number("parameters", 1e6, 1, " M")),
        ("decoder parameters", number("decoder_parameters", 1e6, 1, " M")),
        ("weights on disk", number("file_bytes", 1e6, 0, " MB")),
        ("peak memory", number("peak_memory_bytes", 1e6, 0, " MB")),
    ]
    rows = [("BLEU", number("bleu", digits=2)), ("chrF2", number("chrf", digits=2)), *rows]
    cells = [(label, show(teacher), show(student)) for label, show in rows]
    cells = [cell for cell in cells if cell[1:] != ("-", "-")]  # BLEU of a transcription
    head = ("", f"teacher ({teacher['model']})", f"student ({student['model']})")
    widths = [max(len(row[i]) for row in [head, *cells]) for i in range(3)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
             for row in [head, *cells]]
    lines.insert(1, "-" * len(lines[0]))
    if "clips" in results:
        is_joined = results["num_units"] < results["clips"]["num_clips"]
        packed = ("Joined to windows of up to 30 s:" if is_joined else "All of the split:")
        lines = [*clips_text(results["clips"], norm), "", packed, "", *lines]
    return "\n".join([*lines, "", *_footer(results)])


def _footer(results: dict) -> list[str]:
    paired = results["paired"]
    lines = [
        f"{results['split']} split: {results['num_units']} utterances, "
        f"{results['num_words']} words, {60 * results['hours']:.1f} minutes; "
        f"{results['decoding']}; {results['student']['dtype']} on {results['student']['device']}, "
        f"{results['threads']} threads"
    ]
    if machine := results.get("machine"):
        lines.append(f"machine: {describe(machine)}")
    if paired["wer_difference_ci"]:
        low, high = (100 * end for end in paired["wer_difference_ci"])
        lines.append(
            f"student - teacher: {100 * paired['wer_difference']:+.2f} points of WER "
            f"[{low:+.1f}, {high:+.1f}], paired bootstrap, p = {paired['p_value']:.3f}"
        )
    if "speculation" in results["teacher"]:
        lines.append(f"a student may draft for the teacher: {results['teacher']['speculation']}")
    if results["teacher"].get("bleu_signature"):
        lines.append(f"BLEU: {results['teacher']['bleu_signature']}; "
                     f"chrF: {results['teacher']['chrf_signature']}")
    return lines
