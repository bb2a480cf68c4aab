import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.data.files import read_json, write_json, write_jsonl, write_text
from distill.html.charts import Series, line_chart, linear_axis, log_axis, number
from distill.html.page import _STYLE
from eval.report.__main__ import main
from eval.report.examples import diff, encode
from eval.report.write import write_report

EVIL = '<script>alert("x")</script> & <b>bold</b>'


class Page(HTMLParser):
    """Tags, attributes and visible text; fails on tags that do not match."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open, self.tags, self.words = [], [], []
        self.feed(self.source)
        assert not self.open, self.open
        self.text = " ".join("".join(self.words).replace("\u00a0", " ").split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data + " ")

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def _model(wer: float, **more) -> dict:
    return {
        "model": "org/model",
        "dtype": "float32",
        "wer": wer,
        "wer_ci": [wer - 0.02, wer + 0.02],
        "cer": wer / 2,
        "cer_ci": [wer / 2 - 0.01, wer / 2 + 0.01],
        "wer_orthographic": wer + 0.05,
        "wer_orthographic_ci": [wer + 0.03, wer + 0.07],
        "cer_orthographic": wer,
        "substitutions": 3,
        "deletions": 2,
        "insertions": 1,
        "insertions_per_1000_words": 1.3,
        "repeated_5grams_per_1000_words": 0.0,
        "looping_units": 0,
        "parameters": 72_593_920,
        **more,
    }


def _label(index: int, wer: float | None) -> dict:
    counts = {"substitutions": 1, "deletions": 0, "insertions": 0, "num_words": 10}
    if wer is None:
        counts = dict.fromkeys(counts)
    return {"id": f"w{index}", "duration": 30.0, "wer": wer, "truncated": index == 0, **counts}


def _prediction(
    name: str, audio: Path, student: str, seconds: float = 0.1, pieces: int = 1
) -> dict:
    return {
        "id": name,
        "reference": f"Hello there, {EVIL} friend.",
        "teacher": "Hello there friend.",
        "student": student,
        "duration": seconds * pieces,
        "pieces": [{"id": f"{name}#{i}", "audio_filepath": str(audio), "offset": 0.0,
                    "duration": seconds, "start": i * seconds} for i in range(pieces)],
    }


@pytest.fixture
def run(tmp_path) -> Path:
    """A run folder with everything in it."""
    audio = tmp_path / "tone.wav"
    time = np.arange(3 * 16_000) / 16_000
    soundfile.write(audio, 0.3 * np.sin(2 * np.pi * 220 * time), 16_000)
    run = tmp_path / "runs" / "demo"
    write_text(run / "config.yaml", "method: whisper\nlanguage: en\nteacher:\n  model: <evil>\n")
    train = [
        {"split": "train", "step": s, "loss": 9 / s, "ce": 5 / s, "kl": 4 / s,
         "learning_rate": 1e-4}
        for s in range(10, 210, 10)
    ]
    validation = {"split": "validation", "step": 100, "wer": 0.125, "num_words": 248,
                  "acceptance": 0.75, "expected_tokens_per_verify": 2.5}
    write_jsonl(run / "metrics.jsonl", [*train, validation])
    labels = [_label(i, wer) for i, wer in enumerate([0.0, 0.05, 0.1, 0.11, 2.0, None])]
    write_jsonl(run / "pseudo_labels" / "part-00000.jsonl", labels[:3])
    write_jsonl(run / "pseudo_labels" / "part-00001.jsonl", labels[3:])
    kept = {"kept": 3, "kept_hours": 0.025, "total": 6, "total_hours": 0.05}
    drops = {"drops": {"wer": 2, "truncated": 1}, "drop_hours": {"wer": 0.02, "truncated": 0.01}}
    filtered = {"filter": {"max_wer": 0.1}, **kept, **drops}
    write_json(run / "pseudo_labels" / "filter.json", filtered)
    write_json(run / "pseudo_labels" / "drops.json", {"unreadable": 7})
    results = {
        "split": "test",
        "normalizer": "english",
        "num_units": 13,
        "num_words": 768,
        "hours": 0.09,
        "num_bootstrap": 2000,
        "teacher": _model(0.079, rtfx=10.0),
        "student": _model(0.0912, rtfx=25.0),
        "paired": {
            "wer_difference": 0.0122,
            "wer_difference_ci": [-0.004, 0.031],
            "p_value": 0.13,
        },
    }
    write_json(run / "eval" / "results.json", results)
    rows = [_prediction(f"good{i}", audio, "Hello there friend", pieces=i + 1) for i in range(5)]
    rows.append(_prediction("bad", audio, f"{EVIL} and seven words that nobody has said"))
    rows.append(_prediction("lost", audio.with_name("gone.wav"), "good bye"))
    write_jsonl(run / "eval" / "predictions.jsonl", rows)
    return run


def test_everything_is_there_and_labelled(run):
    path = write_report(run)
    assert path == run / "report" / "index.html"
    text = Page(path).text
    assert "Teacher WER (test, english) 7.9 % 95 % interval [5.9, 9.9]" in text
    assert "Student WER (test, english) 9.1 % 95 % interval [7.1, 11.1]" in text
    assert "+1.2 percentage points, paired; 95 % interval [-0.4, 3.1], two-sided p = 0.13" in text
    assert "2.50\u00d7" in text  # RTFx 25 over 10
    assert "13 utterances, 768 reference words, 0.09 h" in text and "2,000 draws" in text
    assert "float32" in text and "72.6 M" in text and "3 + 2 + 1" in text
    assert "Lowest 12.5 % at step 100" in text and "248 reference words" in text
    assert "acceptance: from 75 to 75" in text and "last step: 2.50 tokens per pass" in text
    assert "unreadable 7 clips" in text and "3 of 6" in text and "0.03 of 0.05 h" in text
    assert "WER of all labels 10.0 % 50 reference words" in text  # 5 errors


def test_what_was_not_measured_is_a_dash_and_what_neither_has_no_row(run):
    path = run / "eval" / "results.json"
    results = read_json(path)
    results["teacher"] |= {"bleu": None, "chrf": None}
    write_json(path, results)
    text = Page(write_report(run)).text
    assert "Peak memory" not in text and "BLEU" not in text and "chrF2" not in text
    results["teacher"]["peak_memory_bytes"] = 3e8
    write_json(path, results)
    text = Page(write_report(run)).text
    assert "Peak memory 1 MB is 10\u2076 bytes 300.0 MB \u2013" in text


def test_nothing_is_fetched_or_run(run):
    page = Page(write_report(run))
    assert not page.all("script") and not page.all("link") and not page.all("img")
    for _, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "href"):
            assert attrs.get(name, "data:").startswith("data:")
    assert "default-src 'none'" in page.all("meta")[3]["content"]
    assert re.findall(r"url\(([^)]*)\)|@import", page.source) == ["#hatch"]


def test_labels_and_settings_are_text_and_not_html(run):
    page = Page(write_report(run))
    assert "<script" not in page.source and "<b>bold" not in page.source
    assert "&lt;script&gt;alert(&quot;x&quot;)" in page.source
    assert "teacher <evil>" in page.text


def test_pictures_have_names_and_ids_are_unique(run):
    page = Page(write_report(run))
    charts = [attrs for attrs in page.all("svg") if attrs.get("role") == "img"]
    assert len(charts) == 7  # two bar charts, four curves, one histogram
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for chart in charts:
        assert all(name in ids for name in chart["aria-labelledby"].split())
    assert page.all("html")[0]["lang"] == "en" and "width=device-width" in page.source


def test_histogram_separates_kept_from_dropped(run):
    page = Page(write_report(run))
    # 0 | up to 5 % | up to 10 % are kept; 11 % and 200 % are not
    kept, dropped = (
        re.findall(rf'<rect class="bar bar-{style}"[^>]*><title>([^<]*)<', page.source)
        for style in ("kept", "dropped")
    )
    assert kept == ["0: 1", "5: 1", "10: 1"]
    assert [bar for bar in dropped if not bar.endswith(": 0")] == ["15: 1", "&gt;50: 1"]
    assert 'class="threshold"' in page.source and "limit 10 %" in page.text
    assert "Dropped: WER above the limit 2 windows 0.02 h" in page.text


def test_examples_worst_first(run):
    page = Page(write_report(run))
    # of "hello there alert bold friend", "bad" loses 3 words and gets 7, "lost" has none right,
    # the others miss 2
    shown = re.findall(r"<article[^>]*><h3><code>([^<]*)<", page.source)
    assert shown == ["bad", "lost", "good0", "good1", "good2", "good3", "good4"]
    assert "Student against the reference: 5 errors on 5 words (100.0 %)" in page.text
    assert "Teacher against the reference: 2 errors on 5 words (40.0 %)" in page.text


def test_units_without_a_reference_are_counted_and_not_shown(run):
    rows = [_prediction(name, run / "gone.wav", "hi") for name in ("a", "b")]
    write_jsonl(run / "eval" / "predictions.jsonl", [rows[0] | {"reference": None}, rows[1]])
    page = Page(write_report(run))
    assert "Not shown: 1 utterance without a reference text." in page.text
    assert len(page.all("article")) == 1


def test_examples_can_be_heard_whole(run):
    audio = run.parents[1] / "tone.wav"
    rows = [
        _prediction("long", audio, "Hello", seconds=3.0, pieces=2),
        _prediction("lost", audio.with_name("gone.wav"), "Hello"),
    ]
    write_jsonl(run / "eval" / "predictions.jsonl", rows)
    page = Page(write_report(run))
    assert "No audio: missing_file." in page.text
    (player,) = page.all("audio")
    data = base64.b64decode(player["src"].removeprefix("data:audio/ogg;base64,"))
    info = soundfile.info(io.BytesIO(data))
    assert (info.format, info.subtype) == ("OGG", "OPUS")
    assert info.duration == pytest.approx(6.0, abs=0.1)  # both windows, one after the other


def test_same_run_same_page(run):
    def without_sound(path):  # an Ogg stream has a random serial number
        return re.sub('base64,[^"]*', "", path.read_text())

    first = without_sound(write_report(run))
    assert without_sound(write_report(run)) == first
    assert [path.name for path in (run / "report").iterdir()] == ["index.html"]


def test_an_empty_run_says_which_commands_to_run(tmp_path):
    text = Page(write_report(tmp_path)).text
    for command in ("-m pseudo_label", "-m distill.train", "-m eval"):
        assert command in text


@pytest.mark.parametrize(
    ("gone", "command"),
    [
        ("metrics.jsonl", "distill.train RECIPE"),
        ("eval/results.json", "python -m eval RECIPE"),
        ("eval/predictions.jsonl", "python -m eval RECIPE"),
        ("pseudo_labels/part-0000[01].jsonl", "python -m pseudo_label RECIPE"),
        ("pseudo_labels/filter.json", "Filtered not yet"),
        ("pseudo_labels/drops.json", "Windows labelled"),
        ("config.yaml", "distillation report"),
    ],
)
def test_any_file_may_be_missing(run, gone, command):
    for path in run.glob(gone):
        path.unlink()
    assert command in Page(write_report(run)).text


def test_a_broken_line_costs_its_section_only(run):
    before = Page(write_report(run)).text
    for text, is_complete in (('{"split": "train", "st', False), ('\n{"step": 200}\n', True)):
        with open(run / "metrics.jsonl", "a") as file:
            file.write(text)
        found = Page(write_report(run)).text
        assert (found == before) != is_complete  # the last line may be written at this moment
    assert "Cannot be read" in found and "metrics.jsonl:22" in found
    assert "Student WER (test, english)" in found


def test_a_resumed_run_counts_each_step_once(run):
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"split": "validation", "step": 100, "wer": 0.5, "num_words": 248}\n')
    assert "Lowest 50.0 % at step 100" in Page(write_report(run)).text


def test_languages_without_spaces_are_judged_by_characters(run):
    write_text(run / "config.yaml", "language: zh\n")
    results = (run / "eval" / "results.json").read_text()
    write_text(run / "eval" / "results.json", results.replace('"english"', '"basic"'))
    text = Page(write_report(run)).text
    assert "Student CER (test, basic) 4.6 % 95 % interval [3.6, 5.6]" in text
    assert "errors per 100 reference characters" in text


def test_labels_without_references_and_without_limit(run):
    write_jsonl(run / "pseudo_labels" / "part-00000.jsonl", [_label(0, None)])
    (run / "pseudo_labels" / "part-00001.jsonl").unlink()
    text = Page(write_report(run)).text
    assert "No window has a reference text" in text and "WER of all labels \u2013" in text
    write_jsonl(run / "pseudo_labels" / "part-00000.jsonl", [_label(0, 0.3)])
    kept = {"kept": 1, "kept_hours": 0, "total": 1, "total_hours": 0, "drops": {}}
    write_json(run / "pseudo_labels" / "filter.json", {"filter": {"max_wer": None}, **kept})
    source = write_report(run).read_text()
    assert 'class="threshold"' not in source and 'bar-dropped"' not in source


def test_differences_are_marked_word_by_word():
    assert diff("the cat sat", "the dog sat down", "word") == (
        "the <del>cat</del> <ins>dog</ins> sat <ins>down</ins>"
    )
    assert diff("你好吗", "你吗", "char") == "你<del>好</del>吗"
    assert diff("a <b>", "a", "word") == "a <del>&lt;b&gt;</del>"
    assert diff("", "", "word") == "<i>nothing</i>"


def test_audio_is_compressed_harder_and_then_cut():
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * 16_000).astype(np.float32)
    plain, seconds = encode(noise, 10**9)
    assert seconds == 2
    smaller, seconds = encode(noise, len(plain) // 2)
    assert len(smaller) <= len(plain) // 2 and seconds == 2
    cut, seconds = encode(noise, 1_500)
    assert len(cut) <= 1_500 and 0.2 < seconds < 1.8
    assert soundfile.info(io.BytesIO(cut)).duration == pytest.approx(seconds, abs=0.05)


def test_curves_leave_out_what_cannot_be_drawn():
    line = Series("loss", [(1, 4.0), (2, float("nan")), (3, 0.0), (4, 1.0)], "a")
    chart = line_chart("Loss", [line], "step", "nats", log=True)
    assert "2 values that are not finite are not drawn" in chart
    assert len(re.search(r'points="([^"]*)"', chart)[1].split()) == 2
    empty = line_chart("Loss", [Series("loss", [(1, float("inf"))], "a")], "step", "nats")
    assert "no finite value" in empty


def test_long_curves_are_thinned_to_means():
    points = [(step, float(step % 2)) for step in range(30_000)]
    chart = line_chart("Loss", [Series("loss", points, "a")], "step", "nats")
    assert "mean of 100 logged ones" in chart
    drawn = re.search(r'points="([^"]*)"', chart)[1].split()
    assert len(drawn) == 300 and len({point.split(",")[1] for point in drawn}) == 1


def test_axes_end_at_round_numbers():
    axis = linear_axis([3.0, 11.0], 0, 100)
    assert axis.ticks == [0, 5, 10, 15] and axis(7.5) == 50
    assert linear_axis([0.0], 0, 1).ticks[0] == 0
    axis = log_axis([0.13, 3.1], 0, 100)
    assert axis.ticks == [0.1, 0.2, 0.5, 1, 2, 5] and axis(0.1) == 0 and axis(5) == 100
    assert log_axis([1e-6, 1.0], 0, 1).ticks[0] == pytest.approx(1e-6)
    assert log_axis([2.0, 2.0], 0, 1).ticks == [2, 5]


def test_numbers_on_axes_are_not_rounded_away():
    shown = [number(value) for value in (0.0, 1.5e-4, 1e-4, 0.05, 12.0, 2500.0)]
    assert shown == ["0", "1.5e-4", "1e-4", "0.05", "12", "2,500"]


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_have_enough_contrast(theme):
    """WCAG 2.2 AA: 4.5 for text, 3 for graphics."""
    block = re.findall(r":root \{([^}]*)\}", _STYLE)[theme]
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", block))

    def contrast(a, b):
        low, high = sorted((_luminance(colours[a]), _luminance(colours[b])))
        return (high + 0.05) / (low + 0.05)

    for back in ("page", "card"):
        for text in ("text", "muted", "wrong"):
            assert contrast(text, back) >= 4.5, (text, back)
        for mark in ("teacher", "student", "third"):
            assert contrast(mark, back) >= 3, (mark, back)
    assert contrast("wrong", "wrong-back") >= 4.5
    assert contrast("right", "right-back") >= 4.5


def test_command_line(run, tmp_path, capsys):
    main([str(run)])
    assert capsys.readouterr().out.strip() == str(run / "report" / "index.html")
    with pytest.raises(ValueError, match="run folder not found"):
        main([str(tmp_path / "no")])
    with pytest.raises(ValueError, match="one run folder, got 2"):
        main([str(run), str(run)])
