"""Where values of settings come from."""

from typing import Any

from pydantic_settings import PydanticBaseSettingsSource

from entrypoints.configuration.keys import SAMPLE_KEYS
from entrypoints.configuration.types import trimmed


class WithoutEmptyKeys(PydanticBaseSettingsSource):
    """Values of another source, without the keys that are empty or samples, so that the next source counts."""

    def __init__(self, source: PydanticBaseSettingsSource) -> None:
        super().__init__(source.settings_cls)
        self._source = source

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self._source.get_field_value(field, field_name)

    def __call__(self) -> dict[str, Any]:
        return {name: value for name, value in self._source().items() if not _is_no_key(name, value)}


def _is_no_key(name: str, value: Any) -> bool:
    is_key = name.endswith(("_key", "_secret"))
    return is_key and isinstance(value, str) and (not trimmed(value) or trimmed(value) in SAMPLE_KEYS)
