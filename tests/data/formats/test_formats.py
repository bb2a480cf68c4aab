"""Formats as users have them, and headers that do not say the truth; made here, or in inputs/."""

import errno
import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.data.audio import SAMPLE_RATE, AudioError, audio_blocks, audio_info, load_audio
from distill.data.formats import forward as forward_reader
from distill.data.formats import source as audio_source

INPUTS = Path(__file__).resolve().parents[2] / "inputs"


def sweep(seconds: float, rate: int = SAMPLE_RATE, seed: int = 0) -> np.ndarray:
    """(samples,) that differ everywhere."""
    time = np.arange(round(seconds * rate)) / rate
    noise = 0.02 * np.random.default_rng(seed).standard_normal(len(time))
    return (0.3 * np.sin(2 * np.pi * (200 + 50 * time) * time) + noise).astype(np.float32)


def encoded(format: str, subtype: str, seconds: float = 3.0, rate: int = SAMPLE_RATE) -> bytes:  # noqa: A002
    buffer = io.BytesIO()
    soundfile.write(buffer, sweep(seconds, rate), rate, format=format, subtype=subtype)
    return buffer.getvalue()


def by_ffmpeg(name: str, codec: str, seconds: float = 3.0, rate: int = SAMPLE_RATE,
              layout: str = "mono", bit_rate: int | None = None, **options) -> bytes:
    """A file of a container that `name` stands for."""
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=name, options=options) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        if bit_rate:
            stream.bit_rate = bit_rate
        sound = np.stack([sweep(seconds, rate)] * stream.layout.nb_channels)
        frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout=layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format, layout, rate, stream.frame_size or 1024)
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            file.mux(stream.encode(part))
    return buffer.getvalue()


def check(path: Path, seconds: float, within: float = 0.1, alike: float = 1e-5) -> None:
    """The length is that of all the sound, and a part is the slice of the whole."""
    length, rate = audio_info(path)
    whole = load_audio(path)
    assert length == pytest.approx(seconds, abs=within), path.name
    assert len(whole) / SAMPLE_RATE == pytest.approx(length, abs=0.05), path.name
    assert len(load_audio(path, 0.0, length)) == len(whole), path.name
    edge = 0 if rate == SAMPLE_RATE else 200  # a resampler begins anew
    for start in (0.7 * length, 0.1 * length):
        start = round(start * 25) / 25  # a whole number of samples at any rate
        part = load_audio(path, start, 0.2)
        slice_ = whole[round(start * SAMPLE_RATE) :][: len(part)]
        error = np.abs(part - slice_)[edge : len(part) - edge]
        assert len(part) == 3200 and error.max() < alike, (path.name, start)
        np.testing.assert_array_equal(load_audio(path, start, 0.2), part, err_msg=path.name)
    blocks = np.concatenate(list(audio_blocks(path, 0.0, length)))
    np.testing.assert_allclose(blocks, whole[: len(blocks)], atol=1e-4, err_msg=path.name)
    with pytest.raises(AudioError, match="^empty"):
        load_audio(path, length + 1.0)


def reason_of(source, *args) -> str:
    with pytest.raises(AudioError) as error:
        load_audio(source, *args)
    with pytest.raises(AudioError) as other:
        audio_info(source)
    assert args or other.value.reason == error.value.reason
    return error.value.reason


def test_inputs():
    for name, seconds in (("gsm/call.wav", 5.16), ("odd/vbr_noxing.mp3", 5.2),
                          ("odd/joined.mp3", 10.3)):
        check(INPUTS / name, seconds)
    check(INPUTS / "odd/twice.ogg", 10.3, alike=0.02)  # an Opus decoder that starts in the middle
    pytest.importorskip("av")
    check(INPUTS / "aacwav/a.wav", 5.155)
    check(INPUTS / "mixed/b.m4a", 0.7255)


