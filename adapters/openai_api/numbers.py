"""Numbers, which some services send as strings."""

from typing import Final

_MAX_TOKENS: Final = 10**9


def parse_number(value: object) -> float | None:
    """Return a number, None if `value` is none."""
    if not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (OverflowError, ValueError):
        return None


def parse_count(value: object) -> int | None:
    """Return a number of tokens, None if `value` is none."""
    number = parse_number(value)
    return int(number) if number is not None and 0 <= number <= _MAX_TOKENS else None
