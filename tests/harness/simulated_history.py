"""A simulation of a correct service, whose observations must satisfy the history checker.

Messages, deletions and reads overlap at random: each takes effect at some moment between its start and its end.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from tests.harness.observations import Deletion, Observations, Outcome, Prompt, Read, Sent, Stored

USER = "ann"
CONVERSATIONS = ("a", "b")
MAX_CONTEXT = 3
REPLY_PARTS = 3


def reply_of(message: str) -> str:
    return "".join(f"{message}.{number} " for number in range(REPLY_PARTS))


@dataclass
class _Message:
    sent: Sent
    turn: Stored | None = None
    followed: bool = True
    """Whether the client still waits for the outcome."""
    queued: bool = True


class SimulatedHistory:
    """The state of the service and of its clients. Each step takes one unit of time."""

    def __init__(self, chance: Random, *, deletes: bool = True) -> None:
        self.observed = Observations()
        self._chance = chance
        self._time = 0.0
        self._turns: list[Stored] = []
        self._messages: list[_Message] = []
        self._deletions: list[tuple[Deletion, bool]] = []
        self._reads: list[tuple[Read, bool]] = []
        self._steps = [self._send, self._send, self._begin, self._begin, self._end, self._end, self._learn]
        self._steps += [self._learn, self._refuse, self._leave, self._start_read, self._read, self._end_read]
        if deletes:
            self._steps += [self._start_deletion, self._delete, self._end_deletion]

    def run(self, steps: int) -> Observations:
        for _ in range(steps):
            self._time += 1
            self._chance.choice(self._steps)()
        for finish in (self._end, self._learn, self._delete, self._end_deletion, self._read, self._end_read):
            self._repeat(finish)
        for message in self._messages:
            if message.followed:
                self._record(message, Outcome.INFO)
        self._time += 1
        self.observed.reads.append(Read(USER, self._time, self._time + 1, tuple(self._turns), "last"))
        return self.observed

    def _repeat(self, step: Callable[[], bool]) -> None:
        self._time += 1
        while step():
            self._time += 1

    def _send(self) -> bool:
        message, conversation = f"m{len(self._messages)}", self._chance.choice(CONVERSATIONS)
        self._messages.append(_Message(Sent(message, USER, conversation, self._time)))
        return True

    def _begin(self) -> bool:
        running = {turn.conversation_id for turn in self._turns if turn.status == "in_progress"}
        queued = [m for m in self._messages if m.queued and m.sent.conversation_id not in running]
        if not queued:
            return False
        message = self._chance.choice(queued)
        sent, message.queued = message.sent, False
        earlier = [turn for turn in self._turns if turn.conversation_id == sent.conversation_id and turn.reply]
        told = [("user", sent.message)]
        for turn in reversed(earlier[-MAX_CONTEXT:]):
            told = [("user", turn.message), ("assistant", turn.reply), *told]
        self.observed.prompts.append(Prompt(self._time, told))
        message.turn = Stored(f"id-{sent.message}", sent.conversation_id, sent.message, "", "in_progress")
        self._turns.append(message.turn)
        return True

    def _end(self) -> bool:
        running = [turn for turn in self._turns if turn.status == "in_progress"]
        if not running:
            return False
        turn = self._chance.choice(running)
        status, parts = self._chance.choice([("completed", 3), ("completed", 3), ("interrupted", 1), ("failed", 0)])
        reply = reply_of(turn.message)[: len(reply_of(turn.message)) * parts // REPLY_PARTS]
        ended = turn._replace(status=status, reply=reply)
        self._turns[self._turns.index(turn)] = ended
        next(m for m in self._messages if m.turn == turn).turn = ended
        return True

    def _learn(self) -> bool:
        """Let a client learn how its turn has ended."""
        return self._settle([m for m in self._messages if m.turn and m.turn.status != "in_progress"], Outcome.OK)

    def _refuse(self) -> bool:
        return self._settle([m for m in self._messages if m.queued], Outcome.FAIL)

    def _leave(self) -> bool:
        return self._settle(self._messages, Outcome.INFO)

    def _settle(self, messages: list[_Message], outcome: Outcome) -> bool:
        followed = [message for message in messages if message.followed]
        if not followed:
            return False
        message = self._chance.choice(followed)
        message.queued &= outcome is not Outcome.FAIL
        completed = message.turn is not None and message.turn.status == "completed"
        self._record(message, Outcome.INFO if outcome is Outcome.OK and not completed else outcome)
        return True

    def _record(self, message: _Message, outcome: Outcome) -> None:
        message.followed = False
        reply = reply_of(message.sent.message) if outcome is Outcome.OK else ""
        self.observed.sent.append(replace(message.sent, ended=self._time, outcome=outcome, reply=reply))

    def _start_deletion(self) -> bool:
        conversation = self._chance.choice((None, *CONVERSATIONS))
        self._deletions.append((Deletion(USER, conversation, self._time), False))
        return True

    def _delete(self) -> bool:
        for place, (deletion, applied) in enumerate(self._deletions):
            if not applied:
                self._deletions[place] = deletion, True
                deleted = [t for t in self._turns if deletion.conversation_id in (None, t.conversation_id)]
                self._turns = [turn for turn in self._turns if turn not in deleted]
                for message in self._messages:
                    if message.turn in deleted and message.turn and message.turn.status == "in_progress":
                        message.turn = message.turn._replace(status="interrupted")
                return True
        return False

    def _end_deletion(self) -> bool:
        for place, (deletion, applied) in enumerate(self._deletions):
            if applied:
                del self._deletions[place]
                self.observed.deletions.append(replace(deletion, ended=self._time, outcome=Outcome.OK))
                return True
        return False

    def _start_read(self) -> bool:
        self._reads.append((Read(USER, self._time, 0, (), f"r{self._time:g}"), False))
        return True

    def _read(self) -> bool:
        for place, (read, taken) in enumerate(self._reads):
            if not taken:
                self._reads[place] = replace(read, turns=tuple(self._turns)), True
                return True
        return False

    def _end_read(self) -> bool:
        for place, (read, taken) in enumerate(self._reads):
            if taken:
                del self._reads[place]
                self.observed.reads.append(replace(read, ended=self._time))
                return True
        return False
