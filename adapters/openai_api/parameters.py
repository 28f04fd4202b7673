"""The parameters that a model accepts."""

from collections.abc import Mapping
from typing import Any, Final

import openai

_REJECTION_CODES: Final = frozenset({"unsupported_parameter", "unsupported_value", "unknown_parameter"})


class Parameters:
    """The parameters of a call, without those that the model has rejected.

    Some models only accept `max_completion_tokens`, some accept no temperature, and some servers do not know
    `stream_options`. Older servers silently ignore the newer names, so the only reliable source is the rejection
    itself. It is remembered for the lifetime of this object.
    """

    def __init__(self, *, temperature: float, max_tokens: int) -> None:
        self._defaults: Mapping[str, Any] = {
            "temperature": temperature,
            "max_tokens": max_tokens,
            "stream_options": {"include_usage": True},
        }
        self._replacements: Mapping[str, Mapping[str, Any]] = {"max_tokens": {"max_completion_tokens": max_tokens}}
        self._current: Mapping[str, Any] = self._defaults
        self._rejected: set[str] = set()

    @property
    def current(self) -> Mapping[str, Any]:
        """The parameters of the next request."""
        return self._current

    def adapt(self, error: openai.APIStatusError, sent: Mapping[str, Any]) -> bool:
        """Drop or replace the parameter that `error` rejects. Return whether the call is worth repeating.

        That holds once per call and parameter: the rejected one has to be in `sent`.
        """
        parameter = str(error.param).partition(".")[0]
        if error.status_code not in (400, 422) or error.code not in _REJECTION_CODES:
            return False
        if parameter not in self._defaults or parameter not in sent:
            return False
        self._rejected.add(parameter)
        current: dict[str, Any] = {}
        for name, value in self._defaults.items():
            current |= self._replacements.get(name, {}) if name in self._rejected else {name: value}
        self._current = current
        return True
