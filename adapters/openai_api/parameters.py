"""What a model lets a call say."""

from collections.abc import Mapping
from typing import Any, Final

import openai

REFUSALS: Final = frozenset({"unsupported_parameter", "unsupported_value", "unknown_parameter"})


class Parameters:
    """The parameters of a call, less what the model was found to refuse.

    Some models take `max_completion_tokens` only, some take no temperature, some servers know no `stream_options`.
    Nothing says so beforehand, and older servers ignore the newer names in silence: the refusal itself is the only
    dependable source. What it says is remembered for as long as this object lives.
    """

    def __init__(self, *, temperature: float, max_tokens: int) -> None:
        self._usual: Mapping[str, Any] = {
            "temperature": temperature,
            "max_tokens": max_tokens,
            "stream_options": {"include_usage": True},
        }
        self._instead: Mapping[str, Mapping[str, Any]] = {"max_tokens": {"max_completion_tokens": max_tokens}}
        self._current: Mapping[str, Any] = self._usual
        self._refused: set[str] = set()

    @property
    def current(self) -> Mapping[str, Any]:
        """What to send now."""
        return self._current

    def learn(self, refusal: openai.APIStatusError, sent: Mapping[str, Any]) -> bool:
        """Whether the call is worth repeating, since it was refused for a parameter that `current` no longer has.

        Each call can be told so once for a parameter, whatever other calls have learnt meanwhile.
        """
        parameter = str(refusal.param).partition(".")[0]
        if refusal.status_code not in (400, 422) or refusal.code not in REFUSALS:
            return False
        if parameter not in self._usual or parameter not in sent:
            return False
        self._refused.add(parameter)
        current: dict[str, Any] = {}
        for name, value in self._usual.items():
            current |= self._instead.get(name, {}) if name in self._refused else {name: value}
        self._current = current
        return True
