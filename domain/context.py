"""What the model gets to see: the instructions, the latest turns that fit a budget, the message."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from domain.conversation import Exchange, Message, Role
from domain.errors import ContextTooLong

MAX_TURNS: Final = 50
"""Older turns are left out even where the budget would hold them: they cost tokens and are rarely meant."""

MESSAGE_OVERHEAD: Final = 5
"""Tokens that chat templates spend on a message beyond its text (role and separators)."""

_SMALL: Final = bytes(range(ord("a"), ord("z") + 1))
_CAPITAL: Final = _SMALL.upper()
_HIGH: Final = bytes(range(0x80, 0x100))


def estimate_tokens(text: str) -> int:
    """How many tokens `text` is likely to take, leaning to too many.

    Byte-pair tokenizers learn words, so that a letter costs little, a capital more, and a digit or sign a token of its
    own; what they know less of costs nearly a token a byte. Weighing the kinds of bytes needs no vocabulary and runs
    at the speed of `bytes.translate`. The weights are set by the languages that a small vocabulary covers worst, and
    are up to twice too high for English; only keys and other random letters cost more than this.
    """
    encoded = text.encode()
    spaces = encoded.count(b" ")
    without_small = encoded.translate(None, _SMALL)
    without_letters = without_small.translate(None, _CAPITAL)
    high = len(without_letters) - len(without_letters.translate(None, _HIGH))
    small, capital = len(encoded) - len(without_small), len(without_small) - len(without_letters)
    others = len(without_letters) - spaces - high
    return (small * 38 + capital * 70 + spaces * 25 + high * 85 + others * 100 + 99) // 100


def assemble(instructions: str, latest_first: Iterable[Exchange], message: str, budget: int) -> Sequence[Message]:
    """The messages to send, oldest turn first, within `budget` estimated tokens.

    Turns go in whole or not at all, from the latest back, until the first that does not fit: a gap in the middle
    would change what was said. Turns without reply text are left out, so that user and assistant alternate.

    Raises:
        ContextTooLong: instructions and message alone exceed the budget.
    """
    left = budget - _cost(instructions) - _cost(message)
    if left < 0:
        raise ContextTooLong(f"Instructions and message take about {budget - left} tokens; the limit is {budget}.")
    told = [exchange for exchange in islice(latest_first, MAX_TURNS) if exchange.reply]
    # No text takes more tokens than bytes: where even that many fit, as in most conversations, nothing is estimated.
    if sum(len(text.encode()) + MESSAGE_OVERHEAD for exchange in told for text in exchange) > left:
        told = list(_fitting(told, left))
    recent = [
        message
        for exchange in told
        for message in (Message(Role.ASSISTANT, exchange.reply), Message(Role.USER, exchange.user_message))
    ]
    return [Message(Role.SYSTEM, instructions), *reversed(recent), Message(Role.USER, message)]


def _fitting(latest_first: Iterable[Exchange], budget: int) -> Iterator[Exchange]:
    for exchange in latest_first:
        budget -= _cost(exchange.user_message) + _cost(exchange.reply)
        if budget < 0:
            return
        yield exchange


def _cost(text: str) -> int:
    return estimate_tokens(text) + MESSAGE_OVERHEAD
