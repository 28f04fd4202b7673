"""Rules of the architecture that import-linter cannot express, e.g. which modules the inner layers may import.

They are allow-lists, because a deny-list permits everything that it does not mention.
"""

import ast
import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

import application
import domain.errors
from domain.errors import ChatError

ROOT: Final = Path(__file__).parents[2]

PACKAGES: Final = ("domain", "application", "adapters", "entrypoints")

DOMAIN_MAY_IMPORT: Final = frozenset(
    {
        "collections.abc",
        "dataclasses",
        "datetime",
        "enum",
        "hashlib",
        "hmac",
        "itertools",
        "json",
        "re",
        "typing",
        "unicodedata",
    },
)
APPLICATION_MAY_IMPORT: Final = DOMAIN_MAY_IMPORT | {
    "abc",
    "anyio",
    "anyio.abc",
    "collections",
    "contextlib",
    "ipaddress",
    "math",
}

INPUT_AND_OUTPUT: Final = frozenset({"open", "print", "input", "breakpoint", "eval", "exec", "__import__"})
CLOCKS: Final = frozenset({"now", "today", "utcnow"})
ENVIRONMENT: Final = frozenset({"environ", "environb", "getenv"})
VAGUE_NAMES: Final = frozenset({"utils", "common", "core", "services", "dto", "mappers", "interfaces", "models"})

BRANCH: Final = re.compile(r"^    (?P<stem>[│ ]*)(?:├──|└──) (?P<name>\w+) +(?P<note>\S.*)$", re.MULTILINE)


def sources(folder: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    """The modules that a file imports, at any level of nesting."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            if (node.module or "").partition(".")[0] in PACKAGES:  # the names may be modules
                yield from (f"{node.module}.{name.name}" for name in node.names)


def layer_violations(root: Path) -> list[str]:
    """Forbidden imports, input and output, clocks and asynchronous code in domain and application."""
    found = []
    layers = {"domain": DOMAIN_MAY_IMPORT, "application": APPLICATION_MAY_IMPORT}
    for layer, allowed in layers.items():
        inner = ("domain",) if layer == "domain" else ("domain", "application")
        for path, tree in sources(root / layer):
            place = path.relative_to(root).as_posix()
            found += [
                f"{place} imports {module}"
                for module in imported(tree)
                if module not in allowed and module.partition(".")[0] not in inner
            ]
            found += [
                f"{place} {violation}"
                for violation in _forbidden_code(tree, may_be_asynchronous=layer == "application")
            ]
    return found


def _forbidden_code(tree: ast.Module, *, may_be_asynchronous: bool) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) if name in INPUT_AND_OUTPUT:
                yield f"uses {name}"
            case ast.Attribute(attr=name, value=ast.Name(id="datetime" | "date")) if name in CLOCKS:
                yield f"reads the clock: {name}"
            case ast.AsyncFunctionDef() | ast.AsyncFor() | ast.AsyncWith() | ast.Await() if not may_be_asynchronous:
                yield "is asynchronous"


def use_cases(root: Path) -> Mapping[str, Path]:
    """The modules of `application` that define an asynchronous `__call__`, i.e. its use cases."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts): path
        for path, tree in sources(root / "application")
        if any(isinstance(node, ast.AsyncFunctionDef) and node.name == "__call__" for node in ast.walk(tree))
    }


def use_case_violations(root: Path) -> list[str]:
    cases = use_cases(root)
    return [
        f"{path.relative_to(root).as_posix()} imports the use case {module}"
        for path, tree in sources(root / "application")
        for module in imported(tree)
        if module in cases
    ]


def environment_violations(root: Path) -> list[str]:
    """Files other than the settings that read the environment.

    One file may set variables: Mem0 takes some of its configuration from the environment at import time.
    """
    return [
        f"{path.relative_to(root).as_posix()} reads the environment"
        for package in PACKAGES
        for path, tree in sources(root / package)
        if path != root / "entrypoints" / "settings.py"
        for node in set(ast.walk(tree)) - _assigned(tree, path == root / "adapters" / "mem0_import.py")
        if (isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT)
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and ENVIRONMENT & {n.name for n in node.names})
    ]


def _assigned(tree: ast.Module, allowed: bool) -> set[ast.AST]:
    """The `os.environ` of assignments like `os.environ["NAME"] = …`, if those are allowed."""
    return {
        node.value
        for node in ast.walk(tree)
        if allowed and isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
    }


def naming_violations(root: Path) -> list[str]:
    names = (path.relative_to(root) for package in PACKAGES for path in [root / package, *(root / package).rglob("*")])
    return [f"{path.as_posix()} has a vague name" for path in names if path.stem in VAGUE_NAMES]


def reexport_violations(root: Path) -> list[str]:
    return [
        f"{path.relative_to(root).as_posix()} is not empty"
        for package in PACKAGES
        for path in sorted((root / package).rglob("__init__.py"))
        if path.read_text(encoding="utf-8").strip()
    ]


@pytest.mark.parametrize(
    "violations",
    [
        layer_violations,
        use_case_violations,
        environment_violations,
        naming_violations,
        reexport_violations,
    ],
)
def test_the_rule_holds(violations: Callable[[Path], list[str]]) -> None:
    assert violations(ROOT) == []


def test_the_allow_lists_contain_only_the_standard_library_and_anyio() -> None:
    third_party = {name for name in APPLICATION_MAY_IMPORT if name.partition(".")[0] not in sys.stdlib_module_names}

    assert third_party == {"anyio", "anyio.abc"}


def test_the_rule_knows_every_use_case() -> None:
    assert {
        "application.turns.send_message",
        "application.turns.history",
        "application.memory.facts",
        "application.turns.access",
    } <= set(use_cases(ROOT))


def drawn_errors() -> Mapping[str, tuple[str, str]]:
    """Each error in the docstring's tree, with its parent and the note beside it."""
    path: dict[int, str] = {0: "ChatError"}
    drawn = {}
    for branch in BRANCH.finditer(domain.errors.__doc__ or ""):
        depth = len(branch["stem"]) // 4 + 1
        path[depth] = branch["name"]
        drawn[branch["name"]] = path[depth - 1], branch["note"]
    return drawn


def real_errors(parent: type[ChatError] = ChatError) -> Iterator[type[ChatError]]:
    for module in pkgutil.walk_packages(application.__path__, "application."):
        importlib.import_module(module.name)
    for error in parent.__subclasses__():
        if error.__module__.startswith(("domain.", "application.")):
            yield error
            yield from real_errors(error)


def test_the_drawn_tree_of_errors_is_the_real_one() -> None:
    real = {error.__name__: error.__mro__[1].__name__ for error in real_errors()}

    assert real == {name: parent for name, (parent, _) in drawn_errors().items()}


def test_every_error_is_drawn_with_its_code() -> None:
    drawn = drawn_errors()
    with_code = {error.__name__: error.code for error in real_errors() if hasattr(error, "code")}

    assert with_code == {name: drawn[name][1] for name in with_code}


def test_the_base_error_of_a_port_is_drawn_with_its_file() -> None:
    drawn = drawn_errors()
    bases = {error.__name__: error for error in real_errors() if not hasattr(error, "code")}
    files = {name: error.__module__.replace(".", "/") + ".py" for name, error in bases.items()}

    assert {name: note for name, (_, note) in drawn.items() if note.endswith(".py")} == {
        name: file for name, file in files.items() if file.startswith("application/")
    }
