"""A stand-in for Mem0's hosted service over real sockets, which lags and fails as a test tells it to.

    async with Mem0Platform() as platform: ...
    platform.lag = Lag(delete=0.2)              what was deleted is still listed and found for that long
    platform.plans["search"] = [status(500)]    the next search fails, those after it do not

The faults are in mem0_platform_faults.py.

Paths, headers and bodies are what mem0's client sends.
Known from its documentation: adds are asynchronous and answer with an `event_id`; the statuses of events; filters by
`user_id`, `metadata` and `memory_ids`, joined by AND, and nothing else at their top level; a user id of `*` stands for
all; pages of `count`, `next`, `previous`, `results`; ids of users beside the filters are refused.
Assumed: that metadata comes back as it was given, also with what was inferred, and is replaced by what a PUT brings;
that texts that are not inferred from are kept to the letter, even if there is the same already; that every memory
carries its `user_id`, also in listings and searches; that an event's results name what it added; that pages start at 1,
hold a hundred at most, and are in no certain order; that a memory is gone at its own path as soon as it was deleted;
that searches take a `threshold` of 0 for everything; the texts of errors.
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
"""The offset in which the documentation's examples tell times."""


@dataclass(frozen=True)
class Lag:
    """Seconds until something shows. `search` comes on top of the others where something is searched for."""

    add: float = 0
    """Until an add's event has succeeded."""
    index: float = 0
    """Until what was added or changed is listed and found."""
    delete: float = 0
    """Until what was deleted is no longer listed and found."""
    search: float = 0


NO_LAG = Lag()


@dataclass(frozen=True)
class Request:
    """One request as it came in. `target` is the path as it was sent, `path` is decoded."""

    operation: str
    method: str
    target: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Kept:
    """A memory with all its versions: since when, text, metadata."""

    id: str
    user_id: str
    versions: list[tuple[float, str, Mapping[str, Any]]]
    created_at: str
    deleted: float | None = None

    def age(self, seconds: float) -> None:
        """Have it been there for so long already that a lag of this does not hide it."""
        self.versions = [(since - seconds, text, metadata) for since, text, metadata in self.versions]

    def shown(self, now: float, index: float, delete: float) -> dict[str, Any] | None:
        """How it looks to someone who hears of changes `index`, and of its deletion `delete` seconds late."""
        seen = [version for version in self.versions if version[0] + index <= now]
        if not seen or (self.deleted is not None and self.deleted + delete <= now):
            return None
        _, text, metadata = seen[-1]
        times = {"created_at": self.created_at, "updated_at": self.created_at}
        return {"id": self.id, "memory": text, "user_id": self.user_id, "metadata": metadata, "hash": "h", **times}


@dataclass
class Adding:
    """An add's event: what it is going to keep, and when."""

    due: float
    user_id: str
    texts: Sequence[str]
    metadata: Mapping[str, Any]
    fails: bool
    kept: list[Kept] = field(default_factory=list)


class Refusal(Exception):
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.answer = Answer(status, {"detail": detail})


class Connection:
    """One connection, and the request that came last on it."""

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
            await (plan.pop(0) if plan else self.platform.faults.get(self.request.operation, answer))(self)

    async def _head(self) -> str:
        try:
            return (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return ""

    def send(self, answer: Answer) -> None:
        data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        fields = {"content-type": "application/json", "content-length": str(len(data)), **answer.headers}
        lines = [f"HTTP/1.1 {answer.status} Scripted", *(f"{name}: {value}" for name, value in fields.items())]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + data)


Fault = Callable[[Connection], Awaitable[None]]


