"""Texts of a model by condition, kept on disk: a run that is stopped goes on, and one with more
conditions does not decode the others again.

    kept = Kept(path, key)
    found = kept.get(["white", 10.0], lambda: decode())

One file a model (`distill.kept_lines`), a line for each condition; it stays once results are
written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from distill.kept_lines import append, begin


class Kept:
    """
    Args:
        key: of everything that texts depend on, besides their condition.
    """

    def __init__(self, path: Path, key: str):
        self.path = path
        self._found = {_name(line["condition"]): line["found"] for line in begin(path, key)}

    def __contains__(self, condition: list) -> bool:
        return _name(condition) in self._found

    def get(self, condition: list, make: Callable[[], dict]) -> dict:
        """What is known of a condition; made and kept if nothing is.

        Args:
            condition: plain JSON.
            make: returns plain JSON.
        """
        if condition not in self:
            found = make()
            append(self.path, {"condition": condition, "found": found})
            self._found[_name(condition)] = found
        return self._found[_name(condition)]


def _name(condition: list) -> str:
    return json.dumps(condition)
