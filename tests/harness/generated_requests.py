"""Requests that schemathesis generates from the OpenAPI document of a running service, valid and invalid ones."""

import os
import sys
from pathlib import Path
from typing import Any, Final

from application.throttle import Throttle
from domain.api_key import ID_BYTES, SECRET_BYTES, APIKey, digest_of, text_of
from domain.principal import Role
from tests.harness import schemathesis_checks
from tests.harness.commands import run_within
from tests.harness.credentials import authentication
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.servers import ROOT, Service, running_service
from tests.harness.tokens import FromNow, token

MODES: Final = ("none", "api_key", "jwt")

TIMEOUT: Final = 3_600
"""Seconds for all requests."""

UNLIMITED: Final = Throttle(limit=10**9)
"""Of failed attempts: `ignored_auth` makes many, and expects 401 for each."""


async def send_generated_requests(mode: str, directory: Path, cases: int, *options: str) -> tuple[int, str]:
    """Send up to `cases` requests per operation and phase, with all checks.

    `options` are further ones of `schemathesis run`, whose exit status and output are returned. Its files are written
    into `directory`.
    """
    stores: dict[str, Any] = {"history_backend": "sql", "memory_backend": "sql", "data_dir": directory / "data"}
    llm = ScriptedLLM(ScriptedReply(finish_reason="length"))
    arguments = {} if mode == "none" else {"authenticate": {"throttle": UNLIMITED}}
    async with running_service({"llm": llm}, arguments, **stores, **authentication(mode)) as service:
        status, output, errors = await run_within(
            TIMEOUT,
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json"),
            "--checks=all",
            f"--exclude-checks={','.join(schemathesis_checks.REPLACED)}",
            *(f"--max-examples={cases}", "--request-timeout=30", "--no-color"),
            *(
                "--generation-with-security-parameters=false",
                "--generation-allow-x00=false",
                "--suppress-health-check=all",
            ),
            *(f"--header={header}" for header in [await _credential(mode, service)] if header),
            *options,
            directory=directory,
            SCHEMATHESIS_HOOKS=schemathesis_checks.__name__,
            PYTHONPATH=str(ROOT),
            PATH=os.environ["PATH"],
        )
    return status, output + errors


async def _credential(mode: str, service: Service) -> str | None:
    """Return a header for all requests, with a credential that reaches the data of all users if there is one."""
    if mode == "jwt":
        return f"Authorization: Bearer {token(exp=FromNow(80_000))}"
    if mode == "none":
        return None
    key_id, secret, now = "a" * 2 * ID_BYTES, "a" * 2 * SECRET_BYTES, service.container.now()()
    await service.container.api_keys().create(APIKey(key_id, digest_of(secret), Role.ADMIN, now))
    return f"Authorization: Bearer {text_of(key_id, secret)}"
