"""Retry a model's call without the parameters that it rejects."""

from typing import Any, Final

OPTIONAL_PARAMETERS: Final = frozenset({"temperature", "top_p", "max_tokens", "max_completion_tokens"})
"""Request parameters that some models reject, or accept with certain values only."""


class ParameterFallback:
    """Wraps an LLM of Mem0's, which knows from their names only the older models that reject parameters."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self.config = llm.config

    def generate_response(self, *positional: Any, **named: Any) -> Any:
        try:
            return self._llm.generate_response(*positional, **named)
        except Exception as error:
            rejected = getattr(error, "param", None)
            if rejected not in OPTIONAL_PARAMETERS or getattr(self.config, "is_reasoning_model", None):
                raise
        self.config.is_reasoning_model = True  # makes Mem0 leave out all of these parameters from now on
        return self._llm.generate_response(*positional, **named)
