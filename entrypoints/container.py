"""The composition root: builds every part of the service from the settings. Read it from top to bottom."""

from uuid import uuid4

from dependency_injector import containers, providers

from adapters.clock import utc_now
from adapters.conversation_leases_in_process import ConversationLeasesInProcess
from adapters.history_in_memory import HistoryInMemory
from adapters.history_observed import ObservedHistory
from adapters.live_turns_in_process import LiveTurnsInProcess
from adapters.llm_retrying import RetryingLLM
from adapters.memory_guarded import GuardedMemory
from adapters.memory_in_memory import MemoryInMemory
from adapters.memory_none import NoMemory
from adapters.turn_observer_group import TurnObserverGroup
from adapters.turn_observer_structlog import TurnObserverStructlog
from application.authentication import Authenticate
from application.health import CheckHealth, CheckReadiness
from application.key_watch import KeyWatch
from application.memory.facts import (
    CorrectMemory,
    ForgetMemories,
    ForgetMemory,
    ListMemories,
    RecallMemories,
    StoreFact,
)
from application.memory.forgetting import Forgetting
from application.memory.outbox_worker import OutboxWorker
from application.memory.recall import Recall
from application.memory.user_lock import UserLock
from application.store_watch import StoreWatch
from application.turns.access import FollowTurn, GetTurn, StopTurn, StopTurnWhenLeft
from application.turns.answer_unstored import AnswerUnstored
from application.turns.context_window import ContextWindow
from application.turns.generate_reply import GenerateReply
from application.turns.history import ClearHistory, GetHistory, ListConversations, RenameConversation
from application.turns.keyed_turns import KeyedTurns
from application.turns.runner import TurnRunner
from application.turns.send_message import SendMessage
from application.turns.superseding import Superseding
from domain.conversation import TurnId
from entrypoints import builders
from entrypoints.pseudonyms import Pseudonyms
from entrypoints.settings import Settings
from entrypoints.shutdown import Shutdown


def _new_turn_id() -> TurnId:
    return TurnId(str(uuid4()))


