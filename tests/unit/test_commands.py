"""The tests' commands end, and say what they wrote if they have to be ended."""

from pathlib import Path

import pytest

from tests.harness.commands import run, run_within


async def test_a_command_that_hangs_is_killed_with_what_it_started_and_its_output_is_shown(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"(?s)not ended after 0.5 s: .*so far\n"):
        await run_within(0.5, "sh", "-c", "echo so far; sleep 3600 & sleep 3600", directory=tmp_path)


async def test_the_output_and_status_of_a_command_are_returned(tmp_path: Path) -> None:
    assert (3, "out\n", "err\n") == await run("sh", "-c", "echo out; echo err >&2; exit 3", directory=tmp_path)
