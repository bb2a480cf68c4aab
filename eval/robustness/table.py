"""What `python -m eval.robustness` prints."""

from __future__ import annotations

from distill.data.manifest import counts_text


def text_table(results: dict) -> str:
    """For a terminal."""
    parts = [_clips(results)]
    if results.get("others"):
        parts.append(_others(results["others"]))
    if "inventions" in results:
        parts += [_inventions(results), _joined(results)]
    return "\n\n".join(parts)


def condition_rows(results: dict) -> list[tuple[str, dict[str, dict]]]:
    """(name, {model: entry}) of clean and changed clips, then of every noise and SNR."""
    roles = list(results["noises"])
    rows = [(kind, {role: results["changes"][role][kind] for role in roles})
            for kind in results["changes"]["teacher"]]
    for kind, row in results["noises"]["teacher"].items():
        rows += [(f"{kind} {snr} dB", {role: results["noises"][role][kind][snr] for role in roles})
                 for snr in row]
    return rows


def about_clips(results: dict) -> str:
    """What was measured, in a sentence or two."""
    left = f"; left out: {counts_text(results['left_out'])}" if results["left_out"] else ""
    return (f"{results['split'].capitalize()} split, clip by clip: {results['num_clips']} clips, "
            f"{results['num_words']} words, {results['minutes']:.1f} minutes{left}. "
            f"{results['normalizer'].capitalize()} normaliser; 95 % intervals: bootstrap over "
            f"clips, {results['num_bootstrap']} draws. SNR: {results['snr']}.")


def area_text(results: dict, role: str) -> str:
    """The one number: how far a model's curves lie above the teacher's."""
    if not results["area"].get(role):
        return ""
    ends = results["area_ci"][role]
    around = f" [{100 * ends[0]:+.2f}, {100 * ends[1]:+.2f}]" if ends else ""
    kinds = [kind for kind in results["area"][role] if kind != "all"]
    snrs = [float(snr) for snr in results["noises"]["teacher"][kinds[0]]]
    return (f"{100 * results['area'][role]['all']:+.2f} points of WER{around} from the teacher's, "
            f"on average over {max(snrs):g} to {min(snrs):g} dB and {', '.join(kinds)}")


def rate_text(entry: dict) -> str:
    """`9.24 % [7.1, 11.6]`"""
    ends = entry["wer_ci"]
    around = f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if ends else ""
    return f"{100 * entry['wer']:.2f} %{around}"


def difference_text(entry: dict) -> str:
    """Points of WER, with their interval."""
    ends = entry["difference_ci"]
    around = f" [{100 * ends[0]:+.1f}, {100 * ends[1]:+.1f}]" if ends else ""
    return f"{100 * entry['difference']:+.2f}{around}"


def _clips(results: dict) -> str:
    roles = list(results["noises"])
    head = [""]
    for role in roles:
        head += [f"{role}: WER", "inserted", "loops"]
        head += ["difference"] if role != "teacher" else []
    lines = [head]
    for name, entries in condition_rows(results):
        line = [name]
        for role in roles:
            entry = entries[role]
            line += [rate_text(entry), str(entry["insertions"]), str(entry["loops"])]
            line += [difference_text(entry)] if role != "teacher" else []
        lines.append(line)
    said = [_aligned(lines), "", about_clips(results),
            "Differences: points of WER from the teacher's, paired."]
    said += [f"Area, {role}: {text}." for role in roles if (text := area_text(results, role))]
    return "\n".join(said)


def other_rows(others: dict) -> list[tuple[str, dict]]:
    """(name, entry) of what other models than the student do."""
    return [*others["changes"].items(),
            *((f"{kind} {snr} dB", entry) for kind, row in others["noises"].items()
              for snr, entry in row.items()),
            *((f"all noises {snr} dB", entry) for snr, entry in others["all_noises"].items())]


def about_others(others: dict) -> str:
    return (f"Mean of {', '.join(others['models'])}; differences: points of WER from the student's "
            "on the same clips; 95 % intervals: bootstrap over clips and models.")


def _others(others: dict) -> str:
    lines = [["other models", "WER", "difference", "each"]]
    for name, entry in other_rows(others):
        each = ", ".join(f"{100 * value:+.2f}" for value in entry["each"])
        lines.append([name, f"{100 * entry['wer']:.2f} %", difference_text(entry), each])
    return f"{_aligned(lines)}\n{about_others(others)}"


def _inventions(results: dict) -> str:
    lines = [["words invented a minute", "minutes", *(
        f"{role}, {way}" for role in results["inventions"] for way in ("guarded", "not"))]]
    for kind, each in results["inventions"]["teacher"].items():
        line = [kind, f"{each['minutes']:.3g}"]
        for role in results["inventions"]:
            line += [f"{results[key][role][kind]:.2f}" for key in (
                "invented_words_per_minute", "invented_words_per_minute_without_guard")]
        lines.append(line)
    return _aligned(lines)


def _joined(results: dict) -> str:
    lines = [["clips joined, with pauses", "WER", "words found", "inserted per 1,000",
              "repeated 5-grams per 1,000"]]
    for role, ways in results["joined"].items():
        for way, each in ways.items():
            lines.append([f"{role}, {way.replace('_', ' ')}", rate_text(each),
                          f"{100 * each['recall']:.1f} %",
                          f"{each['insertions_per_1000_words']:.1f}",
                          f"{each['repeated_5grams_per_1000_words']:.1f}"])
    one = results["joined"]["teacher"]["with_guard"]
    return (f"{_aligned(lines)}\n{one['recordings']} recordings, {one['num_words']} words; "
            "the guard decodes only where a voice is found.")


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return "\n".join("  ".join(
        cell.ljust(width) if at == 0 else cell.rjust(width)
        for at, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines)
