"""Breaks the rules that hold for every test on purpose, to prove that they can fail."""

from pathlib import Path

import pytest

from tests.harness.rows import RowCoverage

CONFIGURATION = '[tool.pytest.ini_options]\nmarkers = ["server", "row(id)"]'
CONFTEST = Path(__file__).parents[1] / "conftest.py"

TESTS = """
import socket

import pytest


def listen():
    socket.create_server(("127.0.0.1", 0)).close()


def connect_outside():
    with socket.socket() as client, pytest.raises(PermissionError):
        client.connect(("192.0.2.1", 80))


@pytest.mark.server
def test_marked_listens():
    listen()


@pytest.mark.server
def test_marked_leaves_the_machine():
    connect_outside()


def test_unmarked_listens():
    listen()


def test_unmarked_listens_and_hides_it():
    with pytest.raises(OSError):
        listen()


def test_unmarked_starts_postgresql(postgres):
    pass
"""


def test_only_marked_tests_use_a_server_and_none_leaves_the_machine(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST.read_text(encoding="utf-8"))
    pytester.makepyprojecttoml(CONFIGURATION)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-rA")
    result.stdout.fnmatch_lines_random(
        [
            "PASSED *::test_marked_listens",
            "ERROR *::test_marked_leaves_the_machine*",
            "FAILED *::test_unmarked_listens*",
            "*in a test that is not marked `server`*",
            "ERROR *::test_unmarked_listens_and_hides_it*",
            "ERROR *::test_unmarked_starts_postgresql*",
            "*a test that uses postgres must be marked `server`*",
        ]
    )


ROWS = """
import pytest


@pytest.mark.row("U1", "S1")
def test_passes():
    pass


@pytest.mark.row("S1")
def test_fails():
    assert False


@pytest.mark.row("U2")
def test_passes_in_part():
    pass


@pytest.mark.row("U2")
def test_is_deselected():
    pass
"""


def test_a_row_is_covered_if_all_its_tests_run_and_pass(pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml(CONFIGURATION)
    pytester.makepyfile(ROWS)
    result = pytester.runpytest("-k", "not deselected", plugins=[RowCoverage()])
    result.stdout.fnmatch_lines(["*rows of the fault catalogue covered*", "U 1/*: U1", "S 0/*"])


def test_an_unknown_row_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml(CONFIGURATION)
    pytester.makepyfile('import pytest\n\n\n@pytest.mark.row("U99")\ndef test_something():\n    pass\n')
    result = pytester.runpytest(plugins=[RowCoverage()])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_something: no such rows: U99"])
