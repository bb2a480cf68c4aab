"""What is the same word although it is written with other characters, by language.

Marks that a script writes or leaves out as it likes, letters that have two code points, capitals
that depend on the language. Nothing that tells words apart is touched: vowel signs of Indic
scripts, Thai and Vietnamese tones, accents, ё, ß. Every rule names where it is the convention.
"""

from __future__ import annotations

import re
import unicodedata

import regex

# Vowel points of Arabic and Quranic signs (Open Universal Arabic ASR Leaderboard, arXiv:2412.13788;
# urduhack and hazm do the same), and the tatweel, which only stretches. Madda and hamza stay.
_TASHKEEL = re.compile("[\u0610-\u061a\u064b-\u0652\u0656-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4"
                       "\u06e7\u06e8\u06ea-\u06ed\u0640]")
# Points and accents of Hebrew; the maqaf, which joins two words, is none (ivrit.ai's evaluation).
_NIQQUD = re.compile("[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]")
# Geresh and gershayim stand inside of abbreviations and loan words: one word.
_GERESH = re.compile("(?<=[\u05d0-\u05ea])[\u05f3\u05f4'\"`´’‘”“]+(?=[\u05d0-\u05ea])")
# Tone marks of Armenian sentences stand inside of words, behind the vowel.
_ARMENIAN_TONES = re.compile("[\u055a-\u055c\u055e\u055f]")
# A Malayalam consonant without a vowel: before Unicode 5.1 with a joiner, since then one letter.
_CHILLU = re.compile("([\u0d23\u0d28\u0d30\u0d32\u0d33\u0d15])\u0d4d\u200d")
_CHILLU_LETTERS = dict(zip("\u0d23\u0d28\u0d30\u0d32\u0d33\u0d15",
                           "\u0d7a\u0d7b\u0d7c\u0d7d\u0d7e\u0d7f", strict=True))
_APOSTROPHES = "'`´’‘ʻʼ′"
_WITHIN = rf"(?<=\p{{L}})[{_APOSTROPHES}](?=\p{{L}})"
# Where the apostrophe is a letter, however it is typed: of Uzbek also at the end (bogʻ), of
# Hawaiian also at the beginning (ʻōlelo).
_LETTER_APOSTROPHE = {
    "uk": regex.compile(_WITHIN), "be": regex.compile(_WITHIN),
    "uz": regex.compile(rf"(?<=[OoGg])[{_APOSTROPHES}]|{_WITHIN}"),
    "haw": regex.compile(rf"(?<!\S)[{_APOSTROPHES}](?=[aeiouāēīōū])|{_WITHIN}", regex.IGNORECASE),
}
# Keyboards of other languages have letters that look the same.
_LETTERS = {
    "ar": str.maketrans("یک", "يك"),
    "fa": str.maketrans("يىك", "ییک"),  # hazm
    "ur": str.maketrans("يىكه", "ییکہ"),  # urduhack
    "ps": str.maketrans("ك", "ک"),  # its five letters like ی are five
    "ro": str.maketrans("ŞşŢţ", "ȘșȚț"),  # comma below since Unicode 3.0; old fonts had a cedilla
    "vi": str.maketrans("Ðð", "Đđ"),  # the Icelandic letter, whose capital looks the same
}
# Vietnamese tones of oa, oe and uy stand on the first vowel or, since the reform of 1984, on the
# second (VinAI's VietnameseToneNormalization); decomposed.
_VIETNAMESE_TONE = regex.compile(
    r"(?:(?<=[oO])([\u0300\u0301\u0303\u0309\u0323])([aAeE])"
    r"|(?<=[uU])([\u0300\u0301\u0303\u0309\u0323])([yY]))(?![\p{L}\p{M}])")
# Lithuanian keeps the dot of an i under another accent; no language has an i with a second dot.
_SECOND_DOT = re.compile("(?<=[ij\u012f])\u0307")
_GEMINATE = re.compile("(?<=[lL])[·•‧∙](?=[lL])")  # Catalan


def unify(text: str, code: str | None) -> str:
    """One spelling of each word, as far as the language has no two; upper and lower case stay.

    Args:
        text: in NFKC.
        code: Whisper's code of the language; None leaves what only a script decides.
    """
    text = _TASHKEEL.sub("", text)
    if code != "yi":  # where points make letters
        text = _NIQQUD.sub("", text)
    text = _ARMENIAN_TONES.sub("", _GERESH.sub("", text))
    text = _CHILLU.sub(lambda found: _CHILLU_LETTERS[found[1]], text)
    text = text.translate(_LETTERS.get(code or "", {}))
    if code == "vi":
        text = unicodedata.normalize("NFC", _VIETNAMESE_TONE.sub(
            lambda found: "".join(filter(None, reversed(found.groups()))),
            unicodedata.normalize("NFD", text)))
    if code in _LETTER_APOSTROPHE:
        text = _LETTER_APOSTROPHE[code].sub("ʼ", text)
    return _GEMINATE.sub("", text) if code == "ca" else text


def lower(text: str, code: str | None) -> str:
    """Lower-case as the language has it: I and İ are ı and i in Turkish and Azerbaijani; elsewhere
    İ is an i, without the second dot that Unicode leaves above it."""
    if code in ("tr", "az"):
        text = text.replace("I", "ı")
    text = _SECOND_DOT.sub("", text.replace("İ", "i").lower())
    return text if text.isascii() else unicodedata.normalize("NFC", text)
