"""No secret is in any output of the service and its commands, at debug level, whatever fails."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import psutil

from tests.harness.commands import run
from tests.harness.exchange import TIMEOUT, client_of
from tests.harness.forks import Forks
from tests.harness.postgres import Postgres
from tests.harness.raw_server import Call, RawServer
from tests.harness.servers import ROOT, ServiceProcess, service_process
from tests.harness.tokens import AUDIENCE, ISSUER, Signer, token

CANARIES: Final = [f"c0ffee{number:02}" for number in range(16)]
"""Parts of secrets, in hexadecimal digits so that they can be in keys."""

OTHER_ISSUER: Final = "https://other.example"
JSON: Final = {"Content-Type": "application/json"}
HELLO: Final = {"user_id": "user123", "message": "Hello?"}


def secret(number: int) -> str:
    """Return a secret that contains a canary."""
    return f"{CANARIES[number]}0123456789abcdef0123456789abcdef0123456789abcdef01234567"


def settings(database: str, model: RawServer, keys: RawServer, mem0: RawServer) -> Mapping[str, str]:
    """Return settings with a canary in each secret, and in each URL that may contain one."""
    return {
        "DEBUG": "true",
        "OPENAI_API_KEY": f"sk-{secret(0)}",
        "OPENAI_BASE_URL": f"http://user:{CANARIES[1]}@127.0.0.1:{model.port}/v1",
        "DATABASE_URL": database.replace(":@", f":{CANARIES[2]}@"),
        "MEMORY_BACKEND": "mem0_platform",
        "MEM0_API_KEY": f"m0-{secret(3)}",
        "MEM0_HOST": f"http://user:{CANARIES[4]}@127.0.0.1:{mem0.port}",
        "MEM0_VECTOR_STORE": f"postgresql://user:{CANARIES[5]}@127.0.0.1:9/vectors",
        "AUTH_MODE": "api_key+jwt",
        "AUTH_JWT_SECRET": secret(6),
        "AUTH_JWKS_URL": f"http://127.0.0.1:{keys.port}/keys?key={CANARIES[7]}",
        "AUTH_ISSUER": f"{ISSUER},{OTHER_ISSUER}",
        "AUTH_AUDIENCE": AUDIENCE,
        "LOG_PSEUDONYM_KEY": secret(8),
        "HTTPS_PROXY": f"http://user:{CANARIES[9]}@127.0.0.1:9",
        "ALL_PROXY": f"http://user:{CANARIES[9]}@127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
    }


async def refuse_with_an_echo(call: Call) -> None:
    """Answer once with a reply, and then with errors that quote the request."""
    while True:
        head = await call.request()
        if len(call.server.requests) == 1:
            event = json.dumps({"choices": [{"index": 0, "delta": {"content": "Hi!"}, "finish_reason": "stop"}]})
            body, status = f"data: {event}\n\ndata: [DONE]\n\n".encode(), b"200 OK\r\nContent-Type: text/event-stream"
        else:
            message = f"Incorrect API key provided: {head.decode()}"
            body, status = json.dumps({"error": {"message": message}}).encode(), b"401 Unauthorized"
        await call.send(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))


def credentials(key: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield headers with credentials, and with which status a request with them is answered."""
    unknown = Signer().token("RS256", CANARIES[14], iss=OTHER_ISSUER)  # which makes the service fetch the keys
    yield 200, {"Authorization": f"Bearer {key}"}
    yield 200, {"X-API-Key": key}
    yield 403, {"Authorization": f"Bearer {token(secret(6), sub='ann', name=CANARIES[11])}"}
    yield 401, {"X-API-Key": key[:20] + secret(12)}
    yield 401, {"X-API-Key": f"ck_{CANARIES[12]}"}
    yield 401, {"Authorization": f"Basic {CANARIES[13]}"}
    yield 401, {"Authorization": f"Bearer {token(secret(13), sub=CANARIES[13])}"}
    yield 503, {"Authorization": f"Bearer {unknown}"}
    yield 400, {"Authorization": f"Bearer {key}", "X-API-Key": f"ck_{CANARIES[12]}"}


