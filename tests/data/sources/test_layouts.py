"""Each layout as its dataset has it, built of real clips: what its rows become."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.data.hub_dataset import build, parse_options
from distill.data.manifest import read_manifest
from distill.data.sources.clips import Columns
from distill.data.sources.layouts.folder import find_clips

ROOT = Path(__file__).resolve().parents[3]
INPUTS = ROOT / "tests" / "inputs"
CLIP = ROOT / "recipes" / "demo" / "data" / "audio" / "added.ogg"


def lay(folder: Path, audio: str, **texts: str) -> Path:
    """Audio files (names with spaces between them) and texts by name ("/" is "__")."""
    for name in audio.split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CLIP, folder / name)
    for name, text in texts.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def read(folder: Path, split: str = "train", **columns: str) -> dict:
    """{id: text or labels, or the reason of a problem}; a speaker or a language follows."""
    found = {}
    for clip in find_clips(folder, split, Columns(**columns)):
        assert clip.id not in found
        value = clip.problem[0] if clip.problem else clip.text or clip.labels
        more = [each for each in (clip.speaker, clip.language) if each and not clip.problem]
        found[clip.id] = (value, *more) if more else value
        if not clip.problem:
            assert clip.path.is_file() or value == "gone", clip
    return found


# name: (audio, {file: text}, split, columns, what is read)
SPEECH = {
    "Common Voice": (
        "clips/a.mp3 clips/b.mp3 clips/c.mp3",
        {"train.tsv": "client_id\tpath\tsentence\tlocale\n"
                      'u1\ta.mp3\t"Wedi\tcy\nu2\tz.mp3\tgone\t\n',
         "validated.tsv": "client_id\tpath\tsentence\nu1\tb.mp3\tb\nu2\tc.mp3\tc\n"},
        "train", {}, {"a": ('"Wedi', "u1", "cy"), "z": ("gone", "u2")}),
    "Common Voice, another of its tables, now in wav": (
        "clips/b.wav",
        {"train.tsv": "path\tsentence\na.mp3\ta\n", "validated.tsv": "path\tsentence\nb.mp3\tb\n"},
        "validated", {}, {"b": "b"}),
    "LibriSpeech": (
        "train-clean-100/84/1/84-1-0.flac train-other-500/85/1/85-1-0.flac "
        "dev-clean/9/1/9-1-0.flac train-clean-100/84/1/84-1-9.flac",
        {"SPEAKERS.TXT": "; a table",
         "train-clean-100/84/1/84-1.trans.txt": "84-1-0 A B\n84-1-1 X\n",
         "train-other-500/85/1/85-1.trans.txt": "85-1-0 C\n",
         "dev-clean/9/1/9-1.trans.txt": "9-1-0 D\n"},
        "train", {}, {"84-1-0": ("A B", "84"), "84-1-1": "no_audio", "85-1-0": ("C", "85"),
                      "train-clean-100/84/1/84-1-9": None}),
    "LibriSpeech, one part by its name": (
        "test-clean/84/1/84-1-0.flac test-other/85/1/85-1-0.flac",
        {"test-clean/84/1/84-1.trans.txt": "84-1-0 A\n",
         "test-other/85/1/85-1.trans.txt": "85-1-0 C\n"},
        "test-other", {}, {"85-1-0": ("C", "85")}),
    "MLS": (
        "train/audio/1/2/1_2_3.flac test/audio/4/5/4_5_6.flac",
        {"train/transcripts.txt": "1_2_3\tun deux\n", "test/transcripts.txt": "4_5_6\ttrois\n"},
        "train", {}, {"1_2_3": ("un deux", "1")}),
    "AISHELL": (
        "wav/train/S1/B1.wav wav/test/S2/B2.wav",
        {"transcript/aishell_transcript_v0.8.txt": "B1 一 二\nB2 三\n"},
        "train", {}, {"B1": "一 二"}),
    "Common Voice of two languages": (
        "cy/clips/a.mp3 en/clips/b.mp3",
        {"cy/dev.tsv": "path\tsentence\na.mp3\tA\n", "en/dev.tsv": "path\tsentence\nb.mp3\tB\n"},
        "dev", {}, {"a": "A", "b": "B"}),
    "Kaldi, all of it": (
        "wav/a.wav", {"data/train_si/wav.scp": "u1 wav/a.wav\n", "data/train_si/text": "u1 A\n",
                      "data/test_si/wav.scp": "u2 wav/a.wav\n", "data/test_si/text": "u2 B\n"},
        "all", {}, {"u1": "A", "u2": "B"}),
    "Kaldi": (
        "wav/r1.wav wav/r2.wav wav/r3.wav",
        {"data/train/wav.scp": "r1 wav/r1.wav\nr2 sph2pipe -f wav wav/r2.wav |\n"
                               "r3 sox wav/r3.wav -t wav - speed 1.1 |\nr4 raw.ark:17\n",
         "data/train/text": "u1 one two\nu2 three\nu3 x\nu4 x\nu5 x\n",
         "data/train/segments": "u1 r1 0.0 0.25\nu2 r2 0.1 -1\nu3 r3 0 1\nu4 r4 0 1\nu6 r1 2 1\n",
         "data/train/utt2spk": "u1 ann\n", "data/train/utt2lang": "u1 cy\n",
         "data/test/wav.scp": "t1 wav/r1.wav\n", "data/test/text": "t1 test\n"},
        "train", {}, {"u1": ("one two", "ann", "cy"), "u2": "three", "u3": "needs_command",
                      "u4": "kaldi_archive", "u6": "bad_offset", "u5": "no_audio"}),
    "NeMo, any name, paths beside and of another machine": (
        "wav/a.wav wav/b.wav",
        {"my_train_manifest.json":
            '{"audio_filepath": "wav/a.wav", "duration": 0.7, "text": "a"}\n'
            '{"audio_filepath": "/mnt/x/wav/b.wav", "duration": 0.7, "text": "b", "lang": "cy"}\n',
         "my_test_manifest.json": '{"audio_filepath": "wav/b.wav", "text": "test"}\n',
         "config.json": '{"lr": 1}'},
        "train", {}, {"wav/a": "a", "wav/b": ("b", "cy")}),
    "LJSpeech": (
        "wavs/LJ001-0001.wav wavs/LJ001-0002.wav",
        {"metadata.csv": 'LJ001-0001|In 1450, "Printing"|In fourteen fifty, "Printing"\n'
                         "LJ001-0002|in being|in being\n"},
        "train", {}, {"LJ001-0001": 'In 1450, "Printing"', "LJ001-0002": "in being"}),
    "LJSpeech, the other text": (
        "wavs/LJ1.wav", {"metadata.csv": "LJ1|In 1450|In fourteen fifty\n"},
        "train", {"text": "normalized_text"}, {"LJ1": "In fourteen fifty"}),
    "FLEURS": (
        "audio/train/10.wav audio/train/11.wav audio/dev/12.wav",
        {"train.tsv": "7\t10.wav\tWord, one\tword one\tw o\t1000\tMALE\n"
                      "7\t11.wav\tWord, two\tword two\tw o\t1000\tFEMALE\n",
         "dev.tsv": "8\t12.wav\tDev\tdev\td\t10\tMALE\n"},
        "train", {}, {"10": "word one", "11": "word two"}),
    "FLEURS, as it was written": (
        "audio/dev/12.wav", {"dev.tsv": "8\t12.wav\tDev, it\tdev it\td\t10\tMALE\n"},
        "validation", {"text": "raw_transcription"}, {"12": "Dev, it"}),
    "LibriTTS": (
        "train-clean-100/84/1/84_1_0.wav",
        {"train-clean-100/84/1/84_1_0.normalized.txt": "twenty",
         "train-clean-100/84/1/84_1_0.original.txt": "20"},
        "train", {}, {"train-clean-100/84/1/84_1_0": ("twenty", "84")}),
    "VCTK": (
        "wav48_silence_trimmed/p225/p225_001_mic1.flac "
        "wav48_silence_trimmed/p225/p225_001_mic2.flac "
        "wav48_silence_trimmed/p315/p315_001_mic1.flac",
        {"txt/p225/p225_001.txt": "Please call", "speaker-info.txt": "ID AGE"},
        "train", {}, {"wav48_silence_trimmed/p225/p225_001_mic1": ("Please call", "p225"),
                      "wav48_silence_trimmed/p225/p225_001_mic2": "second_microphone",
                      "wav48_silence_trimmed/p315/p315_001_mic1": (None, "p315")}),
    "audiofolder, a table in each split": (
        "train/a.wav train/b.wav test/a.wav",
        {"train/metadata.csv": "file_name,text\na.wav,one\nb.wav,two\n",
         "test/metadata.csv": "file_name,text\na.wav,three\n"},
        "test", {}, {"a": "three"}),
    "OpenSLR, names without suffix and no header": (
        "cyf_1.wav cyf_2.wav", {"line_index.tsv": "cyf_1\tun, dau\ncyf_2\ttri\n"},
        "train", {}, {"cyf_1": "un, dau", "cyf_2": "tri"}),
    "JSON beside audio": (
        "a.wav b.wav", {"a.json": '{"text": "A", "speaker": "ann"}', "b.json": '{"text": 5}'},
        "train", {}, {"a": ("A", "ann"), "b": "bad_text"}),
    "TIMIT": ("dr1/sa1.wav", {"dr1/sa1.TXT": "0 46797 She had your dark suit.\n"},
              "train", {}, {"dr1/sa1": "She had your dark suit."}),
    "times are no transcript": (
        "a.wav b.wav", {"a.txt": "0.0\t1.5\tdog\n1.5\t2.0\tcat\n", "b.lab": "hello\n"},
        "train", {}, {"a": "bad_text", "b": "hello"}),
    "another speaker's text is never taken": (
        "ann/001.wav", {"bob/001.txt": "Bob's."}, "all", {},
        {"ann/001": None, "bob/001": "no_audio"}),
}
SOUNDS = {
    "ESC-50": (
        "audio/1-1-A-0.wav audio/1-2-A-1.wav",
        {"meta/esc50.csv": "filename,fold,target,category,esc10,src_file,take\n"
                           "1-1-A-0.wav,1,0,dog,True,1,A\n1-2-A-1.wav,1,1,rooster,True,2,A\n"},
        "train", {}, {"1-1-A-0": ("dog",), "1-2-A-1": ("rooster",)}),
    "UrbanSound8K, whose times are of other files": (
        "audio/fold1/7-0.wav audio/fold2/7-0.wav audio/fold2/8-0.wav",
        {"metadata/UrbanSound8K.csv": "slice_file_name,fsID,start,end,salience,fold,classID,class\n"
                                      "7-0.wav,7,50.1,54.1,1,1,3,dog_bark\n8-0.wav,8,0,4,1,2,1,siren\n"},
        "train", {}, {"7-0": ("dog_bark",), "8-0": ("siren",)}),
    "FSD50K": (
        "FSD50K.dev_audio/1.wav FSD50K.dev_audio/2.wav FSD50K.eval_audio/3.wav",
        {"FSD50K.ground_truth/dev.csv": 'fname,labels,mids,split\n1,"Guitar,Music",/m/1,train\n'
                                        '2,Bark,/m/2,val\n',
         "FSD50K.ground_truth/eval.csv": "fname,labels,mids\n3,Siren,/m/3\n",
         "FSD50K.ground_truth/vocabulary.csv": "0,Guitar,/m/1\n"},
        "train", {}, {"1": ("Guitar", "Music")}),
    "AudioSet": (
        "audio/abc-_1.wav audio/Ydef.wav audio/ghi_30000_40000.wav audio/ABC-_2.wav",
        {"balanced_train_segments.csv":
            "# Segments csv created\n# num_ytids=4\n"
            "# YTID, start_seconds, end_seconds, positive_labels\n"
            'abc-_1, 30.000, 40.000, "/m/09x0r,/t/dd1"\ndef, 0.000, 10.000, "/t/dd1"\n'
            'ghi, 30.000, 40.000, "/m/none"\n',
         "class_labels_indices.csv": 'index,mid,display_name\n0,/m/09x0r,"Speech"\n'
                                     '1,/t/dd1,"Male speech, man speaking"\n'},
        "train", {}, {"abc-_1": ("Speech", "Male speech, man speaking"),
                      "def": ("Male speech, man speaking",), "ghi": ("/m/none",)}),
    "AudioSet's columns without times": (
        "abc.wav", {"metadata.csv": "YTID,positive_labels\nabc.wav,Speech\n"},
        "train", {"text": "none", "labels": "positive_labels"}, {"abc": ("Speech",)}),
    "audiofolder, a folder for each class": (
        "train/dog/1.wav train/rain/2.wav test/dog/3.wav", {},
        "train", {"text": "none", "labels": "label"},
        {"train/dog/1": ("dog",), "train/rain/2": ("rain",)}),
    "audiofolder, a table of classes": (
        "a.wav b.wav",
        {"metadata.csv": 'file_name,label\na.wav,dog\nb.wav,"[\'cat\', \'drum\']"\n'},
        "train", {"text": "none", "labels": "label"}, {"a": ("dog",), "b": ("cat", "drum")}),
}


def test_layouts(tmp_path):
    for number, (name, case) in enumerate({**SPEECH, **SOUNDS}.items()):
        audio, files, split, columns, expected = case
        folder = tmp_path / str(number)
        folder.mkdir()
        lay(folder, audio)
        write(folder, files)
        assert read(folder, split, **columns) == expected, name


def test_other_splits_of_fsd50k_and_fleurs(tmp_path):
    audio, files, *_ = SOUNDS["FSD50K"]
    write(lay(tmp_path, audio), files)
    assert read(tmp_path, "dev") == {"2": ("Bark",)} == read(tmp_path, "val")
    assert read(tmp_path, "test") == {"3": ("Siren",)}
    assert len(read(tmp_path, "all")) == 3
    with pytest.raises(ValueError, match="no split other; there are train"):
        read(tmp_path, "other")


def test_parts_of_files(tmp_path):
    """NeMo's offsets, Kaldi's segments, start and end of a table, whole videos of AudioSet."""
    assert [(c.offset, c.duration) for c in find_clips(INPUTS / "nemo", "train", Columns())] == [
        (0, 2), (2, 2), (4, 2)]
    audio, files, *_ = SPEECH["Kaldi"]
    write(lay(tmp_path / "kaldi", audio), files)
    clips = {c.id: c for c in find_clips(tmp_path / "kaldi", "train", Columns())}
    assert (clips["u1"].offset, clips["u1"].duration) == (0, 0.25)
    assert (clips["u2"].offset, clips["u2"].duration) == (0.1, None)
    assert "speed" in clips["u3"].problem[1] and "wav.scp line 3" not in clips["u2"].name

    lay(tmp_path / "ends", "a.wav")
    write(tmp_path / "ends", {"metadata.csv": "file,start,end,text\na.wav,0.1,0.4,x\n",
                              "events.tsv": "filename\tonset\toffset\tlabel\na.wav\t1\t3\tdog\n"})
    clip, = find_clips(tmp_path / "ends", "train", Columns())
    assert (clip.id, clip.offset, clip.duration) == ("a-0000100", 0.1, 0.3)
    clip, = find_clips(tmp_path / "ends" / "events.tsv", "train", Columns("none", labels="label"))
    assert (clip.offset, clip.duration, clip.labels) == (1, 2, ("dog",))

    soundfile.write(tmp_path / "v1.wav", np.zeros(16_000 * 60, np.float32), 16_000)
    soundfile.write(tmp_path / "v2.wav", np.zeros(16_000 * 10, np.float32), 16_000)
    header = "# YTID, start_seconds, end_seconds, positive_labels\n"
    write(tmp_path, {"eval_segments.csv": header + 'v1, 30, 40, "/m/1"\nv2, 30, 40, "/m/1"\n'})
    parts = [(c.offset, c.duration) for c in find_clips(tmp_path, "test", Columns())]
    assert parts == [(30, 10), (0, None)]


def test_a_length_without_an_offset_is_of_the_file(tmp_path):
    """A rounded length cuts nothing; the file's beginning is meant where that is much longer."""
    lines = [{"audio_filepath": "a.wav", "duration": 0.7, "text": "rounded"},
             {"audio_filepath": "a.wav", "duration": 1.0, "text": "rounded up"},
             {"audio_filepath": "a.wav", "duration": 723, "text": "milliseconds"},
             {"audio_filepath": "a.wav", "duration": 60, "text": "of another file"},
             {"audio_filepath": "long.wav", "duration": 2.0, "text": "the beginning"}]
    lay(tmp_path / "in", "a.wav")
    soundfile.write(tmp_path / "in" / "long.wav", np.zeros(16_000 * 9, np.float32), 16_000)
    write(tmp_path / "in", {"train.json": "".join(json.dumps(line) + "\n" for line in lines)})
    rows, _ = read_manifest(build(str(tmp_path / "in"), tmp_path / "out", parse_options([])))
    assert {row.text: row.duration for row in rows} == {
        "rounded": 0.7231, "rounded up": 0.7231, "milliseconds": 0.7231, "the beginning": 2.0}
    assert json.loads((tmp_path / "out/drops.json").read_text())["train"]["drops"] == {
        "beyond_end": 1}


def test_a_column_that_was_named_is_there_in_every_layout(tmp_path):
    for number, (name, (audio, files, split, *_)) in enumerate({**SPEECH, **SOUNDS}.items()):
        folder = tmp_path / str(number)
        write(lay(folder, audio), files)
        for column in ("text", "speaker", "id", "labels"):
            with pytest.raises(ValueError, match="no column nothing .*; there are "):
                read(folder, split, **{"text": "none", column: "nothing"}), name
