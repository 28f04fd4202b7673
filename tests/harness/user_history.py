"""What is known of one user's history from observations: when each message was stored, and when it may be deleted."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from tests.harness.observations import Deletion, Outcome, Prompt, Read, Sent


class UserHistory:
    """The observations of one user. `grace`, `reply_of` and `max_context` are those of `history_checker.check`."""

    def __init__(
        self,
        user_id: str,
        sent: Sequence[Sent],
        reads: Sequence[Read],
        prompts: Sequence[Prompt],
        deletions: Sequence[Deletion],
        *,
        reply_of: Callable[[str], str],
        grace: float,
        max_context: int,
    ) -> None:
        self.sent = {item.message: item for item in sent}
        self.reads = sorted(reads, key=lambda read: read.ended)
        self.turns = [{turn.message: turn for turn in read.turns} for read in self.reads]
        """The turns of each read, by message."""
        self.prompts = prompts
        self.deletions = deletions
        self.reply_of = reply_of
        self.grace = grace
        self.max_context = max_context
        last = max((item.ended for item in sent if item.outcome is Outcome.OK), default=None)
        if last is not None and not any(read.started >= last for read in reads):
            raise ValueError(f"{user_id} was not read after the last acknowledgement")

    @cached_property
    def seen_at(self) -> dict[str, float]:
        """When a message was first known to be stored, by an acknowledgement or a read."""
        seen: dict[str, float] = {}
        for read, turns in zip(reversed(self.reads), reversed(self.turns), strict=True):
            seen.update(dict.fromkeys(turns, read.ended))
        for sent in self.sent.values():
            if sent.outcome is Outcome.OK:
                seen[sent.message] = min(sent.ended, seen.get(sent.message, sent.ended))
        return seen

    @cached_property
    def first_read(self) -> dict[str, tuple[Read, int]]:
        """The first read that has a message, and its place there."""
        return {turn.message: (read, place) for read in reversed(self.reads) for place, turn in enumerate(read.turns)}

    def _deletions_of(self, sent: Sent) -> Iterator[Deletion]:
        for deletion in self.deletions:
            if deletion.conversation_id in (None, sent.conversation_id) and deletion.outcome is not Outcome.FAIL:
                yield deletion

    def may_be_deleted(self, sent: Sent, time: float) -> bool:
        """Whether a deletion may have removed the message before `time`."""
        return any(
            deletion.started < time
            and sent.started < deletion.ended + (self.grace if deletion.outcome is Outcome.INFO else 0)
            for deletion in self._deletions_of(sent)
        )

    def gone(self, sent: Sent, time: float) -> bool:
        """Whether a deletion, complete before `time`, must have removed the message."""
        seen_at = self.seen_at.get(sent.message)
        return seen_at is not None and any(
            deletion.outcome is Outcome.OK and seen_at <= deletion.started and deletion.ended <= time
            for deletion in self._deletions_of(sent)
        )

    @cached_property
    def replaced(self) -> set[str]:
        """The messages with a key whose turn was replaced by another, as a repeated request does with a failed one."""
        ids: dict[str, set[str]] = {}
        for read in self.reads:
            for turn in read.turns:
                ids.setdefault(turn.message, set()).add(turn.turn_id)
        return {message for message, sent in self.sent.items() if sent.keyed and len(ids.get(message, ())) > 1}