async def answer(connection: Connection) -> None:
    """What the platform does where no fault is planned."""
    connection.send(connection.platform.answered(connection.request))


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
    """What is kept, what was asked, and what is to go wrong."""

    def __init__(self, lag: Lag = NO_LAG) -> None:
        self.lag = lag
        self.port = 0
        self.requests: list[Request] = []
        self.plans: dict[str, list[Fault]] = {}
        """By operation: faults of the next requests, one each."""
        self.faults: dict[str, Fault] = {}
        """By operation: the fault of all requests that have no plan."""
        self.failing_adds = 0
        """How many of the next adds end in FAILED."""
        self.distil: Callable[[str], Sequence[str]] = lambda said: [said]
        """What is inferred from what a user said."""
        self.memories: dict[str, Kept] = {}
        self.events: dict[str, Adding] = {}
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
            pass  # the client left
        finally:
            writer.close()

    def answered(self, request: Request) -> Answer:
        self._settle()
        try:
            if request.headers.get("authorization") != f"Token {KEY}":
                raise Refusal(401, f"No such key: {request.headers.get('authorization')}")
            work = getattr(self, f"_{request.operation}", None)
            if work is None:
                raise Refusal(404, f"Not found: {request.path}")
            return Answer(200, work(request))
        except Refusal as refusal:
            return refusal.answer

    def keep(self, user_id: str, text: str, metadata: Mapping[str, Any] | None = None) -> Kept:
        """A memory that came from elsewhere."""
        now = datetime.now(UTC).astimezone(PACIFIC).isoformat()
        kept = Kept(str(uuid4()), user_id, [(self._now(), text, metadata or {})], now)
        self.memories[kept.id] = kept
        return kept

    def finish_adds(self, seconds: float = 0) -> None:
        """Have the adds that are under way succeed in this time."""
        for adding in self.events.values():
            adding.due = min(adding.due, self._now() + seconds)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _settle(self) -> None:
        """Have the events happen whose time has come."""
        for adding in self.events.values():
            if adding.due <= self._now() and not adding.fails and not adding.kept:
                adding.kept = [self.keep(adding.user_id, text, adding.metadata) for text in adding.texts]

    def _ping(self, _: Request) -> object:
        return {"status": "ok", "org_id": "o", "project_id": "p", "user_email": "tests@example.com"}

    def _add(self, request: Request) -> object:
        body = request.body
        said = [message["content"] for message in body["messages"] if message["role"] == "user"]
        everything = [message["content"] for message in body["messages"]]
        texts = [text for one in said for text in self.distil(one)] if body.get("infer", True) else everything
        self.failing_adds -= (fails := self.failing_adds > 0)
        event_id = str(uuid4())
        due = self._now() + self.lag.add
        self.events[event_id] = Adding(due, body["user_id"], texts, body.get("metadata") or {}, fails)
        return {"message": "Memory processing has been queued", "status": "PENDING", "event_id": event_id}

    def _event(self, request: Request) -> object:
        event_id = request.path.split("/")[3]
        adding = self.events.get(event_id)
        if adding is None:
            raise Refusal(404, "No such event")
        if adding.due > self._now():
            status = "RUNNING" if adding.due - self._now() < self.lag.add / 2 else "PENDING"
        else:
            status = "FAILED" if adding.fails else "SUCCEEDED"
        results = [{"id": one.id, "event": "ADD", "data": {"memory": one.versions[0][1]}} for one in adding.kept]
        return {"id": event_id, "event_type": "ADD", "status": status, "results": results}

    def _list(self, request: Request) -> object:
        shown = self._matching(request, 0, {"filters", "show_expired"})
        number, size = int(request.query.get("page", 1)), min(int(request.query.get("page_size", 100)), 100)
        results = shown[(number - 1) * size : number * size]
        if number > 1 and not results:
            raise Refusal(404, "Invalid page.")
        behind = f"{self.host}/v3/memories/?page={number + 1}&page_size={size}"
        return {"count": len(shown), "next": behind if len(shown) > number * size else None, "results": results}

    def _search(self, request: Request) -> object:
        body = request.body
        shown = self._matching(
            request, self.lag.search, {"query", "filters", "top_k", "threshold", "rerank", "show_expired"}
        )
        asked = set(re.findall(r"\w+", body["query"].casefold()))
        scored = []
        for one in shown:
            shared = asked & set(re.findall(r"\w+", one["memory"].casefold()))
            score = len(shared) / (len(asked) or 1)
            if score >= body.get("threshold", 0.1):
                scored.append({**one, "score": score})
        return {"results": sorted(scored, key=lambda one: one["score"])[::-1][: body["top_k"]]}

    def _matching(self, request: Request, late: float, known: set[str]) -> list[dict[str, Any]]:
        if unknown := set(request.body) - known:
            raise Refusal(400, f"Unsupported: {unknown}")
        filters = request.body["filters"]
        conditions = filters.get("AND", [filters])
        views = (
            one.shown(self._now(), self.lag.index + late, self.lag.delete + late) for one in self.memories.values()
        )
        found = [view for view in views if view and all(_fits(view, condition) for condition in conditions)]
        return sorted(found, key=lambda view: str(view["id"]))

    def _get(self, request: Request) -> object:
        view = self._at(request).shown(self._now(), 0, 0)
        assert view
        return view

    def _at(self, request: Request) -> Kept:
        kept = self.memories.get(request.path.split("/")[3])
        if kept is None or kept.deleted is not None:
            raise Refusal(404, "Memory not found!")
        return kept

    def _update(self, request: Request) -> object:
        kept = self._at(request)
        _, text, metadata = kept.versions[-1]
        body = request.body
        kept.versions.append((self._now(), body.get("text", text), body.get("metadata", metadata)))
        return {"id": kept.id, "text": kept.versions[-1][1], "user_id": kept.user_id, "metadata": kept.versions[-1][2]}

    def _delete(self, request: Request) -> object:
        self._at(request).deleted = self._now()
        return {"message": "Memory deleted successfully!"}

    def _delete_all(self, request: Request) -> object:
        user_id = request.query.get("user_id")
        if not user_id:
            raise Refusal(400, "At least one filter is required")
        for kept in self.memories.values():
            if kept.deleted is None and user_id in ("*", kept.user_id):
                kept.deleted = self._now()
        return {"message": "Memories deleted successfully!"}


def _fits(view: Mapping[str, Any], condition: Mapping[str, Any]) -> bool:
    for name, value in condition.items():
        match name:
            case "user_id":
                fits = value in ("*", view["user_id"])
            case "metadata":
                fits = all(view["metadata"].get(key) == wanted for key, wanted in value.items())
            case "memory_ids":
                fits = view["id"] in value
            case _:
                raise Refusal(400, f"Unsupported filter: {name}")
        if not fits:
            return False
    return True
