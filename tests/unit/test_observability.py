"""Logging to a pipe that is closed or full."""

import fcntl
import io
import json
import logging
import os
from collections.abc import Iterator
from contextlib import redirect_stderr, suppress
from typing import TextIO

import pytest
import structlog

from adapters.error_translation import foreign_error
from entrypoints.observability import configure_logging
from entrypoints.settings import Settings


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Undo the configuration of the test, which writes to a closed file."""
    root = logging.getLogger()
    before, handlers, level = structlog.get_config(), root.handlers, root.level
    yield
    structlog.configure(**before)
    root.handlers = handlers
    root.setLevel(level)


@pytest.fixture
def broken_pipe() -> Iterator[TextIO]:
    """A file whose reading end is closed."""
    reading, writing = os.pipe()
    os.close(reading)
    file = os.fdopen(writing, "w", buffering=1)
    yield file
    with suppress(BrokenPipeError):  # raised by the flush of buffered lines
        file.close()


@pytest.mark.usefixtures("restored_logging")
def test_a_line_that_cannot_be_written_is_dropped(broken_pipe: TextIO) -> None:
    with pytest.raises(BrokenPipeError):
        print("a plain line", file=broken_pipe)
    with redirect_stderr(broken_pipe):
        configure_logging(Settings(_env_file=None))

    structlog.get_logger().info("first")
    structlog.get_logger().info("second")


@pytest.mark.usefixtures("restored_logging")
def test_a_foreign_error_is_logged_with_what_it_stands_for_and_no_other_message() -> None:
    log = io.StringIO()
    with redirect_stderr(log):
        configure_logging(Settings(_env_file=None))
    error = ValueError("canary")
    error.__cause__ = foreign_error(ConnectionRefusedError(111, "canary"))

    structlog.get_logger().warning("failed", exc_info=error)

    links = [(link["type"], link.get("of")) for link in json.loads(log.getvalue())["exception"]]
    assert links == [("ValueError", None), ("ForeignError", "builtins.ConnectionRefusedError [Errno 111]")]
    assert "canary" not in log.getvalue()


@pytest.mark.usefixtures("restored_logging")
def test_a_line_after_one_that_the_pipe_took_in_part_is_intact() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 8192)
    with open(reading, "rb", buffering=0) as reader, open(writing, "w") as file, redirect_stderr(file):
        configure_logging(Settings(_env_file=None))
        structlog.get_logger().info("long", field="x" * 10_000)
        cut = reader.read(65536)
        structlog.get_logger().info("short")
        rest = reader.read(65536)

    beginning, *lines = (cut + rest).splitlines()
    assert beginning.endswith(b"xxx")
    assert [json.loads(line)["event"] for line in lines] == ["log lines dropped", "short"]
