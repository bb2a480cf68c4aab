"""Where the sound of a file lies, for files whose headers do not say the whole of it.

Each part, with its prefix, is a file that libsndfile reads to its end: files that were joined are
taken apart again (MP3, chained Ogg, FLAC, WAV, AIFF), a header with a wrong length gets the right
one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from distill.data.formats.mp3_frames import mp3_runs, parse_frame
from distill.data.formats.source import Piece, Source

_FLAC_BLOCKS = {1: 192, **{n: 576 << n - 2 for n in range(2, 6)},
                **{n: 256 << n - 8 for n in range(8, 16)}}
_STEP = 256  # samples: as many may be lost of a FLAC file that was cut off


@dataclass(frozen=True)
class Part:
    """`prefix` and the bytes from `start` to `end` of a file.

    Attributes:
        frames: samples a channel that were counted in it; None: what its header says is right.
        is_guessed: a reader of the file itself guesses them, and may be right.
    """

    start: int
    end: int
    prefix: bytes = b""
    frames: int | None = None
    is_guessed: bool = False


def find_parts(source: Source) -> list[Part]:
    """Parts of a file in their order; none where the file is right as it is."""
    head = source.read_at(0, 16)
    if head[:4] == b"OggS":
        return _ogg_parts(source)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _wav_parts(source)
    if head[:4] in (b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _rf64_parts(source)
    if _is_aiff(head):
        return _aiff_parts(source)
    if head[:4] == b".snd":
        return _au_parts(source, head)
    if head[:4] == b"fLaC":
        return _flac_parts(source)
    if head[:3] == b"ID3" or parse_frame(head) or not head.strip(b"\0"):
        return [Part(run.start, run.end, run.header(), run.samples, run.promised is None)
                for run in mp3_runs(source) or ()]
    return []


def _ogg_parts(source: Source) -> list[Part]:
    """A chain is a stream behind another: it begins with a page that begins a stream, behind one
    that does not."""
    starts, place, was_first = [], 0, False
    while len(page := source.read_at(place, 282)) >= 27:
        if page[:4] != b"OggS":  # damaged
            at = source.read_at(place, 1 << 17).find(b"OggS", 1)
            if at < 0:
                break
            place += at
            continue
        is_first = bool(page[5] & 2)
        if is_first and not was_first:
            starts.append(place)
        was_first = is_first
        place += 27 + page[26] + sum(page[27 : 27 + page[26]])
    if len(starts) < 2:
        return []
    return [Part(*span) for span in zip(starts, [*starts[1:], source.size], strict=True)]


def _wav_parts(source: Source) -> list[Part]:
    """WAV files whose length is 0 or less than there is, or that are followed by another."""
    parts, base, place = [], 0, 12
    while len(head := source.read_at(place, 12)) >= 8:
        name, size = struct.unpack_from("<4sI", head)
        if name == b"RIFF" and head[8:12] == b"WAVE":
            parts.append(Part(base, place))
            base, place = place, place + 12
            continue
        begin = place + 8
        if name == b"data" and not _ends_well(source, begin + size):
            header = bytearray(source.read_at(base, begin - base))
            struct.pack_into("<I", header, 4, min(source.size - base - 8, 2**32 - 1))
            struct.pack_into("<I", header, begin - base - 4, min(source.size - begin, 2**32 - 1))
            return [*parts, Part(begin, source.size, bytes(header))]
        place = begin + size + size % 2
        if size % 2 and source.read_at(begin + size, 4) == b"RIFF":  # not padded
            place -= 1
    return [*parts, Part(base, source.size)] if parts else []


def _rf64_parts(source: Source) -> list[Part]:
    """WAV files with 64 bits for their length, where it is 0, unknown or less than there is."""
    name, _, _, stated = struct.unpack("<4sIQQ", source.read_at(12, 24).ljust(24, b"\0"))
    place = 12
    while len(head := source.read_at(place, 8)) == 8:
        begin, (chunk, size) = place + 8, struct.unpack("<4sI", head)
        if name == b"ds64" and chunk == b"data":
            if begin + stated <= source.size and _ends_well(source, begin + stated):
                return []
            header = bytearray(source.read_at(0, begin))
            struct.pack_into("<QQQ", header, 20, source.size - 8, source.size - begin, 0)
            return [Part(begin, source.size, bytes(header))]
        place = begin + size + size % 2
    return []


def _is_aiff(head: bytes) -> bool:
    return head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC")


def _aiff_parts(source: Source) -> list[Part]:
    """AIFF files whose sound is said to be shorter than it is, or that are followed by another."""
    parts, base, place, about = [], 0, 12, 0
    while len(head := source.read_at(place, 12)) >= 8:
        name, size = struct.unpack_from(">4sI", head)
        if _is_aiff(head):
            parts.append(Part(base, place))
            base, place, about = place, place + 12, 0
            continue
        begin = place + 8
        about = begin if name == b"COMM" else about
        if name == b"SSND" and about and not _ends_well(source, begin + size, ">"):
            is_packed = source.read_at(base + 8, 4) == b"AIFC"
            width = _aiff_width(source.read_at(about, 22 if is_packed else 18))
            if not width:
                break
            header = bytearray(source.read_at(base, begin + 8 - base))
            frames = (source.size - begin - 8) // width
            for value, at in ((source.size - base - 8, 4), (frames, about - base + 2),
                              (8 + frames * width, begin - base - 4)):
                struct.pack_into(">I", header, at, value)
            return [*parts, Part(begin + 8, source.size, bytes(header))]
        place = begin + size + size % 2
    return [*parts, Part(base, source.size)] if parts else []


def _aiff_width(about: bytes) -> int:
    """Bytes of a sample of all channels; 0 of codecs that pack several."""
    channels, _, bits = struct.unpack_from(">HIH", about)
    codec = about[18:22].lower()
    if codec in (b"ulaw", b"alaw"):
        return channels
    is_plain = codec in (b"", b"none", b"sowt", b"twos", b"raw ", b"in24", b"in32", b"fl32",
                         b"fl64")
    return channels * ((bits + 7) // 8) if is_plain else 0


def _ends_well(source: Source, place: int, order: str = "<") -> bool:
    """Whether a WAV's data can end here: at the end of the file, before a chunk, before zeros."""
    if place >= source.size - 8:
        return True
    for start in (place, place + 1):
        name, size = struct.unpack(f"{order}4sI", source.read_at(start, 8).ljust(8, b"\0"))
        is_name = all(32 <= byte < 127 for byte in name) and name.strip()
        if is_name and start + 8 + size <= source.size + 1:
            return True
    return not source.read_at(place, 4096).strip(b"\0")


