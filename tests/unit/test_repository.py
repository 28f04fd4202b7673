"""Rules for the files of the repository and its dependencies."""

import re
import site
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement

ROOT: Final = Path(__file__).parents[2]

PACKAGES: Final = frozenset({"domain", "application", "adapters", "entrypoints", "tests"})
OTHER_FOLDERS: Final = frozenset({".ci", "deploy", "docs"})
LOCK_FILES: Final = frozenset(
    {"uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "package-lock.json", "yarn.lock", "pnpm-lock.yaml"}
)

PACKAGE_HOST: Final = re.compile(r"\b(pypi\.(org|python\.org)|pythonhosted\.org|registry\.npmjs\.org|anaconda\.org)")
MACHINE_PATH: Final = re.compile(r"(?<![\w.$}~-])/(home|root|Users|work|opt|mnt)/\w")
PIN: Final = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.+!]+)( ; .+)?")


def repository_files() -> Sequence[Path]:
    """Return all tracked files and those that `git add .` would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout
    return [Path(name) for name in listing.split("\0") if name and (ROOT / name).is_file()]


def lines_with(pattern: re.Pattern[str]) -> Sequence[str]:
    return [
        f"{path}:{number}: {line}"
        for path in repository_files()
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]


@pytest.fixture(scope="module")
def project() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def constraints() -> Sequence[str]:
    return (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


def test_the_packages_are_the_layers_and_the_tests() -> None:
    assert {path.parts[0] for path in repository_files() if path.suffix == ".py"} == PACKAGES


def test_there_is_no_other_folder() -> None:
    assert {path.parts[0] for path in repository_files() if len(path.parts) > 1} <= PACKAGES | OTHER_FOLDERS


def test_the_wheel_contains_only_the_layers(project: Any) -> None:
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == PACKAGES - {"tests"}


@pytest.mark.parametrize("package", sorted(PACKAGES - {"tests"}))
def test_the_installed_package_is_the_one_of_this_checkout(package: str, tmp_path: Path) -> None:
    code = f"import {package}; print({package}.__file__)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True
    )

    assert Path(result.stdout.strip()) == ROOT / package / "__init__.py"


def test_the_command_is_installed_next_to_the_interpreter(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("smart-chatbot")), "--help"]

    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=False).returncode == 0


def test_no_file_contains_a_package_host() -> None:
    assert lines_with(PACKAGE_HOST) == []


def test_no_file_contains_an_absolute_path_of_a_machine() -> None:
    assert lines_with(MACHINE_PATH) == []


def test_there_is_no_lock_file() -> None:
    locks = [path for path in repository_files() if path.name in LOCK_FILES or path.match("pylock*.toml")]

    assert locks == []


def test_constraints_are_plain_pins(constraints: Sequence[str]) -> None:
    assert [line for line in constraints if not PIN.fullmatch(line)] == []


def test_every_dependency_is_pinned_within_its_bounds(project: Any, constraints: Sequence[str]) -> None:
    pins = {pin["name"]: pin["version"] for pin in map(PIN.fullmatch, constraints) if pin}
    declared = [
        *project["project"]["dependencies"],
        *(line for extra in project["project"]["optional-dependencies"].values() for line in extra),
        *(line for group in project["dependency-groups"].values() for line in group),
    ]
    requirements = [Requirement(line) for line in declared]

    assert [str(r) for r in requirements if r.name not in pins or not r.specifier.contains(pins[r.name])] == []


def test_the_linter_targets_the_oldest_supported_python(project: Any) -> None:
    oldest = project["project"]["requires-python"].removeprefix(">=")

    assert project["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")


@pytest.mark.parametrize("package", sorted(PACKAGES - {"tests"}))
def test_the_types_of_each_package_are_declared(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def test_the_changelog_has_a_dated_section_for_each_version(project: Any) -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first, *released = re.findall(r"^## (.+)$", text, re.MULTILINE)
    versions = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d", heading) for heading in released]
    numbers = [match[1] for match in versions if match]

    assert first == "[Unreleased]"
    assert len(numbers) == len(released)
    assert numbers[0] == project["project"]["version"]
    assert numbers == sorted(numbers, key=lambda number: [*map(int, number.split("."))], reverse=True)


def test_this_python_is_supported(project: Any) -> None:
    oldest = tuple(map(int, project["project"]["requires-python"].removeprefix(">=").split(".")))

    assert sys.version_info >= oldest


def test_no_dependency_runs_code_whenever_python_starts() -> None:
    """As malicious releases of packages have done, with a line of code in a `.pth` file."""
    files = [file for directory in site.getsitepackages() for file in Path(directory).glob("*.pth")]
    running = {file.name for file in files if re.search(r"^import\s", file.read_text("utf-8"), re.MULTILINE)}

    assert running <= {"distutils-precedence.pth"}  # setuptools' own