def test_formats_of_libsndfile_under_any_name(tmp_path):
    kinds = [("WAV", "ULAW"), ("WAV", "ALAW"), ("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"),
             ("WAV", "G721_32"), ("WAV", "PCM_24"), ("WAV", "DOUBLE"), ("AIFF", "PCM_16"),
             ("AU", "PCM_16"), ("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("W64", "PCM_16"),
             ("RF64", "PCM_16"), ("NIST", "PCM_16"), ("NIST", "ULAW"), ("FLAC", "PCM_24"),
             ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]
    for number, kind in enumerate(kinds):
        path = tmp_path / ["clip", "a.MP3", "a.wav", "ü b\n.raw", "a.gsm"][number % 5]
        path.write_bytes(encoded(*kind))
        check(path, 3.0)
    for kind in (("WAV", "GSM610"), ("AIFF", "GSM610"), ("W64", "GSM610")):
        (tmp_path / "gsm").write_bytes(encoded(*kind, rate=8000))
        check(tmp_path / "gsm", 3.0)
    soundfile.write(tmp_path / "six.wav", np.stack([sweep(1.0, 48_000)] * 6, 1), 48_000)
    check(tmp_path / "six.wav", 1.0)


def test_formats_of_ffmpeg_under_any_name(tmp_path):
    pytest.importorskip("av")
    files = [by_ffmpeg("mp4", "aac", rate=44_100, layout="stereo"),
             by_ffmpeg("mp4", "aac", rate=48_000, layout="5.1"),
             by_ffmpeg("mp4", "aac", movflags="frag_keyframe+empty_moov"),
             by_ffmpeg("mp4", "alac", rate=44_100), by_ffmpeg("adts", "aac"),
             by_ffmpeg("webm", "libopus", rate=48_000, live="1"), by_ffmpeg("matroska", "aac"),
             by_ffmpeg("avi", "libmp3lame", rate=44_100), by_ffmpeg("wav", "g722"),
             by_ffmpeg("amr", "libopencore_amrnb", rate=8000), by_ffmpeg("mpegts", "aac")]
    for number, data in enumerate(files):
        path = tmp_path / ["a.wav", "a", "A.M4A", "a.flac"][number % 4]
        path.write_bytes(data)
        check(path, 3.0, within=0.15)  # AAC's padding, and AMR's
        assert len(load_audio(data)) == len(load_audio(path))


def test_lengths_that_headers_do_not_say(tmp_path):
    """0, too long, too short, and files that broke off: the duration is what can be read."""
    wav, au, flac = (encoded(kind, "PCM_16") for kind in ("WAV", "AU", "FLAC"))
    mp3 = encoded("MP3", "MPEG_LAYER_III")
    sizes = [wav[:40] + struct.pack("<I", size) + wav[44:]
             for size in (0, 100, 0x7FFFFFFF, 0xFFFFFFFF)]
    begins = "<I" if au[:4] == b"dns." else ">I"
    sizes += [au[:8] + struct.pack(begins, size) + au[12:] for size in (100, 0xFFFFFFFF)]
    for total in (0, 4096, 0xFFFFFF):  # of FLAC: 36 bits, the first 4 of them are 0 here
        sizes.append(flac[:22] + struct.pack(">I", total) + flac[26:])
    rf64 = encoded("RF64", "PCM_16")
    sizes += [rf64[:20] + struct.pack("<QQQ", *[size] * 3) + rf64[44:]
              for size in (0, 100, 2**63 - 1, 2**64 - 1)]
    for kind in ("PCM_16", "PCM_24", "ULAW", "FLOAT"):  # of AIFF it is said in three places
        aiff = encoded("AIFF", kind)
        about, begin = aiff.find(b"COMM"), aiff.find(b"SSND")
        sizes += [aiff[:4] + struct.pack(">I", size + 46) + aiff[8 : about + 10]
                  + struct.pack(">I", size // 2) + aiff[about + 14 : begin + 4]
                  + struct.pack(">I", size + 8) + aiff[begin + 8 :]
                  for size in (0, 100, 0x7F000000)]
    for data in sizes:
        (tmp_path / "a").write_bytes(data)
        check(tmp_path / "a", 3.0, within=0.001)
    for data, within in ((wav, 0.001), (flac, 0.3), (mp3, 0.2)):  # a frame of FLAC is 0.26 s
        (tmp_path / "half").write_bytes(data[: len(data) // 2])
        check(tmp_path / "half", 1.5, within)
        assert reason_of_half(tmp_path / "half") == "truncated"
    # what follows the data of a WAV is not sound
    for more in (b"LIST\x04\0\0\0abcd", bytes(5000), b"id3 \x03\0\0\0abc\0"):
        (tmp_path / "a").write_bytes(wav + more)
        assert audio_info(tmp_path / "a")[0] == 3.0
    (tmp_path / "a").write_bytes(encoded("AIFF", "PCM_16") + b"ANNO\0\0\0\x04abcd")
    assert audio_info(tmp_path / "a")[0] == 3.0


def reason_of_half(path: Path) -> str:
    with pytest.raises(AudioError) as error:
        load_audio(path, 0.0, 3.0)
    return error.value.reason


def test_joined_files(tmp_path):
    """`cat`, and recorders that begin a new file within the file."""
    flac, wav = encoded("FLAC", "PCM_16"), encoded("WAV", "PCM_16")
    vorbis, opus = encoded("OGG", "VORBIS"), encoded("OGG", "OPUS")
    mp3, slow = encoded("MP3", "MPEG_LAYER_III"), encoded("MP3", "MPEG_LAYER_III", rate=24_000)
    tag = b"ID3\x04\0\0\0\0\x08\0" + b"\xff\xfb\x90\x64" * 256  # full of what looks like frames
    for parts in ([mp3, mp3], [tag, mp3, tag, mp3, b"TAG".ljust(128)], [mp3, slow], [flac, flac],
                  [flac, encoded("FLAC", "PCM_16", 2.0)[:], flac], [wav, wav], [vorbis, vorbis],
                  [vorbis, encoded("OGG", "VORBIS", rate=44_100)],
                  [encoded("AIFF", "PCM_16"), encoded("AIFF", "ULAW", 2.0)]):
        (tmp_path / "a").write_bytes(b"".join(parts))
        sounds = [load_audio(part) for part in parts if part[:3] not in (b"ID3", b"TAG")]
        seconds = sum(len(sound) for sound in sounds) / SAMPLE_RATE
        check(tmp_path / "a", seconds)
        whole = load_audio(tmp_path / "a")
        np.testing.assert_allclose(whole[: len(sounds[0])], sounds[0], atol=1e-6)
        np.testing.assert_allclose(whole[-8000:-1000], sounds[-1][-8000:-1000], atol=1e-3)
    (tmp_path / "a").write_bytes(opus * 3)
    check(tmp_path / "a", 9.0, alike=0.02)


def test_mp3_without_a_header_and_with_pictures(tmp_path):
    pytest.importorskip("av")
    plain = by_ffmpeg("mp3", "libmp3lame", rate=44_100, write_xing="0")
    # bitrates that change: the first says nothing of the rest
    varied = encoded("MP3", "MPEG_LAYER_III", rate=44_100)
    varied = varied[:4] + b"\0" * 60 + varied[64:]  # no Xing frame, a frame of silence
    picture = b"ID3\x04\0\0" + bytes([0, 64, 0, 0]) + b"APIC" + b"\xff\xfb\x90\x64" * (1 << 18)
    picture = picture[: 10 + (64 << 14)]
    for data in (plain, varied, picture + plain, picture + varied, plain + b"TAG".ljust(128),
                 by_ffmpeg("mp3", "libmp3lame", bit_rate=8000),  # its frames borrow from far back
                 bytes(5000) + encoded("MP3", "MPEG_LAYER_III", rate=44_100)):
        (tmp_path / "a.mp3").write_bytes(data)
        check(tmp_path / "a.mp3", 3.04)


def test_what_is_no_audio(tmp_path, monkeypatch):
    pytest.importorskip("av")
    shorten = b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n"
    video = by_ffmpeg("mp4", "aac", 0.1)
    contents = {"empty": b"", "text.wav": b"<html>404</html>", "text.au": b"404 " * 100,
                "zeros.wav": bytes(5000), "noise.mp3": np.random.default_rng(0).bytes(200_000),
                "a.png": b"\x89PNG\r\n\x1a\n" + bytes(100), "a.sph": shorten.ljust(5000, b"\1"),
                "half.mp4": video[: len(video) // 2]}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        assert reason_of(tmp_path / name) == ("empty" if not data else "unreadable"), name
    with pytest.raises(AudioError, match="shorten compressed.*sph2pipe"):
        load_audio(tmp_path / "a.sph")
    soundfile.write(tmp_path / "tiny.wav", np.zeros(1, np.float32), 48_000)
    with pytest.raises(AudioError, match="empty: .*shorter than a sample"):
        load_audio(tmp_path / "tiny.wav")
    # without FFmpeg: what it may read is not settled, text is
    monkeypatch.setattr("distill.data.formats.readers.find_spec", lambda _: None)
    (tmp_path / "a.wav").write_bytes(video)
    assert reason_of(tmp_path / "a.wav") == "needs_ffmpeg"
    with pytest.raises(AudioError, match=r"pip install 'audio-distill\[media\]'") as error:
        audio_info(tmp_path / "a.wav")
    assert error.value.is_transient
    assert reason_of(tmp_path / "text.wav") == "unreadable"
    check(INPUTS / "gsm/call.wav", 5.16)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    assert reason_of(tmp_path / "a.wav") == "unreadable"  # and nobody waits for a writer
    assert reason_of("/dev/zero") == "unreadable"
    (tmp_path / "link.wav").symlink_to(tmp_path / "gone")
    for name in (tmp_path, tmp_path / "link.wav", "no\0name", tmp_path / "a.wav" / "b.wav",
                 "/" + 300 * "x"):
        assert reason_of(name) == "missing_file"


def test_faults_of_the_disk_are_of_the_moment(tmp_path, monkeypatch):
    wav, m4a = tmp_path / "a.wav", tmp_path / "b.wav"
    wav.write_bytes(encoded("WAV", "PCM_16"))
    for code in (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EACCES, errno.EMFILE, errno.ENODEV):
        with monkeypatch.context() as patch:
            def refuse(*_, code=code):
                raise OSError(code, os.strerror(code))

            patch.setattr(audio_source.os, "open", refuse)
            assert reason_of(wav) == "cannot_open"
            with pytest.raises(AudioError, match=os.strerror(code)) as error:
                load_audio(wav)
            assert error.value.is_transient
    system = soundfile.LibsndfileError(2)  # a read that fails in libsndfile
    with monkeypatch.context() as patch:
        patch.setattr(soundfile.SoundFile, "read", lambda *_, **__: (_ for _ in ()).throw(system))
        with pytest.raises(AudioError, match="^cannot_open"):
            load_audio(wav)
    # ... and in FFmpeg, in the middle of a file
    m4a.write_bytes(by_ffmpeg("adts", "aac", 60.0))
    pread = os.pread

    def fail_later(fd, count, position):
        if 300_000 < position < 500_000:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(fd, count, position)

    with monkeypatch.context() as patch:
        patch.setattr(audio_source.os, "pread", fail_later)
        assert len(load_audio(m4a, 0.0, 1.0)) == SAMPLE_RATE
        with pytest.raises(AudioError, match="^cannot_open"):
            load_audio(m4a, 0.0, 59.0)
    assert len(load_audio(m4a, 0.0, 59.0)) == 59 * SAMPLE_RATE  # mounted again


def test_a_long_file_is_decoded_once_in_order(tmp_path, monkeypatch):
    """Windows may overlap and several files take turns; nothing is decoded twice."""
    begun = []
    begin = forward_reader.ForwardReader._begin
    monkeypatch.setattr(forward_reader.ForwardReader, "_begin",
                        lambda reader: begun.append(1) or begin(reader))
    monkeypatch.setattr(forward_reader, "_idle", {})
    monkeypatch.setattr(forward_reader, "KEEP_SECONDS", 8.0)  # a block has 2
    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.wav")
        soundfile.write(files[-1], sweep(30.0, 8000, number), 8000, subtype="GSM610")
    whole = [load_audio(path) for path in files]
    assert len(begun) == 3
    for start in (0.0, 4.0, 6.5, 12.0):  # each begins before the last has ended
        for path, sound in zip(files, whole, strict=True):
            part = load_audio(path, start, 5.0)
            at = round(start * SAMPLE_RATE)
            np.testing.assert_allclose(part[200:-200], sound[at : at + len(part)][200:-200],
                                       atol=1e-3)  # a resampler's edges
    assert len(begun) == 6  # back to the beginning, once each
    for number in range(forward_reader.KEEP_FILES + 4):
        path = tmp_path / f"more{number}.wav"
        path.write_bytes(files[0].read_bytes()[:2000])
        load_audio(path)
    assert len(forward_reader._idle) == forward_reader.KEEP_FILES
    files[0].write_bytes(files[1].read_bytes() + b"\0" * 65)  # another file under its name
    np.testing.assert_array_equal(load_audio(files[0], 3.0, 1.0), load_audio(files[1], 3.0, 1.0))
