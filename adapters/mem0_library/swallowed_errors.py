"""What Mem0 swallows, noted where it happens; and its vector stores, whose threads wait where they must."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

_failures: ContextVar[dict[str, Exception]] = ContextVar("failures")


@contextmanager
def watched() -> Iterator[None]:
    """Raise, at the end, what Mem0 swallowed meanwhile: it logs that a part of the work failed, and carries on.

    A step that was tried again and went well does not count.
    """
    failures: dict[str, Exception] = {}
    token = _failures.set(failures)
    try:
        yield
    finally:
        _failures.reset(token)
    for failure in failures.values():
        raise failure


@contextmanager
def noted(keys: Sequence[str]) -> Iterator[None]:
    """Keep an error for whoever watches, under what the step was about; a step that goes well makes up for it."""
    failures = _failures.get({})
    try:
        yield
    except Exception as error:
        failures.update(dict.fromkeys(keys, error))
        raise
    for key in keys:
        failures.pop(key, None)


class WatchedStore:
    """A vector store of Mem0's, entered through `guard` by one thread after the other, or by all at once.

    The guard is held by the thread that works, not by the task that waits for it: a task that is cancelled leaves its
    thread at work, and whoever comes next has to wait for that.
    """

    def __init__(self, store: Any, guard: AbstractContextManager[Any]) -> None:
        self._store = store
        self._guard = guard

    def insert(self, vectors: Any, payloads: Any, ids: Sequence[str]) -> None:
        with noted(ids), self._guard:
            self._store.insert(vectors=vectors, payloads=payloads, ids=ids)

    def update(self, vector_id: str, vector: Any = None, payload: Any = None) -> None:
        with noted([vector_id]), self._guard:
            self._store.update(vector_id=vector_id, vector=vector, payload=payload)

    def delete(self, vector_id: str) -> None:
        with noted([vector_id]), self._guard:
            self._store.delete(vector_id=vector_id)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._store, name)
        return self._guarded(attribute) if callable(attribute) else attribute

    def _guarded(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def guarded(*positional: Any, **named: Any) -> Any:
            with self._guard:
                return method(*positional, **named)

        return guarded
