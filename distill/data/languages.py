"""Languages: whatever a person or a corpus calls one -> the code Whisper knows it by.

    language_code("German") == language_code("Deutsch") == language_code("de-AT") == "de"

English and native names, ISO 639-1, 639-2 (both kinds), 639-3, codes of old standards, BCP-47 tags
with script and region, names of FLEURS (`cmn_hans_cn`) and Common Voice (`zh-HK`), locales
(`en_US.UTF-8`) and Whisper's own tokens (`<|en|>`), in any case. The list is stated here and not
imported, since importing transformers takes seconds; a test compares the two.
"""

from __future__ import annotations

import re
import unicodedata
from difflib import get_close_matches
from functools import cache

# Whisper's code | English names | names of its own | other codes. Names are separated by commas.
_TABLE = """
af | Afrikaans | | afr
am | Amharic | አማርኛ | amh
ar | Arabic, Modern Standard Arabic | العربية, عربي | ara arb arz apc apd acm ary afb ajp aeb acw
as | Assamese | অসমীয়া | asm
az | Azerbaijani, Azeri | azərbaycan dili, azərbaycanca, azərbaycan | aze azj azb
ba | Bashkir | башҡорт теле, башҡортса | bak
be | Belarusian, Belorussian | беларуская, беларуская мова | bel
bg | Bulgarian | български, български език | bul
bn | Bengali, Bangla | বাংলা | ben
bo | Tibetan | བོད་སྐད་, བོད་ཡིག | bod tib
br | Breton | brezhoneg | bre
bs | Bosnian | bosanski, bosanski jezik | bos
ca | Catalan, Valencian | català, valencià | cat
cs | Czech | čeština, český jazyk, česky | ces cze
cy | Welsh | Cymraeg | cym wel
da | Danish | dansk | dan
de | German, High German | Deutsch | deu ger
el | Greek, Modern Greek | ελληνικά, νέα ελληνικά | ell gre
en | English, British English, American English, US English, UK English | | eng
es | Spanish, Castilian | español, castellano | spa
et | Estonian | eesti, eesti keel | est ekk
eu | Basque | euskara, euskera | eus baq
fa | Persian, Farsi, Dari | فارسی, دری | fas per pes prs
fi | Finnish | suomi, suomen kieli | fin
fo | Faroese | føroyskt | fao
fr | French | français, langue française | fra fre
gl | Galician | galego | glg
gu | Gujarati | ગુજરાતી | guj
ha | Hausa | هَوُسَ, harshen Hausa | hau
haw | Hawaiian | ʻŌlelo Hawaiʻi |
he | Hebrew, Modern Hebrew | עברית | heb iw
hi | Hindi | हिन्दी, हिंदी | hin
hr | Croatian | hrvatski, hrvatski jezik | hrv scr
ht | Haitian Creole, Haitian | kreyòl ayisyen, kreyòl | hat
hu | Hungarian | magyar, magyar nyelv | hun
hy | Armenian, Eastern Armenian | հայերեն | hye arm hyw
id | Indonesian | bahasa Indonesia | ind in
is | Icelandic | íslenska | isl ice
it | Italian | italiano, lingua italiana | ita
ja | Japanese | 日本語, にほんご | jpn
jw | Javanese | basa Jawa, ꦧꦱꦗꦮ | jv jav
ka | Georgian | ქართული, ქართული ენა | kat geo
kk | Kazakh | қазақша, қазақ тілі, қазақ | kaz
km | Khmer, Central Khmer, Cambodian | ខ្មែរ, ភាសាខ្មែរ | khm
kn | Kannada | ಕನ್ನಡ | kan
ko | Korean | 한국어, 한국말, 조선말 | kor
la | Latin | Latina, lingua Latina | lat
lb | Luxembourgish, Letzeburgesch | Lëtzebuergesch | ltz
ln | Lingala | lingála | lin
lo | Lao, Laotian | ລາວ, ພາສາລາວ | lao
lt | Lithuanian | lietuvių, lietuvių kalba, lietuviškai | lit
lv | Latvian, Standard Latvian | latviešu, latviešu valoda | lav lvs
mg | Malagasy | | mlg plt
mi | Maori | te reo Māori, te reo | mri mao
mk | Macedonian | македонски, македонски јазик | mkd mac
ml | Malayalam | മലയാളം | mal
mn | Mongolian, Halh Mongolian, Khalkha | монгол, монгол хэл | mon khk
mr | Marathi | मराठी | mar
ms | Malay, Standard Malay, Malaysian | bahasa Melayu, bahasa Malaysia | msa may zsm zlm
mt | Maltese | Malti | mlt
my | Myanmar, Burmese | မြန်မာ, မြန်မာဘာသာ, ဗမာစာ | mya bur
ne | Nepali | नेपाली | nep npi
nl | Dutch, Flemish | Nederlands, Vlaams | nld dut vls
nn | Nynorsk, Norwegian Nynorsk | norsk nynorsk | nno no-nyn
no | Norwegian, Bokmal, Norwegian Bokmal | norsk, bokmål, norsk bokmål | nor nob nb no-bok
oc | Occitan | occitan, lenga d'òc | oci
pa | Punjabi, Panjabi, Eastern Punjabi, Western Punjabi | ਪੰਜਾਬੀ, پنجابی | pan pnb
pl | Polish | polski, język polski | pol
ps | Pashto, Pushto | پښتو | pus pbt pbu pst
pt | Portuguese, Brazilian Portuguese, European Portuguese | português, língua portuguesa | por
ro | Romanian, Moldavian, Moldovan | română, limba română, moldovenească | ron rum mo mol
ru | Russian | русский, русский язык | rus
sa | Sanskrit | संस्कृतम्, संस्कृत | san
sd | Sindhi | سنڌي, सिन्धी | snd
si | Sinhala, Sinhalese | සිංහල | sin
sk | Slovak | slovenčina, slovenský jazyk, slovensky | slk slo
sl | Slovenian, Slovene | slovenščina, slovenski jezik, slovensko | slv
sn | Shona | chiShona | sna
so | Somali | Soomaali, af Soomaali | som
sq | Albanian | shqip, gjuha shqipe | sqi alb als aln
sr | Serbian | српски, srpski, српски језик | srp scc
su | Sundanese | basa Sunda | sun
sv | Swedish | svenska | swe
sw | Swahili, Kiswahili | Kiswahili | swa swh
ta | Tamil | தமிழ் | tam
te | Telugu | తెలుగు | tel
tg | Tajik | тоҷикӣ, забони тоҷикӣ | tgk
th | Thai | ไทย, ภาษาไทย | tha
tk | Turkmen | türkmen dili, türkmençe | tuk
tl | Tagalog, Filipino, Pilipino | wikang Tagalog, wikang Filipino | tgl fil
tr | Turkish | Türkçe, Türk dili | tur
tt | Tatar | татар теле, татарча, tatarça | tat
uk | Ukrainian | українська, українська мова | ukr
ur | Urdu | اردو, اُردُو | urd
uz | Uzbek, Northern Uzbek | oʻzbek, oʻzbekcha, oʻzbek tili, ўзбек | uzb uzn
vi | Vietnamese | tiếng Việt | vie
yi | Yiddish, Eastern Yiddish | ייִדיש, אידיש | yid ydd ji
yo | Yoruba | Yorùbá, èdè Yorùbá | yor
yue | Cantonese, Yue Chinese, Chinese Hong Kong | 粵語, 粤语, 廣東話, 广东话, 廣州話 |
zh | Chinese, Mandarin, Mandarin Chinese, Simplified Chinese, \
Traditional Chinese | 中文, 汉语, 漢語, 普通话, 國語, 华语, 華語 | zho chi cmn
"""
# What people write who mean a language and name a country: only a hint, in the message.
_COUNTRIES = {
    "us": "en", "gb": "en", "au": "en", "jp": "ja", "cn": "zh", "tw": "zh", "hk": "yue", "kr": "ko",
    "cz": "cs", "dk": "da", "gr": "el", "ua": "uk", "vn": "vi", "se": "sv", "at": "de", "ee": "et",
    "il": "he", "ir": "fa", "rs": "sr", "si": "sl", "al": "sq", "ge": "ka", "ph": "tl", "mx": "es",
}
# A tag behind its language: script, region, variants, extensions (RFC 5646, any separator).
_SUBTAGS = re.compile(
    r"(-[a-z]{4})?(-([a-z]{2}|\d{3}))?(-([a-z\d]{5,8}|\d[a-z\d]{3}))*(-[a-z]-.+)?")