class Container(containers.DeclarativeContainer):
    settings = providers.Dependency(instance_of=Settings)
    shutdown = providers.Singleton(Shutdown, settings.provided.shutdown_grace)

    upstream = providers.Singleton(builders.openai_llm, settings)
    llm = providers.Singleton(RetryingLLM, upstream)
    now = providers.Object(utc_now)
    pseudonyms = providers.Singleton(Pseudonyms, settings.provided.log_pseudonym_key, settings.provided.data_dir)
    observer = providers.Singleton(
        TurnObserverGroup,
        providers.List(providers.Singleton(TurnObserverStructlog, pseudonyms, debug=settings.provided.debug)),
    )

    database = providers.Singleton(builders.database, settings.provided.database, shutdown)
    database_store = providers.Selector(
        settings.provided.coordination,
        sql=providers.Singleton(builders.shared_sql_store, database),
        in_process=providers.Singleton(builders.sql_store, database, now),
    )
    store = providers.Selector(
        settings.provided.history_backend,
        sql=database_store,
        in_memory=providers.Singleton(HistoryInMemory, now),
    )
    store_watch = providers.Singleton(StoreWatch, store, observer)
    history = providers.Singleton(
        ObservedHistory, store, providers.Singleton(TurnObserverGroup, providers.List(observer, store_watch))
    )
    live_turns = providers.Selector(
        settings.provided.coordination,
        sql=providers.Singleton(builders.sql_live_turns, database, shutdown.provided.has_begun),
        in_process=providers.Singleton(LiveTurnsInProcess),
    )
    leases = providers.Selector(
        settings.provided.coordination,
        sql=providers.Singleton(builders.sql_leases, database),
        in_process=providers.Singleton(ConversationLeasesInProcess),
    )

    unguarded_memory = providers.Selector(
        settings.provided.memory_backend,
        sql=providers.Singleton(builders.sql_memory, database, now),
        mem0=providers.Singleton(builders.mem0_memory, settings, now),
        mem0_platform=providers.Singleton(builders.mem0_platform_memory, settings, now),
        in_memory=providers.Singleton(MemoryInMemory, now),
        none=providers.Singleton(NoMemory),
    )
    memory = providers.Singleton(
        GuardedMemory, unguarded_memory, observer, recall_timeout=settings.provided.memory_recall_timeout
    )
    outbox_worker = providers.Singleton(OutboxWorker, memory, history, observer, now)
    forgetting = providers.Singleton(Forgetting, memory, history, observer, outbox_worker.provided.wake)
    user_lock = providers.Singleton(UserLock, memory, history, observer, outbox_worker.provided.wake)
    recall = providers.Singleton(Recall, memory, forgetting, observer)

    window = providers.Singleton(
        ContextWindow, settings.provided.context_tokens, settings.provided.openai_max_tokens, observer
    )
    generate_reply = providers.Singleton(
        GenerateReply,
        llm=llm,
        history=history,
        recall=recall,
        outbox_worker=outbox_worker,
        observer=observer,
        instructions=settings.provided.system_prompt,
        window=window,
        deadline=settings.provided.turn_timeout,
    )
    turn_runner = providers.Singleton(
        TurnRunner,
        generate_reply,
        history,
        observer,
        is_store_shared=providers.Selector(
            settings.provided.coordination, sql=providers.Object(True), in_process=providers.Object(False)
        ),
    )

    keyed_turns = providers.Singleton(KeyedTurns, history, live_turns)
    superseding = providers.Singleton(Superseding, leases, live_turns, keyed_turns, observer)
    send_message = providers.Singleton(
        SendMessage,
        history=history,
        live_turns=live_turns,
        leases=leases,
        keyed_turns=keyed_turns,
        superseding=superseding,
        runner=turn_runner,
        observer=observer,
        now=now,
        new_turn_id=providers.Object(_new_turn_id),
        instructions=settings.provided.system_prompt,
        window=window,
        max_message_chars=settings.provided.max_message_chars,
    )
    answer_unstored = providers.Singleton(
        AnswerUnstored,
        live_turns=providers.Singleton(LiveTurnsInProcess, retention=0, max_retained_bytes=0),
        runner=turn_runner,
        observer=observer,
        now=now,
        new_turn_id=providers.Object(_new_turn_id),
        instructions=settings.provided.system_prompt,
        window=window,
        max_message_chars=settings.provided.max_message_chars,
    )
    get_history = providers.Singleton(GetHistory, history)
    list_conversations = providers.Singleton(ListConversations, history)
    rename_conversation = providers.Singleton(RenameConversation, history)
    clear_history = providers.Singleton(ClearHistory, history, live_turns, forgetting)
    get_turn = providers.Singleton(GetTurn, history)
    follow_turn = providers.Singleton(FollowTurn, live_turns)
    stop_turn = providers.Singleton(StopTurn, history, live_turns)
    stop_turn_when_left = providers.Singleton(StopTurnWhenLeft, live_turns)
    store_fact = providers.Singleton(StoreFact, memory, user_lock)
    list_memories = providers.Singleton(ListMemories, memory, forgetting)
    recall_memories = providers.Singleton(RecallMemories, memory, forgetting)
    correct_memory = providers.Singleton(CorrectMemory, memory, user_lock)
    forget_memory = providers.Singleton(ForgetMemory, memory, user_lock)
    forget_memories = providers.Singleton(ForgetMemories, forgetting)
    check_health = providers.Singleton(
        CheckHealth, history, memory, history, recall, turn_runner, outbox_worker, store_watch
    )

    own_key_database = providers.Singleton(builders.database, settings.provided.key_database, shutdown)
    api_keys = providers.Selector(
        settings.provided.key_store,
        sql=providers.Singleton(builders.sql_keys, database),
        own=providers.Singleton(builders.sql_keys, own_key_database),
        none=providers.Object(None),
    )
    _watched_keys = providers.Singleton(KeyWatch, api_keys, observer)
    key_watch = providers.Selector(
        settings.provided.key_store, sql=_watched_keys, own=_watched_keys, none=providers.Object(None)
    )
    check_readiness = providers.Singleton(CheckReadiness, history, turn_runner, store_watch, key_watch)
    tokens = providers.Singleton(builders.jwt_tokens, settings, observer)
    authenticate = providers.Selector(
        settings.provided.auth,
        **{
            "none": providers.Object(None),
            "api_key": providers.Singleton(Authenticate, api_keys, None, observer, now),
            "jwt": providers.Singleton(Authenticate, None, tokens, observer, now),
            "api_key+jwt": providers.Singleton(Authenticate, api_keys, tokens, observer, now),
        },
    )
    """Finds out who sends a request; None if there is no authentication."""

    parts = providers.List(
        pseudonyms,
        providers.Selector(settings.provided.database_backend, sql=database, none=providers.Object(None)),
        providers.Selector(
            settings.provided.key_store,
            own=own_key_database,
            sql=providers.Object(None),
            none=providers.Object(None),
        ),
        providers.Selector(
            settings.provided.key_store,
            sql=_watched_keys.provided.opened.call(),
            own=_watched_keys.provided.opened.call(),
            none=providers.Object(None),
        ),
        store,
        live_turns,
        leases,
        upstream,
        unguarded_memory,
        outbox_worker.provided.opened.call(),
        turn_runner.provided.opened.call(),
        store_watch.provided.opened.call(),
    )
    """The lifespan opens those that are async context managers, in this order."""
