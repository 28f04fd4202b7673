"""Estimating the number of tokens of a text, and correcting the estimate by what a model reports."""

from collections.abc import Iterable, Sequence
from typing import Final

MESSAGE_OVERHEAD: Final = 5
"""Tokens per message that chat templates add to its text, for the role and separators."""

MIN_RATIO: Final = 0.5
MAX_RATIO: Final = 6.0
"""Bounds of the ratio of counted to estimated tokens. Small vocabularies need five times as many for Thai."""

Weight = tuple[int, int, int, int]
"""Estimated tokens of a text by group of scripts, in hundredths of a token.

The groups are: Latin with digits and punctuation; other alphabets with two UTF-8 bytes per letter, e.g. Cyrillic and
Arabic; the scripts of South and South-East Asia; those of East Asia, with symbols.
"""

_SMALL: Final = bytes(range(ord("a"), ord("z") + 1))
_CAPITAL: Final = _SMALL.upper()
_DIGITS: Final = b"0123456789"
_CONTINUATION: Final = bytes(range(0x80, 0xC0))
_ASCII: Final = bytes(range(0x80))
_LATIN: Final = bytes(range(0xC2, 0xCC))
_ALPHABETIC: Final = bytes(range(0xCC, 0xE0))
_SOUTH_ASIAN: Final = b"\xe0\xe1"
_PUNCTUATION: Final = b"\xe2"
_EAST_ASIAN: Final = bytes(range(0xE3, 0xF0))
_HIGH: Final = bytes(range(0x80, 0x100))


def estimate_tokens(text: str) -> int:
    """Estimate the number of tokens of `text` for a model with a large vocabulary.

    Byte-pair tokenizers learn the words of each language: a letter costs little, a capital more, a digit or punctuation
    mark nearly a token of its own. The first byte of a character in UTF-8 tells the script. Weighing the kinds of bytes
    needs no vocabulary and runs at the speed of `bytes.translate`. Small vocabularies need up to five times as many
    tokens for scripts other than Latin, and random letters cost twice as many as estimated: see `TokenEstimator`.
    """
    return (sum(weigh(text)) + 99) // 100


def count_bytes(text: str) -> int:
    """Return the size of `text` in UTF-8: it never has more tokens in byte-level vocabularies."""
    return len(text) if text.isascii() else len(text.encode())


def weigh(text: str) -> Weight:
    """Estimate the tokens of `text` by group of scripts. No text weighs more than a token per byte."""
    rest = text.encode()
    latin = alphabetic = south_asian = east_asian = 0
    if not text.isascii():
        first = rest.translate(None, _CONTINUATION)
        high, rest = first.translate(None, _ASCII), first.translate(None, _HIGH)
        high, letters = _remove(_ALPHABETIC, high)
        alphabetic = letters * 38
        if high:  # in most texts only one script is left
            high, ideographs = _remove(_EAST_ASIAN, high)
            east_asian = ideographs * 85
        if high:
            high, accented = _remove(_LATIN, high)
            high, syllables = _remove(_SOUTH_ASIAN, high)
            high, marks = _remove(_PUNCTUATION, high)
            latin, south_asian = accented * 55 + marks * 100, syllables * 42
            east_asian += len(high) * 200
    rest, small = _remove(_SMALL, rest)
    if rest:
        rest, spaces = _remove(b" ", rest)
        rest, capitals = _remove(_CAPITAL, rest)
        rest, digits = _remove(_DIGITS, rest)
        latin += spaces * 15 + capitals * 50 + digits * 70 + len(rest) * 75
    return latin + small * 22, alphabetic, south_asian, east_asian


def _remove(kind: bytes, data: bytes) -> tuple[bytes, int]:
    """Return `data` without the bytes in `kind`, and their number."""
    rest = data.translate(None, kind)
    return rest, len(data) - len(rest)


class TokenEstimator:
    """Estimates tokens for one model, and learns its tokenizer from the counts that its service reports.

    Keeps a ratio of counted to estimated tokens per group of scripts: a vocabulary may know English well and Hindi
    hardly at all, and one process answers users of both. Each count corrects the groups by their shares of the prompt.

    Args:
        rate: Share of the error that one count corrects, 0 to 1.
        steady_tokens: Size of a prompt, in tokens, whose count corrects half as much as that of a very long one. Fixed
            costs of a call, e.g. of a template, distort the counts of short prompts.
    """

    def __init__(self, *, rate: float = 0.75, steady_tokens: int = 30) -> None:
        self._rate = rate
        self._steady_tokens = steady_tokens
        self._ratios: Sequence[float] = (1.0, 1.0, 1.0, 1.0)

    def __call__(self, text: str) -> int:
        """Estimate the number of tokens of `text`, at most one per byte."""
        latin, alphabetic, south_asian, east_asian = self._ratios
        weight = weigh(text)
        estimate = (weight[0] * latin + weight[1] * alphabetic + weight[2] * south_asian + weight[3] * east_asian) / 100
        return min(-int(-estimate // 1), count_bytes(text))

    def learn(self, texts: Iterable[str], counted: int) -> bool:
        """Learn from the reported number of tokens of a prompt of these messages' texts.

        Returns whether the count is plausible. An implausible one is ignored: some services report a constant, or count
        a long prompt of their own.
        """
        texts = list(texts)
        weight = weigh("".join(texts))
        counted -= MESSAGE_OVERHEAD * len(texts)
        prior = sum(weight) / 100
        if not MIN_RATIO * prior * 0.8 <= counted <= MAX_RATIO * prior * 1.2 or prior < 1:
            return False
        parts = [part * ratio / 100 for part, ratio in zip(weight, self._ratios, strict=True)]
        estimate = sum(parts)
        shares = [part / estimate for part in parts]
        trust = self._rate * estimate / (estimate + self._steady_tokens)
        exponent = trust / sum(share * share for share in shares)
        self._ratios = tuple(
            min(max(ratio * (counted / estimate) ** (exponent * share), MIN_RATIO), MAX_RATIO)
            for ratio, share in zip(self._ratios, shares, strict=True)
        )
        return True
