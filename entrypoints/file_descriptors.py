"""Behaviour at the limit of open file descriptors, where no connection can be accepted."""

import asyncio
import errno
import os
import resource
from contextlib import suppress
from typing import Any, Final

import structlog

_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE)

_ENOUGH: Final = 65_536
"""Open files of a process: far more connections than one can serve."""


def raise_limit() -> None:
    """Raise the soft limit on open files, also of the processes that this one starts, to the hard limit or 65,536.

    It is usually 1,024, for the sake of programs that call `select`. The event loops use `epoll` or `kqueue`.
    """
    limit, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if highest == resource.RLIM_INFINITY else min(highest, _ENOUGH)
    if limit != resource.RLIM_INFINITY and limit < wanted:
        with suppress(ValueError, OSError):  # macOS permits less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, highest))


def warn_if_exhausted(descriptor: int) -> None:
    """Log a warning if `descriptor` cannot be duplicated, because too many are open.

    The event loops themselves say nothing (uvloop, which closes new connections), or too much (see below).
    """
    try:
        os.close(os.dup(descriptor))
    except OSError as error:
        if error.errno in _EXHAUSTED:
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            structlog.get_logger().warning("out of file descriptors", limit=limit)


def ignore_failed_accepts(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An exception handler for event loops that leaves such errors to `warn_if_exhausted`.

    asyncio tries to accept as many connections as the backlog may hold, reports an error with a traceback for each, and
    tries again a second later.
    """
    error = context.get("exception")
    if not (isinstance(error, OSError) and error.errno in _EXHAUSTED and "socket" in context):
        loop.default_exception_handler(context)
