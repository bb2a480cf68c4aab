"""Prompts where audio becomes text: each window its own, whatever the batch."""

from pathlib import Path

import pytest

from distill.data.manifest import read_manifest
from distill.data.speech.windows import pack
from distill.whisper.decoding.phrases.trie import PhraseList
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.prompting.compose import prompt_tokens
from distill.whisper.prompting.styles import style_prompt
from distill.whisper.recognition.sequential import LongAudio, _State
from distill.whisper.recognition.transcribe import transcribe
from eval.transcribe import _parser, check_prompt, main, prompt_of


def test_each_window_with_its_own_prompt_and_list(tiny_model, tiny_processor, demo_data):
    """As alone, token for token (int8: the same kernels for any batch)."""
    rows, _ = read_manifest(demo_data / "validation.jsonl")
    windows = pack(rows[:4], "w", "none")
    tokenizer, ids = tiny_processor.tokenizer, [window.id for window in windows]
    previous = {ids[0]: prompt_tokens(tokenizer, "upper", "Ann, van Dyck.", 223),
                ids[2]: prompt_tokens(tokenizer, "lower", "", 223)}
    phrases = {ids[1]: PhraseList(tokenizer, ["Ann"], 9.0),
               ids[2]: PhraseList(tokenizer, ["xyz", "Moskowitz"], 30.0)}
    decoder = WhisperDecoder(tiny_model, tokenizer, "en", int8=True)
    found = transcribe(decoder, tiny_processor, windows, 4, 4.0, previous=previous,
                       phrases=phrases)
    for window in windows:
        alone = transcribe(decoder, tiny_processor, [window], 1, 4.0, previous=previous,
                           phrases=phrases)
        assert alone[window.id].tokens == found[window.id].tokens
    plain = transcribe(decoder, tiny_processor, windows, 4, 4.0)
    assert found[ids[3]].tokens == plain[ids[3]].tokens
    assert found[ids[2]].tokens != plain[ids[2]].tokens


def test_what_was_asked_for_is_never_cut():
    state = _State(LongAudio("a", 1.0, lambda *_: None, prompt=[7] * 100), "en")
    assert state.previous(448) == [7] * 100
    state.prompt = list(range(1000, 1400))
    assert state.previous(448) == [7] * 100 + list(range(1400 - 123, 1400))
    state.audio.prompt = []
    assert state.previous(448) == list(range(1400 - 223, 1400))
    state.audio.prompt = [7] * 223
    assert state.previous(448) == [7] * 223


def test_options_of_transcribe(tiny_teacher, tiny_processor, demo_data, tmp_path):
    (tmp_path / "notes.txt").write_text("Ann and\nvan Dyck.\n", encoding="utf-8")
    file = str(demo_data / "audio" / "agent-pass.ogg")
    command = [file, "--model", str(tiny_teacher), "--language", "en", "--output-dir",
               str(tmp_path), "--style", "upper", "--context", str(tmp_path / "notes.txt")]
    options = _parser().parse_args(command)
    tokens = prompt_of(options, tiny_processor.tokenizer)
    wanted = f" {style_prompt('upper')} Ann and van Dyck."
    assert tiny_processor.tokenizer.decode(tokens) == wanted
    plain = _parser().parse_args(command[:7])
    assert prompt_of(plain, tiny_processor.tokenizer) == []
    assert main(command) == 0 and Path(tmp_path / "agent-pass.ogg.txt").is_file()
    for wrong, message in ((["--style", "shout"], "style must be one of"),
                           (["--context", str(tmp_path / "none")], "--context: .*none")):
        with pytest.raises(ValueError, match=message):
            check_prompt(_parser().parse_args([*command[:7], *wrong]))
