"""The OpenAPI document: that of FastAPI, completed and corrected."""

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from entrypoints.http.native.schemas.stream import StreamEvent
from entrypoints.http.openai.schemas import ChatCompletion, OpenAIErrorView
from entrypoints.http.policies import open_paths
from entrypoints.http.problem_examples import problem_examples
from entrypoints.http.problems import ProblemView
from entrypoints.http.responses import UPSTREAM, Responses
from entrypoints.http.unknown_fields import HEADER


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of `app`, including the schemas of responses that FastAPI does not serialize."""
    if app.openapi_schema:
        return app.openapi_schema
    found = get_openapi(
        title=app.title, version=app.version, summary=app.summary, description=app.description, routes=app.routes
    )
    _, extra = models_json_schema(
        [(model, "serialization") for model in (ProblemView, StreamEvent, ChatCompletion, OpenAIErrorView)],
        ref_template="#/components/schemas/{model}",
    )
    schemas = found["components"]["schemas"]
    schemas |= extra["$defs"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path in found["paths"].values():
        for operation in path.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
            if "requestBody" in operation:
                _add_ignored_fields(operation["responses"])
    for schema in schemas.values():
        for field in schema.get("properties", {}).values():
            field.pop("default", None)  # which `openapi-typescript` takes to mean that the field is always there
            field.pop("title", None)  # the name again, and the name of a type in `openapi-python-client`
    found["components"]["examples"] = problem_examples([kind.code for kind in UPSTREAM])
    _add_security(found, app.state.settings.auth, open_paths(app))
    app.openapi_schema = found
    return found


def _add_ignored_fields(responses: Responses) -> None:
    """Describe the header that names unknown fields of the body."""
    described = {
        "description": "Fields of the body that do not exist and were ignored, percent-encoded, each with the nearest "
        "existing one if there is one.",
        "schema": {"type": "string"},
        "example": "conversationId;did-you-mean=conversation_id, model",
    }
    for status, response in responses.items():
        if str(status).startswith("2"):
            response["headers"] = response.get("headers", {}) | {HEADER: described}


def _add_security(found: dict[str, Any], auth: str, public: Collection[str]) -> None:
    """Declare the credentials that the service accepts, so that /docs can ask for them."""
    if auth == "none":
        return
    schemes = {"bearer": {"type": "http", "scheme": "bearer", "description": "A token, or an API key."}}
    if "api_key" in auth:
        schemes["api_key"] = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    if "jwt" in auth:  # a user's token names the user
        found["components"]["schemas"]["ChatRequest"]["required"].remove("user_id")
    found["components"]["securitySchemes"] = schemes
    for path, operations in found["paths"].items():
        for operation in operations.values():
            operation["security"] = [] if path in public else [{name: []} for name in schemes]
