"""The same word in two spellings, by language; and two words that must stay two."""

import unicodedata

from distill.data.languages import language_name
from distill.metrics.normalize import error_unit, normalizer

SAME = [  # language, one spelling, the other
    ("ar", "مُحَمَّدٌ رَسُولُ اللَّهِ", "محمد رسول الله"),  # harakat, shadda, tanween
    ("ar", "هٰذا الكتـــاب", "هذا الكتاب"),  # superscript alef, tatweel
    ("ar", "٢٠٢٤ کبیر", "2024 كبير"),  # Arabic digits, Persian keyboard
    ("ar", "ﻻ ﷲ", "لا الله"),  # presentation forms
    ("he", "שָׁלוֹם עֲלֵיכֶם", "שלום עליכם"),  # niqqud
    ("he", "בְּרֵאשִׁ֖ית בָּרָ֣א", "בראשית ברא"),  # cantillation
    ("he", "צה״ל וג׳ירפה", "צה\"ל וג'ירפה"), ("he", "צה״ל", "צהל"),
    ("tr", "IĞDIR İSTANBUL", "ığdır istanbul"), ("tr", "I\u0307zmir", "izmir"),
    ("az", "QIZIL İLƏ", "qızıl ilə"),
    ("de", "İstanbul GRÜẞE", "istanbul grüße"), ("en", "İstanbul", "istanbul"),
    ("fa", "مي\u200cروم كتاب ۱۲", "می\u200cروم کتاب 12"), ("fa", "کِتابِ مَن", "کتاب من"),
    ("ur", "يہ كتاب ه", "یہ کتاب ہ"), ("ur", "اُردُو", "اردو"),
    ("hi", "\u0958लम", "क\u093cलम"), ("hi", "२०२४", "2024"),  # nukta composed or not
    ("bn", "\u09dc", "ড\u09bc"), ("bn", "ক\u09c7\u09be", "ক\u09cb"), ("ta", "க\u0bc6\u0bbe", "கொ"),
    ("ml", "അവന\u0d4d\u200d", "അവ\u0d7b"),  # chillu of old and new Unicode
    ("ko", "\u1112\u1161\u11ab\u1100\u116e\u11a8", "한국"),  # jamo
    ("ja", "ｶﾞｷﾞﾃﾞｽ １２", "ガギデス12"), ("zh", "你好，世界！", "你好世界"),
    ("th", "กำ ลัง", "กํา\u200bลัง"),
    ("vi", "HÒA khỏe thủy qúy", "hoà khoẻ thuỷ quý"), ("vi", "Ðồng", "đồng"),
    ("lt", "I\u0307\u0301 i\u0307\u0303", "í ĩ"), ("lt", "į\u0307\u0301", "į\u0301"),
    ("ps", "كور", "کور"),
    ("vi", "tiê\u0301ng Viê\u0323t", "TIẾNG VIỆT"), ("yo", "o\u0323\u0301mo\u0323", "ọ́mọ"),
    ("el", "ΟΔΟΣ, Σίσυφος", "οδος σίσυφος"),  # final sigma of capitals
    ("lt", "Ė\u0328", "ė\u0328"), ("uk", "п'ять", "п’ять"), ("uk", "п\u02bcять", "п’ять"),
    ("be", "сям'я", "сям’я"), ("uz", "o'zbek bog'", "oʻzbek bogʻ"), ("uz", "maʼno", "ma’no"),
    ("haw", "'Ōlelo Hawai'i", "ʻōlelo hawaiʻi"), ("es", "¿Qué? ¡Sí!", "qué sí"),
    ("ro", "ştiinţă", "știință"), ("ca", "col·lecció", "coŀlecció"), ("ca", "col·legi", "collegi"),
    ("hy", "ինչո՞ւ", "ինչու"), ("hy", "և", "եւ"), ("ka", "ᲡᲐᲥᲐᲠᲗᲕᲔᲚᲝ", "საქართველო"),
]
DIFFERENT = [  # marks and letters that tell words apart
    ("tr", "ılık", "ilik"), ("az", "qız", "qiz"), ("en", "I", "ı"), ("de", "Maße", "Masse"),
    ("hi", "की", "कि"), ("hi", "में", "मे"), ("bn", "কি", "কী"), ("ta", "கல்", "கால்"),
    ("te", "కల", "కాల"), ("gu", "કમળ", "કામળ"), ("si", "කල", "කාල"), ("ne", "मन", "मान"),
    ("th", "ไม่", "ไม้"), ("lo", "ໄມ່", "ໄມ້"), ("km", "កា", "កី"), ("my", "ကာ", "ကိ"),
    ("vi", "ma", "mã"), ("vi", "hòa", "hóa"), ("vi", "của", "cuả"), ("vi", "toàn", "tóan"),
    ("yo", "ọkọ", "ọkọ́"), ("el", "πότε", "ποτέ"), ("ru", "все", "всё"),
    ("ru", "мой", "мои"), ("es", "ano", "año"), ("lt", "šalis", "salis"), ("yi", "אַ", "אָ"),
    ("ar", "على", "علي"), ("ar", "أن", "إن"), ("ar", "مدرسة", "مدرسه"), ("ps", "دي", "دی"),
    ("ja", "はは", "ばば"), ("ko", "가", "까"), ("ur", "ہو", "ہوں"), ("uz", "ogoh", "o'goh"),
]


def test_the_same_word_in_two_spellings():
    for language, one, other in SAME:
        clean = normalizer("basic", language, error_unit(language, one))
        assert clean(one) == clean(other) != "", (language, one, clean(one), clean(other))
        by_name = normalizer("basic", language_name(language), error_unit(language, one))
        assert by_name(one) == clean(one)


def test_two_words_stay_two():
    for language, one, other in DIFFERENT:
        clean = normalizer("basic", language)
        assert clean(one) != clean(other), (language, one)
        assert len(clean(one).split()) == 1  # and neither falls apart
        assert unicodedata.normalize("NFC", clean(one)) == clean(one), (language, one)
