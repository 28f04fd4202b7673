"""Errors as services report them, reduced to a few fields whatever their shape."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, Self

from adapters.openai_api.html_escapes import unescape

_CODE_KEYS: Final = ("code", "error_code", "errorcode", "status_code", "statuscode", "status", "reason", "error")
_TYPE_KEYS: Final = ("type", "error_type", "__type", "errortype", "kind")
_PARAM_KEYS: Final = ("param", "parameter", "field")
_MESSAGE_KEYS: Final = (
    *("message", "msg", "error_msg", "status_msg", "errormessage", "error_message"),
    *("error", "detail", "title", "description", "errors"),
)
_ENVELOPES: Final = frozenset({"body", "request", "data", "payload", "query", "json"})
"""Names of the whole request, in the paths of its fields."""

_CODE: Final = re.compile(r"[\w.:/-]{1,100}")
"""What tells a code from a sentence; some services have both under the same key."""

PROMPT_FIELDS: Final = frozenset(
    {
        "messages",
        "message",
        "prompt",
        "prompts",
        "input",
        "inputs",
        "content",
        "contents",
        "text",
        "system",
        "conversation",
    }
)
"""Fields of a request that hold its text, in any dialect."""

_NOTHING: Final = frozenset({"", "none", "null"})
"""Names that stand for none. LiteLLM writes Python's `None` as text."""

_MARKUP: Final = re.compile(r"<(script|style)\b.*?(?:</\1\s*>|\Z)|<[^<>]{0,1000}>", re.I | re.S)
_MAX_MESSAGES: Final = 5
_MAX_BODY_CHARS: Final = 64 * 1024
_MAX_MESSAGE_CHARS: Final = 8 * 1024
"""Limit of what is searched for the meaning of an error. A body may have a megabyte, and patterns take their time."""

_MAX_FIELDS: Final = 1_000
_MAX_ITEMS: Final = 20
"""How many fields of an error are read, and how many items of each list in it."""

_MAX_NAME_CHARS: Final = 200
_WORD_BOUNDARY: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as reported by a service, in the body of a response or within a stream.

    Its texts are the service's own and may quote credentials or the request: they decide what an error means, and must
    pass a `Redactor` before they are logged.

    Args:
        status: The HTTP status; if the response has none of an error, the number in the body that looks like one.
        codes: All codes and types, as lower-case words joined by underscores.
        parameters: Names of the fields of the request that are said to be wrong, e.g. `stream_options`.
        numbers: Numeric fields, e.g. `n_ctx`, in lower case.
        retry_delays: Waiting times as written, e.g. `37s`.
        keys: Names of all fields, in lower case.
        is_page: The body is HTML.
    """

    status: int | None
    code: str = ""
    type: str = ""
    message: str = ""
    codes: frozenset[str] = frozenset()
    parameters: tuple[str, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    retry_delays: tuple[str, ...] = ()
    keys: frozenset[str] = frozenset()
    is_page: bool = False

    @property
    def named_fields(self) -> frozenset[str]:
        """The first names in `parameters`: those of fields of the request, in lower case."""
        paths = (re.findall(r"[a-z]\w*", path.lower()) for path in self.parameters)
        return frozenset(next((name for name in names if name not in _ENVELOPES), "") for names in paths) - {""}

    def may_concern(self, fields: frozenset[str]) -> bool:
        """Whether it names one of `fields`, or no field at all."""
        return not self.named_fields or not fields.isdisjoint(self.named_fields)

    @classmethod
    def parse(cls, body: object, status: int | None = None) -> Self:
        """Read the error in `body`: parsed JSON of any shape, or text that may be JSON or HTML.

        Fields are found by name at any depth, since services and gateways wrap each other's errors.
        """
        if isinstance(body, bytes):
            body = body.decode(errors="replace")
        if isinstance(body, str):
            body = _parsed(body)
        if not isinstance(body, (Mapping, list)):
            text = "" if body is None else _plain(str(body))
            return cls(_status(status, (text,)), message=text, is_page="<html" in str(body)[:1000].lower())
        found = list(islice(_fields(body), _MAX_FIELDS))
        codes = [_text(value) for key, value in found if key in _CODE_KEYS and _is_code(value)]
        types = [_text(value) for key, value in found if key in _TYPE_KEYS and _is_code(value)]
        types = [
            name for name in types if name.lower() not in ("error", *_NOTHING)
        ]  # the former of Anthropic's envelope
        return cls(
            _status(status, codes),
            code=next((code for code in codes if not code.isdigit()), next(iter(codes), "")),
            type=next(iter(types), ""),
            message=_plain(". ".join(_messages(found))),
            codes=frozenset(map(_snake, (*codes, *types))),
            parameters=tuple(_parameters(found)),
            numbers={key: value for key, value in found if _is_number(value)},
            retry_delays=tuple(
                _text(value)[:_MAX_NAME_CHARS] for key, value in found if key in ("retrydelay", "retry_after")
            ),
            keys=frozenset(key for key, _ in found),
        )


def _fields(value: Any, depth: int = 8) -> Iterator[tuple[str, Any]]:
    """Yield the fields of nested objects, those of an outer object before those of inner ones."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        value = _parsed(value)  # an error of another service, quoted as JSON
    if depth == 0 or not isinstance(value, (Mapping, list)):
        return
    if isinstance(value, list):
        for item in value[:_MAX_ITEMS]:
            yield from _fields(item, depth - 1)
        return
    for key, item in value.items():
        yield str(key).lower(), item
    for item in value.values():
        yield from _fields(item, depth - 1)


def _parsed(text: str) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    return text


def _plain(text: str) -> str:
    """Return the beginning of the visible text of what may be HTML."""
    text = text[:_MAX_BODY_CHARS]
    visible = unescape(_MARKUP.sub(" ", text)) if "<" in text else text
    return " ".join(visible.split())[:_MAX_MESSAGE_CHARS]


def _messages(found: list[tuple[str, Any]]) -> list[str]:
    messages: list[str] = []
    for value in (value for key, value in found if key in _MESSAGE_KEYS):
        for text in value[:_MAX_ITEMS] if isinstance(value, list) else (value,):
            if not isinstance(text, str) or not text.strip() or isinstance(_parsed(text), (Mapping, list)):
                continue  # what is quoted as JSON was found by its fields
            if text not in messages:
                messages.append(text)
                if len(messages) == _MAX_MESSAGES:
                    return messages
    return messages


def _parameters(found: list[tuple[str, Any]]) -> Iterator[str]:
    for key, value in found:
        if key in _PARAM_KEYS and isinstance(value, str) and value.lower() not in _NOTHING:
            yield value[:_MAX_NAME_CHARS]
        elif key == "loc" and isinstance(value, list):
            named = (str(part) for part in value[:_MAX_ITEMS] if part not in ("body", "query"))
            yield ".".join(named)[:_MAX_NAME_CHARS]


def _status(status: int | None, codes: Any) -> int | None:
    if status is not None and status >= 300:
        return status
    numbers = (int(code) for code in codes if len(code) == 3 and code.isdecimal())
    return next((number for number in numbers if 300 <= number < 600), status)


def _is_code(value: object) -> bool:
    return _is_number(value) or (isinstance(value, str) and _CODE.fullmatch(value) is not None)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(value: object) -> str:
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _snake(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", _WORD_BOUNDARY.sub("_", name).lower()).strip("_")
