"""Route classes: policies, JSON bodies, and a direct call of the endpoint on the busiest route."""

from collections.abc import Awaitable, Callable, Coroutine
from inspect import iscoroutinefunction, signature
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from entrypoints.http.json_body import JSONRequest
from entrypoints.http.policies import check_body, check_request, policy_of
from entrypoints.http.unknown_fields import check_fields
from entrypoints.settings import Settings


class SecuredRoute(APIRoute):
    """A route that enforces the policy of its endpoint before it does anything else.

    It reads and parses its body, if it has one, with `JSONRequest` instead of FastAPI.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.policy = policy_of(self.endpoint)
        self._fields = _fields_of(self.body_field)

    def body_limit(self, settings: Settings) -> int:
        """Return the maximum size of a body, in bytes."""
        return settings.body_limit

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        check_request(self.policy, scope)
        await self._handle_permitted(scope, receive, send)

    async def _handle_permitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().handle(scope, receive, send)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def read_and_handle(request: Request) -> Response:
            body = JSONRequest(request.scope, request.receive)
            await self._parse(body)
            return await handle(body)

        return read_and_handle

    async def _parse(self, request: JSONRequest) -> Any:
        settings = request.app.state.settings
        parsed = await request.parse(self.body_limit(settings))
        check_body(self.policy, request.scope, parsed)
        check_fields(request.scope, parsed, self._fields, strict=settings.strict_fields)
        return parsed


def _fields_of(body: Any) -> frozenset[str] | None:
    """Return the names of the fields of a route's body, or None if it has none, or is not a model."""
    model = body.field_info.annotation if body else None
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return None
    return frozenset(field.alias or name for name, field in model.model_fields.items())


class DirectRoute(SecuredRoute):
    """A JSON route that calls its endpoint without FastAPI's request handling; see docs/adr/0014.

    The endpoint takes exactly a body, the request, and dependencies that are coroutine functions of the request; it
    returns a response. If the route has any other dependency (of the app, a router or an include), an override, or a
    body size limit of FastAPI's, then FastAPI handles the request.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        (self._body,) = self.dependant.body_params
        self._request_name = str(self.dependant.request_param_name)
        self._dependencies: dict[str, Callable[[Request], Awaitable[Any]]] = {
            str(dependency.name): dependency.call
            for dependency in self.dependant.dependencies
            if dependency.name is not None and dependency.call is not None
        }
        arguments = {self._body.name, self._request_name, *self._dependencies}
        assert arguments == signature(self.endpoint).parameters.keys(), "the endpoint has an unsupported parameter"
        for dependency in self._dependencies.values():
            assert iscoroutinefunction(dependency), "a dependency is not a coroutine function"
            assert len(signature(dependency).parameters) == 1, "a dependency takes more than the request"

    async def _handle_permitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._can_call_directly(scope):
            await super()._handle_permitted(scope, receive, send)
            return
        response = await self._call(JSONRequest(scope, receive))
        await response(scope, receive, send)

    def _can_call_directly(self, scope: Scope) -> bool:
        # FastAPI keeps the dependencies of the app and the routers with the included route, not with this object.
        # That is not documented: if it changes, `included` is None and FastAPI handles the request.
        included = scope.get("fastapi", {}).get("effective_route_context")
        return (
            included is not None
            and not included.dependencies
            and included.max_body_size is None
            and not scope["app"].dependency_overrides
            and scope["method"] in included.methods
        )

    async def _call(self, request: JSONRequest) -> Response:
        parsed = await self._parse(request)
        body, errors = self._body.validate(parsed, {}, loc=("body",))
        if errors:
            raise RequestValidationError(errors, body=parsed)
        values = {name: await dependency(request) for name, dependency in self._dependencies.items()}
        response: Response = await self.endpoint(**{self._body.name: body, self._request_name: request}, **values)
        return response
