"""The log of a service that runs in this process."""

import json
from typing import Any

import pytest


class ServiceLog:
    """Moves log lines from pytest's capture of standard error to this object when they are read."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self._text = ""

    @property
    def text(self) -> str:
        self._text += self._capture.readouterr().err
        return self._text

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == name]

    def levels(self) -> set[str]:
        return {line["level"] for line in self.lines}
