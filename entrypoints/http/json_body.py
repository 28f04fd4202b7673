"""Read and parse request bodies: limited in size, declared as JSON, and strictly JSON (RFC 8259)."""

import json
import math
import re
from typing import Any, Final, NoReturn

import anyio
from fastapi import Request
from starlette.requests import ClientDisconnect

from entrypoints.http.errors import ClientGone
from entrypoints.http.request_problems import (
    body_too_large,
    malformed_json,
    too_many_values,
    unsupported_content_coding,
    unsupported_media_type,
)

MAX_VALUES: Final = 125_000
"""Values in a body. Enough for the 20,000 messages of `/v1`, each with a part of text. However small a value is, it
takes some microseconds and a hundred bytes, a hundred times as much as the same size of text."""

_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""A string, or the rest of the body if that has no end."""

_JSON_TYPE: Final = re.compile(r"application/(?:[\w.!#$&^-]+\+)?json\s*(?:;|$)", re.IGNORECASE)


class JSONRequest(Request):
    """A request with a JSON body. After `parse`, `body()` and `json()` return the parsed body without reading again."""

    async def parse(self, limit: int, *, discard_timeout: float = 1.0) -> Any:
        """Read and parse the body, which may have up to `limit` bytes.

        An oversized body is read and discarded for up to `discard_timeout` seconds and `2 * limit` bytes, because a
        client that is still sending might not read the 413.

        Raises:
            RequestProblem: The body has another content type, is compressed, is too large or not JSON, or it violates
                HTTP, or does not arrive in time.
            ClientGone: The client disconnected before the end of the body.
        """
        if not _JSON_TYPE.match(self.headers.get("content-type", "")):
            raise unsupported_media_type()
        if any(coding not in ("", "identity") for coding in self._content_codings()):
            raise unsupported_content_coding()
        body = await self._read(limit, discard_timeout)
        if refusal := self.scope.get("state", {}).get("refusal"):  # by the connection, see `entrypoints/connection.py`
            raise refusal
        if body is None:
            raise body_too_large(limit)
        self._body = body
        self._json = parse_json(body)
        return self._json

    async def _read(self, limit: int, discard_timeout: float) -> bytes | None:
        """Return the body; None if it has more than `limit` bytes."""
        declared = self.headers.get("content-length", "")
        size = int(declared) if declared.isdecimal() else 0
        if size > 2 * limit:
            return None
        chunks, received = [], 0
        with anyio.CancelScope() as reading:
            if size > limit:
                reading.deadline = anyio.current_time() + discard_timeout
            try:
                async for chunk in self.stream():
                    received += len(chunk)
                    if received <= limit:
                        chunks.append(chunk)
                    elif received <= 2 * limit:
                        reading.deadline = min(reading.deadline, anyio.current_time() + discard_timeout)
                    else:
                        return None
            except ClientDisconnect:
                raise ClientGone from None
        return None if received > limit or reading.cancelled_caught else b"".join(chunks)

    def _content_codings(self) -> list[str]:
        values = ",".join(self.headers.getlist("content-encoding"))
        return [coding.strip().lower() for coding in values.split(",")]


def parse_json(body: bytes) -> Any:
    """Parse `body` as JSON.

    Stricter than `json.loads`: rejects NaN, infinite numbers and duplicate keys, which parsers interpret differently.

    Raises:
        RequestProblem: The body is not JSON, or has more than MAX_VALUES values. The message does not quote it.
    """
    if _count_values(body) > MAX_VALUES:
        raise too_many_values(MAX_VALUES)
    try:
        return json.loads(body.decode(), parse_constant=_reject, parse_float=_finite, object_pairs_hook=_unique)
    except RecursionError:
        raise malformed_json("The body is nested too deeply.") from None
    except UnicodeDecodeError as error:
        raise malformed_json(f"The body is not valid UTF-8 at byte {error.start}.") from None
    except json.JSONDecodeError as error:
        raise malformed_json(f"The body is not valid JSON at character {error.pos}: {error.msg}.") from None
    except ValueError:  # an integer that exceeds Python's limit on digits
        raise malformed_json("The body contains a number that is out of range.") from None


def _count_values(body: bytes) -> int:
    """Return about how many values there are, and never less, from what separates and begins them."""
    count = _count_marks(body)
    strings = (body.count(b'"') - body.count(b'\\"')) // 2  # at least, and up to two for each value
    if count <= MAX_VALUES or strings > 2 * MAX_VALUES:
        return count
    return _count_marks(_STRING.sub(b"", body))  # without the commas and brackets of texts


def _count_marks(json: bytes) -> int:
    return json.count(b",") + json.count(b"[") + json.count(b"{")


def _reject(name: str) -> NoReturn:
    raise malformed_json(f"The body contains {name}, which is not JSON.")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise malformed_json("The body contains a number that is out of range.")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed = dict(pairs)
    if len(parsed) != len(pairs):
        raise malformed_json("The body contains an object with a duplicate key.")
    return parsed
