"""Checks that what was observed of a service, with any number of workers, is possible if it keeps its promises.

    violations = check(observations, reply_of=model, grace=20)

| rule | promise |
|---|---|
| P1 | no acknowledged turn is missing at the end, or differs from what was acknowledged |
| P2 | no turn is stored twice |
| P3 | all readers see one order; a history only grows at its end, and the end of a turn never changes |
| P4 | messages and replies alternate: a reply belongs to its message, and turns of a conversation do not overlap |
| P5 | what was acknowledged before another message was sent comes before it |
| P6 | a prompt holds the turns of its conversation that come before it, the latest ones if there are many |
| P7 | what was acknowledged is in every later read, at any worker |
| P8 | nothing that is older than a completed deletion is read, by clients or by the model |
| P9 | what has an unknown outcome appears once or never, and not late; what was refused, or never sent, never appears |

An operation takes effect at some moment between its start and its end, an operation with an unknown outcome up to
`grace` seconds after its end. Concurrent operations may take effect in any order.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from tests.harness.observations import Deletion, Observations, Outcome, Prompt, Read, Sent, Stored

MAX_CONTEXT = 50
"""Turns in a prompt at most."""


@dataclass(frozen=True)
class Violation:
    rule: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail}"


def check(
    observations: Observations,
    *,
    reply_of: Callable[[str], str],
    grace: float,
    max_context: int = MAX_CONTEXT,
) -> list[Violation]:
    """Return all violations, each once.

    Args:
        reply_of: Returns the whole reply of the model to a message.
        grace: Seconds after which an operation with an unknown outcome must have taken effect and its turn must have
            ended: the lease of a turn and 5 seconds.
        max_context: Turns in a prompt at most; prompts are expected to be limited by nothing else.

    Raises:
        ValueError: a user with acknowledged messages was not read after the last of them.
    """
    found: dict[Violation, None] = {}
    for user_id in sorted({sent.user_id for sent in observations.sent} | {read.user_id for read in observations.reads}):
        user = _User(user_id, observations, reply_of, grace, max_context)
        found.update(dict.fromkeys(user.violations()))
    known = {sent.message for sent in observations.sent}
    found |= {
        Violation("P9", f"{prompt.message} was never sent"): None
        for prompt in observations.prompts
        if prompt.message not in known
    }
    return list(found)


class _User:
    """The observations of one user's turns, and one method per group of rules."""

    def __init__(
        self,
        user_id: str,
        observations: Observations,
        reply_of: Callable[[str], str],
        grace: float,
        max_context: int,
    ) -> None:
        self._sent = {sent.message: sent for sent in observations.sent if sent.user_id == user_id}
        self._reads = sorted((read for read in observations.reads if read.user_id == user_id), key=lambda r: r.ended)
        self._deletions = [deletion for deletion in observations.deletions if deletion.user_id == user_id]
        self._prompts = [prompt for prompt in observations.prompts if prompt.message in self._sent]
        self._reply_of = reply_of
        self._grace = grace
        self._max_context = max_context
        self._turns = [{turn.message: turn for turn in read.turns} for read in self._reads]
        last = max((sent.ended for sent in self._sent.values() if sent.outcome is Outcome.OK), default=None)
        if last is not None and not any(read.started >= last for read in self._reads):
            raise ValueError(f"{user_id} was not read after the last acknowledgement")

    def violations(self) -> Iterator[Violation]:
        for sent in self._sent.values():
            yield from self._presence(sent)
        for read in self._reads:
            yield from self._one_read(read)
        yield from self._order()
        yield from self._ends()
        exact = {prompt.message: prompt for prompt in self._prompts}  # the last one of each message
        for prompt in self._prompts:
            yield from self._prompt(prompt, exact=exact[prompt.message] is prompt)

    # P1, P3, P7, P8, P9: when a message may and must be in a read

    def _presence(self, sent: Sent) -> Iterator[Violation]:
        present = [read for read, turns in zip(self._reads, self._turns, strict=True) if sent.message in turns]
        absent = [read for read, turns in zip(self._reads, self._turns, strict=True) if sent.message not in turns]
        if sent.outcome is Outcome.FAIL and present:
            yield Violation("P9", f"{sent.message} was refused, but is read at {present[0].worker}")
        seen_at = self._seen_at.get(sent.message)
        if seen_at is not None:
            last_seen = max((read.started for read in present), default=-math.inf)
            for read in absent:
                if read.started >= seen_at:
                    yield from self._missing(sent, read, returns=read.ended <= last_seen)
        for read in present:
            if self._gone(sent, read.started):
                yield Violation("P8", f"{sent.message} was deleted, but is read at {read.worker}")
        if sent.outcome is Outcome.INFO:
            settled = [read.ended for read in absent if read.started > sent.ended + self._grace]
            if any(read.ended > min(settled, default=read.ended) for read in present):
                yield Violation("P9", f"{sent.message} appears too late")

    def _missing(self, sent: Sent, read: Read, *, returns: bool) -> Iterator[Violation]:
        if self._may_be_deleted(sent, read.ended):
            if returns:
                yield Violation("P8", f"{sent.message} returns after it was missing at {read.worker}")
        elif sent.outcome is not Outcome.OK:
            if not sent.keyed:  # with a key, a failed turn is replaced, between two pages perhaps
                yield Violation("P3", f"{sent.message} is missing at {read.worker}, after it was read")
        elif sent.ended <= read.started:
            rule = "P1" if read is max(self._reads, key=lambda read: read.started) else "P7"
            yield Violation(rule, f"{sent.message} was acknowledged, but is missing at {read.worker}")
        else:
            yield Violation("P3", f"{sent.message} is missing at {read.worker}, after it was read")

    @cached_property
    def _seen_at(self) -> dict[str, float]:
        """When a message was first known to be stored, by an acknowledgement or a read."""
        seen: dict[str, float] = {}
        for read, turns in zip(reversed(self._reads), reversed(self._turns), strict=True):
            seen.update(dict.fromkeys(turns, read.ended))
        for sent in self._sent.values():
            if sent.outcome is Outcome.OK:
                seen[sent.message] = min(sent.ended, seen.get(sent.message, sent.ended))
        return seen

    def _deletions_of(self, sent: Sent) -> Iterator[Deletion]:
        for deletion in self._deletions:
            if deletion.conversation_id in (None, sent.conversation_id) and deletion.outcome is not Outcome.FAIL:
                yield deletion

    def _may_be_deleted(self, sent: Sent, time: float) -> bool:
        """Whether a deletion may have removed the message before `time`."""
        return any(
            deletion.started < time
            and sent.started < deletion.ended + (self._grace if deletion.outcome is Outcome.INFO else 0)
            for deletion in self._deletions_of(sent)
        )

    def _gone(self, sent: Sent, time: float) -> bool:
        """Whether a deletion, complete before `time`, must have removed the message."""
        seen_at = self._seen_at.get(sent.message)
        return seen_at is not None and any(
            deletion.outcome is Outcome.OK and seen_at <= deletion.started and deletion.ended <= time
            for deletion in self._deletions_of(sent)
        )

    # P1, P2, P4, P5, P9: what is wrong with one read

    def _one_read(self, read: Read) -> Iterator[Violation]:
        for counted in (Counter(turn.message for turn in read.turns), Counter(turn.turn_id for turn in read.turns)):
            for text, count in counted.items():
                if count > 1:
                    yield Violation("P2", f"{text} is read {count} times at {read.worker}")
        latest_start, latest = -math.inf, ""
        running: dict[str, str] = {}
        for turn in read.turns:
            sent = self._sent.get(turn.message)
            if sent is None or sent.conversation_id != turn.conversation_id:
                yield Violation("P9", f"{turn.message} was never sent to {turn.conversation_id}, but is read")
                continue
            if turn.conversation_id in running:
                yield Violation("P4", f"{running[turn.conversation_id]} is running although {turn.message} has begun")
            if turn.status == "in_progress":
                running[turn.conversation_id] = turn.message
            yield from self._content(read, turn, sent)
            if sent.outcome is Outcome.OK and sent.ended < latest_start:
                yield Violation("P5", f"{turn.message} was acknowledged before {latest} was sent, but comes after it")
            if sent.started > latest_start:
                latest_start, latest = sent.started, turn.message

    def _content(self, read: Read, turn: Stored, sent: Sent) -> Iterator[Violation]:
        whole = self._reply_of(turn.message)
        if not whole.startswith(turn.reply) or (turn.status == "completed" and turn.reply != whole):
            yield Violation("P4", f"{turn.message} has the wrong reply {turn.reply!r} ({turn.status})")
        if sent.outcome is Outcome.OK and sent.ended <= read.started:
            if (turn.status, turn.reply) != ("completed", sent.reply):
                yield Violation("P1", f"{turn.message} was acknowledged with {sent.reply!r}, but is {turn}")
        elif turn.status == "in_progress" and read.started > sent.ended + self._grace:
            yield Violation("P9", f"{turn.message} still runs at {read.worker}, {self._grace:g} s after it was lost")

    # P3: what is wrong with several reads

    def _order(self) -> Iterator[Violation]:
        reads = sorted(self._reads, key=lambda read: len(read.turns))
        orders = [[turn for turn in read.turns if turn.message not in self._replaced] for read in reads]
        ids = [[turn.turn_id for turn in order] for order in orders]
        if all(longer[: len(shorter)] == shorter for shorter, longer in pairwise(ids)):
            return
        for index, first in enumerate(orders):
            for other in range(index):
                if not self._agree(first, reads[index], orders[other], reads[other]):
                    yield Violation(
                        "P3",
                        f"readers at {reads[index].worker} and {reads[other].worker} see different orders: "
                        f"{_difference(ids[index], ids[other])}",
                    )

    def _agree(self, first: Sequence[Stored], first_read: Read, other: Sequence[Stored], other_read: Read) -> bool:
        """Whether one history is the beginning of the other, apart from turns that may be deleted."""
        left = self._kept(first, other, other_read)
        right = self._kept(other, first, first_read)
        shorter, longer = sorted((left, right), key=len)
        return longer[: len(shorter)] == shorter

    def _kept(self, turns: Sequence[Stored], others: Sequence[Stored], other_read: Read) -> list[str]:
        """Return the turns without those that are missing in the other read because they were deleted."""
        there = {turn.turn_id for turn in others}
        return [
            turn.turn_id
            for turn in turns
            if turn.turn_id in there
            or turn.message not in self._sent
            or not self._may_be_deleted(self._sent[turn.message], other_read.ended)
        ]

    @cached_property
    def _replaced(self) -> set[str]:
        """The messages with a key whose turn was replaced by another, as a repeated request does with a failed one."""
        ids: dict[str, set[str]] = {}
        for read in self._reads:
            for turn in read.turns:
                ids.setdefault(turn.message, set()).add(turn.turn_id)
        return {message for message, sent in self._sent.items() if sent.keyed and len(ids.get(message, ())) > 1}

    def _ends(self) -> Iterator[Violation]:
        ends: dict[str, tuple[Stored, float]] = {}
        for read in self._reads:
            for turn in read.turns:
                if turn.turn_id not in ends:
                    if turn.status != "in_progress":
                        ends[turn.turn_id] = turn, read.ended
                    continue
                end, known_at = ends[turn.turn_id]
                if turn != end and (turn.status != "in_progress" or read.started >= known_at):
                    yield Violation("P3", f"{turn.message} has ended as {end}, but is {turn} at {read.worker}")

    # P4, P6, P8: prompts

    def _prompt(self, prompt: Prompt, *, exact: bool) -> Iterator[Violation]:
        sent = self._sent[prompt.message]
        told = [message for message in prompt.messages if message[0] != "system"]
        if [role for role, _ in told] != ["user", "assistant"] * (len(told) // 2) + ["user"]:
            yield Violation("P4", f"the prompt of {sent.message} does not alternate: {[role for role, _ in told]}")
            return
        pairs = [(told[place][1], told[place + 1][1]) for place in range(0, len(told) - 1, 2)]
        for message, _ in pairs:
            earlier = self._sent.get(message)
            if earlier is None or earlier.conversation_id != sent.conversation_id:
                yield Violation("P6", f"the prompt of {sent.message} has {message} of another conversation")
                return
            if self._gone(earlier, sent.started):
                yield Violation("P8", f"the prompt of {sent.message} has {message}, which was deleted")
        reads = [read for read, turns in zip(self._reads, self._turns, strict=True) if sent.message in turns]
        unsure = sent.keyed and (sent.outcome is not Outcome.OK or sent.message in self._replaced)
        if reads and exact and not unsure:
            yield from self._prompt_as_read(prompt, sent, pairs, reads[0])
        else:
            yield from self._prompt_as_acknowledged(prompt, sent, pairs)

    def _prompt_as_read(
        self, prompt: Prompt, sent: Sent, pairs: Sequence[tuple[str, str]], read: Read
    ) -> Iterator[Violation]:
        """Compare a prompt with the turns that come before its own in a read."""
        place = next(place for place, turn in enumerate(read.turns) if turn.message == sent.message)
        before = [
            (turn.message, turn.reply)
            for turn in read.turns[:place]
            if turn.conversation_id == sent.conversation_id and turn.reply and turn.message in self._sent
        ]
        expected = [
            pair
            for pair in before
            if pair in pairs or not self._may_be_deleted(self._sent[pair[0]], prompt.received_at)
        ]
        kept = [pair for pair in pairs if pair in before or not self._may_be_deleted(self._sent[pair[0]], read.ended)]
        is_whole = len(kept) == len(expected) or len(pairs) >= self._max_context
        if not is_whole or kept != expected[len(expected) - len(kept) :]:
            yield Violation(
                "P6",
                f"the prompt of {sent.message} has {len(pairs)} turns, {len(expected)} come before it: "
                f"{_difference(pairs, expected)}",
            )

    def _prompt_as_acknowledged(
        self, prompt: Prompt, sent: Sent, pairs: Sequence[tuple[str, str]]
    ) -> Iterator[Violation]:
        """Look for what was acknowledged before the message was sent, since it is in no read."""
        told = {message for message, _ in pairs}
        if len(told) != len(pairs):
            yield Violation("P6", f"the prompt of {sent.message} has a turn twice")
        if len(pairs) >= self._max_context:
            return
        for earlier in self._sent.values():
            if (
                earlier.conversation_id == sent.conversation_id
                and earlier.outcome is Outcome.OK
                and earlier.ended <= sent.started
                and earlier.message not in told
                and not self._may_be_deleted(earlier, prompt.received_at)
            ):
                yield Violation("P6", f"the prompt of {sent.message} lacks {earlier.message}")


def _difference(some: Sequence[object], others: Sequence[object]) -> str:
    """Show the first difference of two sequences."""
    place = next((i for i, (a, b) in enumerate(zip(some, others, strict=False)) if a != b), min(len(some), len(others)))
    return f"{list(some[place : place + 2])} and {list(others[place : place + 2])} at {place}"
