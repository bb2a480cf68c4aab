"""Subtitles as broadcasters want them: nothing lost, two lines, readable, at the right time."""

import unicodedata

import numpy as np
import pytest

from distill.whisper.recognition.sequential import Segment
from distill.whisper.recognition.words import Word
from eval.speech.cues import GAP, MAX_SECONDS, MIN_SECONDS, cues
from eval.speech.subtitles import write

PROSE = {
    "en": "Thank you for calling the support line of Example Incorporated. If you know the "
          "extension of your party, please dial it now, or stay on the line, and somebody will be "
          "with you as soon as possible. Dr. Smith is out until the first of January.",
    "de": "Die Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft "
          "hat heute geschlossen, weil niemand da ist, der das Telefon abnehmen könnte.",
    "zh": "今天天气很好，我们一起去公园散步吧。然后我们可以去那家新开的餐厅吃饭，"
          "听说那里的菜非常好吃，而且价格也不贵。你觉得怎么样？",
    "ja": "お電話ありがとうございます。ただいまコールセンターが大変込み合っております。"
          "「恐れ入りますが」、しばらくお待ちいただくか、またおかけ直しください。",
    "ko": "전화해 주셔서 감사합니다. 지금은 모든 상담원이 통화 중이오니 잠시만 기다려 주시거나 "
          "다시 걸어 주시기 바랍니다.",
    "th": "ขอบคุณที่โทรหาเราขณะนี้เจ้าหน้าที่ทุกคนกำลังให้บริการลูกค้าท่านอื่นกรุณารอสักครู่หรือโทรกลับมาใหม่ภายหลัง",
    "ar": "شكرا لاتصالك بنا، جميع موظفينا مشغولون حاليا، يرجى الانتظار على الخط أو الاتصال "
          "مرة أخرى لاحقا. مع السلامة!",
}


def columns(line: str) -> int:
    marks = sum(unicodedata.category(c)[0] == "M" for c in line)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line) - marks


def said(text: str, language: str, generator=None, timed=True, start=0.5) -> Segment:
    """A segment whose words come as Whisper's do; with a generator, at odd times."""
    pieces = [f" {word}" for word in text.split()]
    if language in ("zh", "ja", "th"):  # tokens that happen to have whole characters
        sizes = iter([1, 2, 1, 3, 2] * len(text))
        pieces, at = [], 0
        while at < len(text):
            size = next(sizes)
            pieces.append(text[at : at + size])
            at += size
    words, now = [], start
    for piece in pieces:
        length = (0.2 if language in ("zh", "ja") else 0.07) * len(piece)
        if generator is not None:
            now += generator.choice([-0.4, 0.0, 0.0, 0.0, 0.2, 0.6, 1.5, 4.0])
            length = generator.choice([0.0, 0.02, 0.3, 0.5, 9.0])
        words.append(Word(piece, max(now, 0.0), max(now, 0.0) + length, 0.9))
        now += length
    return Segment(start, max(now, start), text, [], language, -0.2, 0.0, 0.0,
                   words if timed else [])


def check(found, segments, seconds=None):
    """What holds for all cues, however the words are spoken."""
    whole = "".join("".join(line.split()) for cue in found for line in cue.lines)
    assert whole == "".join("".join(s.text.split()) for s in segments)  # every word, once, in order
    if all(s.language not in ("zh", "ja", "th") for s in segments):
        words = [word for cue in found for line in cue.lines for word in line.split(" ")]
        assert words == " ".join(s.text for s in segments).split()  # and none divided
    wide = sum(columns(c) == 2 for c in whole) * 2 > len(whole)
    for cue in found:
        assert 1 <= len(cue.lines) <= 2 and all(line == line.strip() for line in cue.lines)
        for line in cue.lines:
            assert columns(line) <= (32 if wide else 42) or " " not in line, line
            assert line[0] not in "，。、！？」ーっัำะ" and line[-1] not in "「（เแ", line
        assert 0 < cue.end - cue.start <= MAX_SECONDS + 1e-6
    assert all(a.end <= b.start for a, b in zip(found, found[1:], strict=False))
    assert found[0].start >= 0


