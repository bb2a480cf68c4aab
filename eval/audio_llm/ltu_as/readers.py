"""Sets as their publishers ship them, read into items; small functions, one for each layout.

    items = read_esc50(Path("ESC-50-master"))     # [Item("1-100032-A-0.wav", ..., ("dog",)), ...]

All raise ValueError where a folder is not laid out so, and say what was looked for. Clips that a
table names and that are not there are counted in `Items.num_missing`, never left out in silence.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

AUDIO = (".wav", ".flac", ".m4a", ".mp3", ".ogg", ".au")
EMOTIONS = {"ang": "angry", "hap": "happy", "exc": "happy", "sad": "sad", "neu": "neutral"}
GENDERS = {"m": "male", "f": "female"}
_TURN = re.compile(r"\[([\d.]+) - ([\d.]+)\]\t(\S+)\t(\w{3})\t")


@dataclass(frozen=True)
class Item:
    """A clip of a set; `references` are its label, its captions, its text, or its age."""

    id: str
    path: Path
    references: tuple[str, ...]


@dataclass
class Items:
    """What was found.

    Attributes:
        num_missing: clips that a table names and that are not there.
    """

    found: list[Item] = field(default_factory=list)
    num_missing: int = 0

    def add(self, name: str, path: Path | None, *references: str) -> None:
        if path is None:
            self.num_missing += 1
        else:
            self.found.append(Item(name, path, references))

    def checked(self, folder: Path, what: str) -> Items:
        """
        Raises:
            ValueError: no clip was found.
        """
        if not self.found:
            missing = f" ({self.num_missing:,} clips that are named are not there)"
            raise ValueError(f"{folder}: no clip was found; expected {what}"
                             f"{missing if self.num_missing else ''}")
        return self


def read_esc50(folder: Path) -> Items:
    """meta/esc50.csv and audio/: 2,000 clips of 5 s, 50 classes."""
    items = Items()
    for row in _table(folder / "meta" / "esc50.csv", ("filename", "category")):
        items.add(row["filename"], _there(folder / "audio" / row["filename"]),
                  row["category"].replace("_", " "))
    return items.checked(folder, "meta/esc50.csv and audio/")


def read_audiocaps(folder: Path) -> Items:
    """test.csv (audiocap_id, youtube_id, start_time, caption; five rows a clip), and anywhere below
    YOUTUBE_ID.wav, YYOUTUBE_ID.wav, YOUTUBE_ID_START.wav or AUDIOCAP_ID.wav."""
    files, captions = _by_stem(folder), {}
    columns = ("audiocap_id", "youtube_id", "start_time", "caption")
    for row in _table(folder / "test.csv", columns):
        clip = captions.setdefault(row["youtube_id"], (row, []))
        clip[1].append(row["caption"])
    items = Items()
    for name, (row, texts) in captions.items():
        stems = (name, f"Y{name}", f"{name}_{row['start_time']}", row["audiocap_id"])
        path = next((files[stem] for stem in stems if stem in files), None)
        items.add(name, path, *texts)
    return items.checked(folder, "test.csv and audio named by youtube_id")


def read_librispeech(folder: Path) -> Items:
    """SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt with the audio beside, as test-clean is."""
    items = Items()
    for table in sorted(folder.rglob("*.trans.txt")):
        for line in table.read_text(encoding="utf-8").splitlines():
            name, _, text = line.strip().partition(" ")
            if text:
                items.add(name, _with_suffix(table.parent / name), text)
    return items.checked(folder, "SPEAKER/CHAPTER/*.trans.txt, as in LibriSpeech/test-clean")


def read_iemocap(folder: Path) -> Items:
    """SessionN/dialog/EmoEvaluation/*.txt and SessionN/sentences/wav: turns that most raters call
    angry, happy or excited (one class, as usual), sad, or neutral. Give one session's folder to
    measure that one alone."""
    tables = sorted({*folder.glob("Session*/dialog/EmoEvaluation/*.txt"),
                     *folder.glob("dialog/EmoEvaluation/*.txt")})
    items = Items()
    for table in tables:
        session = table.parents[2]
        for _, _, turn, emotion in _TURN.findall(table.read_text(encoding="latin-1")):
            if emotion in EMOTIONS:
                path = session / "sentences" / "wav" / turn.rpartition("_")[0] / f"{turn}.wav"
                items.add(turn, _there(path), EMOTIONS[emotion])
    return items.checked(folder, "SessionN/dialog/EmoEvaluation/*.txt and SessionN/sentences/wav")


def read_voxceleb2_gender(folder: Path) -> Items:
    """vox2_meta.csv (columns between tabs or commas; gender m or f) and idNNNNN/VIDEO/NNNNN.m4a
    anywhere below; of speakers whose set is test, where the table says so."""
    rows = _table(folder / "vox2_meta.csv", ("VoxCeleb2 ID", "Gender"))
    test = [row for row in rows if row.get("Set", "test") == "test"]
    gender = {row["VoxCeleb2 ID"]: GENDERS[row["Gender"].lower()] for row in test
              if row["Gender"].lower() in GENDERS}
    items = Items()
    for name, path in _of_speakers(folder).items():
        if label := gender.get(name.partition("/")[0]):
            items.add(name, path, label)
    return items.checked(folder, "vox2_meta.csv and idNNNNN/VIDEO/NNNNN.m4a")


def read_voxceleb2_age(folder: Path) -> Items:
    """idNNNNN/VIDEO/NNNNN.m4a anywhere below, and ages: utt2age.test of AgeVoxCeleb (lines
    `id/video/segment age`), or final_dataframe_extended.csv of VoxCeleb enrichment (columns
    VoxCeleb_ID, video_id, speaker_age), whose rows without an age are left out."""
    files, items = _of_speakers(folder), Items()
    if (folder / "utt2age.test").is_file():
        for line in (folder / "utt2age.test").read_text(encoding="utf-8").splitlines():
            name, _, age = line.partition(" ")
            if age.strip().isdecimal():
                items.add(name, files.get(name), age.strip())
    else:
        columns = ("VoxCeleb_ID", "video_id", "speaker_age")
        ages = {f"{row['VoxCeleb_ID']}/{row['video_id']}": row["speaker_age"]
                for row in _table(folder / "final_dataframe_extended.csv", columns)}
        for name, path in files.items():
            age = ages.get(name.rpartition("/")[0], "")
            if re.fullmatch(r"\d+(\.0*)?", age):
                items.add(name, path, str(int(float(age))))
    return items.checked(folder, "utt2age.test or final_dataframe_extended.csv, and "
                         "idNNNNN/VIDEO/NNNNN.m4a")


def read_gtzan(folder: Path) -> Items:
    """GENRE/GENRE.NNNNN.wav (or .au), below `genres` or `genres_original` or not: 1,000 clips of
    30 s, 10 genres."""
    items = Items()
    for path in _files(folder):
        label = path.parent.name
        if re.fullmatch(rf"{re.escape(label)}\.\d+", path.stem):
            items.add(path.stem, path, label)
    return items.checked(folder, "GENRE/GENRE.NNNNN.wav")


READERS: dict[str, Callable[[Path], Items]] = {
    "esc50": read_esc50, "audiocaps": read_audiocaps, "librispeech": read_librispeech,
    "iemocap": read_iemocap, "voxceleb2_gender": read_voxceleb2_gender,
    "voxceleb2_age": read_voxceleb2_age, "gtzan": read_gtzan}


def _table(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """Rows between commas or tabs, names and values without the spaces around them."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    with open(path, encoding="utf-8", newline="") as file:
        head = file.readline()
        file.seek(0)
        rows = [{(key or "").strip(): (value or "").strip() for key, value in row.items()
                 if isinstance(value, str)}
                for row in csv.DictReader(file, delimiter="\t" if "\t" in head else ",")]
    lacks = [name for name in columns if rows and name not in rows[0]]
    if lacks:
        raise ValueError(f"{path}: it has no column {lacks[0]!r}, but {', '.join(rows[0])}")
    return rows


def _there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _with_suffix(stem: Path) -> Path | None:
    paths = (stem.with_name(stem.name + suffix) for suffix in AUDIO)
    return next((path for path in paths if path.is_file()), None)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO)


def _by_stem(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in _files(folder)}


def _of_speakers(folder: Path) -> dict[str, Path]:
    """{`speaker/video/segment`: file}."""
    return {f"{path.parent.parent.name}/{path.parent.name}/{path.stem}": path
            for path in _files(folder)}
