"""The rules of the history checker for what the model is told: P6, and parts of P4 and P8."""

from collections.abc import Iterator, Sequence

from tests.harness.history_violations import Violation, difference
from tests.harness.observations import Outcome, Prompt, Sent
from tests.harness.user_history import UserHistory


def wrong_prompt(user: UserHistory, prompt: Prompt, *, is_latest: bool) -> Iterator[Violation]:
    """Check one prompt. `is_latest` says that the model was not asked again about the same message."""
    sent = user.sent[prompt.message]
    told = [message for message in prompt.messages if message[0] != "system"]
    if [role for role, _ in told] != ["user", "assistant"] * (len(told) // 2) + ["user"]:
        yield Violation("P4", f"the prompt of {sent.message} does not alternate: {[role for role, _ in told]}")
        return
    pairs = [(told[place][1], told[place + 1][1]) for place in range(0, len(told) - 1, 2)]
    for message, _ in pairs:
        earlier = user.sent.get(message)
        if earlier is None or earlier.conversation_id != sent.conversation_id:
            yield Violation("P6", f"the prompt of {sent.message} has {message} of another conversation")
            return
        if user.gone(earlier, sent.started):
            yield Violation("P8", f"the prompt of {sent.message} has {message}, which was deleted")
    unsure = sent.keyed and (sent.outcome is not Outcome.OK or sent.message in user.replaced)
    if is_latest and not unsure and sent.message in user.first_read:
        yield from _prompt_as_read(user, prompt, sent, pairs)
    else:
        yield from _prompt_as_acknowledged(user, prompt, sent, pairs)


def _prompt_as_read(
    user: UserHistory, prompt: Prompt, sent: Sent, pairs: Sequence[tuple[str, str]]
) -> Iterator[Violation]:
    """Compare a prompt with the turns that come before its own, in the first read that has it."""
    read, place = user.first_read[sent.message]
    told, expected = set(pairs), list[tuple[str, str]]()
    for turn in reversed(read.turns[:place]):
        if len(expected) == user.max_context:
            break
        if turn.conversation_id == sent.conversation_id and turn.reply and (earlier := user.sent.get(turn.message)):
            pair = (turn.message, turn.reply)
            if pair in told or not user.may_be_deleted(earlier, prompt.received_at):
                expected.insert(0, pair)
    there = {turn.message for turn in read.turns} if user.deletions else ()
    kept = [pair for pair in pairs if pair[0] in there or not user.may_be_deleted(user.sent[pair[0]], read.ended)]
    is_whole = len(kept) == len(expected) or len(pairs) >= user.max_context
    if not is_whole or kept != expected[len(expected) - len(kept) :]:
        yield Violation(
            "P6",
            f"the prompt of {sent.message} has {len(pairs)} turns, {len(expected)} come before it: "
            f"{difference(pairs, expected)}",
        )


def _prompt_as_acknowledged(
    user: UserHistory, prompt: Prompt, sent: Sent, pairs: Sequence[tuple[str, str]]
) -> Iterator[Violation]:
    """Look for what was acknowledged before the message was sent, since it is in no read."""
    told = {message for message, _ in pairs}
    if len(told) != len(pairs):
        yield Violation("P6", f"the prompt of {sent.message} has a turn twice")
    if len(pairs) >= user.max_context:
        return
    for earlier in user.sent.values():
        if (
            earlier.conversation_id == sent.conversation_id
            and earlier.outcome is Outcome.OK
            and earlier.ended <= sent.started
            and earlier.message not in told
            and not user.may_be_deleted(earlier, prompt.received_at)
        ):
            yield Violation("P6", f"the prompt of {sent.message} lacks {earlier.message}")
