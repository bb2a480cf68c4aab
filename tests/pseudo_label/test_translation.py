"""Text models with random weights: languages, batches, scores, sentences that are cut."""

import pytest
import torch

from distill.testing import write_tiny_translator
from distill.whisper.recipe import TranslationConfig
from pseudo_label.translation import Translator, sentences

TEXTS = ["one two tree. Hill", "five", "", "sea hill green walk light one two tree"]
SPANISH = ["es"] * len(TEXTS)


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    return write_tiny_translator(tmp_path_factory.mktemp("marian") / "m", "marian", 1)


@pytest.fixture(scope="module")
def nllb(tmp_path_factory):
    return write_tiny_translator(tmp_path_factory.mktemp("nllb") / "m", "nllb")


def config(folder, **options) -> TranslationConfig:
    return TranslationConfig(model=str(folder), num_beams=1, **options)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("  ", []),
        ("no end", ["no end"]),
        ("Hola. Sí. Adiós.", ["Hola.", "Sí.", "Adiós."]),
        ("¿Qué? ¡No! «Sí.» Bueno…", ["¿Qué?", "¡No!", "«Sí.»", "Bueno…"]),
        ("El Sr. Pérez y la Dra. Gil. J. R. Roa", ["El Sr. Pérez y la Dra. Gil.", "J. R. Roa"]),
        ("Cuesta 3.50 euros, etc. y más.", ["Cuesta 3.50 euros, etc. y más."]),
        ("你好。再见！好「吗？」走", ["你好。", "再见！", "好「吗？」", "走"]),
        ("यह है। वह है।", ["यह है।", "वह है।"]),
    ],
)
def test_sentences(text, parts):
    assert sentences(text) == parts


@pytest.mark.parametrize("kind", ["marian", pytest.param("nllb", marks=pytest.mark.slow)])
def test_batches_and_order_change_nothing(kind, request):
    folder = request.getfixturevalue(kind)
    codes = {"es": "spa_Latn", "en": "eng_Latn"} if kind == "nllb" else {}
    alone = Translator(config(folder, batch_size=1, codes=codes))
    together = Translator(config(folder, batch_size=8, codes=codes))
    found, other = together(TEXTS, SPANISH), alone(TEXTS[::-1], SPANISH)[::-1]
    assert [f.text for f in found] == [o.text for o in other]
    assert len({f.text for f in found}) == len(TEXTS), "the model says the same to everything"
    for one, two in zip(found, other, strict=True):
        assert one.avg_logprob == pytest.approx(two.avg_logprob, abs=1e-4)
        assert one.truncated == two.truncated
    assert found[2].text == "" and not found[2].truncated


def test_log_probabilities_are_those_of_generate(marian):
    """Against the scores that transformers' own generate returns."""
    translator = Translator(config(marian))
    found = translator(TEXTS[1:2], ["es"])[0]
    inputs = translator.tokenizer(TEXTS[1:2], return_tensors="pt")
    inputs.pop("token_type_ids", None)
    longest = inputs["input_ids"].shape[1]
    out = translator.model.generate(**inputs, num_beams=1, max_new_tokens=3 * longest + 16,
                                    return_dict_in_generate=True, output_logits=True)
    tokens = out.sequences[0, 1:]
    scores = torch.stack(out.logits, 1)[0].log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    assert found.avg_logprob == pytest.approx(scores.mean().item(), abs=1e-4)
    assert found.truncated == (translator.model.generation_config.eos_token_id not in tokens)


def test_a_multilingual_model_is_told_both_languages(nllb):
    codes = {"es": "spa_Latn", "en": "eng_Latn", "de": "deu_Latn"}
    texts = TEXTS[:1]
    english = Translator(config(nllb, codes=codes))
    german = Translator(config(nllb, codes=codes, target="de"))
    assert english(texts, ["es"]) != german(texts, ["es"])
    assert english(texts, ["es"]) != english(texts, ["de"])
    with pytest.raises(ValueError, match=r"no language 'fr'.*translation\.codes"):
        Translator(config(nllb, codes=codes, target="fr"))


def test_a_prefix_goes_before_every_sentence(marian):
    plain, told = Translator(config(marian)), Translator(config(marian, prefix="two "))
    assert told(["one"], ["es"]) == plain(["two one"], ["es"])


def test_cut_at_the_limit(marian):
    translator = Translator(config(marian))
    translator.model.generation_config.suppress_tokens = [translator._end()]
    assert translator(["one"], ["es"])[0].truncated


def test_no_such_model():
    with pytest.raises(ValueError, match=r"translation\.model: nobody/nothing@main is no folder"):
        Translator(TranslationConfig(model="nobody/nothing"))
