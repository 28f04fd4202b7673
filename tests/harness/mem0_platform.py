"""A fake of Mem0's hosted platform over real sockets, with scripted lag and faults.

    async with Mem0Platform() as platform: ...
    platform.lag = Lag(delete=0.2)              listings and searches show deleted memories for another 0.2 s
    platform.plans["search"] = [status(500)]    the next search fails, later ones do not

The faults are in mem0_platform_faults.py.

Paths, headers and request bodies are those that mem0's client sends.
Documented by Mem0: adds are asynchronous and return an `event_id`; the statuses of events; filters by `user_id`,
`metadata` and `memory_ids`, joined by AND, and nothing else at their top level; the user id `*` matches all users;
pages have `count`, `next`, `previous` and `results`; user ids outside of the filters are rejected.
Assumed: metadata is returned as it was given, also for inferred memories, and replaced by a PUT; without inference,
texts are stored verbatim, even duplicates; every memory has its `user_id`, also in listings and searches; an event's
results list the memories that it added; pages start at 1, have up to 100 results and are in no particular order; a
deleted memory is gone from its own path immediately; a search with `threshold` 0 matches everything; texts of errors.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit
from uuid import uuid4

KEY = "m0-key-of-the-tests"

PACIFIC = timezone(timedelta(hours=-7))
"""The time zone of the examples in Mem0's documentation."""


@dataclass(frozen=True)
class Lag:
    """Delays in seconds. Searches lag by `search` on top of the others."""

    add: float = 0
    """Until the event of an add succeeds."""
    index: float = 0
    """Until a memory that was added or changed is listed and found."""
    delete: float = 0
    """Until a deleted memory is no longer listed and found."""
    search: float = 0


NO_LAG = Lag()


@dataclass(frozen=True)
class Request:
    """One request as received. `target` is the raw path and query, `path` is decoded."""

    operation: str
    method: str
    target: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


LONG_AGO = 60.0
"""Seconds after which deleted memories are dropped: longer than any lag, shorter than a soak."""


@dataclass(frozen=True)
class Response:
    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class StoredMemory:
    """A memory with all its versions: time, text, metadata."""

    id: str
    user_id: str
    versions: list[tuple[float, str, Mapping[str, Any]]]
    created_at: str
    deleted: float | None = None

    def age(self, seconds: float) -> None:
        """Make the memory older, so that a lag of this many seconds does not hide it."""
        self.versions = [(since - seconds, text, metadata) for since, text, metadata in self.versions]

    def shown(self, now: float, index: float, delete: float) -> dict[str, Any] | None:
        """Return the memory as seen with changes `index` and deletions `delete` seconds late, or None."""
        visible = [version for version in self.versions if version[0] + index <= now]
        if not visible or (self.deleted is not None and self.deleted + delete <= now):
            return None
        _, text, metadata = visible[-1]
        times = {"created_at": self.created_at, "updated_at": self.created_at}
        return {"id": self.id, "memory": text, "user_id": self.user_id, "metadata": metadata, "hash": "h", **times}


@dataclass
class PendingAdd:
    """An add's event: the memories that it stores when it is due."""

    due: float
    user_id: str
    texts: Sequence[str]
    metadata: Mapping[str, Any]
    fails: bool
    stored: list[StoredMemory] = field(default_factory=list)


class Rejection(Exception):
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.response = Response(status, {"detail": detail})


