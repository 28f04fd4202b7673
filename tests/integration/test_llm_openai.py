"""The OpenAI adapter over real sockets: the error for each fault of the service, and nothing left open."""

import logging
import socket
import ssl
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator

import anyio
import httpcore2  # noqa: F401  # httpx2 imports it with the first certificates, when it would block the test's loop
import pytest

from adapters.llm_openai import LLMOpenAI
from adapters.openai_api.http_client import tls_context
from application.ports.llm import (
    LLMAuthFailed,
    LLMContextTooLong,
    LLMDisconnected,
    LLMError,
    LLMFailed,
    LLMIdle,
    LLMInvalid,
    LLMParameterRefused,
    LLMRateLimited,
    LLMRedirected,
    LLMRefused,
    LLMTimeout,
    LLMUnreachable,
    LLMWrongAPI,
    ReplyOptions,
)
from domain.conversation import Message, Role
from domain.errors import ChatError, OutputLimit
from tests.harness.cancelling import cancelled_when
from tests.harness.scripted_upstream import NASTY_TEXTS, ScriptedUpstream

pytestmark = pytest.mark.server

KEY = "sk-verysecret-0123456789abcdef"
MESSAGES = [Message(Role.USER, "Hello")]

OpenLLM = Callable[..., LLMOpenAI]


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture
async def open_llm(upstream: ScriptedUpstream) -> AsyncIterator[OpenLLM]:
    """Open the adapter for a model with short timeouts, by default against the scripted upstream."""
    opened: list[LLMOpenAI] = []

    def open_(model: str, base_url: str | None = None, max_connections: int = 10, idle_timeout: float = 2) -> LLMOpenAI:
        llm = LLMOpenAI(
            api_key=KEY,
            base_url=base_url or upstream.base_url,
            model=model,
            temperature=0.5,
            max_tokens=100,
            connect_timeout=0.8,
            first_byte_timeout=2,
            idle_timeout=idle_timeout,
            pool_timeout=0.1,
            max_connections=max_connections,
        )
        opened.append(llm)
        return llm

    yield open_
    for llm in opened:
        await llm.close()


async def deltas_of(llm: LLMOpenAI) -> list[str]:
    async with llm.reply(MESSAGES) as reply:
        return [delta async for deltas in reply for delta in deltas]


async def error_of(llm: LLMOpenAI) -> ChatError:
    with pytest.raises(ChatError) as raised:
        await deltas_of(llm)
    return raised.value


@pytest.mark.parametrize(
    ("model", "error", "repeatable"),
    [
        ("hanghead", LLMTimeout, False),
        ("closehead", LLMDisconnected, False),
        ("garbage", LLMWrongAPI, False),
        ("html", LLMWrongAPI, False),
        ("500", LLMFailed, True),
        ("502", LLMFailed, True),
        ("503", LLMFailed, True),
        ("status-504", LLMTimeout, False),
        ("status-408", LLMTimeout, True),
        ("status-409", LLMFailed, True),
        ("status-404", LLMRefused, False),
        ("status-422", LLMRefused, False),
        ("status-413", LLMContextTooLong, False),
        ("429-60", LLMRateLimited, True),
        ("401", LLMAuthFailed, False),
        ("403", LLMAuthFailed, False),
        ("context-2", LLMContextTooLong, False),
        ("redirect", LLMRedirected, False),
        ("rst-0", LLMDisconnected, False),
        ("rst-3", LLMDisconnected, False),
        ("fin-0", LLMDisconnected, False),
        ("fin-3", LLMDisconnected, False),
        ("hang-0", LLMIdle, False),
        ("hang-3", LLMIdle, False),
        ("err-0", LLMFailed, False),
        ("err-3", LLMFailed, False),
        ("named-err-1", LLMFailed, False),
        ("badjson", LLMInvalid, False),
        ("badshape", LLMInvalid, False),
    ],
)
async def test_a_fault_becomes_an_error_of_the_port_and_frees_the_connection(
    upstream: ScriptedUpstream, open_llm: OpenLLM, model: str, error: type[LLMError], repeatable: bool
) -> None:
    raised = await error_of(open_llm(model))
    assert (type(raised), getattr(raised, "repeatable", None)) == (error, repeatable)
    assert "secret reason" not in "".join(traceback.format_exception(raised))
    await upstream.all_closed()
    assert len(upstream.requests) == 1


