"""Checking a message before its turn begins."""

from application.turns.context_window import ContextWindow
from application.turns.reply_request import ReplyRequest
from domain.errors import MessageTooLong


def admit(text: str, request: ReplyRequest, instructions: str, window: ContextWindow, max_chars: int) -> None:
    """Return if the message alone exceeds no limit.

    Raises:
        MessageTooLong: It has more than `max_chars` characters.
        ContextTooLong: It does not fit the model together with the instructions.
    """
    if len(text) > max_chars:
        raise MessageTooLong(f"The message has {len(text)} characters; the limit is {max_chars}.")
    parts = request.parts(instructions, text)
    window.of(request.options.model).admit(parts.instructions, parts.message + parts.continued)