class Connection:
    """One connection, and the last request on it."""

    def __init__(self, platform: "Mem0Platform", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.platform = platform
        self.reader = reader
        self.writer = writer
        self.request: Request

    async def serve(self) -> None:
        while head := await self._head():
            first, _, rest = head.partition("\r\n")
            method, target, _ = first.split(" ")
            pairs = (line.partition(":") for line in rest.strip().splitlines())
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            raw = await self.reader.readexactly(int(headers.get("content-length", "0")))
            url = urlsplit(target)
            path = unquote(url.path)
            body = json.loads(raw or b"null")
            query = dict(parse_qsl(url.query))
            self.request = Request(operation_of(method, path), method, target, path, query, headers, body)
            self.platform.requests.append(self.request)
            plan = self.platform.plans.get(self.request.operation)
            await (plan.pop(0) if plan else self.platform.faults.get(self.request.operation, respond))(self)

    async def _head(self) -> str:
        try:
            return (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return ""

    def send(self, response: Response) -> None:
        data = response.body if isinstance(response.body, bytes) else json.dumps(response.body).encode()
        fields = {"content-type": "application/json", "content-length": str(len(data)), **response.headers}
        lines = [f"HTTP/1.1 {response.status} Scripted", *(f"{name}: {value}" for name, value in fields.items())]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + data)


Fault = Callable[[Connection], Awaitable[None]]


async def respond(connection: Connection) -> None:
    """Respond without a fault."""
    connection.send(connection.platform.handle(connection.request))


OPERATIONS = (
    ("GET", r"/v1/ping/", "ping"),
    ("POST", r"/v3/memories/add/", "add"),
    ("GET", r"/v1/event/[^/]+/", "event"),
    ("POST", r"/v3/memories/search/", "search"),
    ("POST", r"/v3/memories/", "list"),
    ("GET", r"/v1/memories/[^/]+/", "get"),
    ("PUT", r"/v1/memories/[^/]+/", "update"),
    ("DELETE", r"/v1/memories/[^/]+/", "delete"),
    ("DELETE", r"/v1/memories/", "delete_all"),
)


def operation_of(method: str, path: str) -> str:
    return next((name for verb, form, name in OPERATIONS if verb == method and re.fullmatch(form, path)), "unknown")


class Mem0Platform:
    """The stored memories, the received requests, and the planned faults."""

    def __init__(self, lag: Lag = NO_LAG) -> None:
        self.lag = lag
        self.port = 0
        self.requests: list[Request] = []
        self.plans: dict[str, list[Fault]] = {}
        """By operation: faults for the next requests, one each."""
        self.faults: dict[str, Fault] = {}
        """By operation: the fault for all requests without a plan."""
        self.failing_adds = 0
        """Number of adds from now on whose events fail."""
        self.infer: Callable[[str], Sequence[str]] = lambda message: [message]
        """Infers facts from a user's message."""
        self.memories: dict[str, StoredMemory] = {}
        self.events: dict[str, PendingAdd] = {}
        self._pending: dict[str, PendingAdd] = {}
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def sent(self, operation: str) -> list[Request]:
        return [request for request in self.requests if request.operation == operation]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await Connection(self, reader, writer).serve()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has closed the connection
        finally:
            writer.close()

    def handle(self, request: Request) -> Response:
        self._finish_due_adds()
        try:
            if request.headers.get("authorization") != f"Token {KEY}":
                raise Rejection(401, f"No such key: {request.headers.get('authorization')}")
            operation = getattr(self, f"_{request.operation}", None)
            if operation is None:
                raise Rejection(404, f"Not found: {request.path}")
            return Response(200, operation(request))
        except Rejection as rejection:
            return rejection.response

    def keep(self, user_id: str, text: str, metadata: Mapping[str, Any] | None = None) -> StoredMemory:
        """Store a memory immediately."""
        now = datetime.now(UTC).astimezone(PACIFIC).isoformat()
        stored = StoredMemory(str(uuid4()), user_id, [(self._now(), text, metadata or {})], now)
        self.memories[stored.id] = stored
        return stored

    def finish_adds(self, seconds: float = 0) -> None:
        """Make all pending adds due in at most this many seconds."""
        for add in self.events.values():
            add.due = min(add.due, self._now() + seconds)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _finish_due_adds(self) -> None:
        for event_id, add in list(self._pending.items()):  # not all events: a soak makes very many
            if add.due <= self._now():
                del self._pending[event_id]
                if not add.fails:
                    add.stored = [self.keep(add.user_id, text, add.metadata) for text in add.texts]

    def _ping(self, _: Request) -> object:
        return {"status": "ok", "org_id": "o", "project_id": "p", "user_email": "tests@example.com"}

    def _add(self, request: Request) -> object:
        body = request.body
        if body.get("infer", True):
            by_user = [message["content"] for message in body["messages"] if message["role"] == "user"]
            texts = [text for message in by_user for text in self.infer(message)]
        else:
            texts = [message["content"] for message in body["messages"]]
        self.failing_adds -= (fails := self.failing_adds > 0)
        event_id = str(uuid4())
        due = self._now() + self.lag.add
        add = PendingAdd(due, body["user_id"], texts, body.get("metadata") or {}, fails)
        self.events[event_id] = self._pending[event_id] = add
        return {"message": "Memory processing has been queued", "status": "PENDING", "event_id": event_id}

    def _event(self, request: Request) -> object:
        event_id = request.path.split("/")[3]
        add = self.events.get(event_id)
        if add is None:
            raise Rejection(404, "No such event")
        if add.due > self._now():
            status = "RUNNING" if add.due - self._now() < self.lag.add / 2 else "PENDING"
        else:
            status = "FAILED" if add.fails else "SUCCEEDED"
        results = [{"id": one.id, "event": "ADD", "data": {"memory": one.versions[0][1]}} for one in add.stored]
        return {"id": event_id, "event_type": "ADD", "status": status, "results": results}

    def _list(self, request: Request) -> object:
        shown = self._matching(request, 0, {"filters", "show_expired"})
        number, size = int(request.query.get("page", 1)), min(int(request.query.get("page_size", 100)), 100)
        results = shown[(number - 1) * size : number * size]
        if number > 1 and not results:
            raise Rejection(404, "Invalid page.")
        next_page = f"{self.host}/v3/memories/?page={number + 1}&page_size={size}"
        return {"count": len(shown), "next": next_page if len(shown) > number * size else None, "results": results}

    def _search(self, request: Request) -> object:
        body = request.body
        shown = self._matching(
            request, self.lag.search, {"query", "filters", "top_k", "threshold", "rerank", "show_expired"}
        )
        words = set(re.findall(r"\w+", body["query"].casefold()))
        scored = []
        for one in shown:
            shared = words & set(re.findall(r"\w+", one["memory"].casefold()))
            score = len(shared) / (len(words) or 1)
            if score >= body.get("threshold", 0.1):
                scored.append({**one, "score": score})
        return {"results": sorted(scored, key=lambda one: one["score"])[::-1][: body["top_k"]]}

    def _matching(self, request: Request, extra_lag: float, known: set[str]) -> list[dict[str, Any]]:
        if unknown := set(request.body) - known:
            raise Rejection(400, f"Unsupported: {unknown}")
        filters = request.body["filters"]
        conditions = filters.get("AND", [filters])
        views = (
            one.shown(self._now(), self.lag.index + extra_lag, self.lag.delete + extra_lag)
            for one in self.memories.values()
        )
        found = [view for view in views if view and all(_matches(view, condition) for condition in conditions)]
        return sorted(found, key=lambda view: str(view["id"]))

    def _get(self, request: Request) -> object:
        view = self._at(request).shown(self._now(), 0, 0)
        assert view
        return view

    def _at(self, request: Request) -> StoredMemory:
        stored = self.memories.get(request.path.split("/")[3])
        if stored is None or stored.deleted is not None:
            raise Rejection(404, "Memory not found!")
        return stored

    def _update(self, request: Request) -> object:
        stored = self._at(request)
        _, text, metadata = stored.versions[-1]
        text, metadata = request.body.get("text", text), request.body.get("metadata", metadata)
        stored.versions.append((self._now(), text, metadata))
        return {"id": stored.id, "text": text, "user_id": stored.user_id, "metadata": metadata}

    def _delete(self, request: Request) -> object:
        self._at(request).deleted = self._now()
        return {"message": "Memory deleted successfully!"}

    def _delete_all(self, request: Request) -> object:
        user_id = request.query.get("user_id")
        if not user_id:
            raise Rejection(400, "At least one filter is required")
        for stored in list(self.memories.values()):
            if stored.deleted is None and user_id in ("*", stored.user_id):
                stored.deleted = self._now()
            elif stored.deleted is not None and stored.deleted + LONG_AGO < self._now():
                del self.memories[stored.id]
        return {"message": "Memories deleted successfully!"}


def _matches(view: Mapping[str, Any], condition: Mapping[str, Any]) -> bool:
    for name, value in condition.items():
        match name:
            case "user_id":
                matches = value in ("*", view["user_id"])
            case "metadata":
                matches = all(view["metadata"].get(key) == wanted for key, wanted in value.items())
            case "memory_ids":
                matches = view["id"] in value
            case _:
                raise Rejection(400, f"Unsupported filter: {name}")
        if not matches:
            return False
    return True
