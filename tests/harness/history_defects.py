"""Defects for the history checker to find, planted into correct observations."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from tests.harness.observations import Observations, Outcome, Read, Stored


def defects(observed: Observations) -> Iterator[tuple[str, Observations]]:
    """Yield copies of correct observations with one defect each, and the rule that it breaks. None has deletions."""
    final = max(observed.reads, key=lambda read: read.started)
    sent = {item.message: item for item in observed.sent}
    confirmed = [turn for turn in final.turns if sent[turn.message].outcome is Outcome.OK]

    def instead(read: Read, *turns: Stored) -> Observations:
        return replace(observed, reads=[replace(r, turns=turns) if r is read else r for r in observed.reads])

    for turn in confirmed:
        yield "P1", instead(final, *(other for other in final.turns if other != turn))
        yield "P1", instead(final, *(t._replace(reply="", status="failed") if t == turn else t for t in final.turns))
        yield "P2", instead(final, *final.turns, turn._replace(turn_id="another"))
        yield "P4", instead(final, *(t._replace(reply="another") if t == turn else t for t in final.turns))
    for read in observed.reads:
        for first, second in pairwise(read.turns):
            if read is not final:
                swap = {first: second, second: first}
                yield "P3", instead(read, *(swap.get(turn, turn) for turn in read.turns))
            if sent[first.message].outcome is Outcome.OK and sent[first.message].ended < sent[second.message].started:
                swap = {first: second, second: first}
                yield "P5", instead(read, *(swap.get(turn, turn) for turn in read.turns))
        for turn in read.turns:
            acknowledged = sent[turn.message].outcome is Outcome.OK and sent[turn.message].ended <= read.started
            if read is not final and acknowledged:
                yield "P7", instead(read, *(other for other in read.turns if other != turn))
        for item in observed.sent:
            if item.outcome is Outcome.FAIL:
                refused = Stored("refused", item.conversation_id, item.message, "", "failed")
                yield "P9", instead(read, *read.turns, refused)
    for place, prompt in enumerate(observed.prompts):
        if len(prompt.messages) > 1 and prompt.message in {turn.message for turn in final.turns}:
            cut = replace(prompt, messages=prompt.messages[2:])
            yield "P6", replace(observed, prompts=[*observed.prompts[:place], cut, *observed.prompts[place + 1 :]])


def resurrections(observed: Observations) -> Iterator[Observations]:
    """Yield copies of correct observations in which a deleted turn, once read or acknowledged, is read again."""
    final = max(observed.reads, key=lambda read: read.started)
    for item in observed.sent:
        for deletion in observed.deletions:
            covered = deletion.conversation_id in (None, item.conversation_id)
            if item.outcome is Outcome.OK and covered and item.ended <= deletion.started:
                again = Stored("again", item.conversation_id, item.message, item.reply, "completed")
                changed = replace(final, turns=(again, *final.turns))
                yield replace(observed, reads=[changed if read is final else read for read in observed.reads])
                break
