"""Commands that run to completion."""

import asyncio
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.harness.servers import clean_environment

TIMEOUT = 180
"""Seconds after which a command counts as hanging: it may compile all that it imports, on a busy machine."""


async def run(*command: str | Path, directory: Path, **environment: str) -> tuple[int, str, str]:
    """Run a command and return its exit status, standard output and standard error.

    Kills it, and what it has started, after `TIMEOUT`, and fails with what it had written by then.
    """
    return await run_within(TIMEOUT, *command, directory=directory, **environment)


async def run_within(timeout: float, *command: str | Path, directory: Path, **environment: str) -> tuple[int, str, str]:
    """Like `run`, with a time limit of `timeout` seconds."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=directory,
        env=clean_environment(**environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    communication = asyncio.ensure_future(process.communicate())
    try:
        _, hangs = await asyncio.wait([communication], timeout=timeout)
    finally:
        if not communication.done():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with what it has started, which has its output open
        output, errors = (stream.decode() for stream in await communication)
    assert not hangs, f"not ended after {timeout} s: {command}\n{output}{errors}"
    assert process.returncode is not None
    return process.returncode, output, errors
