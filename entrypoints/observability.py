"""Logging: one line per event, as JSON or for people to read; without messages, replies or secrets."""

import logging
import sys
import traceback
from itertools import islice
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from adapters.error_translation import ForeignError, exception_chain
from entrypoints.settings import Settings
from entrypoints.standard_streams import LossyWriter

QUIET = ("openai", "httpx2", "httpcore2", "httpx", "httpcore", "aiohttp", "asyncio", "alembic", "sqlalchemy")
"""Libraries whose debug messages contain requests, headers or SQL statements."""


def configure_logging(settings: Settings) -> None:
    """Log to stderr in one format, both structlog events and records of the standard library's logging."""
    level = logging.getLevelNamesMapping()[settings.log_threshold.upper()]
    for_people = sys.stderr.isatty() if settings.log_format == "auto" else settings.log_format == "console"
    writer = LossyWriter(sys.stderr)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _locate_exception,
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if for_people
        else structlog.processors.JSONRenderer(ensure_ascii=True)
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
    for link in islice(exception_chain(error), 10):
        frames = traceback.extract_tb(link.__traceback__)
        places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-10:]]
        foreign = {"of": str(link)} if isinstance(link, ForeignError) else {}  # class names and numbers only
        links.append({"type": type(link).__qualname__, **foreign, "at": places})
    return links
