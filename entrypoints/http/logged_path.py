"""The path of a request in the log, if it has no route.

Paths contain ids of users, and whatever a client puts there: text, keys, line breaks. So only words are shown that are
part of the API, and the first segment if it is a plain word, e.g. `/favicon.ico` or the prefix of a proxy.
"""

import re
from collections.abc import Collection, Iterable
from typing import Final

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

OPENAI_WORDS: Final = frozenset({"v1", "completions", "embeddings", "models", "responses"})
"""Words in paths of OpenAI's API, including endpoints that clients ask for although they do not exist here."""

MAX_SEGMENTS: Final = 8

_PLAIN_WORD: Final = re.compile(r"[A-Za-z][A-Za-z._-]{0,31}")


def words_of(app: FastAPI) -> frozenset[str]:
    """Return the words that paths of the application consist of."""
    return frozenset(_words(str(route.path) for route in iter_route_contexts(app.routes))) | OPENAI_WORDS


def logged_path(path: str, words: Collection[str]) -> str:
    """Return a path with `*` in place of each segment that may be about a user.

    >>> logged_path("/api/chat/histroy/ann", {"api", "chat", "history"})
    '/api/chat/*/*'
    >>> logged_path("/favicon.ico", {"api"})
    '/favicon.ico'
    """
    if not path:  # the request was not valid HTTP
        return path
    first, *others = path.removeprefix("/").split("/")
    shown = [first if first in words or not first or _PLAIN_WORD.fullmatch(first) else "*"]
    shown += [segment if segment in words or not segment else "*" for segment in others[: MAX_SEGMENTS - 1]]
    return "/" + "/".join(shown) + ("/*" if len(others) >= MAX_SEGMENTS else "")


def _words(paths: Iterable[str]) -> Iterable[str]:
    return (segment for path in paths for segment in path.split("/") if segment and not segment.startswith("{"))
