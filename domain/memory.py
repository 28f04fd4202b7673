"""Durable facts about a user, and how relevant one is to what is being said."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple, NewType

from domain.errors import MemoryNotFound

MAX_FACT_CHARS: Final = 2_000
"""No fact that is stored is longer, in characters."""

DEFAULT_IMPORTANCE: Final = 0.5

HALF_LIFE: Final = timedelta(days=90)
"""Age at which the part of a rank that is due to recency has halved."""

MemoryId = NewType("MemoryId", str)
"""A memory's id: a lower-case UUID, made by whoever keeps it."""

_MEMORY_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Memory:
    """A fact about a user that outlives conversations.

    `owner` is whose it is as its keeper says, which is checked against who asked before anyone gets to see it.
    `importance` lies between 0 and 1.
    """

    id: MemoryId
    owner: str
    fact: str
    importance: float
    created_at: datetime


class Recalled(NamedTuple):
    """A memory that a query brought up. `score` is how well it fits, between 0 and 1; comparable within one answer."""

    memory: Memory
    score: float


def memory_id(text: str) -> MemoryId:
    """`text` as an id.

    Raises:
        MemoryNotFound: it is none, so that nothing has it. Stores that know wildcards never get to see it.
    """
    if not _MEMORY_ID.fullmatch(text):
        raise MemoryNotFound
    return MemoryId(text)


_WORD: Final = re.compile(r"\w+")

_FUNCTION_WORDS: Final = frozenset(
    _WORD.findall(
        "a about all am an and any are as at be been but by can could did do does for from had has have he her him his "
        "how i if in into is it its just let like me my no not of on or our please s she should so some t tell than "
        "that the their them then there they this to up us was we were what when where which who why will with would "
        "you your"
    )
)
"""Words that English can not do without, and that therefore say nothing of what a text is about."""

MAX_WORDS: Final = 32
"""How many words of a query are looked for."""


def words(text: str) -> Sequence[str]:
    """What a text is about, for recalling by words: its different words in order, in lower case, MAX_WORDS at most."""
    found = dict.fromkeys(_WORD.findall(text.casefold()))
    return [word for word in found if word not in _FUNCTION_WORDS][:MAX_WORDS]


_SENTENCE_END: Final = re.compile("[.!?。！？؟]")


def only_asks(text: str) -> bool:
    """Whether a message tells nothing of its user, as far as its punctuation shows: each sentence is a question."""
    ends = set(_SENTENCE_END.findall(text))
    return bool(ends) and ends <= set("?？؟") and text.rstrip()[-1] in ends


def rank(relevance: float, importance: float, age: timedelta) -> float:
    """The score of a memory that fits a query by `relevance`, from 0 to 1.

    What fits best comes first; among what fits alike, the important and then the recent.
    """
    recency: float = 0.5 ** (max(age, timedelta(0)) / HALF_LIFE)
    return relevance * (0.65 + 0.25 * importance + 0.1 * recency)
