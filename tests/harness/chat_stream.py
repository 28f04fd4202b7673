"""A decoder for the native stream format that shares no code with the service."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ChatStream:
    """The ids and the data of all complete events, in order."""

    numbers: list[int]
    data: list[str]

    @classmethod
    def of(cls, body: bytes) -> "ChatStream":
        numbers, data = [], []
        for block in body.decode(errors="replace").split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
            numbers.append(int(fields["id"]))
            data.append(fields["data"])
        return cls(numbers, data)

    @property
    def deltas(self) -> list[str]:
        chunks = [json.loads(data) for data in self.data if data != "[DONE]"]
        return [chunk["content"] for chunk in chunks if not chunk["done"]]

    @property
    def text(self) -> str:
        return "".join(self.deltas)

    @property
    def last(self) -> dict[str, Any]:
        """The event with `done: true`. Fails unless `[DONE]` follows it."""
        assert self.data[-1:] == ["[DONE]"], self.data[-2:]
        last: dict[str, Any] = json.loads(self.data[-2])
        return last

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.last["error"]
        return error
