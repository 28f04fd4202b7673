"""A model of Mem0's that is asked again without what it refuses."""

from typing import Any, Final

REFUSABLE: Final = frozenset({"temperature", "top_p", "max_tokens", "max_completion_tokens"})
"""Parameters of a request that some models do not take, or not with every value."""


class LearningLLM:
    """Mem0 knows only the older of the models by name that refuse something."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self.config = llm.config

    def generate_response(self, *positional: Any, **named: Any) -> Any:
        try:
            return self._llm.generate_response(*positional, **named)
        except Exception as error:
            if getattr(error, "param", None) not in REFUSABLE or getattr(self.config, "is_reasoning_model", None):
                raise
        self.config.is_reasoning_model = True  # Mem0's word for models that are to choose all of these themselves
        return self._llm.generate_response(*positional, **named)
