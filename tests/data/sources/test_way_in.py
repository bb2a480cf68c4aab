"""Folders and tables as people have them, through the command: which clips come of them, what is
counted, how it ends; the source stays as it was. One line of the table is one corpus."""

import gzip
import json
import unicodedata

from distill.data.hub_dataset import main
from tests.support.way_in import Link, everything, jsonl, lay, reasons, run, told

A, B, C = {"a.wav": 1}, {"b.wav": 1}, {"c.wav": 1}
AB, ABC = {**A, **B}, {**A, **B, **C}
TEXT = "file_name,text\n"
NFD = unicodedata.normalize("NFD", "café.wav")
LONG = "word " * 40_000
COMMANDS = {f"{c}/{i}_nohash_0.wav": 1 for c in ("yes", "no") for i in range(3)}
LISTS = {"validation_list.txt": "yes/0_nohash_0.wav\nno/0_nohash_0.wav\n",
         "testing_list.txt": "yes/1_nohash_0.wav\nno/1_nohash_0.wav\n"}

# name: (files, keys, rows, drops by reason[, exit code, what is said])
TABLES = {
    "semicolons and quotes": (
        {**ABC, "metadata.csv": 'file_name;text\r\n"a.wav";"He said ""hi; you"", then"\r\n'
                                '"b.wav";"line\r\nbreak"\r\nc.wav;plain, comma\r\n'}, "",
        ['a.wav He said "hi; you", then', "b.wav line break", "c.wav plain, comma"], {}),
    "a cell too many, one too few, no name": (
        {**ABC, "metadata.csv": TEXT + 'a.wav,Yes, of course\nb.wav\n,lost\nc.wav,"yes, well"\n'},
        "", ["c.wav yes, well"], {"bad_row": 2, "no_file_name": 1}, 0, "in no row: 2"),
    "UTF-16 of both kinds, a long cell": (
        {**AB, "train.csv": (TEXT + "a.wav,žluť\n").encode("utf-16"),
         "dev.tsv": "path\tsentence\nb.wav\thi\n".encode("utf-16-le")}, "split=all",
        ["a.wav žluť", "b.wav hi"], {}),
    "a long cell, a header in capitals": (
        {**AB, "metadata.csv": f"File_Name , Text \r\na.wav, {LONG}\r\nb.wav,ok\r\n"}, "",
        [f"a.wav {LONG.strip()}", "b.wav ok"], {}),
    "a byte that is no UTF-8": (
        {**AB, "metadata.csv": (TEXT + "a.wav,Müller\nb.wav,x\n").encode("latin-1")}, "",
        ["b.wav x"], {"bad_text": 1}, 0, "line 2: byte 23 is 0xfc, not UTF-8"),
    "Common Voice, a clip that is not there": (
        {"clips/a.mp3": 1,
         "train.tsv": 'client_id\tpath\tsentence\nx\ta.mp3\t"Go on\ny\tb.mp3\tz\n',
         "test.tsv": "client_id\tpath\tsentence\nx\tc.mp3\tother\n"}, "",
        ['a.mp3 "Go on <x>'], {"missing_file": 1}, 1, "NOT COMPLETE: 1 clips"),
    "JSON of the wrong types": (
        {**ABC, "metadata.jsonl": jsonl(
            {"file_name": "a.wav", "text": 5}, {"file_name": "b.wav", "text": ["x"]},
            {"file_name": "c.wav", "text": "ok"}) + '["c.wav", "x"]\n{"file_name": 1.5}\n'}, "",
        ["c.wav ok"], {"bad_text": 2, "bad_row": 1, "bad_file_name": 1}),
    "an array, a byte-order mark, no JSON lines": (
        {**AB, "metadata.json": "\ufeff" + json.dumps([{"file_name": f"{n}.wav", "text": n}
                                                      for n in "ab"], indent=1)}, "",
        ["a.wav a", "b.wav b"], {}),
    "packed": ({**AB, "metadata.csv.gz": gzip.compress((TEXT + "a.wav,x\nb.wav,y\n").encode())},
               "", ["a.wav x", "b.wav y"], {}),
    "packed and broken": (
        {**AB, "train.jsonl.gz": gzip.compress(jsonl({"path": "a.wav"}).encode())[:-9]}, "", [],
        {}, 2, "the gzip file is broken"),
    "NeMo: parts, null, text for a number, beyond the end, of another unit": (
        {"long.wav": 6, "any_manifest.json": jsonl(
            {"audio_filepath": "{here}/long.wav", "offset": 0, "duration": 2, "text": "one"},
            {"audio_filepath": "long.wav", "offset": "2.5", "duration": "1,5", "text": "two"},
            {"audio_filepath": "long.wav", "offset": None, "duration": None, "text": "all"},
            {"audio_filepath": "long.wav", "offset": 5, "duration": 2, "text": "x"},
            {"audio_filepath": "long.wav", "offset": "0:01", "duration": 2, "text": "x"},
            {"audio_filepath": "long.wav", "offset": 1, "duration": 0, "text": "x"},
            {"audio_filepath": "long.wav", "offset": 1, "duration": 1})}, "",
        ["long.wav 0+2 one", "long.wav 0+6 all", "long.wav 2.5+1.5 two"],
        {"beyond_end": 1, "bad_offset": 1, "bad_duration": 1, "missing_text": 1}),
    "times in milliseconds and on a clock": (
        {"a.wav": 6, "train.csv": "file,text,start_ms,end_ms\na.wav,x,1000,2500\n",
         "dev.csv": "file,text,start,end\na.wav,y,00:00:03.5,00:00:04\na.wav,z,3,2\n"}, "split=all",
        ["a.wav 1+1.5 x", "a.wav 3.5+0.5 y"], {"bad_duration": 1}),
    "a column `start` that is something else": (
        {**A, "metadata.csv": "file_name,text,start\na.wav,x,99\n"}, "offset_column=none",
        ["a.wav x"], {}),
    "ids that are not unique, the same row again": (
        {**AB, "metadata.csv": "id,file_name,text\n1,a.wav,x\n1,b.wav,y\n1,a.wav,x\n"}, "",
        ["a.wav x", "b.wav y"], {"duplicate": 1}, 0, "2 rows had ids that were not unique"),
    "one sound, two texts": (
        {**AB, "metadata.csv": TEXT + "a.wav,hello\n./a.wav,goodbye\nb.wav,x\n"}, "",
        ["a.wav goodbye", "a.wav hello", "b.wav x"], {}, 0,
        "1 clips have a sound that is there before with other words or labels: a"),
    "languages": (
        {**ABC, "metadata.csv": "file,text,language\n"
                                "a.wav,x,GERMAN\nb.wav,y,pt-BR\nc.wav,z,Elvish\n"}, "",
        ["a.wav x <de>", "b.wav y <pt>"], {"unknown_language": 1}, 0, "'Elvish'"),
    "not one row": ({**A, "metadata.csv": TEXT + "a.wav,\n"}, "", [], {"missing_text": 1}, 2,
                    "say text_column=none"),
    "a column that is not there": ({**A, "metadata.csv": TEXT + "a.wav,x\n"}, "speaker_column=who",
                                   [], {}, 2, "no column who (speaker_column); there are"),
    "two columns of one name": ({**A, "metadata.csv": "file,text,text\na.wav,x,y\n"}, "", [], {}, 2,
                                "two columns are called text"),
    "several tables": ({**AB, "one.csv": TEXT + "a.wav,1\n", "two.csv": TEXT + "b.wav,2\n"}, "", [],
                       {}, 2, "several tables name audio: one.csv, two.csv"),
    "names of Windows, of a Mac, of the web, of nowhere": (
        {**A, "sub/x.wav": 1, NFD: 1, "metadata.csv":
            TEXT + "sub\\x.wav,w\ncafé.wav,m\nhttps://x.org/a.wav,h\nfile://{here}/a.wav,f\n"}, "",
        ["a.wav f", f"{NFD} m", "x.wav w"], {"remote_file": 1}),
    "names with anything in them": (
        {**{name: 1 for name in ('"q" it\'s.wav', "new\nline.wav", "😀.wav", " a;b.wav", "-c.wav")},
         "metadata.jsonl": jsonl(*({"file_name": name, "text": "t"} for name in (
             '"q" it\'s.wav', "😀.wav", " a;b.wav", "-c.wav")))}, "",
        [' a;b.wav t', '"q" it\'s.wav t', "-c.wav t", "😀.wav t"], {}, 0, "in no row: 1"),
}
FOLDERS = {
    "texts of every kind beside audio": (
        {**{f"{n}.wav": 1 for n in "abcdefg"}, "a.txt": "\ufeffhi", "b.txt": "hé".encode("utf-16"),
         "c.txt": b"caf\xe9", "d.txt": " \n", "e.TXT": "two\r\nlines", "f.lab": "lab", "z.txt": "z",
         "g.txt": Link("nowhere.txt")}, "",
        ["a.wav hi", "b.wav hé", "e.wav two lines", "f.wav lab"],
        {"bad_text": 1, "missing_text": 1, "no_audio": 1, "cannot_open": 1}, 1, "byte 4 is 0xe9"),
    "links, loops and what systems leave": (
        {**A, "a.txt": "x", "../far/b.wav": 1, "../far/b.txt": "y", "more": Link("../far"),
         "loop": Link("."), "self": Link("self"), "gone.wav": Link("/nowhere/c.wav"),
         "gone.txt": "z", "._a.wav": b"x", "__MACOSX/a.wav": b"x", ".DS_Store": b"x"}, "",
        ["a.wav x", "b.wav y"], {"missing_file": 1, "missing_text": 1}, 1,
        "2 files of the system's or hidden are left out by name: ._a.wav, __MACOSX/a.wav"),
    "audio that is none": (
        {**A, "a.txt": "x", "b.wav": b"", "b.txt": "y", "c.wav": b"RIFF junk", "c.txt": "z",
         "d.wav/e.WAV": 1, "d.wav/e.Txt": "e"}, "", ["a.wav x", "e.WAV e"],
        {"empty": 1, "unreadable": 1}),
    "one name, two suffixes": ({**A, "a.flac": 1, "a.txt": "x"}, "", ["a.flac x", "a.wav x"], {}, 0,
                               "2 rows had ids that were not unique"),
    "a table in one folder, texts in another": (
        {"one/a.wav": 1, "one/metadata.csv": TEXT + "a.wav,x\n", "one/left.wav": 1, "two/b.wav": 1,
         "two/b.txt": "y"}, "", ["a.wav x", "b.wav y"], {}, 0, "in no row: 1 (one/left.wav)"),
    "what is not read is said": (
        {**A, "a.txt": "x", "more.zip": b"PK", "table.xlsx": b"PK", "b.srt": "1"}, "", ["a.wav x"],
        {}, 0, "3 files are not read, which may hold clips or texts: b.srt, more.zip, table.xlsx"),
    "LibriSpeech, a line and a file too many": (
        {"1/2/1-2-0.flac": 1, "1/2/1-2-1.flac": 1, "1/2/1-2.trans.txt": "1-2-0 HI\n1-2-7 NO\n"}, "",
        ["1-2-0.flac HI <1>"], {"no_audio": 1, "missing_text": 1}),
    "Kaldi: parts, an id twice, too much of everything": (
        {"r.wav": 6, "other.wav": 1, "wav.scp": "\ufeffr {here}/r.wav\r\nr other.wav\r\n",
         "segments": "u1 r 0 2\nu2 r 2.5 4.5\nu3 r 5 9\n", "text": "u1 x\nu2 y\nu3 z\nu9 no\n"}, "",
        ["r.wav 0+2 x", "r.wav 2.5+2 y"], {"bad_row": 1, "beyond_end": 1, "no_audio": 1}, 0,
        "in no row: 1 (other.wav)"),
    "TEDLIUM": (
        {"train/sph/t.wav": 8, "test/sph/s.wav": 8, "test/stm/s.stm": "s 1 ann 0 2 <o,f0,f> no\n",
         "train/stm/t.stm": ";; of NIST\nt 1 ann 0.5 2.5 <o,f0,female> hello there\n"
                            "t 1 gap 2.5 3 <o,,unknown> ignore_time_segment_in_scoring\n"
                            "t 1 ann 3 2 <o,f0,f> x\nnone 1 bob 3 4 <o,f0,f> y\n"}, "",
        ["t.wav 0.5+2 hello there <ann>"], {"not_transcribed": 1, "bad_row": 1, "no_audio": 1}),
    "VITS": ({"wavs/a.wav": 1, "wavs/b.wav": 1, "filelists/x_train_filelist.txt":
              "wavs/a.wav|s1|hello, there\nwavs/b.wav|s2|bye\n",
              "filelists/x_val_filelist.txt": "wavs/b.wav|s2|no\n"}, "",
             ["a.wav hello, there <s1>", "b.wav bye <s2>"], {}),
    "labels": (
        {**{f"{n}.wav": 1 for n in range(8)}, "metadata.jsonl": jsonl(*(
            {"file_name": f"{n}.wav", "labels": value} for n, value in enumerate((
                "dog;cat", "dog|cat", "dog,cat", '["dog", "cat"]', "Speech, male", '{"dog": 1}', "",
                [1, "x"]))))}, "label_column=labels",
        [*(f"{n}.wav [dog; cat]" for n in range(4)), "4.wav [Speech, male]", "6.wav []",
         "7.wav [1; x]"], {"bad_labels": 1}, 0, "1 clips are of no class at all: 6"),
    "a folder for each class": ({"dog/a.wav": 1, "cat/b.wav": 1}, "label_column=label",
                                ["a.wav [dog]", "b.wav [cat]"], {}),
}
SPLITS = {
    "folders of many names": (
        {f"{name}/{name}.wav": 1 for name in ("TRAIN", "Valid", "test-clean", "test_other")},
        "split=test text_column=none", ["test-clean.wav", "test_other.wav"], {}, 0, "2 of 4 audio"),
    "no such folder": ({"train/a.wav": 1, "dev/b.wav": 1}, "split=test text_column=none", [], {}, 2,
                       "no split test; there are dev, train"),
    "a table above folders": (
        {"train/a.wav": 1, "test/b.wav": 1,
         "metadata.csv": TEXT + "train/a.wav,A\ntest/b.wav,B\n"}, "split=test", ["b.wav B"], {}),
    "tables of splits beside their folders": (
        {"train/a.wav": 1, "test/b.wav": 1, "test/c.wav": 1,
         "train.csv": "path,text\ntrain/a.wav,A\n", "test.csv": "path,text\ntest/b.wav,B\n"},
        "split=all", ["a.wav A", "b.wav B"], {}, 0, "in no row: 1 (test/c.wav)"),
    "a column": ({**AB, "metadata.csv": "file,text,Partition\na.wav,A,training\nb.wav,B,EVAL\n"},
                 "split=test", ["b.wav B"], {}),
    "nothing says so": ({**A, "a.txt": "x"}, "split=test", ["a.wav x"], {}, 0,
                        "all of it is read as test, as it would be for train"),
    "a misspelt one": ({**A, "a.txt": "x"}, "split=tset", [], {}, 2, "no split tset"),
    "Speech Commands, test": (
        {**COMMANDS, **LISTS, "testing_list.txt": LISTS["testing_list.txt"] + "no/gone.wav\n"},
        "split=test label_column=label", ["1_nohash_0.wav [no]", "1_nohash_0.wav [yes]"],
        {"missing_file": 1}, 1, "split test is testing_list.txt: 2 of 6"),
    "Speech Commands, train": (
        {**COMMANDS, **LISTS}, "label_column=label",
        ["2_nohash_0.wav [no]", "2_nohash_0.wav [yes]"], {}, 0, "what is not in testing_list.txt"),
    "lists beside texts": (
        {**ABC, **{f"{n}.txt": n for n in "abc"}, "train.txt": "a.wav\nb.wav\n",
         "test.txt": "c.wav\n"}, "split=test", ["c.wav c"], {}),
    "lists, and none of this split": ({**AB, "train.txt": "a.wav\n"}, "split=test", [], {}, 2,
                                      "no split test; there are lists train.txt"),
}


