"""Commands that run to completion."""

import asyncio
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.harness.exchange import TIMEOUT
from tests.harness.servers import clean_environment


async def run(*command: str | Path, directory: Path, **environment: str) -> tuple[int, str, str]:
    """Run a command and return its exit status, standard output and standard error. Kills it after `TIMEOUT`."""
    return await run_within(TIMEOUT, *command, directory=directory, **environment)


async def run_within(timeout: float, *command: str | Path, directory: Path, **environment: str) -> tuple[int, str, str]:
    """Like `run`; kills the command after `timeout` seconds."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=directory,
        env=clean_environment(**environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()
