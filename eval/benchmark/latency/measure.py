"""Parts of `eval.benchmark.latency`: seconds of all ways on the same clips, or their texts."""

from __future__ import annotations

import time
from dataclasses import asdict

from distill.metrics.error_rates import error_counts
from eval.benchmark.latency.clips import Split
from eval.benchmark.latency.ways import STUDENT, Models, Way, make_ways


class Measurer:
    """Measures a part; ways are made when they are first wanted.

    Args:
        speech: clips are cut from it.
        scored: its texts are compared with references.
    """

    def __init__(self, models: Models, speech: Split, scored: Split):
        self.models, self.speech, self.scored = models, speech, scored
        self._ways: dict[str, dict[str, Way]] = {}

    def __call__(self, part: tuple) -> dict:
        """{way: seconds of the processor a clip}, or {way: a list with texts and error counts}."""
        kind, dtype, *rest = part
        return self._times(dtype, *rest) if kind == "time" else self._texts(dtype, *rest)

    def ways(self, dtype: str) -> dict[str, Way]:
        if dtype not in self._ways:
            self._ways[dtype] = make_ways(self.models, dtype)
            for way in self._ways[dtype].values():  # untimed: threads, kernels, caches, silence
                way(self.speech.cut(1.0, 1))
        return self._ways[dtype]

    def _times(self, dtype: str, batch: int, seconds: float, number: int) -> dict:
        audios, found = self.speech.cut(seconds, batch, number), {}
        for name, way in self.ways(dtype).items():
            begun = time.process_time()
            way(audios)
            found[name] = (time.process_time() - begun) / batch
        return found

    def _texts(self, dtype: str, first: int, end: int) -> dict:
        found: dict[str, list] = {}
        for place in range(first, end):
            for name, way in self.ways(dtype).items():
                if name == STUDENT and not self.models.is_trained:
                    continue
                text = self.scored.normalise(way([self.scored.audios[place]])[0])
                counts = asdict(error_counts(self.scored.references[place], text))
                found.setdefault(name, []).append({"text": text, **counts})
        return found
