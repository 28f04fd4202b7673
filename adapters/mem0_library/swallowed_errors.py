"""Re-raise errors that Mem0 logs and swallows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

_recorded: ContextVar[dict[str, Exception]] = ContextVar("recorded")


@contextmanager
def reraise_swallowed_errors() -> Iterator[None]:
    """Raise on exit the first error that was recorded inside the block and not made up for by a retry.

    If a part of an operation fails, Mem0 logs the error and carries on with the rest.
    """
    errors: dict[str, Exception] = {}
    token = _recorded.set(errors)
    try:
        yield
    finally:
        _recorded.reset(token)
    for error in errors.values():
        raise error


@contextmanager
def record_errors(keys: Sequence[str]) -> Iterator[None]:
    """Record an error of one step under each key; a later success under the same key removes it.

    The error is raised, too. `keys` name what the step works on, e.g. the ids of the vectors it stores.
    """
    errors = _recorded.get({})
    try:
        yield
    except Exception as error:
        errors.update(dict.fromkeys(keys, error))
        raise
    for key in keys:
        errors.pop(key, None)


class GuardedStore:
    """A vector store of Mem0's that records the errors of its writes and enters a lock for each call.

    The lock is held by the thread that does the work, not by the task that waits for it: if the task is cancelled, its
    thread keeps working, and the next caller has to wait for it.
    """

    def __init__(self, store: Any, lock: AbstractContextManager[Any]) -> None:
        self._store = store
        self._lock = lock

    def insert(self, vectors: Any, payloads: Any, ids: Sequence[str]) -> None:
        with record_errors(ids), self._lock:
            self._store.insert(vectors=vectors, payloads=payloads, ids=ids)

    def update(self, vector_id: str, vector: Any = None, payload: Any = None) -> None:
        with record_errors([vector_id]), self._lock:
            self._store.update(vector_id=vector_id, vector=vector, payload=payload)

    def delete(self, vector_id: str) -> None:
        with record_errors([vector_id]), self._lock:
            self._store.delete(vector_id=vector_id)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._store, name)
        return self._locked(attribute) if callable(attribute) else attribute

    def _locked(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def locked(*positional: Any, **named: Any) -> Any:
            with self._lock:
                return method(*positional, **named)

        return locked
