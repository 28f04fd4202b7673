"""Excerpts of a service's texts that are safe to log."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Final
from urllib.parse import unquote

from adapters.openai_api.html_escapes import unescape
from domain.normal_form import in_normal_form

MAX_SHARED_CHARS: Final = 11
"""Length of the longest run of characters that an excerpt may have in common with a request."""

MAX_SHARED_SECRET_CHARS: Final = 5

GAP: Final = "[...]"
"""Stands for what was removed. Plain ASCII, so that it survives normalisation."""

_IGNORABLE: Final = re.compile(
    "[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160"
    "\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ud800-\uf8ff\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff0-\uffff\U000110bd\U000110cd\U00013430-\U0001345f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U0010ffff]"
)
"""Characters without a glyph, and those whose glyph is private."""

_DIACRITIC: Final = re.compile("[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]")
"""Combining characters of alphabets that have composed characters. Text needs none after composition."""

_ESCAPE: Final = re.compile(
    r"\\u\{([0-9a-f]{1,6})\}|[\\%]u([0-9a-f]{4})|\\U([0-9a-f]{8})|\\x([0-9a-f]{2})|\\([0-3][0-7]{2})|\\([nrtbf\"'/\\])",
    re.I,
)
_MAX_ESCAPES: Final = 10

_LETTERS: Final = {"n": "\n", "r": "\r", "t": "\t", "b": " ", "f": " "}

_CREDENTIAL: Final = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        r"(?<=://)[^/\s@]+(?=@)",
        r"(?:(?<=bearer )|(?<=basic ))(?=\S*[\d*])\S+",
        r"(?<![a-z0-9])(?:(?:sk|pk|rk|gsk|csk|xai|hf|r8|gh[pousr]|nvapi|pplx|fw|tgp)[-_]|ya29|aiza|eyj)[\w*.…-]{4,}",
        r"(?:(?<=key: )|(?<=key=)|(?<=key provided: )|(?<=token: )|(?<=token=)|(?<=password: )|(?<=password=)"
        r"|(?<=secret: )|(?<=secret=)|(?<=authorization: ))[^\s,;&]+",
        r"(?=[a-z0-9+_=]*\d)(?=[a-z0-9+_=]*[a-z])[a-z0-9+_=]{20,}",
        r"(?-i:(?=[\w+/=]*\d)(?=[\w+/=]*[a-z])(?=[\w+/=]*[A-Z])[\w+/=]{24,})",
    )
)
"""Credentials by their looks, for those that are not ours, e.g. of a gateway."""


class Redactor:
    """Redacts what services write about one request.

    An excerpt has no run of 12 or more characters in common with the texts of the request, after normalisation (NFKC)
    and case folding, even if white space, punctuation, combining or invisible characters were added or removed, or
    characters were escaped. Nor has it a run of 6 or more of a secret, or what looks like a credential.

    Args:
        texts: The texts of the request.
        secrets: Credentials that were sent.
    """

    def __init__(self, texts: Iterable[str], secrets: Iterable[str] = ()) -> None:
        self._texts = texts
        self._secrets = [_folded(secret) for secret in secrets if len(secret) > 3]

    def excerpt(self, text: str, limit: int = 300) -> str:
        """Return the beginning of `text`, at most `limit` characters, in one line."""
        text = _clean(_unescaped(text[: 8 * limit]))[: 2 * limit]
        for pattern in _CREDENTIAL:
            text = pattern.sub(GAP, text)
        text = self._without_shared(text)
        if len(text) > limit:
            text = self._without_shared(text[: limit - len(GAP)] + GAP)
        return text

    def _without_shared(self, text: str) -> str:
        """Remove runs until none is left: removing one brings together what was around it."""
        while spans := [*self._shared_spans(text)]:
            for start, end in reversed(_merged(spans)):
                text = text[:start] + GAP + text[end:]
            text = text.replace(GAP + GAP, GAP)
        return text

    def _shared_spans(self, text: str) -> Iterator[tuple[int, int]]:
        for view, corpus in zip(_VIEWS, self._corpora, strict=True):
            yield from _shared(text, view, corpus, MAX_SHARED_CHARS + 1)
        for secret in self._secrets:
            letters = _letters(secret)
            yield from _shared(text, _letters, letters, min(MAX_SHARED_SECRET_CHARS + 1, len(letters)))

    @cached_property
    def _corpora(self) -> list[str]:
        texts = [*self._texts]
        folded = _folded("\0".join([*texts, *filter(None, map(_unescaped_or_none, texts))]))
        return [view(folded) for view in _VIEWS]


def _folded(text: str) -> str:
    """Fold case and compatible forms of each character, and remove what cannot be seen."""
    folded = in_normal_form("NFKD", in_normal_form("NFKD", text).casefold())
    return _DIACRITIC.sub("", _IGNORABLE.sub("", folded))


class _View(dict[int, str]):
    """Translates folded text to one that leaves out what may differ. A table that fills itself, up to a limit."""

    max_entries = 4_096

    def __init__(self, replace: Callable[[str], str]) -> None:
        super().__init__()
        self._replace = replace

    def __missing__(self, code: int) -> str:
        if len(self) >= self.max_entries:
            self.clear()
        replaced = self[code] = self._replace(chr(code))
        return replaced  # another thread may have removed the entry already

    def __call__(self, folded: str) -> str:
        return re.sub(" +", " ", folded.translate(self))


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


_letters: Final = _View(lambda character: character if character.isalnum() else "")

_VIEWS: Final = (
    _View(lambda character: " " if character.isspace() else character),
    _View(lambda character: " " if character.isspace() else "" if _is_mark(character) else character),
    _View(lambda character: "" if character.isspace() else character),
    _View(lambda character: "" if character.isspace() or _is_mark(character) else character),
    _letters,
)
"""Each finds runs that the others miss: leaving out characters shortens a run, and keeping them interrupts it."""


def _shared(text: str, view: _View, corpus: str, length: int) -> Iterator[tuple[int, int]]:
    """Yield the spans of `text` whose views have `length` or more characters in common with `corpus`."""
    seen = [(character, index) for index, original in enumerate(text) for character in view(_folded(original))]
    viewed = "".join(character for character, _ in seen)
    half = max(1, length // 2)
    # A shared run covers an aligned block of half its length. Few blocks are shared, so few runs are looked for.
    shared_blocks = {start for start in range(0, len(viewed), half) if viewed[start : start + half] in corpus}
    start = 0
    while length and start + length <= len(viewed):
        end = start + length
        found = corpus.find(viewed[start:end]) if -(-start // half) * half in shared_blocks else -1
        if found < 0:
            start += 1
            continue
        while end < len(viewed) and corpus[found + end - start : found + end - start + 1] == viewed[end]:
            end += 1
        yield seen[start][1], seen[end - 1][1] + 1
        start = end - length + 1


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _clean(text: str) -> str:
    """Return `text` composed and in one line, without characters that cannot be seen."""
    for _ in range(4):
        before, text = text, unicodedata.normalize("NFKC", text)
        text = " ".join(_DIACRITIC.sub("", _IGNORABLE.sub("", text)).split())
        if text == before:
            break
    return text


def _unescaped(text: str, too_often: str | None = GAP) -> str:
    """Undo the escapes of JSON, HTML and URLs, also of each other.

    Text that was escaped too often becomes `too_often`; None: its escapes are undone as often as possible.
    """
    for _ in range(_MAX_ESCAPES):
        before, text = text, _ESCAPE.sub(_unescape, unquote(unescape(text), errors="replace"))
        if text == before:
            break
    else:
        text = text if too_often is None else too_often
    # Escaped surrogates have become a pair, which is one character.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _unescape(escape: re.Match[str]) -> str:
    braces, four, eight, two, octal, letter = escape.groups()
    if letter:
        return _LETTERS.get(letter.lower(), letter)
    code = int(octal, 8) if octal else int(braces or four or eight or two, 16)
    return chr(code) if code < 0x110000 else ""


def _unescaped_or_none(text: str) -> str | None:
    unescaped = _unescaped(text, too_often=None)
    return unescaped if unescaped != text else None
