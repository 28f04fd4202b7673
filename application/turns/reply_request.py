"""How a client wants the reply to one message generated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from application.ports.llm import AS_CONFIGURED, ReplyOptions
from application.turns.context_window import PromptParts
from domain.conversation import Exchange


@dataclass(frozen=True, slots=True)
class ReplyRequest:
    """What a client sends along with a message, for this reply only. Nothing of it is stored.

    `latest_first` is the conversation as the client shows it, which then is the context instead of the stored one.
    `system` is appended to the operator's instructions; with `as_instructed=False` the latter are left out. `lead` is
    the text of messages without a reply right before this one; it is left out if it does not fit. `continued` is the
    beginning of the reply, which the model continues. `max_tokens` is a limit of the reply that is lower than the
    setting.
    """

    latest_first: Sequence[Exchange] | None = None
    system: str = ""
    as_instructed: bool = True
    lead: str = ""
    continued: str = ""
    max_tokens: int | None = None
    options: ReplyOptions = AS_CONFIGURED

    def parts(
        self, instructions: str, message: str, stored: Sequence[Exchange] = (), facts: Sequence[str] = ()
    ) -> PromptParts:
        """Return the parts of the prompt, from the operator's `instructions`, the stored context and recalled facts."""
        return PromptParts(
            instructions=joined(instructions if self.as_instructed else "", self.system),
            latest_first=stored if self.latest_first is None else self.latest_first,
            message=message,
            facts=facts,
            lead=self.lead,
            continued=self.continued,
            max_tokens=self.max_tokens,
        )


AS_USUAL: Final = ReplyRequest()


def joined(*texts: str) -> str:
    """Return one text with these as paragraphs. Empty ones are left out."""
    return "\n\n".join(text for text in texts if text)
