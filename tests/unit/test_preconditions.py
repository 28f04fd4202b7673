"""The checks before anything else is imported: the system, and packages with the names of ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from entrypoints.exit_status import UNUSABLE

ROOT = Path(__file__).parents[2]

COMMAND = "from entrypoints.cli.__main__ import main; main()"
SERVER = "import entrypoints.asgi"


def python(code: str, directory: Path) -> tuple[int, str]:
    """Run code with `directory` as the first place for imports; return its status and errors."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)])}
    ran = subprocess.run(
        [sys.executable, "-c", code, "--version"],
        cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return ran.returncode, ran.stderr


@pytest.mark.parametrize("start", [COMMAND, SERVER])
@pytest.mark.parametrize("name", ["domain", "application", "adapters"])
def test_a_package_that_takes_the_place_of_ours_is_named(name: str, start: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()

    status, errors = python(start, tmp_path)

    (sentence,) = errors.splitlines()
    assert status == UNUSABLE
    assert sentence.startswith(f"The package {name} at {tmp_path / name / '__init__.py'} takes the place of that of")
    assert sentence.endswith("(python -m venv), and start it elsewhere.")


def test_a_folder_of_that_name_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "domain").mkdir()

    assert python(COMMAND, tmp_path) == (0, "")


@pytest.mark.parametrize("start", [COMMAND, SERVER])
def test_windows_is_refused_before_anything_fails(start: str, tmp_path: Path) -> None:
    imported = "import multiprocessing, pathlib, shutil, signal, select, sys; "
    missing = imported + "del signal.SIGHUP, select.poll; sys.platform = 'win32'; "

    status, errors = python(missing + start, tmp_path)

    assert (status, errors) == (
        UNUSABLE,
        "Windows is not supported: use WSL 2 or the container in deploy/.\n",
    )


def test_files_that_another_distribution_has_replaced_are_explained(tmp_path: Path) -> None:
    other = tmp_path / "other-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other-shop\nVersion: 1.0\n")
    (other / "top_level.txt").write_text("domain\n")
    code = (
        "from entrypoints.preconditions import explain_import_error\n"
        "explain_import_error(ImportError(\"cannot import name 'Unusable'\"))"
    )

    status, errors = python(code, tmp_path)

    assert status == UNUSABLE
    assert errors.startswith(
        "Files of smart-chatbot were replaced by those of other-shop (cannot import name 'Unusable')"
    )


def test_an_import_error_without_such_a_distribution_is_not_explained(tmp_path: Path) -> None:
    code = "from entrypoints.preconditions import explain_import_error; explain_import_error(ImportError('x'))"

    assert python(code, tmp_path) == (0, "")