async def test_a_refused_connection_is_repeatable(open_llm: OpenLLM) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        raised = await error_of(open_llm("ok", f"http://127.0.0.1:{bound.getsockname()[1]}/v1"))
    assert (type(raised), getattr(raised, "repeatable", None)) == (LLMUnreachable, True)


@pytest.mark.row("U1")
async def test_an_unknown_host_is_repeatable(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    raised = await error_of(open_llm("ok", "http://model.invalid/v1"))
    assert (type(raised), getattr(raised, "repeatable", None)) == (LLMUnreachable, True)


async def test_a_failed_handshake_is_repeatable(open_llm: OpenLLM) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:

        async def hang_up(stream: anyio.abc.SocketStream) -> None:
            await stream.receive()
            await stream.send(b"\x15\x03\x03\x00\x02\x02\x50")  # the alert "internal error"
            await stream.aclose()

        tasks.start_soon(listener.serve, hang_up)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        raised = await error_of(open_llm("ok", f"https://127.0.0.1:{port}/v1"))
        tasks.cancel_scope.cancel()
    assert (type(raised), getattr(raised, "repeatable", None)) == (LLMUnreachable, True)


async def test_a_connection_that_is_not_accepted_is_repeatable(open_llm: OpenLLM) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        async with await anyio.connect_tcp("127.0.0.1", port):  # fills the backlog
            raised = await error_of(open_llm("ok", f"http://127.0.0.1:{port}/v1"))
    assert (type(raised), getattr(raised, "repeatable", None)) == (LLMUnreachable, True)


async def test_a_call_beyond_the_pool_is_repeatable(open_llm: OpenLLM) -> None:
    llm = open_llm("hang-1", max_connections=1)
    async with llm.reply(MESSAGES):
        raised = await error_of(llm)
    assert (type(raised), getattr(raised, "repeatable", None)) == (LLMUnreachable, True)


async def test_a_slot_is_freed_when_its_call_ends(open_llm: OpenLLM) -> None:
    llm = open_llm("ok", max_connections=1)
    for _ in range(3):
        assert await deltas_of(llm) == ["Hello", ", ", "world", "!"]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("rate_limit_exceeded", LLMRateLimited),
        (429, LLMRateLimited),
        ("context_length_exceeded", LLMContextTooLong),
        ("invalid_api_key", LLMAuthFailed),
        (None, LLMFailed),
    ],
)
async def test_the_code_of_an_error_within_the_stream_decides(
    upstream: ScriptedUpstream, open_llm: OpenLLM, code: str | int | None, error: type[LLMError]
) -> None:
    upstream.error_code = code
    assert type(await error_of(open_llm("err-1"))) is error


async def test_an_endless_line_exceeds_the_limit(upstream: ScriptedUpstream, open_llm: OpenLLM) -> None:
    assert isinstance(await error_of(open_llm("bigline")), OutputLimit)
    await upstream.all_closed()


async def test_a_slow_reply_is_not_idle(open_llm: OpenLLM) -> None:
    assert len(await deltas_of(open_llm("tokens-5-200", idle_timeout=0.7))) == 5


@pytest.mark.parametrize("model", ["afterdone", "afterfinish", "finishonly"])
async def test_a_finished_reply_does_not_wait_for_the_end_of_the_body(
    upstream: ScriptedUpstream, open_llm: OpenLLM, model: str
) -> None:
    with anyio.fail_after(2):
        assert await deltas_of(open_llm(model)) == ["Hello", ", ", "world", "!"]
    await upstream.all_closed()


