"""Prompts where audio becomes text: each window its own, whatever the batch."""

import pytest

from distill.data.manifest import read_manifest
from distill.data.speech.windows import pack
from distill.whisper.decoding.phrases.trie import PhraseList
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.prompting.compose import prompt_tokens
from distill.whisper.prompting.rendered import rendered
from distill.whisper.prompting.styles import render, style_prompt
from distill.whisper.recognition.sequential import LongAudio, Segment, _State
from distill.whisper.recognition.transcribe import transcribe
from distill.whisper.recognition.words import Word
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


def spoken(text: str, language: str | None = "en") -> Segment:
    words = [Word(f" {each}", at, at + 1.0, 0.5) for at, each in enumerate(text.split())]
    return Segment(0.0, float(len(words)), text, [], language, -0.1, 0.0, 0.0, words)


@pytest.mark.parametrize(("style", "text", "words"), [
    ("upper", "Well-known Mr. Smith, yes!", [(" WELL KNOWN", 0, 1), (" MR", 1, 2), (" SMITH", 2, 3),
                                             (" YES", 3, 4)]),
    ("lower", "It's \u2014 Ann.", [(" it's", 0, 1), (" ann", 2, 3)]),
    ("digits", "One hundred and five of two.", [(" 105", 0, 4), (" of", 4, 5), (" 2.", 5, 6)]),
    ("words", "In 21 boats.", [(" In", 0, 1), (" twenty-one", 1, 2), (" boats.", 2, 3)]),
    ("mixed", "As it is.", [(" As", 0, 1), (" it", 1, 2), (" is.", 2, 3)])])
def test_text_is_written_in_a_style_afterwards(style, text, words):
    """Word for word with its times."""
    (found,) = rendered(style, [spoken(text), *([spoken("...")] if style == "upper" else [])])
    assert found.text == render(style, text) == "".join(word.text for word in found.words).strip()
    assert [(word.text, word.start, word.end) for word in found.words] == words


def test_numbers_are_english():
    french = spoken("six dix", "fr")
    assert rendered("words", [spoken("6 dix", "fr")])[0].text == "6 dix"
    assert rendered("digits", [french]) == [french]
    assert rendered("digits", [french], "translate")[0].text == "6 dix"


def test_options_of_transcribe(tiny_teacher, tiny_processor, demo_data, tmp_path):
    (tmp_path / "notes.txt").write_text("Ann and\nvan Dyck.\n", encoding="utf-8")
    command = [str(demo_data / "audio" / "agent-pass.ogg"), "--model", str(tiny_teacher),
               "--language", "en", "--output-dir", str(tmp_path), "--style-prompt", "upper",
               "--context", str(tmp_path / "notes.txt")]
    options = _parser().parse_args(command)
    tokens = prompt_of(options, tiny_processor.tokenizer)
    wanted = f" {style_prompt('upper')} Ann and van Dyck."
    assert tiny_processor.tokenizer.decode(tokens) == wanted
    plain = _parser().parse_args(command[:7])
    assert prompt_of(plain, tiny_processor.tokenizer) == []
    file = tmp_path / "agent-pass.ogg.txt"
    assert main(command) == 0
    before = file.read_text(encoding="utf-8").splitlines()
    assert before and main([*command, "--style", "builtins:repr", "--overwrite"]) == 0
    assert file.read_text(encoding="utf-8").splitlines() == list(map(repr, before))
    for wrong, message in ((["--style", "shout"], "style must be one of"),
                           (["--style-prompt", "shout"], "style must be one of"),
                           (["--context", str(tmp_path / "none")], "--context: .*none")):
        with pytest.raises(ValueError, match=message):
            check_prompt(_parser().parse_args([*command[:7], *wrong]))
