"""Long conversations with models whose context window is smaller than the settings assume."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, Final

import httpx2
import pytest

from tests.harness.scripted_upstream import Request, ScriptedUpstream
from tests.harness.servers import running_service
from tests.harness.service_log import ServiceLog
from tests.harness.tokenizer import o200k, prompt_size

pytestmark = pytest.mark.server

TURNS: Final = 40
SHORTENED: Final = "prompts shortened to fit the model's context window; check CONTEXT_TOKENS and OPENAI_MAX_TOKENS"
LOWERED: Final = "reply limit lowered to fit the model's context window; check OPENAI_MAX_TOKENS"

QUESTION = (
    "Question {}: the harbour was quiet that morning, and an old man in a blue coat mended his nets as if nothing had "
    "happened. When I asked him about the storm, he shrugged: boats come back or they do not. What did he wait for? "
)
REPLY = tuple(word + " " for word in ("He was waiting for his brother, who had left on Tuesday. " * 6).split())
"""As many tokens as words, roughly: 66."""


class Conversation:
    """One user's conversation, and the requests that each of its turns made."""

    def __init__(self, client: httpx2.AsyncClient, upstream: ScriptedUpstream) -> None:
        self.client = client
        self.upstream = upstream
        self.turns: list[Sequence[Request]] = []

    async def say(self, message: str) -> httpx2.Response:
        self.upstream.requests.clear()
        response = await self.client.post("/api/chat/simple", json={"user_id": "ann", "message": message})
        self.turns.append(list(self.upstream.requests))
        return response

    @property
    def refusals(self) -> int:
        return sum(len(requests) - 1 for requests in self.turns)

    @property
    def prompt_sizes(self) -> Sequence[int]:
        """Tokens of the accepted prompt of each turn."""
        return [prompt_size(requests[-1].body["messages"]) for requests in self.turns]

    @property
    def reply_limits(self) -> Sequence[int]:
        return [requests[-1].body["max_tokens"] for requests in self.turns]

    def assert_attempts_shrink(self) -> None:
        """Within a turn, each request has fewer messages than the last, or the same ones and a lower reply limit."""
        for requests in self.turns:
            for larger, smaller in pairwise(request.body for request in requests):
                if larger["messages"] == smaller["messages"]:
                    assert smaller["max_tokens"] < larger["max_tokens"]
                else:
                    assert len(smaller["messages"]) < len(larger["messages"])


@asynccontextmanager
async def conversation(model: str, **settings: Any) -> AsyncIterator[Conversation]:
    async with (
        ScriptedUpstream() as upstream,
        running_service(
            openai_base_url=upstream.base_url, openai_api_key="sk-test", openai_model=model, **settings
        ) as service,
    ):
        upstream.texts = REPLY
        yield Conversation(service.client, upstream)


@pytest.mark.parametrize("model", ["window", "terse-window", "uncounted-window"])
async def test_forty_turns_on_a_window_of_4096_tokens(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    log = ServiceLog(capsys)
    async with conversation(f"{model}-4096") as talk:
        statuses = [(await talk.say(QUESTION.format(number))).status_code for number in range(TURNS)]

    talk.assert_attempts_shrink()
    assert [200] * TURNS == statuses
    assert talk.refusals == 1
    assert min(talk.prompt_sizes[-10:]) > 2_000
    assert min(talk.reply_limits) > 900
    (warning,) = log.events(SHORTENED)
    assert warning["level"] == "warning"
    assert warning["context_tokens"] == 14_000
    assert warning["window_tokens"] == (4_096 if model == "window" else None)
    assert 3_500 < warning["request_tokens"] < 5_000


@pytest.mark.parametrize(("model", "smallest"), [("window", 600), ("terse-window", 250), ("uncounted-window", 250)])
async def test_forty_turns_on_a_window_of_1024_tokens_with_a_reply_limit_of_1000(
    model: str, smallest: int, capsys: pytest.CaptureFixture[str]
) -> None:
    log = ServiceLog(capsys)
    async with conversation(f"{model}-1024", openai_max_tokens=1_000) as talk:
        statuses = [(await talk.say(QUESTION.format(number))).status_code for number in range(TURNS)]

    talk.assert_attempts_shrink()
    assert [200] * TURNS == statuses
    assert talk.refusals <= 3
    assert min(talk.prompt_sizes[-10:]) > smallest
    assert min(talk.reply_limits[1:]) > 100
    (shortened,), (lowered,) = log.events(SHORTENED), log.events(LOWERED)
    assert (shortened["level"], lowered["level"]) == ("warning", "warning")
    assert lowered["max_tokens"] == 1_000
    assert lowered["lowered_to"] == talk.reply_limits[0]


async def test_only_the_reply_limit_is_lowered_if_the_prompt_fits() -> None:
    async with conversation("window-1024", openai_max_tokens=1_000) as talk:
        await talk.say("Hello")
        await talk.say("Hello")

    (first, second), *later = talk.turns
    assert first.body["messages"] == second.body["messages"]
    assert second.body["max_tokens"] == 1_024 - prompt_size(first.body["messages"])
    assert [1] == [len(requests) for requests in later]


async def test_a_message_that_does_not_fit_by_itself_is_refused_and_the_next_one_is_answered(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = ServiceLog(capsys)
    async with conversation("window-4096") as talk:
        await talk.say("Hello")
        refused = await talk.say("A long story. " * 1_500)
        answered = await talk.say("Hello")

    talk.assert_attempts_shrink()
    assert (refused.status_code, refused.json()["code"]) == (413, "context_too_long")
    assert (answered.status_code, len(talk.turns[-1])) == (200, 1)
    assert [2] == [len(request.body["messages"]) for request in talk.turns[1]][1:]
    assert len(log.events(SHORTENED)) == 1


LANGUAGES = {
    "English": "The harbour was quiet that morning, and an old man mended his nets. ",
    "German": "Am nächsten Morgen war der Hafen still, und ein alter Mann flickte seine Netze. ",
    "Russian": "В то утро в гавани было тихо, и старик в синем пальто чинил сети. ",
    "Hindi": "उस सुबह बंदरगाह शांत था, और एक बूढ़ा आदमी अपने जाल ठीक कर रहा था। ",
    "Chinese": "那天早上，港口很安静，一位穿蓝色外套的老人在补渔网。",
    "Japanese": "その朝、港は静かで、青いコートを着た老人が網を繕っていた。",
}


@pytest.mark.parametrize("language", LANGUAGES)
async def test_the_first_message_of_a_process_is_accepted_if_it_fits_the_budget(language: str) -> None:
    sentence = LANGUAGES[language]
    async with conversation("window-128000") as talk:
        fitting = int(13_800 / (o200k(sentence * 50) / 50))
        longest = sentence * min(fitting, 32_000 // len(sentence))
        response = await talk.say(longest)

    assert response.status_code == 200, response.text
    assert len(longest) > (31_900 if language in ("English", "German", "Russian", "Hindi") else 14_000)
