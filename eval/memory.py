"""Peak memory of a stretch of work."""

from __future__ import annotations

import os
import threading


class PeakMemory:
    """Largest resident memory of this process (GPU memory, where there is one) inside a `with`.

    Sampled every 50 ms from /proc, because the kernel's own high-water mark cannot be reset and
    would show what came before.
    """

    peak_bytes = 0

    def __enter__(self) -> PeakMemory:
        import torch

        self._cuda = torch.cuda.is_available()
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        if self._cuda:
            import torch

            self.peak_bytes = torch.cuda.max_memory_allocated()

    def _sample(self) -> None:
        page, ended = os.sysconf("SC_PAGE_SIZE"), False
        while True:
            with open("/proc/self/statm") as file:
                self.peak_bytes = max(self.peak_bytes, int(file.read().split()[1]) * page)
            if ended:  # looked at once more: the largest may have come last
                return
            ended = self._end.wait(0.05)
