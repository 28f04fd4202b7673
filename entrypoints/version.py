"""The versions of the installed package and of the libraries that matter for diagnosis."""

from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Final

VERSION: Final = version("smart-chatbot-backend")


def _installed(*packages: str) -> Mapping[str, str]:
    versions = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


LIBRARIES: Final = _installed("openai", "aiohttp", "sqlalchemy", "mem0ai")
"""Versions of those that are installed, read on import because that takes file access."""
