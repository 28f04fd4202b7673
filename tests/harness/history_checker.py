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

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tests.harness.history_violations import Violation
from tests.harness.observations import Deletion, Observations, Prompt, Read, Sent
from tests.harness.prompt_rules import wrong_prompt
from tests.harness.read_rules import changed_ends, different_orders, wrong_presence, wrong_read
from tests.harness.user_history import UserHistory

Owned = TypeVar("Owned", Sent, Read, Deletion)

MAX_CONTEXT = 50
"""Turns in a prompt at most."""


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
    sent, reads = _by_user(observations.sent), _by_user(observations.reads)
    deletions = _by_user(observations.deletions)
    owners = {item.message: item.user_id for item in observations.sent}
    prompts: dict[str, list[Prompt]] = defaultdict(list)
    found: dict[Violation, None] = {}
    for prompt in observations.prompts:
        if prompt.message in owners:
            prompts[owners[prompt.message]].append(prompt)
        else:
            found[Violation("P9", f"{prompt.message} was never sent, but the model is asked")] = None
    for user_id in sorted(sent.keys() | reads.keys()):
        user = UserHistory(
            user_id,
            sent[user_id],
            reads[user_id],
            prompts[user_id],
            deletions[user_id],
            reply_of=reply_of,
            grace=grace,
            max_context=max_context,
        )
        found.update(dict.fromkeys(_violations(user)))
    return list(found)


def _by_user(items: Iterable[Owned]) -> dict[str, list[Owned]]:
    users: dict[str, list[Owned]] = defaultdict(list)
    for item in items:
        users[item.user_id].append(item)
    return users


def _violations(user: UserHistory) -> Iterator[Violation]:
    for sent in user.sent.values():
        yield from wrong_presence(user, sent)
    for read in user.reads:
        yield from wrong_read(user, read)
    yield from different_orders(user)
    yield from changed_ends(user)
    latest = {prompt.message: prompt for prompt in user.prompts}
    for prompt in user.prompts:
        yield from wrong_prompt(user, prompt, is_latest=latest[prompt.message] is prompt)
