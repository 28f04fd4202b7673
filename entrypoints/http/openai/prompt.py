"""The messages of a request, taken apart: the new one, and what comes before it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from application.turns.reply_request import joined
from domain.conversation import Exchange
from domain.resent import SentMessage
from entrypoints.http.openai.schemas import SYSTEM, ChatMessage
from entrypoints.http.request_problems import invalid_request


@dataclass(frozen=True, slots=True)
class Prompt:
    """The messages of a request.

    `message` is the user's last one, and `continued` the assistant's text after it, if the client wants that continued.
    `lead` are the messages right before it that have no reply. `system` are those of the system, wherever they are.
    """

    system: str
    exchanges: Sequence[Exchange]
    lead: str
    message: str
    continued: str
    resent: Sequence[SentMessage]
    """The user's messages before the last one."""


@dataclass(slots=True)
class _Exchange:
    """Messages of the user, and then of the assistant."""

    asked: list[str] = field(default_factory=list)
    replied: list[str] = field(default_factory=list)


def prompt_of(messages: Sequence[ChatMessage]) -> Prompt:
    """Take the messages of a request apart.

    Several messages of one side in a row become one, so that user and assistant alternate, as some models demand. Some
    clients repeat their instructions after the user's message, so the last message may be one of the system.

    Raises:
        RequestProblem: There is no message to answer, or it is blank.
    """
    system = [message.content for message in messages if message.role in SYSTEM]
    exchanges = [_Exchange()]
    for message in messages:
        if message.role == "user":
            if exchanges[-1].replied:
                exchanges.append(_Exchange())
            exchanges[-1].asked.append(message.content)
        elif message.role == "assistant":
            exchanges[-1].replied.append(message.content)
    *earlier, last = exchanges
    if messages[-1].role in SYSTEM and last.replied:
        pointer = f"#/messages/{len(messages) - 1}/role"
        raise invalid_request(400, pointer, "after a message of the assistant, there must be one of the user to answer")
    index = max((index for index, message in enumerate(messages) if message.role == "user"), default=len(messages) - 1)
    if not last.asked or not last.asked[-1].strip():
        raise invalid_request(400, f"#/messages/{index}/content", "there must be a message of the user to answer")
    if "\0" in last.asked[-1]:
        raise invalid_request(400, f"#/messages/{index}/content", "must not contain U+0000")
    resent = [
        SentMessage(text, answered=joined(*exchange.replied) != "" and position == len(exchange.asked))
        for exchange in earlier
        for position, text in enumerate(exchange.asked, 1)
    ]
    return Prompt(
        system=joined(*system),
        exchanges=[Exchange(joined(*exchange.asked), joined(*exchange.replied)) for exchange in earlier],
        lead=joined(*last.asked[:-1]),
        message=last.asked[-1],
        continued=joined(*last.replied),
        resent=[*resent, *(SentMessage(text, answered=False) for text in last.asked[:-1])],
    )
