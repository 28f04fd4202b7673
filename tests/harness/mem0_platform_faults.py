"""Faults of the fake of Mem0's platform. Each applies to one request."""

import asyncio
import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

from tests.harness.mem0_platform import Connection, Fault, Response, respond


async def hang(connection: Connection) -> None:
    """Never respond; return when the client disconnects."""
    await connection.reader.read()


async def reset(connection: Connection) -> None:
    sock: socket.socket = connection.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.writer.transport.abort()


async def garbage(connection: Connection) -> None:
    connection.send(Response(200, b"<html>maintenance " + _echo(connection) + b"</html>"))


async def drip(connection: Connection) -> None:
    """An endless response, one byte at a time."""
    connection.writer.write(
        b"HTTP/1.1 200 Scripted\r\ncontent-type: application/json\r\ncontent-length: 999999\r\n\r\n"
    )
    while not connection.writer.transport.is_closing():
        connection.writer.write(b" ")
        await asyncio.sleep(0.02)


async def flood(connection: Connection) -> None:
    """A response of a gigabyte."""
    connection.writer.write(
        b"HTTP/1.1 200 Scripted\r\ncontent-type: application/json\r\ncontent-length: 1000000000\r\n\r\n"
    )
    while not connection.writer.transport.is_closing():
        connection.writer.write(b" " * 1_000_000)
        await connection.writer.drain()


def status(number: int, **headers: str) -> Fault:
    """A rejection that repeats the key and the request, as real ones do."""

    async def reject(connection: Connection) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.send(Response(number, {"detail": _echo(connection).decode()}, named))

    return reject


def responding(body: Any) -> Fault:
    """A successful response with this body."""

    async def send(connection: Connection) -> None:
        connection.send(Response(200, body))

    return send


def slow(seconds: float) -> Fault:
    async def wait(connection: Connection) -> None:
        await asyncio.sleep(seconds)
        await respond(connection)

    return wait


def after(event: asyncio.Event) -> Fault:
    """A normal response once the event is set."""

    async def wait(connection: Connection) -> None:
        await event.wait()
        await respond(connection)

    return wait


def executed_but(fault: Fault) -> Fault:
    """The request is executed, then its response is replaced by a fault."""

    async def execute(connection: Connection) -> None:
        connection.platform.handle(connection.request)
        await fault(connection)

    return execute


def leaking(memory: Mapping[str, Any]) -> Fault:
    """A normal listing, with this memory added at the front."""

    async def leak(connection: Connection) -> None:
        response = connection.platform.handle(connection.request)
        connection.send(Response(200, {**response.body, "results": [memory, *response.body["results"]]}))

    return leak


def _echo(connection: Connection) -> bytes:
    request = connection.request
    return json.dumps([request.headers.get("authorization"), request.target, request.body]).encode()
