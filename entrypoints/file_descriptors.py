"""Behaviour at the limit of open file descriptors, where no connection can be accepted."""

import asyncio
import errno
import os
import resource
from typing import Any, Final

import structlog

_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE)


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
