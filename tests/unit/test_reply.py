"""The text of a reply, up to its size limit."""

from domain.reply import ReplyText


def test_deltas_are_collected_in_order() -> None:
    reply = ReplyText()
    reply.add(["Hel", "lo"])
    reply.add(["!"])

    assert ("Hello!", ["Hel", "lo", "!"], False) == (str(reply), reply.deltas, reply.exceeded)


def test_a_reply_of_exactly_the_limit_is_whole() -> None:
    reply = ReplyText(4)

    assert ["éé"] == reply.add(["éé"])
    assert not reply.exceeded


def test_deltas_that_exceed_the_limit_are_dropped_whole_with_all_that_follow() -> None:
    reply = ReplyText(5)

    assert ["ab", "cd"] == reply.add(["ab", "cd", "éf", "g"])
    assert ("abcd", True) == (str(reply), reply.exceeded)


def test_the_limit_counts_bytes_across_calls() -> None:
    reply = ReplyText(5)
    reply.add(["éé"])

    assert [] == reply.add(["é"])
    assert ("éé", True) == (str(reply), reply.exceeded)