@pytest.mark.parametrize("language", PROSE)
def test_every_word_once_whatever_the_times(language):
    for seed in range(12):
        generator = np.random.default_rng(seed)
        start, segments = 0.0, []
        for part in range(3):
            timed = seed % 3 != part
            segments.append(said(PROSE[language], language, generator, timed, start))
            start = segments[-1].end + generator.choice([0.0, 0.3, 3.0])
        check(cues(segments), segments)
    at_once = [Segment(3.0, 3.0, PROSE[language], [], language, 0, 0, 0)] * 2
    check(cues(at_once), at_once)


@pytest.mark.parametrize("language", PROSE)
def test_spoken_at_a_usual_pace(language):
    """Nothing flashes, nothing is longer than a line, breaks are where they should be."""
    segments = [said(PROSE[language], language)]
    found = cues(segments)
    check(found, segments)
    for cue in found:
        assert cue.end - cue.start >= MIN_SECONDS - GAP - 1e-6
        assert all(columns(line) <= 42 for line in cue.lines) or language == "de"
    if language in ("zh", "ja"):
        assert all(columns(line) <= 32 for cue in found for line in cue.lines)
        ends = [cue.lines[-1][-1] for cue in found]
        assert sum(end in "，。、？」" for end in ends) >= 0.6 * len(ends), ends
    starts = [word.start for word in segments[0].words]
    assert all(min(abs(cue.start - start) for start in starts) < 0.15 for cue in found)


def test_where_it_is_cut():
    segments = [said(PROSE["en"], "en")]
    found = [cue.lines for cue in cues(segments)]
    assert found[0] == ("Thank you for calling the support", "line of Example Incorporated.")
    ends = [lines[-1].split()[-1] for lines in found]
    assert all(end[-1] in ".," for end in ends), ends
    assert not any(line.endswith(("Dr.", " the", " of", " a")) for lines in found for line in lines)
    first, second = next(lines for lines in found if len(lines) == 2)
    assert len(first) <= len(second) + 8  # the lower one is the longer, where that can be


def test_pauses_and_time_to_read():
    words = [Word(" One", 1.0, 1.2, 1), Word(" two.", 1.2, 1.4, 1), Word(" Three", 6.0, 6.2, 1),
             Word(" four", 6.3, 6.4, 1), Word(" five", 7.5, 7.6, 1), Word(" six.", 9.95, 10.0, 1)]
    segment = Segment(1.0, 10.0, "One two. Three four five six.", [], "en", 0, 0, 0, words)
    found = cues([segment], 10.1)
    assert [cue.lines for cue in found] == [
        ("One two.",), ("Three four",), ("five",), ("six.",)]  # pauses of more than a second
    assert found[0].start == 1.0 and found[0].end == pytest.approx(1.0 + MIN_SECONDS)
    assert found[3].end == pytest.approx(10.1)  # not after the recording, so it comes earlier
    assert found[3].start == pytest.approx(10.1 - MIN_SECONDS, abs=0.4)
    close = [Segment(0, 3.5, "This one is as long as a cue may be, but not any longer than that.",
                     [], "en", 0, 0, 0),
             Segment(3.8, 6, "And the other is here.", [], "en", 0, 0, 0)]
    first, second = cues(close)
    assert second.start - first.end == pytest.approx(GAP)  # two frames
    long = Segment(0.0, 30.0, "Hello", [], "en", 0, 0, 0)
    assert cues([long])[0].end == MAX_SECONDS
    assert cues([]) == [] and cues([Segment(0, 1, " ", [], None, 0, 0, 0)]) == []


def test_files(tmp_path):
    """A minute of talk is many cues, in both formats the same."""
    segments = [said(" ".join([PROSE["en"]] * 3), "en")]
    about = {"duration": segments[0].end}
    shown, web = (write(kind, segments, about) for kind in ("srt", "vtt"))
    blocks = shown.strip().split("\n\n")
    assert [block.split("\n")[0] for block in blocks] == [str(n + 1) for n in range(len(blocks))]
    assert len(blocks) > 10 and all(len(block.split("\n")) in (3, 4) for block in blocks)
    assert web.startswith("WEBVTT\n\n") and web.count("-->") == len(blocks)
    segments[0].words[0] = Word(" wrong", 0.5, 1.0, 1)  # words that are not those of the text
    assert "wrong" not in write("srt", segments, about)
