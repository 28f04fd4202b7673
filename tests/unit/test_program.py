"""The command that messages tell the reader to run."""

import sys
from pathlib import Path

import pytest

from entrypoints.program import program


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment without the command, below the working directory, and not on the path of the shell."""
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(binaries / "python"))
    monkeypatch.setattr(sys, "argv", ["-c"])
    monkeypatch.setenv("PATH", "/usr/bin")
    return binaries


def install(binaries: Path) -> None:
    command = binaries / "smart-chatbot"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)


def test_it_is_relative_to_the_working_directory(environment: Path) -> None:
    install(environment)

    assert program() == ".venv/bin/smart-chatbot"


def test_it_is_the_name_alone_if_the_shell_finds_it(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(environment)
    monkeypatch.setenv("PATH", f"/usr/bin:{environment}")

    assert program() == "smart-chatbot"


def test_it_is_not_the_name_if_the_shell_finds_another(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(environment)
    other = environment.parent / "other"
    other.mkdir()
    install(other)
    monkeypatch.setenv("PATH", str(other))

    assert program() == ".venv/bin/smart-chatbot"


def test_it_is_absolute_elsewhere(
    environment: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(environment)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))

    assert program() == str(environment / "smart-chatbot")


def test_without_the_command_it_is_the_module(environment: Path) -> None:
    assert program() == f"{environment / 'python'} -m entrypoints.cli"
