"""What drafts cost in memory: the student's decoder and its caches, and nothing else.

    python -m eval.benchmark.decode_memory [fp32|int8] [batch] [folder of the student]

A process of its own: labelling's own way from a folder to a decoder, whisper-base with the demo's
student, 8 windows. Prints JSON in megabytes (10^6 bytes): what weights and caches should take, and
by how much the process grew, after loading and at its peak while decoding.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

from eval.benchmark.result import run_benchmark
from eval.memory import PeakMemory


def main(arguments: list[str]) -> None:
    if arguments and arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    compute, batch, student = (*arguments, *("fp32", "8", "")[len(arguments) :])
    if compute not in ("fp32", "int8"):
        raise ValueError(f"fp32 or int8, got {compute}")
    print(json.dumps(measure(compute == "int8", int(batch), Path(student) if student else None)))


def in_a_process_of_its_own(compute: str, batch: int, student: Path | None = None) -> dict:
    """`measure`, where nothing else was loaded before.

    Raises:
        ValueError: the process failed; its last words.
    """
    found = subprocess.run([sys.executable, "-m", "eval.benchmark.decode_memory", compute,
                            str(batch), str(student or "")], capture_output=True, text=True)
    if found.returncode:
        last = (found.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"measuring memory ({compute}, batch {batch}) failed: {last}")
    return json.loads(found.stdout.splitlines()[-1])


def measure(int8: bool, batch: int, folder: Path | None = None) -> dict:
    """Megabytes with drafts and without; the teacher, and what it hears, are there before."""
    import torch

    from distill.whisper.decoding.whisper_decoder import WhisperDecoder
    from distill.whisper.recipe import load_recipe
    from distill.whisper.recognition.assistant import load_assistant
    from eval.benchmark.pairs import whisper_base

    pair = whisper_base(most=batch, student=folder)
    teacher, states, tokenizer = pair.teacher, pair.states.clone(), pair.tokenizer
    del pair
    recipe = load_recipe("demo", [f"decoding.assistant={folder or 'runs/demo/student'}"])
    limits = [200] * len(states)
    plain = WhisperDecoder(teacher, tokenizer, "en", on_loop="keep", int8=int8)
    plain(states, limits)  # its caches, and what libraries keep, are there from now on
    before = _resident()
    student = load_assistant(recipe, teacher)
    weights = sum(p.numel() * p.element_size() for p in student.model.decoder.parameters())
    drafted = WhisperDecoder(teacher, tokenizer, "en", on_loop="keep", student=student,
                             share_weights_with=plain)
    del student
    loaded = _resident()
    with PeakMemory() as peak:
        drafted(states, limits)
    drafter = drafted.drafter.decoder._buffers  # none where drafts do not pay
    caches = 0 if drafter is None else drafter.num_bytes
    of_teacher = sum(p.numel() * p.element_size() for p in teacher.model.decoder.parameters())
    scores = batch * 11 * teacher.config.vocab_size * 4  # of one pass, and a copy
    return {"type": "int8" if int8 else "fp32", "batch": batch, "threads": torch.get_num_threads(),
            "teacher_decoder": of_teacher / 1e6,
            "teacher_caches": plain.target._buffers.num_bytes / 1e6,
            "student_decoder": weights / 1e6, "student_caches": caches / 1e6,
            "scores_of_a_pass": 2 * scores / 1e6,
            "grown_after_loading": (loaded - before) / 1e6,
            "grown_at_peak": (peak.peak_bytes - before) / 1e6}


def _resident() -> int:
    """Bytes, after what was freed has gone back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    run_benchmark(main)
