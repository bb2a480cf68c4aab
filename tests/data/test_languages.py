import pytest
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from distill.data.languages import _languages, language_code, language_name
from distill.whisper.recipe import load_recipe

CALLED = {
    "de": "de DE German german GERMAN Deutsch deutsch deu ger de-AT de_DE de-DE-1996 <|de|>",
    "en": "en EN English eng en_us en-GB en_US.UTF-8 en-GB-oxendict",
    "pt": "pt_BR pt-br Portuguese português portugues por PORTUGUESE-br Português_PT",
    "fr": "francais Français FRANÇAIS fr_fr fra fre fr-CA",
    "zh": "zh zh-CN zh-TW zh-Hant-TW zh_hans cmn cmn_hans_cn chi zho Mandarin 中文 普通话 zh-cmn",
    "yue": "yue yue_hant_hk zh-HK Chinese-HK zh-yue Cantonese 粵語",  # zh-HK is Common Voice's
    "no": "no nb nob nb_no nb-NO Norwegian Bokmål",
    "nn": "nn nn-NO nno Nynorsk Norwegian_Nynorsk no-nyn",
    "he": "he iw heb he_il עברית", "jw": "jw jv jav jv_id Javanese", "sr": "sr-Latn-RS srp",
    "id": "id in ind Indonesian", "yi": "yi ji yid", "ro": "ro mo ron rum Moldovan",
    "tl": "tl fil tgl fil_ph Filipino",
    "es": "es_419 spa Castilian español", "sv": "sv-SE", "ar": "ar_eg arb ar-arz", "haw": "haw",
    "el": "el ell gre Ελληνικά ελληνικα", "tr": "Türkçe turkce TÜRKÇE", "hi": "हिन्दी हिंदी",
    "my": "my_mm mya bur Burmese", "uz": "oʻzbek o'zbek ozbek", "hy": "hy-AM", "lo": "lo_la",
}
PHRASES = {
    "Portuguese (Brazil)": "pt", "English (United States)": "en", "Spanish; Castilian": "es",
    "Chinese (Cantonese)": "yue", "Chinese (Simplified)": "zh", "Chinese (Hong Kong)": "yue",
    "Brazilian Portuguese": "pt", "Traditional Chinese": "zh", "us english": "en",
    "hebrew\u200e": "he", "\ufeffen": "en",
    "Haitian Creole": "ht", "haitian_creole": "ht", " tiếng  Việt ": "vi",
}


def test_every_language_of_whisper_by_every_name():
    assert {code: language_name(code).lower() for code in _languages()} == LANGUAGES
    for name, code in TO_LANGUAGE_CODE.items():
        assert language_code(name) == code
    for code, texts in CALLED.items():
        for text in texts.split(" "):
            assert language_code(text) == code, text
    for text, code in PHRASES.items():
        assert language_code(text) == code


def test_what_whisper_does_not_know_is_refused_with_the_nearest():
    for text, hint in {"Germn": "German (de)", "jp": "Japanese (ja)", "us": "English (en)",
                       "Kazak": "Kazakh (kk)", "gallego": "Galician (gl)"}.items():
        with pytest.raises(ValueError, match="called ") as error:
            language_code(text)
        assert f"did you mean {hint}?" in str(error.value)
    # FLEURS and Common Voice have languages that Whisper has not
    for text in ("ga_ie", "ckb_iq", "nan-tw", "zh-nan", "rm-sursilv", "xx", "", "en-xyz", "de,en",
                 "English/Hindi", "English-Hindi", "Elvish-US", "und", 7, None, "de;xx"):
        with pytest.raises(ValueError, match="of one of its 100 languages"):
            language_code(text)


def test_recipes_take_any_name():
    for given, code in {"German": "de", "pt-BR": "pt", "no": "no", "null": None}.items():
        assert load_recipe("demo", [f"language={given}"]).language == code
    with pytest.raises(ValueError, match="^language: no language .* called 'Germn'; did you mean"):
        load_recipe("demo", ["language=Germn"])
