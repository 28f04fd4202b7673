"""LLM on the Chat Completions API of OpenAI and of the many servers that are compatible with it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from typing import Any, Final, Self

import aiohttp
import openai
import orjson

from adapters.daemon_threads import DaemonThreadPool, wait_for
from adapters.openai_api import errors
from adapters.openai_api.delta_cache import DeltaCache
from adapters.openai_api.diagnosis import Diagnostics
from adapters.openai_api.parameters import (
    LIMITS,
    MAX_FORMS,
    MIN_LIMIT,
    Accepted,
    Parameters,
    adapted,
    refused_choice,
)
from adapters.openai_api.reply import OpenAIReply
from adapters.openai_api.service import ModelService, discard
from application.ports.llm import (
    AS_CONFIGURED,
    LLM,
    LLMError,
    LLMInvalid,
    LLMParameterRefused,
    LLMRefused,
    LLMUnreachable,
    Reply,
    ReplyOptions,
)
from domain.conversation import Message, Role

OPENAI_URL: Final = "https://api.openai.com/v1"

_DECODED: Final = frozenset({"identity", "gzip", "deflate", "br", "zstd"})
"""Content encodings that aiohttp decodes, or refuses if it cannot; it passes on others as they are."""

_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})

_MAX_NOTE_CHARS: Final = 48
"""Limit of what a note quotes from the service. The longest finish reason of a vendor has 36 characters."""


class LLMOpenAI(LLM):
    """Calls a model: `model`, or the one that a client has chosen. All timeouts are in seconds.

    Args:
        keep_reasoning: Whether the model's reasoning is part of the reply.
        connect_timeout: For a new connection, including name lookup, proxy and TLS.
        first_byte_timeout: From the request, connecting included, to the head of the response.
        idle_timeout: Between two reads from then on.
        pool_timeout: For one of `max_connections` to become free. After that the call fails as unreachable, and is
            repeatable since nothing was sent.
        keep_alive: For which an idle connection is kept. Many servers close theirs after 5 seconds.
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str | None,
        model: str,
        temperature: float,
        max_tokens: int,
        top_p: float | None = None,
        stop: tuple[str, ...] | None = None,
        seed: int | None = None,
        reasoning_effort: str | None = None,
        keep_reasoning: bool = False,
        connect_timeout: float = 5,
        first_byte_timeout: float = 30,
        idle_timeout: float = 60,
        pool_timeout: float = 2,
        keep_alive: float = 3,
        max_connections: int = 1200,
    ) -> None:
        self._service = ModelService(
            api_key=api_key,
            base_url=base_url or OPENAI_URL,
            connect_timeout=connect_timeout,
            idle_timeout=idle_timeout,
            keep_alive=keep_alive,
        )
        self._model = model
        self._configured = Accepted(
            temperature, max_tokens, top_p=top_p, stop=stop, seed=seed, reasoning_effort=reasoning_effort
        )
        self._parameters = {model: Parameters(self._configured)}
        self._keep_reasoning = keep_reasoning
        self._cache = DeltaCache()
        self._diagnostics = Diagnostics(model=model, base_url=base_url or OPENAI_URL, api_key=api_key)
        self._diagnosing = DaemonThreadPool(max_threads=1, name="diagnosis")
        self._first_byte_timeout = first_byte_timeout
        self._idle_timeout = idle_timeout
        self._pool_timeout = pool_timeout
        self._slots = asyncio.Semaphore(max_connections)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. No call may be running or follow."""
        await self._service.close()
        self._diagnosing.stop()

    @asynccontextmanager
    async def reply(
        self, messages: Sequence[Message], max_tokens: int | None = None, options: ReplyOptions = AS_CONFIGURED
    ) -> AsyncIterator[Reply]:
        try:
            async with self._reply(messages, max_tokens, options) as reply:
                yield reply
        except LLMError as error:
            form = self._parameters_of(options.model or self._model).accepted
            complete = partial(
                self._diagnostics.complete, error, messages, form.parameters(max_tokens) | _chosen(options)
            )
            await wait_for(self._diagnosing.submit(complete))  # takes up to half a second for a long prompt
            raise

    @asynccontextmanager
    async def _reply(
        self, messages: Sequence[Message], max_tokens: int | None, options: ReplyOptions
    ) -> AsyncIterator[Reply]:
        async def excerpt(text: str) -> str:
            def redacted() -> str:
                return self._diagnostics.redactor(messages, options.stop or ()).excerpt(text, _MAX_NOTE_CHARS)

            return await wait_for(self._diagnosing.submit(redacted))

        await self._acquire_slot()
        try:
            response = await self._send(messages, max_tokens, options)
            try:
                media_type = _require_readable(response)
                with OpenAIReply(
                    response.content,
                    self._idle_timeout,
                    self._cache,
                    keep_reasoning=self._keep_reasoning,
                    excerpt=excerpt,
                    media_type=media_type,
                ) as reply:
                    yield reply
            except LLMError as error:
                error.diagnosis = {**errors.response_facts(response.status, response.headers), **error.diagnosis}
                raise
            finally:
                discard(response)
        finally:
            self._slots.release()

    async def _acquire_slot(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(self._pool_timeout):
                await self._slots.acquire()
        except TimeoutError:
            busy = LLMUnreachable("All connections to the model's service are in use.")
            busy.repeatable = True
            raise busy from None

    def _parameters_of(self, model: str) -> Parameters:
        """Return what a model accepts. Clients choose from a list of the operator's, so these are few."""
        if model not in self._parameters:
            self._parameters[model] = Parameters(self._configured)
        return self._parameters[model]

    async def _send(
        self, messages: Sequence[Message], max_tokens: int | None, options: ReplyOptions
    ) -> aiohttp.ClientResponse:
        """Send the call, again and again without what the model refuses, and remember the form that it accepts."""
        model, chosen = options.model or self._model, _chosen(options)
        # Some services have a lowest limit. Without its limit, the reply might get as long as the model likes.
        choices = {*chosen, *LIMITS} if max_tokens is not None and max_tokens < MIN_LIMIT else chosen.keys()
        learned = self._parameters_of(model)
        known = form = learned.accepted
        has_system = any(message.role is Role.SYSTEM for message in messages)
        tried = {form}
        failure: LLMError | None = None
        while failure is None:
            parameters = form.parameters(max_tokens) | chosen
            request = {"model": model, "messages": form.prompt(messages), "stream": True, **parameters}
            try:
                async with asyncio.timeout(self._first_byte_timeout):
                    response = await self._service.send(orjson.dumps(request))
            except openai.APIStatusError as error:
                failure = errors.from_status(error)
                refusal = errors.refusal_of(error)
                if type(failure) is LLMRefused and (name := refused_choice(refusal, parameters, choices)):
                    failure = LLMParameterRefused(name)
                elif type(failure) is LLMRefused and len(tried) < MAX_FORMS:
                    next_form = adapted(form, refusal, parameters, has_system=has_system)
                    if next_form is not None and next_form not in tried:
                        form, failure = next_form, None
                        tried.add(form)
            except errors.FOREIGN_ERRORS as error:
                service = self._service
                failure = errors.from_exception(
                    error, streaming=False, may_lack_tls=service.may_lack_tls, proxied=service.proxied
                )
            else:
                if form is not known:
                    learned.learn(known, form, has_choices=bool(chosen))
                return response
        raise failure  # outside the handlers, so that the service's text does not become its context


def _chosen(options: ReplyOptions) -> dict[str, Any]:
    """Return the parameters that a client has chosen, except the model."""
    return {name: value for name, value in asdict(options).items() if name != "model" and value is not None}


def _require_readable(response: aiohttp.ClientResponse) -> str:
    """Return the media type of a body that may be a reply; raise an error for others.

    The type tells little: only pages are sent as such.
    """
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if media_type in _PAGES:
        raise errors.wrong_api(None)
    if encoding not in _DECODED:
        raise LLMInvalid("The model's service responded in an encoding that was not asked for.")
    return media_type
