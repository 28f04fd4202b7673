"""Logging: one line an event, JSON unless on a terminal; never what people say, never a secret."""

import hashlib
import logging
import sys
import traceback
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

QUIET = ("openai", "httpx2", "httpcore2", "httpx", "httpcore", "aiohttp", "asyncio", "alembic", "sqlalchemy")
"""Libraries whose debug lines hold requests, headers or statements."""


def configure_logging(*, debug: bool) -> None:
    """Send our lines, and those of libraries that use the standard library's logging, to stderr in one form."""
    level = logging.DEBUG if debug else logging.INFO
    on_terminal = sys.stderr.isatty()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _locate_exception,
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer() if on_terminal else structlog.processors.JSONRenderer(ensure_ascii=True)
    )
    # Our own lines do not take the way through the standard library, which makes up most of what a line costs.
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Tolerant(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    # Its lines hold paths, and paths hold users' ids; our own line a request takes their place.
    logging.getLogger("uvicorn.access").disabled = True


class _Tolerant:
    """Drops what can not be written: whoever reads the log may leave, and the service goes on."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._file.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._file.flush()


def pseudonym(identity: str) -> str:
    """A short stand-in for a user's id: the same for the same id, not the id."""
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


def _locate_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put an exception's classes and places into the line, without its message: that may quote what people said."""
    info: ExcInfo | bool | BaseException | None = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()  # type: ignore[assignment]  # only asked for while an exception is handled
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
        links.append({"type": type(link).__qualname__, "at": places})
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return links
