"""The words of a text in the form in which they are searched for, so that a query finds other forms of a word, too.

    words("Моя собака любит чай ☕")   собак люб ча ☕
    words("我的狗叫贝罗。")              狗 叫 贝 罗 狗叫 叫贝 贝罗

Facts and queries go through the same function. English endings are left to the full-text index.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final
from unicodedata import normalize

from domain.stems import KOREAN_PARTICLES, stem_arabic, stem_korean, stem_russian

_MARKS: Final = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf-\u05c7\u064b-\u065f\u0670\u06d6-\u06ed\u0730-\u074a\u07a6-\u07b0"
    "\u0900-\u0963\u0971-\u0df3\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece"
    "\u0f18\u0f19\u0f35\u0f37\u0f39\u0f71-\u0f84\u0f8d-\u0fbc\u102b-\u103e\u1056-\u1059\u17b4-\u17d3\u3099\u309a"
)
r"""Signs inside words that `\w` does not match; in South Asian scripts, whole blocks."""

_HAN: Final = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_KANA: Final = "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
_HANGUL: Final = "\uac00-\ud7a3"
_SOUTH_EAST_ASIAN: Final = "\u0e01-\u0e4e\u0e80-\u0ecf\u0edc-\u0edf\u1000-\u103f\u1050-\u109f\u1780-\u17d3"

_ASCII_WORD: Final = re.compile("[0-9a-z]+")
_TOKEN: Final = re.compile(
    f"(?P<han>[{_HAN}]+)"
    "|(?P<hiragana>[\u3041-\u309f]+)"
    "|(?P<katakana>[\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff]+)"
    f"|(?P<hangul>[{_HANGUL}]+)"
    f"|(?P<clusters>[{_SOUTH_EAST_ASIAN}]+)"
    "|(?P<cyrillic>[\u0400-\u052f]+)"
    "|(?P<arabic>[\u0620-\u063f\u0641-\u064a\u066e-\u06d3]+)"
    "|(?P<emoji>[\U0001f1e6-\U0001f1ff]{2}|[⌀-⏿☀-➿⬀-⯿\U0001f000-\U0001f3fa\U0001f400-\U0001faff])"
    f"|(?P<word>(?:(?![{_HAN}{_KANA}{_HANGUL}{_SOUTH_EAST_ASIAN}])[^\\W_]|(?![{_SOUTH_EAST_ASIAN}])[{_MARKS}])+)"
)
"""A word, an emoji without its modifiers, or a run of characters of a script without spaces. Hangul is one of these:
it has spaces, but compounds and endings are written without."""

_CLUSTER: Final = re.compile(f".[{_MARKS}]*", re.DOTALL)
"""A letter with its vowel signs and tone marks."""

_ACCENTS: Final = re.compile("(?<=[a-zα-ω])[\u0300-\u036f]+")
_OPTIONAL_MARKS: Final = re.compile("[\u0591-\u05bd\u05bf-\u05c7\u0640\u064b-\u065f\u0670\u06d6-\u06ed]")
"""Vowel signs of Hebrew and Arabic, hamzas and the elongation of letters, all of which are usually left out."""

_SAME_LETTERS: Final = str.maketrans("ёىیةک", "еييهك")
"""Letters that are used interchangeably."""

_FUNCTION_WORDS: Final = frozenset(
    re.findall(
        r"\w+",
        "a about all am an and any are as at be been but by can could d did do does for from had has have he her him "
        "his how i if in into is it its just let like ll m me my no not of on or our please re s she should so some t "
        "tell than that the their them then there they this to up us ve was we were what when where which who why will "
        "with would you your "
        "а без бы был была были было быть в вам вас вы где да для его ее если есть еще же за и из или их к как какая "
        "какие какой какое когда кто ли меня мне мое моего моей моем моему мои моим моих мой мою моя мы на нас не него "
        "нее нет ни но ну о об он она они от по при с со та так там тебе тебя то тот ты у уже что чтобы это этот я "
        "ان انا انت الى او اين اي ب عن على في كم كيف لا لي ل ما ماذا متى مع من هذا هذه هل هو هي هم و يا التي الذي "
        "나 내 너 저 제 그 이 것 수 뭐 무엇 누구 어디 우리 나는 나를 나의 내가 저는 저를 제가 너는 우리는 뭐예요",
    )
)
"""Words that say nothing about the subject of a text."""

_FUNCTION_CHARACTERS: Final = re.compile(
    "[我你您他她它们的地得是了在有和与或不没也都很就会要这那个什么谁哪吗呢吧啊把被为对从到请问"
    "們嗎這個麼為與從對請問誰沒會]+"
)
"""Chinese characters that say nothing about the subject. They separate the words around them."""

_FUNCTION_PAIRS: Final = frozenset(
    re.findall(
        r"\w+",
        "です ます でし まし した ませ せん すか たい って いう する して いる ある ない なに から まで より これ それ "
        "この その どこ だれ どの どん んな はな のは には では とは",
    )
)
"""Pairs of hiragana that belong to endings and particles."""


def words(text: str) -> Iterator[str]:
    """Yield the words of a text, case-folded and without accents, common endings and function words.

    Runs of characters of a script without spaces are yielded as pairs of neighbours, which overlap; Chinese characters
    also one by one, since many of them are words.
    """
    folded = _fold(text)
    if folded.isascii():
        yield from (word for word in _ASCII_WORD.findall(folded) if word not in _FUNCTION_WORDS)
        return
    for found in _TOKEN.finditer(folded):
        token = found[0]
        if token in _FUNCTION_WORDS:
            continue
        match found.lastgroup:
            case "han":
                for run in filter(None, _FUNCTION_CHARACTERS.split(token)):
                    yield from run
                    yield from map("".join, pairwise(run))
            case "hiragana":
                yield from (pair for pair in map("".join, pairwise(token)) if pair not in _FUNCTION_PAIRS)
            case "katakana":
                yield from _pairs(token)
            case "clusters":
                yield from _pairs(_CLUSTER.findall(token))
            case "hangul":
                yield from _hangul(stem_korean(token))
            case "cyrillic":
                yield stem_russian(token)
            case "arabic":
                yield stem_arabic(token)
            case _:
                yield token


def _fold(text: str) -> str:
    """Fold case, compatibility forms, accents and interchangeable letters."""
    folded = text.casefold()
    if folded.isascii():
        return folded
    decomposed = normalize("NFKD", folded).casefold()
    bare = _OPTIONAL_MARKS.sub("", _ACCENTS.sub("", decomposed))
    return normalize("NFC", bare).translate(_SAME_LETTERS)


def _hangul(word: str) -> Iterator[str]:
    """Yield pairs. The second of two syllables may be a particle, so yield the first one, too, as in 개의 and 개."""
    yield from _pairs(word)
    if len(word) == 2 and word[1] in KOREAN_PARTICLES and word[0] not in _FUNCTION_WORDS:
        yield word[0]


def _pairs(units: Sequence[str]) -> Iterator[str]:
    """Yield the pairs of neighbours, or the only unit."""
    return map("".join, pairwise(units)) if len(units) > 1 else iter(units)
