"""The rules of the history checker for what clients read: all but P6."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from tests.harness.history_violations import Violation, difference
from tests.harness.observations import Outcome, Read, Sent, Stored
from tests.harness.user_history import UserHistory


def wrong_presence(user: UserHistory, sent: Sent) -> Iterator[Violation]:
    """Check in which reads a message is: P1, P3, P7, P8 and P9."""
    present = [read for read, turns in zip(user.reads, user.turns, strict=True) if sent.message in turns]
    absent = [read for read, turns in zip(user.reads, user.turns, strict=True) if sent.message not in turns]
    if sent.outcome is Outcome.FAIL and present:
        yield Violation("P9", f"{sent.message} was refused, but is read at {present[0].worker}")
    seen_at = user.seen_at.get(sent.message)
    if seen_at is not None:
        last_seen = max((read.started for read in present), default=-math.inf)
        for read in absent:
            if read.started >= seen_at:
                yield from _missing(user, sent, read, returns=read.ended <= last_seen)
    for read in present:
        if user.gone(sent, read.started):
            yield Violation("P8", f"{sent.message} was deleted, but is read at {read.worker}")
    if sent.outcome is Outcome.INFO:
        settled = [read.ended for read in absent if read.started > sent.ended + user.grace]
        if any(read.ended > min(settled, default=read.ended) for read in present):
            yield Violation("P9", f"{sent.message} appears too late")


def _missing(user: UserHistory, sent: Sent, read: Read, *, returns: bool) -> Iterator[Violation]:
    if user.may_be_deleted(sent, read.ended):
        if returns:
            yield Violation("P8", f"{sent.message} returns after it was missing at {read.worker}")
    elif sent.outcome is not Outcome.OK:
        if not sent.keyed:  # with a key, a failed turn is replaced, between two pages perhaps
            yield Violation("P3", f"{sent.message} is missing at {read.worker}, after it was read")
    elif sent.ended <= read.started:
        rule = "P1" if read is max(user.reads, key=lambda read: read.started) else "P7"
        yield Violation(rule, f"{sent.message} was acknowledged, but is missing at {read.worker}")
    else:
        yield Violation("P3", f"{sent.message} is missing at {read.worker}, after it was read")


def wrong_read(user: UserHistory, read: Read) -> Iterator[Violation]:
    """Check one read by itself, and against what was acknowledged before: P1, P2, P4, P5 and P9."""
    for counted in (Counter(turn.message for turn in read.turns), Counter(turn.turn_id for turn in read.turns)):
        for text, count in counted.items():
            if count > 1:
                yield Violation("P2", f"{text} is read {count} times at {read.worker}")
    latest_start, latest = -math.inf, ""
    running: dict[str, str] = {}
    for turn in read.turns:
        sent = user.sent.get(turn.message)
        if sent is None or sent.conversation_id != turn.conversation_id:
            yield Violation("P9", f"{turn.message} was never sent to {turn.conversation_id}, but is read")
            continue
        if turn.conversation_id in running:
            yield Violation("P4", f"{running[turn.conversation_id]} is running although {turn.message} has begun")
        if turn.status == "in_progress":
            running[turn.conversation_id] = turn.message
        yield from _content(user, read, turn, sent)
        if sent.outcome is Outcome.OK and sent.ended < latest_start:
            yield Violation("P5", f"{turn.message} was acknowledged before {latest} was sent, but comes after it")
        if sent.started > latest_start:
            latest_start, latest = sent.started, turn.message


def _content(user: UserHistory, read: Read, turn: Stored, sent: Sent) -> Iterator[Violation]:
    whole = user.reply_of(turn.message)
    if not whole.startswith(turn.reply) or (turn.status == "completed" and turn.reply != whole):
        yield Violation("P4", f"{turn.message} has the wrong reply {turn.reply!r} ({turn.status})")
    if sent.outcome is Outcome.OK and sent.ended <= read.started:
        if (turn.status, turn.reply) != ("completed", sent.reply):
            yield Violation("P1", f"{turn.message} was acknowledged with {sent.reply!r}, but is {turn}")
    elif turn.status == "in_progress" and read.started > sent.ended + user.grace:
        yield Violation("P9", f"{turn.message} still runs at {read.worker}, {user.grace:g} s after it was lost")


def different_orders(user: UserHistory) -> Iterator[Violation]:
    """Check that of any two reads one is the beginning of the other: P3."""
    reads = sorted(user.reads, key=lambda read: len(read.turns))
    orders = [[turn for turn in read.turns if turn.message not in user.replaced] for read in reads]
    ids = [[turn.turn_id for turn in order] for order in orders]
    if all(longer[: len(shorter)] == shorter for shorter, longer in pairwise(ids)):
        return
    for index, first in enumerate(orders):
        for other in range(index):
            if not _agree(user, first, reads[index], orders[other], reads[other]):
                yield Violation(
                    "P3",
                    f"readers at {reads[index].worker} and {reads[other].worker} see different orders: "
                    f"{difference(ids[index], ids[other])}",
                )


def _agree(
    user: UserHistory, first: Sequence[Stored], first_read: Read, other: Sequence[Stored], other_read: Read
) -> bool:
    """Whether one history is the beginning of the other, apart from turns that may be deleted."""
    left = _kept(user, first, other, other_read)
    right = _kept(user, other, first, first_read)
    shorter, longer = sorted((left, right), key=len)
    return longer[: len(shorter)] == shorter


def _kept(user: UserHistory, turns: Sequence[Stored], others: Sequence[Stored], other_read: Read) -> list[str]:
    """Return the turns without those that are missing in the other read because they were deleted."""
    there = {turn.turn_id for turn in others}
    return [
        turn.turn_id
        for turn in turns
        if turn.turn_id in there
        or turn.message not in user.sent
        or not user.may_be_deleted(user.sent[turn.message], other_read.ended)
    ]


def changed_ends(user: UserHistory) -> Iterator[Violation]:
    """Check that turns which have ended stay as they are: P3."""
    ends: dict[str, tuple[Stored, float]] = {}
    for read in user.reads:
        for turn in read.turns:
            if turn.turn_id not in ends:
                if turn.status != "in_progress":
                    ends[turn.turn_id] = turn, read.ended
                continue
            end, known_at = ends[turn.turn_id]
            if turn != end and (turn.status != "in_progress" or read.started >= known_at):
                yield Violation("P3", f"{turn.message} has ended as {end}, but is {turn} at {read.worker}")
