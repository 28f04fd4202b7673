"""The rows of the project's fault catalogue, and which of them a test run covered.

A test that covers a row completely carries its id, e.g. `@pytest.mark.row("U1")`; several tests may share a row. A row
counts as covered if all tests that carry it have run and passed, as far as they were collected: the list is exact only
for a run of all tests.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import pytest

ROWS: Final = {
    "U1": "the model's service cannot be connected to, or its name does not resolve",
    "U2": "a connection to the model's service hangs",
    "U3": "the model's service sends no response headers",
    "U4": "the model's service closes the connection before its headers",
    "U5": "the model's service responds with 500, 502 or 503",
    "U6": "a rate limit that asks for a short wait",
    "U7": "a rate limit that asks for a long wait",
    "U8": "the model's service rejects the key",
    "U9": "the context is too long for the model",
    "U10": "a content filter ends the reply",
    "U11": "the token limit ends the reply",
    "U12": "the connection is reset in mid-stream",
    "U13": "the connection ends within a chunk",
    "U14": "the stream ends with neither a finish reason nor [DONE]",
    "U14b": "the stream ends with [DONE] but without a finish reason",
    "U15": "silence between two chunks",
    "U16": "a reply that trickles forever",
    "U17": "the connection stays open after [DONE]",
    "U18": "an error event within the stream",
    "U19": "invalid JSON, or no event stream at all",
    "U20": "a huge line, or endless output",
    "U21": "an empty reply",
    "U22": "unusual text: NUL, lone surrogates, line ends, split characters",
    "U23": "a redirect to another host",
    "U24": "slow DNS, or a failing TLS handshake",
    "U25": "usage that is missing, duplicated or alone in its chunk",
    "U26": "dialects of OpenAI-compatible services",
    "U27": "a reused connection that ends before the response",
    "U28": "a context window smaller than the setting",
    "U29": "the process of the embedded model is killed",
    "C1": "a client closes its connection at any event",
    "C2": "a client resets its connection at any event",
    "C3": "a client closes its sending half",
    "C4": "a client stops reading",
    "C5": "a client reads slowly",
    "C6": "a client leaves /api/chat/simple before the reply",
    "C7": "a client vanishes without closing its connection",
    "C8": "headers or a body that trickle in",
    "C9": "a client connects and sends nothing",
    "C10": "malformed HTTP",
    "C11": "a body larger than allowed",
    "C12": "a body announced with Expect: 100-continue that never arrives",
    "C13": "a client that retries in a storm",
    "C14": "concurrent requests with the same idempotency key",
    "C15": "an idempotency key repeated after success",
    "C16": "an idempotency key repeated with another payload",
    "C17": "an idempotency key repeated after a crash",
    "C18": "a stream resumed from any cursor",
    "C19": "a stream resumed after its retention",
    "C20": "two readers of one stream",
    "P1": "kill -9 while idle",
    "P2": "kill -9 in mid-stream",
    "P3": "kill -9 between the commit and the last event",
    "P4": "kill -9 before the model is called",
    "P5": "SIGTERM while streaming",
    "P6": "a second signal while draining",
    "P7": "a rolling restart under load",
    "P8": "a blocked event loop",
    "P9": "memory runs out",
    "P10": "file descriptors run out",
    "P11": "the clock jumps",
    "P12": "several workers with a store in memory",
    "P13": "a bad configuration",
    "P14": "a start while the store is down",
    "P15": "a log pipe that is full or closed",
    "P16": "two versions side by side",
    "S1": "the store is down when a request begins",
    "S2": "the store fails at the final commit",
    "S3": "the database is locked for a moment",
    "S4": "the database stays locked",
    "S5": "a transaction that reads first and writes later",
    "S6": "many turns end at once",
    "S7": "the disk is full",
    "S8": "the disk fails",
    "S9": "the database file is corrupt",
    "S10": "the write-ahead log grows",
    "S11": "several processes on one SQLite file",
    "S12": "power loss",
    "S13": "the connection pool of PostgreSQL is exhausted",
    "S14": "backends of PostgreSQL are killed",
    "S15": "the outcome of a commit is unknown",
    "S16": "concurrent turns of one user in several processes",
    "S17": "sequence numbers and the order of commits",
    "S18": "ids and messages that no store accepts",
    "S23": "a stale lease holder writes",
    "S24": "a huge history",
    "S25": "readiness after a failed write",
    "S26": "a store that is unusable for a moment at the start",
    "S27": "SIGTERM while the store hangs",
    "S28": "an erasure that cannot reach the file",
    "S29": "clients that write and delete without end",
    "S30": "the database file is removed or replaced",
    "S31": "a cursor from before a deletion",
    "M1": "long-term memory is slow or down",
    "M2": "adding to long-term memory fails",
    "M3": "the process dies while adding to long-term memory",
    "M4": "an add in flight while the user is forgotten",
    "M5": "another user's memory is returned",
    "M6": "ids that Mem0 would treat as patterns",
    "M7": "hostile memories",
    "M8": "telemetry and network access at import",
    "M9": "two processes on one embedded vector store",
    "M10": "an exhausted connection pool of the hosted client",
    "M11": "an embedder that does not fit, is missing or slow",
    "M12": "extraction returns something other than facts",
    "M13": "many turns and deletions on the embedded vector store",
    "X1": "ten times the load that can be served",
    "X2": "one user opens many chats",
    "X3": "many users behind one key",
    "X4": "a great many distinct user ids",
    "X5": "a spent budget",
    "X6": "health checks under overload",
    "X7": "expensive health checks in a loop",
    "X8": "JSON bombs",
}


class RowCoverage:
    """A pytest plugin that validates the marks and lists the rows covered at the end of the run."""

    def __init__(self) -> None:
        self._passed: set[str] = set()
        self._missed: set[str] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            rows = [row for mark in item.iter_markers("row") for row in mark.args]
            if unknown := [row for row in rows if row not in ROWS]:
                raise pytest.UsageError(f"{item.nodeid}: no such rows: {', '.join(map(str, unknown))}")
            item.user_properties += [("row", row) for row in rows]

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self._missed.update(row for item in items for row in _rows_of(item.user_properties))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        rows = _rows_of(report.user_properties)
        if not report.passed:
            self._missed.update(rows)
        elif report.when == "call":
            self._passed.update(rows)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        covered = self._passed - self._missed
        if not covered:
            return
        terminalreporter.section("rows of the fault catalogue covered")
        for group in dict.fromkeys(row[0] for row in ROWS):
            rows = [row for row in ROWS if row.startswith(group)]
            found = [row for row in rows if row in covered]
            terminalreporter.write_line(f"{group} {len(found)}/{len(rows)}: {' '.join(found)}")


def _rows_of(properties: Iterable[tuple[str, object]]) -> list[str]:
    return [str(value) for name, value in properties if name == "row"]
