"""What is no id of the Hub is refused before the Hub is asked, with the nearest path."""

import pytest

from distill.data.hub_ids import check_hub_id


@pytest.fixture
def here(tmp_path, monkeypatch):
    for folder in ("recordings/train", "recordings/test", "runs/demo/student", "data"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "mount" / "disk")
    (tmp_path / "table.csv").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "data"))
    return tmp_path


def test_ids_and_what_is_there_pass(here):
    for name in ("openai/whisper-base", "openai/whisper-base.en", "distil-whisper/distil-large-v3",
                 "mozilla-foundation/common_voice_17_0", "Helsinki-NLP/opus-mt-es-en", "a/b",
                 "recordings", "recordings/train", "./recordings", "table.csv",
                 str(here / "runs/demo/student")):
        check_hub_id(name, "--model")


def test_paths_are_refused_with_the_nearest(here):
    wrong = {
        "recordigns": "recordings?", "Recordings": "recordings?", "recording/train": "gs/train?",
        "recordings/trian": "recordings/train?", "./recordngs/": "recordings?",
        "runs/demo/studnet": "runs/demo/student?", "runs\\demo\\student": "runs/demo/student?",
        f"{here}/runs/dem/student": f"{here}/runs/demo/student?", "tabel.csv": "table.csv?",
        "recordings/dev": "the folders in recordings are test, train",
        "data/mine": "there is no folder in data", "nothing/at/all": "in this folder are data, rec",
        "other.jsonl": "there is no file other.jsonl", "~/mine": "there is no folder in",
        "word": "OWNER/NAME", "../x/y": "it is a path", "C:\\sounds": "it is a path",
        "a/": "it is a path", "": "OWNER/NAME",
        "owner/na--me": "OWNER/NAME", "owner/n ame": "OWNER/NAME", "link": "which is not there",
        "https://huggingface.co/datasets/openslr/librispeech_asr": "say openslr/librispeech_asr",
        "hf://datasets/openslr/x": "say openslr/x", "tinny": "did you mean tiny?",
    }
    for name, message in wrong.items():
        with pytest.raises(ValueError, match="^--model: ") as error:
            check_hub_id(name, "--model", ["tiny"])
        assert message in str(error.value), name
