"""JSON as services send it."""

import json
from contextlib import suppress
from typing import Any

import orjson


def load_json(data: bytes) -> Any:
    """Parse JSON in UTF-8. Lone surrogates and invalid bytes, which some services send, are accepted.

    Raises:
        ValueError: It is not JSON.
    """
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(data)
    try:
        return json.loads(data.decode(errors="replace"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
