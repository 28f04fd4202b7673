"""The texts of a message or delta, in the forms that services send."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

_REASONING_KEYS: Final = ("reasoning_content", "reasoning")
"""Some services send both with the same text."""


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of the reply: the content or, if there is none, a refusal.

    Raises:
        TypeError: The content is neither text nor parts.
    """
    content = message.get("content") or message.get("refusal") or ""
    if isinstance(content, str):
        return content
    return "".join(part if isinstance(part, str) else _text_of_part(part) for part in _parts(content))


def reasoning_of(message: Mapping[str, Any]) -> str:
    """Return the reasoning that the model's service keeps apart from the reply."""
    for key in _REASONING_KEYS:
        if isinstance(text := message.get(key), str) and text:
            return text
    content = message.get("content")
    if not isinstance(content, (list, dict)):
        return ""
    return "".join(_reasoning_of_part(part) for part in _parts(content) if isinstance(part, dict))


def _parts(content: object) -> Iterator[Any]:
    if isinstance(content, dict):
        yield content
    elif isinstance(content, list):
        yield from content
    else:
        raise TypeError("neither text nor parts")


def _text_of_part(part: Mapping[str, Any]) -> str:
    """Return the text of a part, empty for one of another kind, e.g. an image or reasoning."""
    if str(part.get("type", "text")) not in ("text", "output_text", "refusal"):
        return ""
    text = part.get("text") or part.get("refusal") or ""
    return text_of({"content": text.get("value") if isinstance(text, dict) else text})


def _reasoning_of_part(part: Mapping[str, Any]) -> str:
    kind = str(part.get("type"))
    if "think" not in kind and "reason" not in kind:
        return ""
    inner = next((part[key] for key in (kind, "thinking", "reasoning", "text", "summary") if part.get(key)), "")
    return text_of({"content": inner})
