"""Makes schemathesis validate each event of a stream: it looks for the schema where OpenAPI 3.2 has it."""

from typing import Any

import schemathesis

from entrypoints.http.responses import ITEM_SCHEMA


@schemathesis.hook
def before_load_schema(_context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    for item in raw_schema["paths"].values():
        for operation in item.values():
            for response in operation["responses"].values():
                for content in response.get("content", {}).values():
                    if ITEM_SCHEMA in content:
                        content["itemSchema"] = content.pop(ITEM_SCHEMA)
