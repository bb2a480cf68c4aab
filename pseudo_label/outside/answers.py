"""Answers of a server, written down as they come: what was paid for is never asked for again.

A file of JSON lines for each shard in `pseudo_labels/answers/`, appended to and synced line by
line; a process that is killed in the middle of one loses that line. An answer is found by
everything that was asked, the audio included, so other settings or other audio ask anew.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from distill.data.files import read_json, sync_folder, write_json
from distill.whisper.outside import price_of
from distill.whisper.recipe_sections import HttpConfig

FOLDER, COST = "answers", "cost.json"


class Answers:
    """Answers of one shard; safe to use from several threads."""

    def __init__(self, labels: Path, name: str):
        self.path = labels / FOLDER / f"{name}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.lock = threading.Lock()
        self.known = {row["key"]: row["answer"] for row in _rows(self.path)
                      if row["answer"] is not None}
        self.is_new = not self.path.is_file()

    def find(self, key: str) -> dict | None:
        return self.known.get(key)

    def add(self, key: str, window: str, seconds: float, answer: dict | None) -> None:
        """Write an answer down.

        Args:
            seconds: of audio, that were paid for.
            answer: None: it could not be used, and was paid for all the same.
        """
        row = {"key": key, "window": window, "seconds": round(seconds, 3), "answer": answer}
        with self.lock:
            with open(self.path, "ab") as file:
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            if self.is_new:
                sync_folder(self.path.parent)
                self.is_new = False
            if answer is not None:
                self.known[key] = answer


def _rows(path: Path) -> list[dict]:
    """Lines of a file; half of a last one is cut off, so that the next begins a line of its own."""
    if not path.is_file():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    return [json.loads(line) for line in whole.splitlines()]


def write_cost(labels: Path, config: HttpConfig) -> str:
    """Write cost.json: what all answers in a label folder have cost.

    Returns:
        a sentence for the user; empty where nothing was asked.
    """
    requests, seconds, useless = 0, 0.0, 0
    for row in _all_rows(labels / FOLDER):
        requests += 1
        seconds += row["seconds"]
        useless += row["answer"] is None
    if not requests:
        return ""
    price = price_of(config, seconds)
    write_json(labels / COST, {
        "requests": requests, "unusable": useless, "minutes": round(seconds / 60, 3),
        "price_per_minute": config.price_per_minute,
        "price": None if price is None else round(price, 4)})
    return describe_cost(read_json(labels / COST))


def describe_cost(cost: dict) -> str:
    """`Answers so far: 120 for 34.2 minutes of audio, price 0.21 (0.006 a minute)`"""
    text = f"Answers so far: {cost['requests']:,} for {cost['minutes']:,.1f} minutes of audio"
    if cost["price"] is not None:
        text += f", price {cost['price']:,.2f} ({cost['price_per_minute']:g} a minute)"
    if cost["unusable"]:
        text += f"; {cost['unusable']:,} of them could not be used"
    return text


def _all_rows(folder: Path) -> Iterator[dict]:
    """Of all shards; other processes may be at some."""
    for path in sorted(folder.glob("*.jsonl")):
        data = path.read_bytes()
        yield from map(json.loads, data[: data.rfind(b"\n") + 1].splitlines())
