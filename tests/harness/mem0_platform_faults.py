"""What can go wrong at the stand-in for Mem0's hosted service. Each is for one request."""

import asyncio
import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

from tests.harness.mem0_platform import Answer, Connection, Fault, answer


async def hang(connection: Connection) -> None:
    """Say nothing until the client leaves."""
    await connection.reader.read()


async def reset(connection: Connection) -> None:
    sock: socket.socket = connection.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.writer.transport.abort()


async def garbage(connection: Connection) -> None:
    connection.send(Answer(200, b"<html>maintenance " + _spoken(connection) + b"</html>"))


async def drip(connection: Connection) -> None:
    """An answer that never ends, a byte at a time."""
    connection.writer.write(
        b"HTTP/1.1 200 Scripted\r\ncontent-type: application/json\r\ncontent-length: 999999\r\n\r\n"
    )
    while not connection.writer.transport.is_closing():
        connection.writer.write(b" ")
        await asyncio.sleep(0.02)


async def flood(connection: Connection) -> None:
    """An answer of a gigabyte."""
    connection.writer.write(
        b"HTTP/1.1 200 Scripted\r\ncontent-type: application/json\r\ncontent-length: 1000000000\r\n\r\n"
    )
    while not connection.writer.transport.is_closing():
        connection.writer.write(b" " * 1_000_000)
        await connection.writer.drain()


def status(number: int, **headers: str) -> Fault:
    """A refusal whose text repeats the key and what was sent, as real ones do."""

    async def refuse(connection: Connection) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.send(Answer(number, {"detail": _spoken(connection).decode()}, named))

    return refuse


def saying(body: Any) -> Fault:
    """A well-formed answer with this in it."""

    async def say(connection: Connection) -> None:
        connection.send(Answer(200, body))

    return say


def slow(seconds: float) -> Fault:
    async def wait(connection: Connection) -> None:
        await asyncio.sleep(seconds)
        await answer(connection)

    return wait


def after(event: asyncio.Event) -> Fault:
    """An ordinary answer, held back until something has happened."""

    async def wait(connection: Connection) -> None:
        await event.wait()
        await answer(connection)

    return wait


def unheard(fault: Fault) -> Fault:
    """The platform does as it was told, and its answer gets lost."""

    async def do(connection: Connection) -> None:
        connection.platform.answered(connection.request)
        await fault(connection)

    return do


def leaking(memory: Mapping[str, Any]) -> Fault:
    """An ordinary listing, with a memory in front that nobody asked for."""

    async def leak(connection: Connection) -> None:
        told = connection.platform.answered(connection.request)
        connection.send(Answer(200, {**told.body, "results": [memory, *told.body["results"]]}))

    return leak


def _spoken(connection: Connection) -> bytes:
    request = connection.request
    return json.dumps([request.headers.get("authorization"), request.target, request.body]).encode()
