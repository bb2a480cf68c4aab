"""What a label folder has planned so far, so that another list of clips keeps what is labelled.

`plan.jsonl` holds every window that was ever planned, in the order of the shards. Which of them
count follows from these and the clips alone, the same for every rank: a window does if all of its
clips are as they were and are in no older window that counts. What is left of the clips becomes new
windows in new shards. So with the same clips nothing changes, and going back to an older list finds
its windows again.

A clip is as it was if offset, duration, text, speaker, language and the audio itself are. Where the
audio is does not matter; a file that cannot be opened now is taken for what it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.data.audio import AudioError
from distill.data.files import hash_of, read_json, read_jsonl, write_json, write_jsonl, write_text
from distill.data.formats.addresses import is_remote
from distill.data.formats.places import fingerprint, stat_of
from distill.data.manifest import Row
from distill.data.speech.windows import Piece, Window, is_long
from distill.progress import progress
from distill.whisper.data.label_files import PLAN, window_of
from distill.whisper.recipe import PseudoLabelConfig
from pseudo_label.labelling.shards import part_path

_STAMPS = ".audio.json"  # path -> [bytes, time, fingerprint]: what is not read again
_MANY_FILES = 10_000
_NAMED = 3

Part = tuple[int, str, float, float]  # packing, clip, offset, duration: what a window covers


class Clips:
    """The clips of a list, and what tells them from others of their names.

    Args:
        said: {clip: hash of its label}, where a table has the labels.
    """

    def __init__(self, rows: Sequence[Row], config: PseudoLabelConfig, folder: Path,
                 said: dict[str, str] | None = None):
        self.rows = {row.id: row for row in rows}
        self.places = {row.id: place for place, row in enumerate(rows)}
        self.limit, self.way, self.said = config.window_seconds, config.long_audio, said or {}
        self.signatures = {row.id: self._signature(row) for row in rows}
        self.stamps = _stamps(folder, [row.audio_filepath for row in rows])

    def is_long(self, row: Row) -> bool:
        return is_long(row, self.limit)

    def version(self, clip: str) -> list[str | None]:
        """Hash of what the manifest says, and the fingerprint of the audio if it is known."""
        stamp = self.stamps.get(self.rows[clip].audio_filepath)
        return [self.signatures[clip], stamp[2] if stamp else None]

    def _signature(self, row: Row) -> str:
        # the text of a long clip decides nothing: its labels get their shares of it later
        last = self.way if self.is_long(row) else row.text
        said = [self.said[row.id]] if row.id in self.said else []
        return hash_of([row.offset, row.duration, last, row.speaker, row.language, *said])

    def window(self, known: Known) -> Window:
        rows = [self.rows[clip] for clip, *_ in known.pieces]
        pieces = tuple(
            Piece(clip, row.audio_filepath, offset, duration, start,
                  None if self.is_long(row) else row.text)
            for row, (clip, offset, duration, start) in zip(rows, known.pieces, strict=True))
        return Window(known.id, pieces, rows[0].speaker, rows[0].language, known.previous)


@dataclass
class Known:
    """A window that was planned.

    Attributes:
        pieces: (clip, offset, duration, start) each.
        clips: version of each clip (`Clips.version`) when it was planned.
        counts: whether it is planned now.
    """

    id: str
    shard: int
    previous: str | None
    pieces: list[tuple[str, float, float, float]]
    clips: dict[str, list[str | None]]
    counts: bool = True

    @property
    def packing(self) -> int:
        return int(self.id.split("-")[1])

    @property
    def parts(self) -> set[Part]:
        return {(self.packing, clip, round(offset, 6), round(duration, 6))
                for clip, offset, duration, _ in self.pieces}


def known_of(window: Window, shard: int, clips: Clips) -> Known:
    pieces = [(p.id, p.offset, p.duration, p.start) for p in window.pieces]
    names = dict.fromkeys(piece.id for piece in window.pieces)
    return Known(window.id, shard, window.previous, pieces,
                 {name: clips.version(name) for name in names})


class History:
    """Windows planned so far, by shard.

    Attributes:
        unusable: long clips that are in no window: version and reason.
        speech: seconds of speech in long clips that are.
        num_shards: numbers that are taken.
        way: what was done with long clips (`pseudo_label.long_audio`), if there were any.
    """

    def __init__(self, windows: list[Known] | None = None, num_shards: int = 0,
                 unusable: dict[str, list] | None = None, speech: dict[str, float] | None = None,
                 way: str | None = None):
        self.windows, self.num_shards, self.way = windows or [], num_shards, way
        self.unusable, self.speech = unusable or {}, speech or {}
        self.taken: set[Part] = set()
        self.renamed: dict[str, str] = {}

    def rename(self, clips: Clips) -> None:
        """Take over other names of the same clips: with a second manifest, ids get the name of
        theirs in front."""
        by_name: dict[str, list[str]] = {}
        known = {clip: version for window in self.windows for clip, version in window.clips.items()}
        for clip in clips.rows.keys() - known.keys() - self.unusable.keys():
            by_name.setdefault(_plain(clip), []).append(clip)
        for old, version in known.items():
            if old not in clips.rows:
                new = [clip for clip in by_name.get(_plain(old), [])
                       if same(version, clips.version(clip))]
                self.renamed |= {old: new[0]} if len(new) == 1 else {}
        if len(set(self.renamed.values())) < len(self.renamed):
            self.renamed = {}
        name = self.renamed.get
        for window in self.windows:
            window.pieces = [(name(clip, clip), *rest) for clip, *rest in window.pieces]
            window.clips = {name(clip, clip): each for clip, each in window.clips.items()}
        self.speech = {name(clip, clip): seconds for clip, seconds in self.speech.items()}

    def choose(self, clips: Clips, folder: Path) -> list[Known]:
        """Decide which windows count; windows that do again, and were left out when their shard was
        labelled, are returned and forgotten: they need another shard.

        Raises:
            ValueError: long clips were cut in another way.
        """
        if any(map(clips.is_long, clips.rows.values())):
            if self.way not in (None, clips.way):
                raise ValueError(
                    f"{folder} holds labels made with other settings (pseudo_label.long_audio: "
                    f"{self.way!r} -> {clips.way!r}); remove it (make NAME.clean) or choose "
                    "another output_dir")
            self.way = clips.way
        self.before = self._versions()
        back = []
        for window in self.windows:
            counted, parts = window.counts, window.parts
            window.counts = self.taken.isdisjoint(parts) and all(
                clip in clips.rows and same(version, clips.version(clip))
                for clip, version in window.clips.items())
            if window.counts:
                self.taken |= parts
                window.clips = {clip: [old[0], old[1] or clips.version(clip)[1]]
                                for clip, old in window.clips.items()}
                if not counted and part_path(folder, window.shard).is_file():
                    back.append(window)
        lost = _left_out(folder, back)
        self.windows = [window for window in self.windows if window.id not in lost]
        self.unusable = {clip: known for clip, known in self.unusable.items()
                        if clip in clips.rows and same(known[:2], clips.version(clip))}
        return [window for window in back if window.id in lost]

    def _versions(self) -> dict[str, list[str | None]]:
        found = {clip: known[:2] for clip, known in self.unusable.items()}
        for window in self.windows:
            found |= window.clips if window.counts else {}
        return found

    def changes(self, clips: Clips) -> str:
        """`2 clips came (a, b), 1 went (c), none changed`; "" if it is the same list."""
        names = f" ({len(self.renamed):,} clips have other names)" * bool(self.renamed)
        came = [clip for clip in clips.rows if clip not in self.before]
        went = [clip for clip in self.before if clip not in clips.rows]
        changed = [clip for clip, version in self.before.items()
                   if clip in clips.rows and not same(version, clips.version(clip))]
        if not self.before or not (came or went or changed or names):
            return ""
        return (f"Another list of clips{names}: {_names(came)} came, {_names(went)} went, "
                f"{_names(changed)} changed")

    def known_parts(self, clips: Clips) -> dict[str, list[tuple[float, float]]]:
        """(offset, duration) of the parts that long clips were split into."""
        found: dict[str, set] = {}
        for window in self.windows:
            for clip, offset, duration, _ in window.pieces:
                if clip in clips.rows and same(window.clips[clip], clips.version(clip)):
                    found.setdefault(clip, set()).add((offset, duration))
        return {clip: sorted(parts) for clip, parts in found.items()}

    def next_number(self, prefix: str) -> int:
        numbers = [int(window.id.rsplit("-", 1)[1]) for window in self.windows
                   if window.id.rsplit("-", 1)[0] == prefix]
        return max(numbers, default=-1) + 1

    def save(self, folder: Path, clips: Clips) -> None:
        """Write plan.jsonl, unless it says so already; clips of other names are renamed in the
        labels first."""
        if self.renamed:
            _rename_labels(folder, self.renamed)
        idle = set(range(self.num_shards)) - {w.shard for w in self.windows if w.counts}
        header = {"retired": [w.id for w in self.windows if not w.counts], "idle": sorted(idle),
                  "num_shards": self.num_shards, "long_audio": self.way,
                  "unheard": self.unusable, "speech": self.speech}
        rows = [{"id": w.id, "shard": w.shard, "previous": w.previous, "pieces": w.pieces,
                 "clips": w.clips} for w in self.windows]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in (header, *rows))
        path = folder / PLAN
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
        stamps = folder / _STAMPS
        if not stamps.is_file() or read_json(stamps) != clips.stamps:
            write_json(stamps, clips.stamps)


def _plain(clip: str) -> str:
    """`train-3` of `corpus/train:train-3`."""
    return clip.split(":", 1)[-1]


def _rename_labels(folder: Path, names: dict[str, str]) -> None:
    """Killed in between, it is done again: the new names are none of the old ones."""
    for path in sorted(folder.glob("part-*.jsonl")):
        rows = read_jsonl(path)
        new = [row | {"pieces": [piece | {"id": names.get(piece["id"], piece["id"])}
                                 for piece in row["pieces"]]} for row in rows]
        if new != rows:
            write_jsonl(path, new)
    for path in sorted(folder.glob("drops-*.jsonl")):
        rows = read_jsonl(path)
        new = [row | {"clip": names.get(row["clip"], row["clip"])} for row in rows]
        if new != rows:
            write_jsonl(path, new)


def same(one: Sequence[str | None], other: Sequence[str | None]) -> bool:
    """Whether a clip is as it was; audio that nobody could look at is."""
    return one[0] == other[0] and (None in (one[1], other[1]) or one[1] == other[1])


def read_history(folder: Path) -> History | None:
    """None where nothing is planned, or by an older version."""
    if not (folder / PLAN).is_file():
        return None
    header, *rows = read_jsonl(folder / PLAN)
    retired = set(header["retired"])
    windows = [Known(row["id"], row["shard"], row["previous"], [tuple(p) for p in row["pieces"]],
                     row["clips"], row["id"] not in retired) for row in rows]
    return History(windows, header["num_shards"], header["unheard"], header["speech"],
                   header["long_audio"])


def adopt(folder: Path, clips: Clips, fresh: Iterable[Window], num_shards: int) -> History:
    """The windows that an older version has labelled, which wrote no plan.

    Args:
        fresh: what would be planned in an empty folder; parts of long clips that are others there
            are labelled again.
    """
    parts = {part for window in fresh for part in known_of(window, 0, clips).parts}
    found: dict[str, Known] = {}
    for index in range(num_shards):
        rows = read_jsonl(path) if (path := part_path(folder, index)).is_file() else []
        for row in rows:
            name = window_of(row["id"])
            pieces = [(p["id"], p["offset"], p["duration"], p["start"]) for p in row["pieces"]]
            known = Known(name, index, row["previous"], pieces, {})
            ours = name == row["id"] and known.parts <= parts and _matches(row, known, clips)
            # as no clip is, if it is not what it was
            known.clips = {clip: clips.version(clip) if ours else ["", None]
                           for clip, *_ in pieces}
            found.setdefault(name, known)
    return History(list(found.values()), num_shards)


def _matches(row: dict, known: Known, clips: Clips) -> bool:
    window = clips.window(known)
    text = row.get("transcript", row["reference"])
    return (row["speaker"], row["language"]) == (window.speaker, window.language) and (
        clips.is_long(clips.rows[known.pieces[0][0]]) or text == window.text)


def unusable_rows(unusable: dict[str, AudioError], clips: Clips) -> dict[str, list]:
    return {clip: [*clips.version(clip), error.reason] for clip, error in unusable.items()}


def _left_out(folder: Path, windows: Sequence[Known]) -> set[str]:
    """Of windows whose shards are labelled, those that are not in them."""
    there: set[str] = set()
    for shard in {window.shard for window in windows}:
        there |= {window_of(row["id"]) for row in read_jsonl(part_path(folder, shard))}
        drops = folder / f"drops-{shard:05d}.jsonl"
        there |= {row["window"] for row in read_jsonl(drops)} if drops.is_file() else set()
    return {window.id for window in windows} - there


def _stamps(folder: Path, paths: Iterable[str]) -> dict[str, list]:
    """{path: [bytes, time, fingerprint]}; files that did not change since are not read again, those
    that cannot be opened are what they were, and so are those behind URLs."""
    path = folder / _STAMPS
    before = read_json(path) if path.is_file() else {}
    found = {}
    paths = sorted(set(paths))
    for each in progress(paths, len(paths), "looking at audio files", "files",
                         len(paths) >= _MANY_FILES):
        known = before.get(each)
        try:
            stat = None if is_remote(each) else [*stat_of(each)]
        except (OSError, AudioError):
            stat = None
        if stat is None or (known and known[:2] == stat):
            found |= {each: known} if known else {}
        elif (print_ := fingerprint(each)) is not None:
            found[each] = [*stat, print_]
    return found


def _names(clips: Sequence[str]) -> str:
    names = ", ".join(clips[:_NAMED]) + ", ..." * (len(clips) > _NAMED)
    return f"{len(clips):,} ({names})" if clips else "none"
