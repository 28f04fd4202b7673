"""The server of `smart-chatbot serve`: event loop and connections to the model."""

import asyncio
import os
import signal
import socket

import pytest
import uvloop
from dependency_injector import providers

from entrypoints.container import Container
from entrypoints.http.app import create_app
from entrypoints.server import DrainingServer
from entrypoints.settings import Settings
from entrypoints.shutdown import Shutdown
from tests.harness.chat import post
from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.servers import NOBODY, PSEUDONYM_KEY, running_service

SETTINGS = Settings(
    _env_file=None,
    openai_base_url=NOBODY,
    history_backend="in_memory",
    memory_backend="in_memory",
    log_pseudonym_key=PSEUDONYM_KEY,
)


@pytest.mark.parametrize(
    ("choice", "kind"), [("auto", uvloop.Loop), ("uvloop", uvloop.Loop), ("asyncio", asyncio.SelectorEventLoop)]
)
def test_the_server_uses_the_configured_event_loop(choice: str, kind: type[asyncio.AbstractEventLoop]) -> None:
    settings = Settings(_env_file=None, openai_base_url=NOBODY, event_loop=choice)
    make_loop = DrainingServer(create_app(settings), print).config.get_loop_factory()
    assert make_loop is not None
    loop = make_loop()
    loop.close()
    assert isinstance(loop, kind)


@pytest.mark.server
async def test_turns_wait_for_a_free_connection_to_the_model() -> None:
    async with ScriptedUpstream() as upstream:
        async with running_service(
            openai_base_url=upstream.base_url, openai_model="tokens-5-50", upstream_max_connections=1
        ) as service:
            responses = await asyncio.gather(*(post(service, user_id=f"user{number}") for number in range(3)))
        assert [200, 200, 200] == [response.status_code for response in responses]
        assert upstream.connections == 1


@pytest.mark.server
async def test_no_write_waits_for_the_client_to_confirm_the_one_before() -> None:
    """Which would delay every response of a connection but the first by 40 ms."""
    found: list[int] = []

    def look(_url: str) -> None:
        found.append(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        server.should_exit = True

    listener = socket.create_server(("127.0.0.1", 0))
    server = DrainingServer(create_app(SETTINGS), look)
    await server.serve([listener])

    assert found == [1]


@pytest.mark.server
async def test_a_signal_that_interrupts_the_handler_of_another_does_not_skip_the_grace_period_of_a_worker() -> None:
    """Its supervisor decides about that, and may have got the same two signals as one."""

    class Interrupted(Shutdown):
        def __init__(self) -> None:
            super().__init__(grace=0)
            self.calls = 0

        def watch(self) -> None:
            """Do not end this process."""

        def signalled(self) -> bool:
            self.calls += 1
            if self.calls == 1:
                signal.raise_signal(signal.SIGINT)
            return super().signalled()

    shutdown = Interrupted()
    container = Container(settings=SETTINGS)
    container.shutdown.override(providers.Object(shutdown))

    def interrupt(_url: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    server = DrainingServer(create_app(SETTINGS, container), interrupt, on_alive=lambda: None)
    await server.serve([socket.create_server(("127.0.0.1", 0))])

    assert shutdown.calls == 1