async def everything_sent_and_received(service: ServiceProcess, key: str) -> list[str]:
    """Call everything in every way, and return all that was answered."""
    answers = []
    async with client_of(service.url) as client:

        async def send(expected: int | None, method: str, path: str, **options: Any) -> None:
            response = await client.request(method, path, **options)
            assert expected in (None, response.status_code), response.text
            answers.append(f"{response.headers}{response.text}")

        admin = {"Authorization": f"Bearer {key}"}
        await send(200, "POST", "/api/chat/simple", json=HELLO, headers=admin)
        for expected, headers in credentials(key):
            await send(expected, "GET", "/api/chat/history/user123", headers=headers)
        await send(502, "POST", "/api/chat/simple", json=HELLO, headers=admin)
        await send(502, "POST", "/api/chat", json=HELLO, headers=admin | {"Idempotency-Key": CANARIES[15]})
        await send(401, "POST", f"/api/chat?key={CANARIES[15]}", json=HELLO, headers={"Cookie": f"key={CANARIES[15]}"})
        await send(400, "POST", "/api/chat", content=b'{"key": ' + CANARIES[15].encode(), headers=admin | JSON)
        await send(422, "POST", "/api/chat", json={"user_id": f"/{CANARIES[15]}", "message": ""}, headers=admin)
        await send(404, "GET", f"/{CANARIES[15]}", headers=admin)
        await send(None, "POST", "/api/memories/user123", json={"fact": "likes tea"}, headers=admin)
        await send(None, "GET", "/api/memories/user123/search?q=tea", headers=admin)
        conversation = "/api/chat/conversations/user123/default"
        await send(422, "PATCH", conversation, json={"title": [CANARIES[15]]}, headers=admin)
        await send(422, "POST", "/api/chat", json=HELLO | {"turn_id": CANARIES[15]}, headers=admin)
        completion = {"messages": [{"role": "user", "content": "Hello?"}], "stop": CANARIES[15]}
        await send(502, "POST", "/v1/chat/completions", json=completion, headers=admin)
        await send(400, "POST", "/v1/chat/completions", json={"messages": [{"role": CANARIES[15]}]}, headers=admin)
        await send(401, "POST", "/v1/chat/completions", json=completion, headers={"X-API-Key": f"ck_{CANARIES[12]}"})
        for path in ("/page/session", "/v1/models"):
            await send(200, "GET", path, headers=admin)
        for path in ("/livez", "/readyz", "/api/health", "/docs", "/openapi.json", "/"):
            await send(None, "GET", path)
        await send(200, "GET", "/api/health/detailed", headers=admin)
    return answers


async def answers_without_a_table(service: ServiceProcess, key: str) -> list[str]:
    """Call what needs the database, after a part of it was removed."""
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/api/chat/history/user123", {}),
        ("DELETE", "/api/chat/history/user123?memories=true", {}),
        ("POST", "/api/chat", {"json": HELLO}),
        ("GET", "/api/health/detailed", {}),
    ]
    async with client_of(service.url) as client:
        found = [
            await client.request(method, path, headers={"X-API-Key": key}, **options)
            for method, path, options in requests
        ]
    assert {response.status_code for response in found} <= {200, 500, 503}
    return [f"{response.headers}{response.text}" for response in found]


async def command_lines(process: int, *, children: int) -> list[str]:
    """Return the command lines of a process and its children, which every user of the machine can read.

    Waits until it has that many: a supervisor prints its address before it starts the second worker.
    """
    main = psutil.Process(process)
    async with asyncio.timeout(TIMEOUT):
        while len(found := await asyncio.to_thread(main.children, recursive=True)) < children:
            await asyncio.sleep(0.02)
    return [" ".join(one.cmdline()) for one in (main, *found)]