def test_way_in(tmp_path, capsys):
    for number, (name, case) in enumerate({**TABLES, **FOLDERS, **SPLITS}.items()):
        files, keys, rows, drops, code, said = (*case, 0, "")[:6] if len(case) < 6 else case
        source, out = lay(tmp_path / str(number) / "in", files), tmp_path / str(number) / "out"
        before = everything(tmp_path / str(number))
        found, screen = run(main, [source, out, *keys.split()], capsys)
        assert found == code and said in screen, (name, screen)
        assert reasons(screen) == drops, (name, screen)
        manifests = told(out)
        assert sum(manifests.values(), []) == rows, name
        after = everything(tmp_path / str(number))
        assert {path: after[path] for path in before} == before, name
        assert all(path.startswith("out") for path in after.keys() - before.keys()), name


def test_no_clip_is_in_two_splits(tmp_path, capsys):
    for number, files in enumerate((
        {f"{split}/{n}.wav": 1 for n, split in enumerate(("train", "dev", "test"))},
        {**COMMANDS, **LISTS},
        {**ABC, "metadata.csv": "file,set\na.wav,train\nb.wav,val\nc.wav,test\n"},
        {**ABC, "train.tsv": "path\na.wav\n", "dev.tsv": "path\nb.wav\n",
         "test.tsv": "path\nc.wav\n"},
        {"audio.wav": 3, "data/train/wav.scp": "u audio.wav\n", "data/train/segments": "a u 0 1\n",
         "data/dev/wav.scp": "u audio.wav\n", "data/dev/segments": "b u 1 2\n",
         "data/test/wav.scp": "u audio.wav\n", "data/test/segments": "c u 2 3\n"},
    )):
        source, out = lay(tmp_path / str(number), files), tmp_path / f"out{number}"
        for split in ("train", "validation", "test", "all"):
            arguments = [source, out, f"split={split}", "text_column=none"]
            assert run(main, arguments, capsys)[0] == 0
        parts = {split: [line for line in (out / f"{split}.jsonl").read_text().splitlines()]
                 for split in ("train", "validation", "test", "all")}
        assert all(parts.values())
        assert sorted(parts["train"] + parts["validation"] + parts["test"]) == sorted(parts["all"])
