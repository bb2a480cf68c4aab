"""Speech of many words: which examples of WordNet are read, and what fills the prompts."""

import re
from pathlib import Path

from distill.data.manifest import read_manifest
from distill.data.samples.more_words import examples, fill
from distill.data.samples.rare_names import read_sentences
from distill.metrics.normalize import normalizer

DATA = Path(__file__).parents[3] / "recipes" / "demo" / "data"


def test_examples_of_common_words(tmp_path):
    gloss = ('00001740 29 v 01 walk 0 | move by foot; "they walk to the park"; "walk on"; '
             '"the rude cat can walk"; "they walk to 2 parks"; "can the cat walk there?"\n')
    for kind in ("verb", "adj", "adv", "noun"):
        (tmp_path / f"data.{kind}").write_text(f"  1 a licence\n{gloss}")
    english = {"they", "walk", "to", "the", "park", "on", "cat", "can", "there", "rude", "parks"}
    found = examples(tmp_path, english, {"rude"})
    assert sorted(found) == ["Can the cat walk there?", "They walk to the park."]
    assert sorted(examples(tmp_path, english - {"park"}, {"rude"})) == ["Can the cat walk there?"]


def test_prompts_are_filled():
    words = {"noun": [f"noun{at}" for at in range(40)]}
    templates = ["{noun} and {noun} at {time}, {digits}.", "{letters} on {weekday}, {number}!"]
    found = list(fill(templates, words, 20))
    taken = re.findall("[Nn]oun[0-9]+", " ".join(found))
    assert len(found) == 20 and len(taken) == len({word.lower() for word in taken}) == 20
    assert not any(re.search(r"[{}]|\.\.", text) for text in found)
    assert all(text[0].isupper() and text[-1] in ".!" for text in found)
    assert found == list(fill(templates, words, 20))


def test_what_is_embedded():
    """Nothing that the other splits say, and every template is said."""
    rows, _ = read_manifest(DATA / "more.jsonl")
    assert len(rows) == 591 and all((DATA / row.audio_filepath).is_file() for row in rows)
    assert sum(path.stat().st_size for path in (DATA / "more").iterdir()) < 3_600_000
    assert len(read_sentences(DATA / "more.txt")["train"]) == 50
    plain = normalizer("english", "en", "word")
    said = {plain(row.text) for row in rows}
    for split in ("validation", "test"):
        others = {plain(row.text) for row in read_manifest(DATA / f"{split}.jsonl")[0]}
        assert not said & others
