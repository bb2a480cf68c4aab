"""What is free between blocks that live on goes back to the system."""

import platform
import resource

import numpy as np
import pytest

from pseudo_label.labelling.memory import GiveBack


def megabytes() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_free_memory_is_given_back():
    blocks = [np.ones(12_000) for _ in range(2000)]  # 96 kB each, too small for pages of their own
    kept = blocks[::50]
    del blocks
    before = megabytes()
    GiveBack(every_seconds=3600)()
    assert megabytes() > before - 20  # not its time yet
    GiveBack(every_seconds=0)()
    assert megabytes() < before - 100
    assert all((block == 1).all() for block in kept)
