"""Check the model's reply to the extraction of facts, because Mem0 takes one that it cannot parse for "no facts"."""

import json
from typing import Any, Final

from adapters.error_translation import foreign_error
from application.ports.memory import FactsNotExtracted

_UNREADABLE: Final = (
    json.JSONDecodeError,
    UnicodeDecodeError,
    AttributeError,
    TypeError,
    LookupError,
    RecursionError,
)
"""Exceptions that mean that a response was received, but was not that of a chat completion."""


_NO_COMPLETION: Final = (
    "The model's service answered the request for facts with something other than a chat completion, e.g. a stream, a "
    "web page or other JSON; check OPENAI_BASE_URL and OPENAI_MODEL."
)


class CheckedExtraction:
    """Wraps an LLM of Mem0's and raises `FactsNotExtracted` if a reply does not have the expected form.

    Expected is `{"memory": [{"text": "…"}, …]}`, possibly with text around it. An empty list means that there are no
    facts. Mem0 logs any other reply, if at all, and carries on as if the list had been empty. A response in which the
    clients of Mem0 find no reply, e.g. a web page or a stream, makes them raise one of `_UNREADABLE`.
    """

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self.config = llm.config

    def generate_response(self, *positional: Any, **named: Any) -> Any:
        try:
            reply = self._llm.generate_response(*positional, **named)
            _check(reply)
        except _UNREADABLE as error:
            raise FactsNotExtracted(_NO_COMPLETION) from foreign_error(error)
        return reply


def _check(reply: object) -> None:
    """Parse a reply in the way Mem0 does.

    Raises:
        FactsNotExtracted: there is something in it that Mem0 would drop.
    """
    from mem0.memory.utils import extract_json, remove_code_blocks

    text = remove_code_blocks(reply)
    if not text:
        raise FactsNotExtracted("The model replied with nothing when it was asked for facts; check OPENAI_MODEL.")
    try:
        parsed = _parsed(text)
    except ValueError:
        try:
            parsed = _parsed(extract_json(text))
        except ValueError:
            raise FactsNotExtracted(
                "The model replied with prose or incomplete JSON when it was asked for facts; check OPENAI_MODEL."
            ) from None
    if not isinstance(parsed, dict) or "memory" not in parsed or not _are_facts(parsed["memory"]):
        raise FactsNotExtracted(
            "The model replied with JSON of another form when it was asked for facts; check OPENAI_MODEL."
        )


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, strict=False)
    except RecursionError:  # deeply nested
        raise ValueError from None


def _are_facts(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, list) and all(
        isinstance(fact, dict) and isinstance(fact.get("text"), str) and fact["text"].strip() for fact in value
    )