def _au_parts(source: Source, head: bytes) -> list[Part]:
    offset, size = struct.unpack_from(">II", head, 4)
    if size == 2**32 - 1 or offset + size >= source.size:
        return []
    return [Part(12, source.size, head[:8] + b"\xff" * 4)]


def _flac_parts(source: Source) -> list[Part]:
    """FLAC files whose number of samples is 0, more or less than there is, or that were joined."""
    header = source.read_at(0, 42)
    if len(header) < 42:
        return []
    is_right = _flac_total(header) in _flac_ends(source, header)
    if is_right and not _seems_joined(source, header):
        return []
    starts = [0, *_find_all(source, b"fLaC\0\0\0\x22")]
    if is_right and len(starts) == 1:
        return []
    found = []
    for start, end in zip(starts, [*starts[1:], source.size], strict=True):
        header = source.read_at(start, 42)
        if len(starts) > 1 and _flac_total(header) in _flac_ends(source, header, end):
            found.append(Part(start, end))
            continue
        # libFLAC ends at the number of samples: none is said, and they are counted
        unknown = bytearray(header)
        unknown[21] &= 0xF0
        unknown[22:26] = bytes(4)
        counted = _count(Piece(source, start + 42, end, bytes(unknown)))
        frames = max((each for each in _flac_ends(source, header, end)
                      if counted <= each <= counted + _STEP), default=counted)
        unknown[21] |= frames >> 32
        unknown[22:26] = struct.pack(">I", frames & 0xFFFFFFFF)
        found.append(Part(start + 42, end, bytes(unknown), frames))
    return found


def _seems_joined(source: Source, header: bytes) -> bool:
    """Whether another of the same length may follow: what is in the middle is not from there."""
    if source.size < 1 << 18:  # short enough to be searched
        return True
    total = _flac_total(header)
    ends = _flac_ends(source, header, source.size // 2)
    return not any(0.25 * total < end < 0.75 * total for end in ends)


def _flac_total(header: bytes) -> int:
    return (header[21] & 15) << 32 | struct.unpack_from(">I", header, 22)[0]


def _flac_ends(source: Source, header: bytes, end: int | None = None) -> set[int]:
    """Samples until the end of each frame that seems to begin near the end of the file."""
    longest, _, largest = struct.unpack(">HHI", header[10:12] + b"\0\0\0" + header[15:18])
    end = source.size if end is None else end
    size = min(end, 2 * largest + 4096 if largest else 1 << 17)
    data, ends, place = source.read_at(end - size, size), set(), 0
    while (place := data.find(b"\xff", place)) >= 0:
        frame = data[place : place + 16]
        place += 1
        if len(frame) < 6 or frame[1] & 0xFE != 0xF8:
            continue
        number, at = _utf8(frame, 4)
        code, rate = frame[2] >> 4, frame[2] & 15
        block = _FLAC_BLOCKS.get(code)
        if code in (6, 7):
            block = int.from_bytes(frame[at : at + code - 5], "big") + 1
            at += code - 5
        at += {12: 1, 13: 2, 14: 2}.get(rate, 0)
        if block and number is not None and frame[at : at + 1] == bytes([_crc8(frame[:at])]):
            ends.add((number if frame[1] & 1 else number * longest) + block)
    return ends


def _utf8(data: bytes, at: int) -> tuple[int | None, int]:
    """A number in UTF-8's way, and where it ends; None: there is none."""
    length = 8 - (data[at] ^ 0xFF).bit_length()  # ones at the beginning
    if length == 0:
        return data[at], at + 1
    rest = data[at + 1 : at + length]
    if length == 1 or len(rest) < length - 1 or any(byte & 0xC0 != 0x80 for byte in rest):
        return None, at
    number = data[at] & (0x7F >> length)
    for byte in rest:
        number = number << 6 | byte & 0x3F
    return number, at + length


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (0x107 if crc & 0x80 else 0)) & 0xFF
    return crc


def _find_all(source: Source, text: bytes) -> list[int]:
    """Places of `text` behind the beginning."""
    found, place = [], 1
    while len(data := source.read_at(place, 1 << 20)) >= len(text):
        at = data.find(text)
        while at >= 0:
            found.append(place + at)
            at = data.find(text, at + 1)
        place += len(data) - len(text) + 1
    return found


def _count(piece: Piece) -> int:
    """Samples a channel that libsndfile gets out of it until it fails."""
    import soundfile

    frames = 0
    try:
        with soundfile.SoundFile(piece) as file:
            while got := len(file.read(_STEP, dtype="float32")):
                frames += got
    except soundfile.LibsndfileError:
        pass  # cut off here
    return frames
