"""The machine that a figure was measured on: speeds say nothing without it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def this_machine() -> dict:
    """What decides how fast this process computes.

    Returns:
        `processor` (name), `cores` (that this process may use), `threads` (of torch), `avx512` and
        `amx` (bool; None where the system does not say), `gpu` (name or None), `torch` (version).
    """
    import torch

    facts = _cpuinfo(_CPUINFO.read_text(encoding="utf-8") if _CPUINFO.is_file() else "")
    flags = facts.get("flags", "").split()
    return {
        "processor": facts.get("model name") or platform.processor() or platform.machine(),
        "cores": _num_cores(),
        "threads": torch.get_num_threads(),
        "avx512": "avx512f" in flags if flags else None,
        "amx": "amx_tile" in flags if flags else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
    }


def describe(machine: dict) -> str:
    """`Intel Xeon 6975P-C, 2 cores, AVX-512, AMX, 1 thread, torch 2.13.0`"""
    def count(key: str, noun: str) -> str:
        return f"{machine[key]} {noun}{'' if machine[key] == 1 else 's'}"

    parts = [machine["processor"], count("cores", "core")]
    if machine["avx512"] is not None:
        parts += ["AVX-512" if machine["avx512"] else "no AVX-512",
                  "AMX" if machine["amx"] else "no AMX"]
    parts += [count("threads", "thread"), *filter(None, [machine["gpu"]])]
    return ", ".join([*parts, f"torch {machine['torch']}"])


def _cpuinfo(text: str) -> dict[str, str]:
    """The first processor of Linux' /proc/cpuinfo."""
    first = text.strip().split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
