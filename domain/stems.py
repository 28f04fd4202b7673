"""Light stemming: strips the most common endings, so that inflected forms of a word are equal.

Not morphology: unrelated words may share a stem, and irregular forms have different ones.
"""

import re
from typing import Final

MAX_STEMMED_CHARS: Final = 40
"""Longer words are left as they are, to bound the cost."""

_RUSSIAN_ENDINGS: Final = frozenset(
    re.findall(
        r"\w+",
        # nouns and adjectives
        "а е и о у ы ь ю я й ам ям ами ями ах ях ев ов ей ий ой ый ое ее ие ые ая яя ую юю ом ем им ым их ых его ого "
        "ему ому ими ыми ою ею ия ья ию ью ии ье ием иям иях иями "
        # verbs
        "ть ться тся ся сь ет ют ят ит ут ешь ишь ете ите уют ует ую ем им ал ала али ало ил ила или ило ел "
        "ела ели ело ыл ыла ыли ыло ял яла яли яло ать ять ить еть ыть уть",
    )
)
_RUSSIAN_LABIALS: Final = frozenset("бпвмф")
"""Consonants after which some forms of a word insert л: любит, люблю."""

_ARABIC_ARTICLES: Final = ("وال", "بال", "كال", "فال", "ال", "لل")
_ARABIC_SUFFIXES: Final = ("ها", "هم", "ان", "ات", "ون", "ين", "نا", "يه", "ه", "ي", "ك")

KOREAN_PARTICLES: Final = frozenset("은는이가을를의에도로와과만야요")
"""Particles of one syllable; they may as well be the end of a name."""

_KOREAN_ENDINGS: Final = KOREAN_PARTICLES.union(
    re.findall(
        r"\w+",
        "에서 에게 한테 으로 까지 부터 처럼 보다 이랑 하고 이다 이야 예요 이에요 에요 입니다 입니까 인가요 해요 합니다 "
        "하다 했다 했어요 있다 있어요 있습니다 습니다",
    )
)


def stem_russian(word: str) -> str:
    """Strip endings until at least three letters are left, e.g. собакой → собак, живёт → жив."""
    if len(word) > MAX_STEMMED_CHARS:
        return word
    stem = word
    while ending := next((stem[-n:] for n in (4, 3, 2, 1) if n + 3 <= len(stem) and stem[-n:] in _RUSSIAN_ENDINGS), ""):
        stem = stem.removesuffix(ending)
    if len(word) in (3, 4) and stem == word and word[2:] in _RUSSIAN_ENDINGS:  # чай, чаем
        stem = word[:2]
    if len(stem) > 3 and stem[-1] == "л" and stem[-2] in _RUSSIAN_LABIALS:
        stem = stem[:-1]
    return stem


def stem_arabic(word: str) -> str:
    """Strip "and", the article and one or two suffixes, e.g. والكلب, كلبي → كلب."""
    if len(word) > MAX_STEMMED_CHARS:
        return word
    article = next((article for article in _ARABIC_ARTICLES if word.startswith(article)), "")
    if article and len(word) - len(article) >= 2:
        word = word.removeprefix(article)
    elif word.startswith("و") and len(word) >= 4:
        word = word[1:]
    for suffix in _ARABIC_SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word.removesuffix(suffix)
    return word


def stem_korean(word: str) -> str:
    """Strip the longest ending that leaves two syllables, e.g. 강아지가 → 강아지."""
    endings = (word[-n:] for n in (4, 3, 2, 1) if n + 2 <= len(word))
    return word.removesuffix(next((ending for ending in endings if ending in _KOREAN_ENDINGS), ""))