_MACRO = ("zh", "ar", "ms", "sw", "no", "fa", "uz", "lv", "kok", "sgn")  # tags like zh-yue, ar-arz


@cache
def _languages() -> dict[str, tuple[str, list[str]]]:
    """Whisper's code -> (its English name, everything else it is called)."""
    found = {}
    for line in _TABLE.strip().splitlines():
        code, english, native, codes = (part.strip() for part in line.split("|"))
        names = [name.strip() for name in f"{english},{native}".split(",") if name.strip()]
        found[code] = (names[0], [*names[1:], *codes.split()])
    return found


def _folded(text: str) -> str:
    """Without case, accents, apostrophes and what separates words."""
    text = unicodedata.normalize("NFKD", text.casefold())
    text = "".join(c for c in text if not unicodedata.combining(c) and c not in "'’ʻʼ`"
                   and unicodedata.category(c) != "Cf")  # marks of direction, of byte order
    return " ".join(re.split(r"[\s_,;/()\-]+", text)).strip()


@cache
def _by_name() -> dict[str, str]:
    """Every name and code, folded -> Whisper's code."""
    names = {}
    for code, (english, others) in _languages().items():
        for name in (code, english, *others):
            assert names.setdefault(_folded(name), code) == code, name
    return names


def language_name(code: str) -> str:
    """The English name of one of Whisper's codes: `German` for `de`."""
    return _languages()[code][0]