async def test_nul_and_lone_surrogates_are_replaced(open_llm: OpenLLM) -> None:
    replaced = {ord("\0"): "\ufffd", 0xD83D: "\ufffd", 0xDE00: "\ufffd"}
    assert await deltas_of(open_llm("unicode")) == [text.translate(replaced) for text in NASTY_TEXTS]


async def test_a_call_sends_its_parameters_and_the_key(upstream: ScriptedUpstream, open_llm: OpenLLM) -> None:
    await deltas_of(open_llm("ok"))
    request = upstream.requests[0]
    assert request.body == {
        "model": "ok",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 100,
        "temperature": 0.5,
    }
    assert (request.path, request.headers["authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")


@pytest.mark.parametrize(
    ("query", "api_key"), [("", None), ("?", None), ("?x=a%20b&y=/z", None), ("?api-version=2024-10-21", KEY)]
)
async def test_a_query_of_the_base_url_stays_behind_the_path_and_azure_gets_its_own_header(
    query: str, api_key: str | None, upstream: ScriptedUpstream, open_llm: OpenLLM
) -> None:
    deployment = upstream.base_url.removesuffix("/v1") + "/openai/deployments/x"
    llm = open_llm("any", deployment + query)
    async with llm.reply(MESSAGES) as reply:
        assert [delta async for deltas in reply for delta in deltas]
    request = upstream.requests[0]

    assert request.path == "/openai/deployments/x/chat/completions" + (query if len(query) > 1 else "")
    assert request.headers.get("api-key") == api_key


@pytest.mark.parametrize(("max_tokens", "sent"), [(16, 16), (100, 100), (1_000, 100), (None, 100)])
@pytest.mark.parametrize(
    ("model", "name"), [("ok", "max_tokens"), ("refuses-max-tokens", "max_completion_tokens")], ids=["old", "new"]
)
async def test_a_call_may_lower_the_limit_of_its_reply(
    upstream: ScriptedUpstream, open_llm: OpenLLM, model: str, name: str, max_tokens: int | None, sent: int
) -> None:
    llm = open_llm(model)
    async with llm.reply(MESSAGES, max_tokens) as reply:
        assert [delta async for deltas in reply for delta in deltas]
    await deltas_of(llm)
    assert [sent, 100] == [request.body[name] for request in upstream.requests[-2:]]


async def ask(llm: LLMOpenAI, options: ReplyOptions) -> None:
    async with llm.reply(MESSAGES, None, options) as reply:
        assert [delta async for deltas in reply for delta in deltas]


async def test_what_a_client_has_chosen_is_sent_and_the_rest_stays_as_configured(
    upstream: ScriptedUpstream, open_llm: OpenLLM
) -> None:
    llm = open_llm("ok")
    await ask(llm, ReplyOptions("any", 0, 0.9, ("END", "\n"), 7))
    await ask(llm, ReplyOptions())
    chosen, configured = (request.body for request in upstream.requests)

    assert {"model": "any", "temperature": 0, "top_p": 0.9, "stop": ["END", "\n"], "seed": 7, "max_tokens": 100} == {
        name: chosen[name] for name in ("model", "temperature", "top_p", "stop", "seed", "max_tokens")
    }
    assert ("ok", 0.5) == (configured["model"], configured["temperature"])
    assert not {"top_p", "stop", "seed"} & configured.keys()


async def test_a_parameter_that_a_client_has_chosen_is_never_left_out(
    upstream: ScriptedUpstream, open_llm: OpenLLM
) -> None:
    llm = open_llm("refuses-temperature")
    await ask(llm, ReplyOptions())  # from now on, the one of the settings is left out
    for _ in range(2):
        with pytest.raises(LLMParameterRefused) as refused:
            await ask(llm, ReplyOptions(temperature=0))
        assert "temperature" == refused.value.parameter
    await ask(llm, ReplyOptions(seed=7))

    assert 0 == upstream.requests[-2].body["temperature"]
    assert "temperature" not in upstream.requests[-1].body


async def test_what_is_refused_because_of_a_clients_choice_is_still_sent_for_others(
    upstream: ScriptedUpstream, open_llm: OpenLLM
) -> None:
    llm = open_llm("refuses-both")
    await ask(llm, ReplyOptions(top_p=0.9))
    await ask(llm, ReplyOptions())

    assert ["top_p", "temperature"] == [
        next(name for name in ("top_p", "temperature") if name in request.body) for request in upstream.requests[1:]
    ]


async def test_a_limit_that_is_refused_as_too_small_is_an_error_and_others_are_still_sent(
    upstream: ScriptedUpstream, open_llm: OpenLLM
) -> None:
    llm = open_llm("refuses-small-limits")
    with pytest.raises(LLMParameterRefused) as refused:
        await llm.reply(MESSAGES, 1).__aenter__()
    await ask(llm, ReplyOptions())

    assert "max_tokens" == refused.value.parameter
    assert 100 == upstream.requests[-1].body["max_tokens"]


async def test_what_one_model_refuses_is_still_sent_to_another(upstream: ScriptedUpstream, open_llm: OpenLLM) -> None:
    llm = open_llm("refuses-temperature")
    await ask(llm, ReplyOptions())
    await ask(llm, ReplyOptions("ok"))
    await ask(llm, ReplyOptions("refuses-max-tokens"))

    assert 0.5 == upstream.requests[-1].body["temperature"]
    assert {"max_completion_tokens", "temperature"} <= upstream.requests[-1].body.keys()
    assert "max_tokens" in upstream.requests[-3].body


async def test_requests_have_the_headers_of_the_sdk(upstream: ScriptedUpstream, open_llm: OpenLLM) -> None:
    llm = open_llm("ok")
    for _ in range(2):
        await deltas_of(llm)
    for request in upstream.requests:
        assert request.headers["user-agent"].startswith("AsyncOpenAI/Python ")
        assert {
            "accept": "text/event-stream",
            "accept-encoding": "gzip, deflate",
            "content-type": "application/json",
            "host": f"127.0.0.1:{upstream.port}",
            "x-stainless-read-timeout": "2",
        }.items() <= request.headers.items()


async def test_the_proxy_of_the_environment_is_used(
    upstream: ScriptedUpstream, open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{upstream.port}")
    monkeypatch.setenv("no_proxy", "")
    assert await deltas_of(open_llm("ok", "http://model.invalid/v1"))
    assert upstream.requests[0].path == "http://model.invalid/v1/chat/completions"


async def test_no_proxy_excludes_hosts(
    upstream: ScriptedUpstream, open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert await deltas_of(open_llm("ok"))
    assert upstream.requests[0].path == "/v1/chat/completions"


async def test_the_first_byte_may_take_longer_than_the_idle_timeout(upstream: ScriptedUpstream) -> None:
    llm = LLMOpenAI(
        api_key=KEY,
        base_url=upstream.base_url,
        model="latehead-400",
        temperature=0.5,
        max_tokens=100,
        first_byte_timeout=5,
        idle_timeout=0.1,
    )
    assert await deltas_of(llm)
    await llm.close()


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("refuses-max-tokens", {"max_completion_tokens", "temperature", "stream_options"}),
        ("refuses-temperature", {"max_tokens", "stream_options"}),
        ("refuses-usage", {"max_tokens", "temperature"}),
        ("refuses-everything", {"max_completion_tokens"}),
    ],
)
async def test_a_rejected_parameter_is_not_sent_again(
    upstream: ScriptedUpstream, open_llm: OpenLLM, model: str, parameters: set[str]
) -> None:
    llm = open_llm(model)
    await deltas_of(llm)
    adapting = len(upstream.requests)
    await deltas_of(llm)
    assert len(upstream.requests) == adapting + 1
    assert upstream.requests[-1].body.keys() - {"model", "messages", "stream"} == parameters


async def test_concurrent_calls_that_adapt_do_not_loop(upstream: ScriptedUpstream, open_llm: OpenLLM) -> None:
    llm = open_llm("refuses-everything")
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(deltas_of, llm)
    assert len(upstream.requests) <= 5 * 4


async def test_a_redirect_is_not_followed(open_llm: OpenLLM) -> None:
    async with ScriptedUpstream() as elsewhere:
        assert isinstance(await error_of(open_llm(f"redirect-{elsewhere.port}")), LLMRedirected)
        assert elsewhere.requests == []


@pytest.mark.parametrize("model", ["401", "403", "garbage", "status-400"])
async def test_the_key_is_in_no_error_and_no_log(
    open_llm: OpenLLM, caplog: pytest.LogCaptureFixture, model: str
) -> None:
    caplog.set_level(logging.DEBUG)
    link: BaseException | None = await error_of(open_llm(model))
    while link is not None:
        caplog.handler.stream.write("".join(traceback.format_exception(link)) + repr(link) + str(vars(link)))
        link = link.__cause__ or link.__context__
    assert KEY not in caplog.text


class PromptOfThreads(list[Message]):
    """Notes the threads that read it."""

    def __init__(self) -> None:
        super().__init__(MESSAGES)
        self.threads: set[threading.Thread] = set()

    def __iter__(self) -> Iterator[Message]:
        self.threads.add(threading.current_thread())
        return super().__iter__()


async def test_an_error_is_compared_with_the_prompt_in_another_thread(open_llm: OpenLLM) -> None:
    prompt = PromptOfThreads()
    with pytest.raises(LLMRateLimited):
        async with open_llm("status-429").reply(prompt):
            pass
    assert len(prompt.threads) == 2


async def test_a_finish_reason_is_compared_with_the_prompt_in_another_thread(open_llm: OpenLLM) -> None:
    prompt = PromptOfThreads()
    async with open_llm("ownreason").reply(prompt) as reply:
        async for _ in reply:
            pass
    assert ["finish reason reason of the vendor"] == reply.notes
    assert len(prompt.threads) == 2


async def test_a_finished_reply_returns_its_connection(upstream: ScriptedUpstream, open_llm: OpenLLM) -> None:
    llm = open_llm("ok")
    for _ in range(3):
        await deltas_of(llm)
    assert upstream.connections == 1


async def test_an_endless_error_body_is_not_read_to_its_end(upstream: ScriptedUpstream, open_llm: OpenLLM) -> None:
    with anyio.fail_after(5):
        raised = await error_of(open_llm("endless-refusal"))
    assert type(raised) is LLMFailed
    await upstream.all_closed()


async def test_cancelling_before_the_response_closes_the_connection(
    upstream: ScriptedUpstream, open_llm: OpenLLM
) -> None:
    await cancelled_when(lambda: upstream.requests, deltas_of, open_llm("hanghead"))
    with anyio.fail_after(1):
        await upstream.all_closed()


@pytest.mark.parametrize(
    ("url", "proxy"),
    [("https://example.com/v1", ""), ("HTTPS://example.com/v1", ""), ("http://example.com/v1", "https://proxy.test")],
)
def test_certificates_are_required(monkeypatch: pytest.MonkeyPatch, url: str, proxy: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    context = tls_context(url)
    assert context is not None
    assert (ssl.CERT_REQUIRED, True) == (context.verify_mode, context.check_hostname)


@pytest.mark.usefixtures("no_proxy_of_this_machine")
def test_a_plain_url_needs_no_certificates() -> None:
    assert tls_context("http://127.0.0.1/v1") is None
