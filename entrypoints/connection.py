"""A client's connection to `smart-chatbot serve`."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle


class Connection(HttpToolsProtocol):
    """Uvicorn's connection, which also notices that a client with a further request in the queue has disconnected.

    Uvicorn stops reading while a pipelined request waits for the response before it, and when the connection is lost it
    tells only the latest request. The model would generate a reply that no client reads.
    """

    max_queued_bytes = 2**20
    """Bytes received behind a response in progress. Beyond it nothing is read until the response ends, so that a
    disconnect is noticed only when something is sent."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._responding: RequestResponseCycle | None = None
        self._queued_bytes = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.pipeline:
            self._queued_bytes += len(data)
            if self._queued_bytes <= self.max_queued_bytes:
                self.flow.resume_reading()
            else:  # uvicorn itself pauses only at the end of a request's headers, and if its body is large
                self.flow.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        cycle = self._responding
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._responding = cycle
        if not self.pipeline:
            self._queued_bytes = 0
        super()._start_asgi_task(cycle, app)
