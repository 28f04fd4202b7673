"""Causes for our errors that name a library's exceptions without quoting them.

Providers repeat credentials and users' text in their messages, and causes end up in logs. The cause of an error that
an adapter raises is therefore a `ForeignError`:

    failure.__cause__ = foreign_error(error)   # httpx.ConnectError from builtins.OSError [Errno 111]
"""

from collections.abc import Iterator


class ForeignError(Exception):
    """Stands in for an exception of a library: class names and numbers, without its text."""


def foreign_error(error: BaseException, *details: str) -> ForeignError:
    """Return the stand-in for `error` and what caused it. `details` are added as they are and must hold no secret."""
    return ForeignError(" ".join([" from ".join(_describe(link) for link in exception_chain(error)), *details]))


def exception_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield `error`, then the exceptions that a traceback would show as its causes, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _describe(error: BaseException) -> str:
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    if isinstance(error, OSError) and error.errno:
        return f"{name} [Errno {error.errno}]"
    if code := getattr(error, "sqlite_errorname", None):  # e.g. SQLITE_FULL
        return f"{name} {code}"
    status = getattr(error, "status_code", None)
    return f"{name} {status}" if isinstance(status, int) else name
