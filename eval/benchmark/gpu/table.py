"""The GPU check for a terminal."""

from __future__ import annotations

from eval.benchmark.gpu.training import describe_way


def table(result: dict) -> str:
    lines = [f"{result['size']}, random weights, {result['device']}, {result['windows']} windows, "
             f"batch {result['batch']}", ""]
    for check in result["checks"]:
        lines.append(f"{'ok' if check['passed'] else 'FAILED':<8}{check['name']:<52}"
                     f"{check['found']}")
    lines += ["", f"{'labelling':<26}{'RTFx':>8}{'transformers':>14}{'ratio':>8}{'memory':>12}"]
    for found in result["labelling"]:
        lines.append(f"{found['dtype']:<26}{found['rtfx']['ours']:>8.1f}"
                     f"{found['rtfx']['transformers']:>14.1f}"
                     f"{found['ratio_to_transformers']:>7.2f}x{_memory(found)}")
    lines += ["", f"{'training step':<26}{'seconds':>8}{'windows/s':>14}{'':>8}{'memory':>12}"]
    for found in result["steps"]:
        lines.append(f"{describe_way(found):<26}{found['median_seconds']:>8.3f}"
                     f"{found['windows_per_second']:>14.1f}{'':>8}{_memory(found)}")
    for found in result["processes"]:
        name = f"from the store, {found['processes']} processes"
        lines.append(f"{name:<34}{found['median_seconds']:>8.3f} a step")
    gain = result["compile"]
    return "\n".join([*lines, "", f"compiled: {gain['speedup']:.2f}x, "
                      + ("it pays" if gain["pays"] else "it does not pay here")])


def _memory(found: dict) -> str:
    return f"{found['peak_memory_bytes'] / 1e6:>9,.0f} MB"
