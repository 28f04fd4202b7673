"""Decode server-sent events from the bytes of a network stream."""

from codecs import BOM_UTF8

from adapters.openai_api.json_value import load_json
from domain.errors import OutputLimit

Event = tuple[bytes, bytes]
"""The name of an event, empty if it has none, and its data."""


def is_done(data: bytes) -> bool:
    """Whether the data of an event is the mark of the end, however a service spells it."""
    return data.strip().upper() == b"[DONE]"


class EventDecoder:
    """Decodes a stream of server-sent events, however its bytes are split.

    Follows https://html.spec.whatwg.org/multipage/server-sent-events.html, except that `id` and `retry` are ignored,
    and that a line of bare JSON, which some gateways insert to report an error, counts as an event. Between two reads
    it holds less than twice `max_event_bytes`.

    Args:
        max_event_bytes: Limit of a line and of the data of an event. A chunk of a reply has a few hundred bytes.
    """

    def __init__(self, max_event_bytes: int = 64 * 1024) -> None:
        self._max_event_bytes = max_event_bytes
        self._at_start = False
        """No line of the next event is complete; `_line` may hold the beginning of the first."""
        self._started = False
        self._after_cr = False
        self._line = b""
        self._name = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, read: bytes) -> list[Event]:
        """Return the events that `read` completes.

        Raises:
            OutputLimit: A line or an event exceeds the limit. The rest of the stream cannot be decoded.
        """
        # Nearly all events are of one line. Several of them are split at once, a single one without splitting.
        if self._at_start and len(self._line) + len(read) <= self._max_event_bytes and b"\r" not in read:
            read, self._line = self._line + read, b""
            if read.startswith(b"data: "):
                if read.find(b"\n") == len(read) - 2 and read.endswith(b"\n"):
                    return [(b"", read[6:-2])]
                whole, _, rest = read.rpartition(b"\n\n")
                data = whole[6:].split(b"\n\ndata: ")
                if whole and whole.count(b"\n") == 2 * (len(data) - 1):
                    events = [(b"", each) for each in data]
                    return events + self._feed_lines(rest) if rest else events
        return self._feed_lines(read)

    def _feed_lines(self, read: bytes) -> list[Event]:
        if not self._started:
            read, self._line = self._line + read, b""
            if len(read) < len(BOM_UTF8) and BOM_UTF8.startswith(read):
                self._line = read
                return []
            self._started = True
            read = read.removeprefix(BOM_UTF8)
        if self._after_cr and read:
            self._after_cr = False
            read = read.removeprefix(b"\n")
        if b"\r" in read:
            self._after_cr = read.endswith(b"\r")
            read = read.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = (self._line + read).split(b"\n")
        self._line = lines.pop()
        events: list[Event] = []
        for line in lines:
            self._check(len(line))
            if line:
                self._field(line, events)
            else:
                if self._data:
                    events.append((self._name, b"\n".join(self._data)))
                self._name, self._data, self._size = b"", [], 0
        self._check(len(self._line))
        self._at_start = not (self._name or self._data or self._after_cr)
        return events

    def finish(self) -> list[Event]:
        """Return the event at the end of the stream if only the blank line after it is missing."""
        return [event for event in self._feed_lines(b"\n\n") if _is_whole(event[1])]

    def _field(self, line: bytes, events: list[Event]) -> None:
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(value) + 1
            self._check(self._size)
        elif field == b"event":
            self._name = value.removeprefix(b" ")
        elif line.startswith(b"{"):
            events.append((b"", line))

    def _check(self, size: int) -> None:
        if size > self._max_event_bytes:
            raise OutputLimit(f"The model's service sent an event of more than {self._max_event_bytes} bytes.")


def _is_whole(data: bytes) -> bool:
    try:
        return is_done(data) or isinstance(load_json(data), dict)
    except ValueError:
        return False
