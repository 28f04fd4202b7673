"""Pseudonyms of users in the log: keyed, and the same across restarts."""

import asyncio
import hashlib
import stat
from pathlib import Path

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from entrypoints.pseudonyms import FILE, Pseudonyms

KEY = SecretStr("0123456789abcdef0123456789abcdef")


async def pseudonym(directory: Path, key: SecretStr | None = None, user_id: str = "ann@example.com") -> str:
    async with Pseudonyms(key, directory) as pseudonyms:
        return pseudonyms(user_id)


async def test_a_pseudonym_has_twelve_hexadecimal_digits(tmp_path: Path) -> None:
    assert len(await pseudonym(tmp_path)) == 12
    int(await pseudonym(tmp_path), 16)


async def test_users_have_different_pseudonyms(tmp_path: Path) -> None:
    assert await pseudonym(tmp_path) != await pseudonym(tmp_path, user_id="ben@example.com")


async def test_a_pseudonym_cannot_be_derived_from_the_id_alone(tmp_path: Path) -> None:
    found = await pseudonym(tmp_path / "one"), await pseudonym(tmp_path / "two"), await pseudonym(tmp_path, KEY)

    assert len(set(found)) == 3
    assert hashlib.sha256(b"ann@example.com").hexdigest()[:12] not in found


async def test_pseudonyms_survive_a_restart(tmp_path: Path) -> None:
    assert await pseudonym(tmp_path) == await pseudonym(tmp_path)


async def test_deleting_the_key_changes_the_pseudonyms(tmp_path: Path) -> None:
    before = await pseudonym(tmp_path)
    (tmp_path / FILE).unlink()

    assert before != await pseudonym(tmp_path)


async def test_a_given_key_makes_the_same_pseudonyms_everywhere_and_writes_nothing(tmp_path: Path) -> None:
    assert await pseudonym(tmp_path / "one", KEY) == await pseudonym(tmp_path / "two", KEY)
    assert list(tmp_path.iterdir()) == []


async def test_only_the_owner_can_read_the_key(tmp_path: Path) -> None:
    await pseudonym(tmp_path / "data")

    assert stat.S_IMODE((tmp_path / "data" / FILE).stat().st_mode) == 0o600
    assert [file.name for file in (tmp_path / "data").iterdir()] == [FILE]


async def test_services_that_start_together_use_the_same_key(tmp_path: Path) -> None:
    assert len(set(await asyncio.gather(*(pseudonym(tmp_path) for _ in range(20))))) == 1


async def test_without_a_usable_directory_pseudonyms_last_for_the_process(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with capture_logs() as log:
        found = {await pseudonym(tmp_path / "file") for _ in range(2)}

    assert len(found) == 2
    assert [(line["log_level"], line["cause"]) for line in log] == [("warning", "Not a directory")] * 2


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 65])
async def test_a_damaged_key_is_neither_used_nor_replaced(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(content)

    with capture_logs() as log:
        found = {await pseudonym(tmp_path) for _ in range(2)}

    assert len(found) == 2
    assert "delete it to have a new one created" in log[0]["cause"]
    assert (tmp_path / FILE).read_bytes() == content