def language_code(text: str) -> str:
    """Whisper's code of a language, however it is called: see the head of this module.

    Raises:
        ValueError: Whisper knows no such language; the message says which is the nearest.
    """
    if isinstance(text, str):
        asked = text.strip().removeprefix("<|").removesuffix("|>")
        found = _by_name().get(_folded(asked)) or _by_tag(asked) or _by_parts(asked)
        if found:
            return found
    raise ValueError(f"no language that Whisper knows is called {text!r}{_nearest(text)}")


def _by_tag(text: str) -> str | None:
    """Of a tag like pt-BR, cmn_hans_cn, zh-yue, en_US.UTF-8; also of Portuguese-BR."""
    tag = re.sub(r"[.@].*", "", text.strip().lower()).replace("_", "-")
    first, _, rest = tag.partition("-")
    if len(first) > 3 and re.fullmatch(r"[a-z]{2}|\d{3}", rest):
        first = _by_name().get(_folded(first), "")
    if not rest or not first.isascii() or not 2 <= len(first) <= 3:
        return None
    second = rest.partition("-")[0]
    if first in _MACRO and len(second) == 3 and second.isalpha():  # the language within its group
        first, rest = second, rest.partition("-")[2]
    if rest and not _SUBTAGS.fullmatch(f"-{rest}"):
        return None
    if first == "zh" and re.search(r"(^|-)(hk|mo)(-|$)", rest):
        return "yue"  # of speech it means what is spoken there: so Common Voice and all services
    return _by_name().get(first)


def _by_parts(text: str) -> str | None:
    """Of a name with a remark: "Portuguese (Brazil)", "Chinese, Simplified", "Chinese (Yue)"; None
    where two languages are named."""
    parts = [part for part in re.split(r"[(),;/]", text) if part.strip()]
    first, *found = (_by_name().get(_folded(part)) for part in parts or [""])
    if first is None or not found or (found == [None] and not re.search(r"\(|, ", text)):
        return None
    others = {code for code in found if code} - {first}
    if others == {"yue"} and first == "zh":  # what is in brackets says more
        return "yue"
    return None if others else first


def _nearest(text: object) -> str:
    """`; did you mean German (de)?`, or what to give."""
    asked = _folded(text) if isinstance(text, str) else ""
    code = _COUNTRIES.get(asked)
    if code is None and len(asked) > 3 and asked.replace(" ", "").isalpha():
        near = get_close_matches(asked, [n for n in _by_name() if len(n) > 3], n=1, cutoff=0.75)
        code = _by_name()[near[0]] if near else None
    if code is None:
        return "; give the name or the code of one of its 100 languages (German, de, de-DE)"
    return f"; did you mean {language_name(code)} ({code})?"
