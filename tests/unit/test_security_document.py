"""SECURITY.md names tests that exist, for every risk that it lists."""

import ast
import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
ROW: Final = re.compile(r"^\| (?P<risk>[^|]*)\| (?P<requirement>[^|]+) \| (?P<tests>[^|]+) \|$", re.MULTILINE)


def rows() -> list[re.Match[str]]:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    return list(ROW.finditer(text.partition("## Requirements")[2]))[1:]


def existing_tests() -> set[str]:
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").rglob("*.py"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, functions)}


def test_every_named_test_exists() -> None:
    named = {name for row in rows() for name in re.findall(r"`(test_\w+)`", row["tests"])}

    assert len(named) > 40
    assert named - existing_tests() == set()


def test_every_requirement_has_a_test() -> None:
    assert len(rows()) > 25
    assert [row["requirement"] for row in rows() if "`test_" not in row["tests"]] == []
