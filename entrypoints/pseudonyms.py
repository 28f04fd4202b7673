"""Pseudonyms of users in the log: keyed hashes, so that a guessed user id cannot be confirmed."""

import hmac
import os
import secrets
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog
from pydantic import SecretStr

from adapters.daemon_threads import run_in_daemon_thread

FILE: Final = "log_pseudonym.key"
_KEY_CHARS: Final = 64


class Pseudonyms:
    """Maps user ids to pseudonyms (HMAC-SHA256, 48 bits), the same for the same id and key.

    Without a `key`, one is created in `data_dir` and used by every later start. If the directory cannot hold it, the
    pseudonyms of this process are its own. Deleting the file and restarting changes all pseudonyms.
    """

    def __init__(self, key: SecretStr | None, data_dir: Path) -> None:
        self._given = key is not None
        self._key = (key.get_secret_value() if key else secrets.token_hex(_KEY_CHARS // 2)).encode()
        self._file = data_dir / FILE

    def __call__(self, user_id: str) -> str:
        return hmac.digest(self._key, user_id.encode(), "sha256").hex()[:12]

    async def __aenter__(self) -> Self:
        if not self._given:
            try:
                self._key = await run_in_daemon_thread(partial(_kept, self._key, self._file), name="pseudonyms")
            except OSError as error:
                structlog.get_logger().warning(
                    f"cannot use {FILE} in DATA_DIR; pseudonyms of users change at the next start", cause=error.strerror
                )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def _kept(new_key: bytes, file: Path) -> bytes:
    """Return the key in the file. If there is none, keep `new_key` there; the first of several processes wins."""
    with suppress(FileNotFoundError):
        return _read(file)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f".{FILE}.{secrets.token_hex(8)}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as opened:
            opened.write(new_key)
            opened.flush()
            os.fsync(opened.fileno())
        with suppress(FileExistsError):
            os.link(draft, file)  # in contrast to a rename, never replaces another process's key
    finally:
        draft.unlink(missing_ok=True)
    return _read(file)


def _read(file: Path) -> bytes:
    key = file.read_bytes()
    if len(key) != _KEY_CHARS:  # an empty key would make the pseudonyms plain hashes
        raise OSError(None, f"it has {len(key)} bytes instead of {_KEY_CHARS}; delete it to have a new one created")
    return key
