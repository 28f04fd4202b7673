"""The service with a short lease of running turns, so that a test sees soon how the turns of a dead worker end.

python -m tests.harness.apps.short_lease_service SECONDS
"""

import socket
import sys
from collections.abc import Sequence
from datetime import timedelta

from entrypoints.container import Container
from entrypoints.http.app import create_app
from entrypoints.server import DrainingServer
from entrypoints.settings import load_settings


def main(arguments: Sequence[str]) -> None:
    lease = float(arguments[0])
    settings = load_settings()
    container = Container(settings=settings)
    container.turn_runner.add_kwargs(lease=timedelta(seconds=lease), save_interval=lease / 6)
    app = create_app(settings, container)
    listener = socket.create_server((settings.host, settings.port))
    DrainingServer(app, lambda url: print(f"listens on {url}", flush=True)).run([listener])


if __name__ == "__main__":
    main(sys.argv[1:])
