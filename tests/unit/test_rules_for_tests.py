"""Breaks the rules of tests/conftest.py about sockets on purpose, to prove that they can fail."""

from pathlib import Path

import pytest

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
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nmarkers = ["server"]')
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
