"""Logging: one line per event, as JSON unless stderr is a terminal; without messages, replies or secrets."""

import json
import logging
import select
import sys
import traceback
from contextlib import suppress
from typing import Any, Final, TextIO, cast

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from adapters.error_translation import ForeignError

QUIET = ("openai", "httpx2", "httpcore2", "httpx", "httpcore", "aiohttp", "asyncio", "alembic", "sqlalchemy")
"""Libraries whose debug messages contain requests, headers or SQL statements."""

PIECE: Final = select.PIPE_BUF // 4
"""Characters that a pipe takes without blocking if it is ready: at most four bytes each."""


def configure_logging(*, debug: bool) -> None:
    """Log to stderr in one format, both structlog events and records of the standard library's logging."""
    level = logging.DEBUG if debug else logging.INFO
    on_terminal = sys.stderr.isatty()
    writer = _LossyWriter(sys.stderr)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _locate_exception,
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer() if on_terminal else structlog.processors.JSONRenderer(ensure_ascii=True)
    )
    # Our own events bypass the standard library, which accounts for most of the cost of a line.
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, writer)),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler(writer)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    # Access logs contain paths, and paths contain user ids. RequestContext logs requests instead.
    logging.getLogger("uvicorn.access").disabled = True


class _LossyWriter:
    """Drops output that cannot be written at once: a log pipe that is full or closed must not stop the service.

    The number of dropped lines is logged before the next line that can be written.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._dropped = 0
        self._cut = False
        """The last line was written in part."""
        self._poll: select.poll | None = None
        with suppress(OSError, ValueError):  # e.g. a file in memory, which never blocks
            descriptor = file.fileno()
            self._poll = select.poll()
            self._poll.register(descriptor, select.POLLOUT)

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            if self._dropped:
                notice = {"event": "log lines dropped", "count": self._dropped, "level": "warning"}
                if self._wrote(("\n" if self._cut else "") + json.dumps(notice) + "\n"):
                    self._dropped = 0
            if self._dropped or not self._wrote(text):
                self._dropped += 1

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""

    def _wrote(self, text: str) -> bool:
        """Write the text in pieces, unless the reader is too slow for one of them."""
        for start in range(0, len(text), PIECE):
            if self._poll is not None and not self._poll.poll(0):
                self._cut = self._cut or start > 0
                return False
            self._file.write(text[start : start + PIECE])
            self._file.flush()
        self._cut = False
        return True


def _locate_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Log an exception's types and tracebacks, without its message, which may quote a user."""
    info: ExcInfo | bool | BaseException | None = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()  # type: ignore[assignment]  # set only while an exception is handled
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event["exception"] = _chain(error)
    return event


def _chain(error: BaseException) -> list[dict[str, Any]]:
    links: list[dict[str, Any]] = []
    link: BaseException | None = error
    while link is not None and len(links) < 10:
        frames = traceback.extract_tb(link.__traceback__)
        places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-10:]]
        foreign = {"of": str(link)} if isinstance(link, ForeignError) else {}  # class names and numbers only
        links.append({"type": type(link).__qualname__, **foreign, "at": places})
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return links
