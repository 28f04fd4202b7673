"""The OpenAPI document, as its readers and the generators of clients need it."""

from collections.abc import Iterator
from typing import Any

import pytest
from openapi_spec_validator import validate

from application.ports.live_turns import Batch, End
from entrypoints.http.native.wire import NativeWire
from entrypoints.http.problem_examples import TURN
from entrypoints.http.problems import ProblemView
from tests.integration.test_openapi import document, documented, references


def properties(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from schema.get("properties", {}).items()


def formats(schema: dict[str, Any]) -> set[str]:
    """Return the formats of a string that may be null."""
    return {each["format"] for each in (schema, *schema.get("anyOf", ())) if "format" in each}


def problem_content(response: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = response.get("content", {}).get("application/problem+json", {})
    return found


def test_the_document_is_valid_for_the_version_that_it_declares() -> None:
    assert document()["openapi"] == "3.1.0"  # the newest that openapi-python-client reads; see docs/adr/0041
    validate(document())


def test_every_operation_has_a_summary_a_description_and_a_tag() -> None:
    needed = ("summary", "description", "tags")

    assert [key for key, each in documented().items() if not all(each.get(name) for name in needed)] == []


def test_every_parameter_has_a_description_and_an_example() -> None:
    assert [
        (key, parameter["name"])
        for key, operation in documented().items()
        for parameter in operation.get("parameters", [])
        if not parameter.get("description") or not (parameter.get("example") or parameter["schema"].get("examples"))
    ] == []


def test_every_schema_and_every_field_has_a_description() -> None:
    schemas = document()["components"]["schemas"]
    enumerations = {name for name, schema in schemas.items() if "enum" in schema}  # described where they are used
    fields = {f"{name}.{field}": each for name, schema in schemas.items() for field, each in properties(schema)}

    assert [name for name, schema in schemas.items() if not schema.get("description")] == sorted(enumerations)
    assert [name for name, field in fields.items() if not field.get("description") and "$ref" not in field] == []


def test_every_field_has_an_example_unless_its_parts_have() -> None:
    schemas = document()["components"]["schemas"]

    assert [
        f"{name}.{field}"
        for name, schema in schemas.items()
        for field, each in properties(schema)
        if not each.get("examples") and not list(references(each))
    ] == []


@pytest.mark.parametrize("name", ["timestamp", "created_at", "updated_at", "time"])
def test_times_have_a_format(name: str) -> None:
    found = [each for schema in document()["components"]["schemas"].values() for field, each in properties(schema)
             if field == name]  # fmt: skip

    assert found
    assert [each for each in found if "date-time" not in formats(each)] == []


def test_ids_that_the_service_assigns_have_a_format() -> None:
    schemas = document()["components"]["schemas"]
    fields = [schemas[schema]["properties"][field] for schema, field in (
        ("TurnView", "id"), ("MemoryView", "id"), ("RecalledMemoryView", "id"), ("ForgottenMemoryView", "id"),
        ("StreamError", "turn_id"), ("ProblemView", "turn_id"),
    )]  # fmt: skip
    parameters = [
        parameter["schema"]
        for operation in documented().values()
        for parameter in operation.get("parameters", [])
        if parameter["name"] in ("turn_id", "memory_id")
    ]
    assert parameters
    assert [each for each in fields + parameters if "uuid" not in formats(each)] == []


def test_no_field_has_a_default_because_generators_take_it_for_required() -> None:
    schemas = document()["components"]["schemas"].values()

    assert [field for schema in schemas for field, each in properties(schema) if "default" in each] == []


def test_every_problem_has_an_example_of_its_status_and_code() -> None:
    examples = document()["components"]["examples"]
    used = {
        (key, status, code): examples[example["$ref"].rpartition("/")[2]]["value"]
        for key, operation in documented().items()
        for status, response in operation["responses"].items()
        for code, example in problem_content(response).get("examples", {}).items()
    }
    without = [
        (key, status)
        for key, operation in documented().items()
        for status, response in operation["responses"].items()
        if problem_content(response) and not problem_content(response)["examples"]
    ]

    assert without == []
    assert {(status, code) for _, status, code in used} == {
        (str(example["status"]), example["code"]) for example in used.values()
    }
    assert [
        example for example in used.values() if ProblemView(**example).model_dump(exclude_none=True) != example
    ] == []


def test_the_example_of_a_stream_is_what_the_service_sends() -> None:
    stream = documented()[("POST", "/api/chat")]["responses"]["200"]["content"]["text/event-stream"]
    deltas = ["Hello! I'm doing well", ", thank you for asking."]

    assert stream["example"].encode() == NativeWire(TURN).encode(Batch(1, deltas, True, End("stop", None)))


def test_every_reference_resolves() -> None:
    found = document()
    parts = {f"#/components/{kind}/{name}" for kind in ("schemas", "examples") for name in found["components"][kind]}

    assert set(references(found)) <= parts
