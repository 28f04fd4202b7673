"""Durable facts about a user, and how relevant one is to a query."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple, NewType

from domain.errors import MemoryNotFound
from domain.words import words

MAX_FACT_CHARS: Final = 2_000
"""Maximum length of a fact, in characters."""

DEFAULT_IMPORTANCE: Final = 0.5

RECENCY_HALF_LIFE: Final = timedelta(days=90)
"""Age at which the recency bonus of `rank` has halved."""

MemoryId = NewType("MemoryId", str)
"""A memory's id: a lower-case UUID, assigned by its store."""

_MEMORY_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Memory:
    """A fact about a user that outlives conversations.

    `owner` is the user it belongs to according to its store; it is checked against the requesting user before the
    memory is used. `importance` is between 0 and 1.
    """

    id: MemoryId
    owner: str
    fact: str
    importance: float
    created_at: datetime


class Recalled(NamedTuple):
    """A memory that matches a query. `score` is between 0 and 1, and comparable within one result only."""

    memory: Memory
    score: float


def parse_memory_id(text: str) -> MemoryId:
    """Return `text` as an id.

    Raises:
        MemoryNotFound: it is malformed, so no memory can have it. Stores that support wildcards never see such an id.
    """
    if not _MEMORY_ID.fullmatch(text):
        raise MemoryNotFound
    return MemoryId(text)


MAX_QUERY_CHARS: Final = 1_000
"""Characters of a query that are searched for. A message may be much longer, and normalising it can be slow."""

MAX_SEARCH_WORDS: Final = 32
"""Maximum number of words that a query is searched for."""


def content_words(query: str) -> Sequence[str]:
    """Return the distinct words to search for, in the form in which `index_text` has them; at most MAX_SEARCH_WORDS.

    If there are more, words of a single character are left out first. Only the first MAX_QUERY_CHARS characters count.
    """
    found = list(dict.fromkeys(words(query[:MAX_QUERY_CHARS])))
    if len(found) > MAX_SEARCH_WORDS:
        found = [word for word in found if len(word) > 1]
    return found[:MAX_SEARCH_WORDS]


def index_text(fact: str) -> str:
    """Return the words by which a fact can be found, separated by spaces."""
    return " ".join(words(fact))


_SENTENCE_END: Final = re.compile("[.!?。！？؟]")


def only_asks_questions(text: str) -> bool:
    """Return whether a text consists of questions, judging by punctuation. It then contains no facts about its user."""
    ends = set(_SENTENCE_END.findall(text))
    return bool(ends) and ends <= set("?？؟") and text.rstrip()[-1] in ends


def rank(relevance: float, importance: float, age: timedelta) -> float:
    """Return the score of a memory, between 0 and 1.

    Relevance to the query dominates; among equally relevant memories the more important and then the more recent win.
    """
    recency: float = 0.5 ** (max(age, timedelta(0)) / RECENCY_HALF_LIFE)
    return relevance * (0.65 + 0.25 * importance + 0.1 * recency)
