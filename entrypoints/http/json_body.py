"""Request bodies: bounded, declared as JSON, and strictly JSON (RFC 8259)."""

import json
import math
import re
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn

import anyio
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from entrypoints.http.errors import ClientGone, body_too_large, malformed_json, unsupported_media_type

_JSON_TYPE: Final = re.compile(r"application/(?:[\w.!#$&^-]+\+)?json\s*(?:;|$)", re.IGNORECASE)

PATIENCE: Final = 1.0
"""Seconds that the rest of a body that is too large is listened to."""


class JSONRoute(APIRoute):
    """A route whose body, if it takes one, is read and parsed here before anything else sees it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def read_and_handle(request: Request) -> Response:
            body = JSONRequest(request.scope, request.receive)
            await body.parse(request.app.state.settings.max_body_bytes)
            return await handle(body)

        return read_and_handle


class JSONRequest(Request):
    async def parse(self, limit: int) -> Any:
        """Read and parse the body.

        Raises:
            RequestProblem: it is declared as something else, too large, or not JSON.
            ClientGone: the client left in the middle of it.
        """
        if not _JSON_TYPE.match(self.headers.get("content-type", "")):
            raise unsupported_media_type()
        announced = self.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > 2 * limit:
            raise body_too_large(limit)
        chunks, size = [], 0
        try:
            with anyio.CancelScope() as patience:
                if announced.isdecimal() and int(announced) > limit:
                    patience.deadline = anyio.current_time() + PATIENCE
                async for chunk in self.stream():
                    size += len(chunk)
                    if size <= limit:
                        chunks.append(chunk)
                    elif size <= 2 * limit:  # a client that is still sending may never read the answer
                        patience.deadline = min(patience.deadline, anyio.current_time() + PATIENCE)
                    else:
                        break
        except ClientDisconnect:
            raise ClientGone from None
        if size > limit or patience.cancelled_caught:
            raise body_too_large(limit)
        self._body = b"".join(chunks)
        self._json = parse_json(self._body)
        return self._json


def parse_json(body: bytes) -> Any:
    """The value that `body` stands for.

    Stricter than the standard library, which takes NaN, infinite numbers and repeated keys: no two parsers agree on
    what those mean.

    Raises:
        RequestProblem: it is not JSON.
    """
    try:
        return json.loads(
            body.decode(), parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_without_repetition
        )
    except RecursionError:
        raise malformed_json("The body is nested too deeply.") from None
    except UnicodeDecodeError as error:
        raise malformed_json(f"The body is not UTF-8 at byte {error.start}.") from None
    except json.JSONDecodeError as error:
        raise malformed_json(f"The body is not JSON at character {error.pos}: {error.msg}.") from None
    except ValueError:  # an integer with more digits than Python reads
        raise malformed_json("The body has a number that is out of range.") from None


def _refuse(name: str) -> NoReturn:
    raise malformed_json(f"The body has {name}, which JSON does not know.")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise malformed_json("The body has a number that is out of range.")
    return value


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed = dict(pairs)
    if len(parsed) != len(pairs):
        raise malformed_json("The body has an object with the same key twice.")
    return parsed
