"""A route without what only other routes need."""

from collections.abc import Awaitable, Callable
from inspect import signature
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.types import Receive, Scope, Send

from entrypoints.http.json_body import JSONRequest, JSONRoute


class DirectRoute(JSONRoute):
    """Calls its endpoint with a JSON body, the request, and what functions of the request give; it returns a response.

    FastAPI reads and declares the endpoint as any other. It does not call it: what it does on the way for forms, files,
    generators and response models costs a sixth of a turn of one token.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        (self._body,) = self.dependant.body_params
        self._request_name = str(self.dependant.request_param_name)
        self._needs: dict[str, Callable[[Request], Awaitable[Any]]] = {
            str(need.name): need.call for need in self.dependant.dependencies if need.call is not None
        }
        given = {self._body.name, self._request_name, *self._needs}
        assert given == signature(self.endpoint).parameters.keys(), "its endpoint takes what nobody would give it"
        assert all(len(signature(need).parameters) == 1 for need in self._needs.values()), "they get the request only"

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.methods and scope["method"] not in self.methods:
            await super().handle(scope, receive, send)
            return
        response = await self._call(JSONRequest(scope, receive))
        await response(scope, receive, send)

    async def _call(self, request: JSONRequest) -> Response:
        parsed = await request.parse(request.app.state.settings.max_body_bytes)
        body, errors = self._body.validate(parsed, {}, loc=("body",))
        if errors:
            raise RequestValidationError(errors, body=parsed)
        given = {name: await need(request) for name, need in self._needs.items()}
        response: Response = await self.endpoint(**{self._body.name: body, self._request_name: request}, **given)
        return response
