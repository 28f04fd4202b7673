"""Builders of the adapters whose libraries are imported only if the settings ask for them.

An adapter that is not used costs no time and no memory at start, and its library need not be installed. Only the
container calls these functions.
"""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from application.ports.conversation_leases import ConversationLeases
from application.ports.credentials import APIKeys, Tokens
from application.ports.history import ConversationHistory
from application.ports.live_turns import LiveTurns
from application.ports.memory import LongTermMemory
from application.ports.turn_observer import TurnObserver
from entrypoints.settings import Settings
from entrypoints.shutdown import Shutdown

if TYPE_CHECKING:
    from adapters.llm_openai import LLMOpenAI
    from adapters.sql.database import Database, SharedDatabase


def database(url: str, shutdown: Shutdown) -> "Database":
    from adapters.sql.databases import database_at

    return database_at(url, shutdown.share)


def sql_store(database: "Database", now: Callable[[], datetime]) -> ConversationHistory:
    from adapters.history_sql import HistorySQL

    return HistorySQL(database, now)


def shared_sql_store(database: "SharedDatabase") -> ConversationHistory:
    """Build the store of several processes, which takes the time from the database that they share."""
    from adapters.history_sql import HistorySQL

    return HistorySQL(database, database.now, database.is_clock_steady)


def sql_leases(database: "SharedDatabase") -> ConversationLeases:
    from adapters.conversation_leases_sql import ConversationLeasesSQL

    return ConversationLeasesSQL(database)


def sql_memory(database: "Database", now: Callable[[], datetime]) -> LongTermMemory:
    from adapters.memory_sql import MemorySQL

    return MemorySQL(database, now)


def sql_live_turns(database: "SharedDatabase", is_closing: Callable[[], bool]) -> LiveTurns:
    from adapters.live_turns_sql import LiveTurnsSQL

    return LiveTurnsSQL(database, is_closing)


def mem0_memory(settings: Settings, now: Callable[[], datetime]) -> LongTermMemory:
    from adapters.memory_mem0 import MemoryMem0

    store = settings.mem0_vector_store
    return MemoryMem0(
        data_dir=settings.data_dir,
        api_key=_model_key(settings),
        base_url=settings.openai_base_url,
        model=settings.openai_model,
        embedding_model=settings.mem0_embedding_model,
        embedder=settings.mem0_embedder,
        infer=settings.mem0_infer,
        store_url=store.get_secret_value() if store else None,
        config_file=settings.mem0_config_file,
        now=now,
    )


def mem0_platform_memory(settings: Settings, now: Callable[[], datetime]) -> LongTermMemory:
    from adapters.memory_mem0_platform import MemoryMem0Platform

    assert settings.mem0_api_key is not None, "checked by Settings"
    return MemoryMem0Platform(
        api_key=settings.mem0_api_key.get_secret_value(),
        host=settings.mem0_host,
        data_dir=settings.data_dir,
        infer=settings.mem0_infer,
        now=now,
    )


def openai_llm(settings: Settings) -> "LLMOpenAI":
    from adapters.llm_openai import LLMOpenAI

    return LLMOpenAI(
        api_key=_model_key(settings),
        base_url=settings.openai_base_url,
        model=settings.openai_model,
        temperature=settings.openai_temperature,
        max_tokens=settings.openai_max_tokens,
        top_p=settings.openai_top_p,
        stop=settings.openai_stop,
        seed=settings.openai_seed,
        reasoning_effort=settings.openai_reasoning_effort,
        keep_reasoning=settings.reasoning == "keep",
        connect_timeout=settings.upstream_connect_timeout,
        first_byte_timeout=settings.upstream_first_byte_timeout,
        idle_timeout=settings.upstream_idle_timeout,
        max_connections=settings.upstream_max_connections,
    )


def _model_key(settings: Settings) -> str:
    """Return the API key of the model's service. Clients demand one, even if the service does not."""
    return settings.openai_api_key.get_secret_value() if settings.openai_api_key else "none"


def sql_keys(database: "Database") -> APIKeys:
    from adapters.credentials_sql import APIKeysSQL

    return APIKeysSQL(database)


def jwt_tokens(settings: Settings, observer: TurnObserver) -> Tokens:
    from adapters.jwks import JWKS
    from adapters.tokens_jwt import KeySet, SharedSecret, TokensJWT

    assert settings.auth_audience is not None, "checked by Settings"
    secret, url, issuers = settings.auth_jwt_secret, settings.auth_jwks_url, settings.auth_issuer
    return TokensJWT(
        settings.auth_audience,
        SharedSecret(secret.get_secret_value(), issuers[0]) if secret else None,
        KeySet(JWKS(url, observer), issuers[-1]) if url else None,
    )
