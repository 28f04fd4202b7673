"""When the service restarts because a file has changed."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from entrypoints.cli.reload import _Reloader


class Child:
    """The process of the service. As soon as it has started, and read its files, `save` is called."""

    def __init__(self, save: Callable[[], None]) -> None:
        self.start = save
        self.pid = 0

    def terminate(self) -> None:
        pass

    def join(self) -> None:
        pass


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_file_that_is_saved_while_the_service_starts_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".env"
    file.touch()
    saves = iter(range(1, 10))

    def save() -> None:
        time = file.stat().st_mtime + next(saves)
        os.utime(file, (time, time))

    def child(**_: Any) -> Child:
        return Child(save)

    monkeypatch.setattr("uvicorn.supervisors.basereload.get_subprocess", child)
    with socket.socket() as listener:
        reloader = _Reloader(listener, lambda _: None, file)  # type: ignore[arg-type]  # never called
        reloader.startup()
        assert reloader.should_restart() == [file]
        reloader.restart()
        assert reloader.should_restart() == [file]
        monkeypatch.setattr("uvicorn.supervisors.basereload.get_subprocess", lambda **_: Child(lambda: None))
        reloader.restart()
        assert reloader.should_restart() is None