async def outputs_of_commands(forks: Forks, directory: Path, environment: Mapping[str, str]) -> list[str]:
    """Run every command that uses the settings, with them and with some that are refused."""
    unreachable = f"postgresql://user:{CANARIES[2]}@127.0.0.1:9/chat"
    refused: list[dict[str, str]] = [
        {
            "AUTH_JWT_SECRET": CANARIES[6],
            "OPENAI_MODEL": f"sk-{secret(0)}",
            "OPENAI_BASE_URL": CANARIES[1],
            "AUTH_JWKS_URL": f"http://keys.example/{CANARIES[7]}",
            "DATABASE_URL": f"postgresql://user:{CANARIES[2]}#@127.0.0.1/chat",
            "MEM0_VECTOR_STORE": CANARIES[5],
        },
        {"AUTH_ISSUER": ""},
    ]
    runs: list[tuple[list[str], dict[str, str]]] = [
        (["check"], {}),
        (["check"], {"MEMORY_BACKEND": "mem0"}),
        (["check", "--live"], {}),
        (["keys", "list"], {}),
        (["migrate", "--check"], {}),
        (["backup", "backup.db"], {}),
        *((["check"], wrong) for wrong in refused),
        *((command, {"DATABASE_URL": unreachable}) for command in (["keys", "list"], ["check", "--live"])),
        (["copy", "--from", unreachable, "--to", f"sqlite:///{directory}/copy.db"], {}),
    ]
    found = [await forks.run(directory, *arguments, **{**environment, **wrong}) for arguments, wrong in runs]
    assert {status for status, _ in found[6:]} <= {1, 3}
    return [output for _, output in found]


@asynccontextmanager
async def environment(postgres: Postgres) -> AsyncIterator[tuple[str, Mapping[str, str]]]:
    """Start what the service depends on, and yield the URL of an empty database and the settings."""
    database = await asyncio.to_thread(postgres.new_database)
    async with (
        RawServer(refuse_with_an_echo) as model,
        RawServer(refuse_with_an_echo) as keys,
        RawServer(refuse_with_an_echo) as mem0,
    ):
        yield database, settings(database, model, keys, mem0)


async def test_no_secret_is_in_any_output_of_the_service(postgres: Postgres, tmp_path: Path) -> None:
    async with environment(postgres) as (database, variables):
        command = (sys.executable, "-m", "entrypoints.cli", "keys", "create", "--role", "admin")
        _, printed, created = await run(*command, directory=tmp_path, PYTHONPATH=str(ROOT), **variables)
        key = printed.strip()
        async with service_process("--workers", "2", directory=tmp_path, **variables) as service:  # type: ignore[arg-type]  # none of them is a parameter's name
            processes = await command_lines(service.process.pid, children=2)
            answers = await everything_sent_and_received(service, key)
            for table in ("turns", "api_keys"):
                await asyncio.to_thread(postgres.execute, f"ALTER TABLE {table} RENAME TO {table}_away", database)
                answers += await answers_without_a_table(service, key)

    logged = {json.loads(line)["event"] for line in service.output if line.startswith("{")}
    assert {"authentication failed", "signing keys not fetched", "request"} <= logged
    assert len(processes) == 3
    assert leaks([*service.output, *answers, *processes, created], key.rpartition("_")[2]) == []


async def test_no_secret_is_in_any_output_of_the_commands(forks: Forks, postgres: Postgres, tmp_path: Path) -> None:
    async with environment(postgres) as (_, variables):
        outputs = await outputs_of_commands(forks, tmp_path, variables)

    assert len(outputs) == len([output for output in outputs if output])
    assert leaks(outputs) == []


def leaks(texts: Iterable[str], *secrets: str) -> list[str]:
    return [text for text in texts if any(hidden in text for hidden in (*CANARIES, *secrets))]
