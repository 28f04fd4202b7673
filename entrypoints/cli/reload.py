"""`smart-chatbot serve --reload`: restart the service when its source, or its file of settings, changes."""

import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread

import uvicorn
from uvicorn.supervisors.statreload import StatReload

from domain.errors import Unusable
from entrypoints.exit_status import UNUSABLE
from entrypoints.preconditions import PACKAGES, ROOT
from entrypoints.settings import Settings, load_settings


@dataclass(frozen=True)
class SettingsToReload:
    """Where settings come from: options of the command, the environment, and a file."""

    options: Mapping[str, str]
    env_file: Path

    def load(self) -> Settings:
        return load_settings(self.options, self.env_file)


def serve_and_reload(listener: socket.socket, settings: SettingsToReload, changes: Mapping[str, object]) -> int:
    """Serve on `listener` in a child process, which is started anew after a change, until a signal; return 0.

    `changes` are what each child changes in its settings, e.g. for the embedded model.
    """
    _Reloader(listener, _Child(settings, changes), settings.env_file).run()
    return 0


@dataclass(frozen=True)
class _Child:
    """What a child does."""

    settings: SettingsToReload
    changes: Mapping[str, object]

    def __call__(self, sockets: list[socket.socket] | None) -> None:
        Thread(target=_end_with_parent, name="parent", daemon=True).start()
        from entrypoints.cli.serve import run_server

        assert sockets is not None
        try:
            settings = self.settings.load().model_copy(update=dict(self.changes))
            run_server(settings, sockets[0], lambda _: None).exit()
        except Unusable as unusable:
            print(unusable, file=sys.stderr)
            sys.exit(UNUSABLE)


class _Reloader(StatReload):
    """Watches the packages of the service, and not, as uvicorn does, everything below the working directory."""

    def __init__(self, listener: socket.socket, child: _Child, env_file: Path) -> None:
        directories = [str(ROOT / name) for name in PACKAGES]
        config = uvicorn.Config("entrypoints.asgi:app", reload=True, reload_dirs=directories, log_config=None)
        super().__init__(config, child, [listener])
        self._env_file = env_file

    def startup(self) -> None:
        self.mtimes = self._times()
        super().startup()
        signal.signal(signal.SIGHUP, self.signal_handler)

    def restart(self) -> None:
        times = self._times()
        super().restart()
        # Uvicorn forgets the times and looks again later: what changed after the child had read it would be missed.
        self.mtimes = times

    def _times(self) -> dict[Path, float]:
        times = {}
        for file in self.iter_py_files():
            with suppress(OSError):  # an editor may be replacing it
                times[file] = file.stat().st_mtime
        return times

    def iter_py_files(self) -> Iterator[Path]:
        yield from super().iter_py_files()
        if self._env_file.is_file():
            yield self._env_file


def _end_with_parent() -> None:
    """Drain when the reloader was killed."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
