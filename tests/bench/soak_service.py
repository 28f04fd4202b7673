"""The service as the soak runs it: a finished turn's event log is kept for seconds instead of ten minutes.

With ten minutes, memory would grow in the first ten minutes of every run. Everything else is as in the real service.
"""

import socket

from dependency_injector import providers

from adapters.live_turns_in_process import LiveTurnsInProcess
from entrypoints.container import Container
from entrypoints.http.app import create_app
from entrypoints.server import DrainingServer
from entrypoints.settings import load_settings

RETENTION = 20.0


def main() -> None:
    settings = load_settings()
    container = Container(settings=settings)
    container.live_turns.override(providers.Singleton(LiveTurnsInProcess, retention=RETENTION))
    app = create_app(settings, container)
    listener = socket.create_server((settings.host, settings.port))
    DrainingServer(app, lambda url: print(f"listens on {url}", flush=True)).run([listener])


if __name__ == "__main__":
    main()
