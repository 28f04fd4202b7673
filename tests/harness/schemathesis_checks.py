"""Checks for `schemathesis run`, which loads this module if the variable SCHEMATHESIS_HOOKS names it."""

from typing import Any, Final

import schemathesis
from schemathesis.checks import CheckContext
from schemathesis.openapi.checks import UseAfterFree
from schemathesis.specs.openapi.checks import positive_data_acceptance, unsupported_method, use_after_free

from tests.harness import event_schemas  # noqa: F401  (registers a hook)

REPLACED: Final = ("positive_data_acceptance", "use_after_free", "unsupported_method")
"""Checks that those below stand for."""

POINTERS: Final = frozenset({"#/query/cursor", "#/query/memories", "#/header/Last-Event-ID"})
"""Parameters of which JSON Schema cannot express what is valid: a cursor that was issued, and what depends on another
parameter."""

CODES: Final = frozenset({"idempotency_key_reused", "message_too_long", "ambiguous_credentials"})
"""Problems of valid requests, which depend on earlier ones, on a setting, or on the credential of all requests."""


OPENAI_CODES: Final = frozenset({"model_not_found", "context_length_exceeded"})
"""Errors of valid requests at `/v1`, which depend on settings."""


def is_inexpressible_at_v1(error: dict[str, Any]) -> bool:
    """The same for an error in OpenAI's format.

    The last message has to be one that can be answered, and the bounds of `seed`, 64 bits, are rounded to a float.
    """
    parameter = error["param"] or ""
    return error["code"] in CODES | OPENAI_CODES or parameter == "seed" or parameter.startswith("messages[")


def is_inexpressible(problem: dict[str, Any]) -> bool:
    """Return whether a request with this problem may match its schema."""
    pointers = {error["pointer"] for error in problem.get("errors", ())}
    return problem["code"] in CODES or (bool(pointers) and pointers <= POINTERS)


@schemathesis.check
def valid_requests_are_accepted(
    ctx: CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> bool | None:
    """Like `positive_data_acceptance`, except for what JSON Schema cannot express."""
    is_problem = response.headers.get("content-type") == ["application/problem+json"]
    if is_problem and is_inexpressible(response.json()):
        return None
    if (
        response.status_code >= 400
        and case.path.startswith("/v1/")
        and is_inexpressible_at_v1(response.json()["error"])
    ):
        return None
    return positive_data_acceptance(ctx, response, case)


@schemathesis.check
def deleted_resources_are_gone(
    ctx: CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> bool | None:
    """Like `use_after_free`, except that a list whose items were deleted is empty, not missing.

    Deleting a conversation leaves the turns of the others.
    """
    listed = response.json() if response.headers.get("content-type") == ["application/json"] else {}
    if case.operation.method == "get" and response.status_code == 200 and listed.get("count") == 0:
        return None
    try:
        return use_after_free(ctx, response, case)
    except UseAfterFree as failure:
        [deletion] = [one for one in ctx.internals.find_related(case_id=case.id) if one.id == failure.deleted_case_id]
        conversation = deletion.query.get("conversation_id")
        if conversation is None or any(turn["conversation_id"] == conversation for turn in listed.get("history", ())):
            raise
        return None


@schemathesis.check
def undeclared_methods_are_refused(
    ctx: CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> bool | None:
    """Like `unsupported_method`, except where the path is also that of a memory whose id would be `search`."""
    if case.operation.path.endswith("/{user_id}/search") and case.method in ("PATCH", "DELETE"):
        return None
    return unsupported_method(ctx, response, case)
