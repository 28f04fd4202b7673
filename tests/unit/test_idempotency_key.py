"""The grammar of idempotency keys, and what is stored of them."""

from dataclasses import dataclass, replace

import pytest
from fastapi import Request

from domain.conversation import ConversationId, TurnId, UserId
from domain.idempotency import IdempotencyKey
from domain.principal import ANONYMOUS, Principal, Role
from entrypoints.http.idempotency_key import idempotency_key
from entrypoints.http.request_problems import RequestProblem

ADA, HOME = UserId("ada"), ConversationId("home")
ALL = "".join(map(chr, range(0x21, 0x7F)))
"""Every visible ASCII character; the first one is an exclamation mark."""


def parsed(*values: str) -> str | None:
    headers = [(b"content-type", b"text/plain"), *((b"idempotency-key", value.encode("latin-1")) for value in values)]
    return idempotency_key(Request({"type": "http", "headers": headers}))


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("abc", "abc"),
        ('"abc"', "abc"),
        (" \tabc ", "abc"),
        ("8e03978e-40d5-43e8-bc93-6894a57f9324", "8e03978e-40d5-43e8-bc93-6894a57f9324"),
        ("x", "x"),
        ("x" * 255, "x" * 255),
        ('"' + "x" * 255 + '"', "x" * 255),
        (r'"a\"b\\c"', r'a"b\c'),
        (r'a"b\c', r'a"b\c'),
        (ALL, ALL),
        ("'abc'", "'abc'"),
    ],
)
def test_a_key_is_the_same_with_and_without_quotation_marks(value: str, key: str) -> None:
    assert key == parsed(value)


def test_a_request_without_the_header_has_no_key() -> None:
    assert parsed() is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        '""',
        '"',
        '"abc',
        '"a"b"',
        r'"a\b"',
        '"abc";a=1',
        "a b",
        '"a b"',
        "a\tb",
        "é",
        "\x7f",
        "\x00",
        "x" * 256,
    ],
)
def test_any_other_value_is_rejected(value: str) -> None:
    with pytest.raises(RequestProblem) as rejected:
        parsed(value)
    assert (400, "invalid_idempotency_key") == (rejected.value.status, rejected.value.code)


def test_two_keys_are_rejected() -> None:
    with pytest.raises(RequestProblem):
        parsed("abc", "abc")


@dataclass(frozen=True)
class Asked:
    key: str | None = "secret-key"
    user: UserId = ADA
    conversation: ConversationId = HOME
    message: str = "Hello"
    use_memory: bool = True
    principal: Principal = ANONYMOUS
    turn_id: TurnId | None = None

    @property
    def stored(self) -> IdempotencyKey:
        asked = (self.user, self.conversation, self.message)
        return IdempotencyKey.of(
            self.key, *asked, use_memory=self.use_memory, principal=self.principal, turn_id=self.turn_id
        )


def test_nothing_that_the_client_wrote_is_stored() -> None:
    stored = Asked().stored
    assert [64, 64] == [len(stored.name), len(stored.fingerprint)]
    assert not any(text in "".join(stored) for text in ("secret", "ada", "home", "Hello"))


def test_the_same_request_is_stored_in_the_same_way() -> None:
    assert Asked().stored == Asked().stored
    # Stored for a day, so a change would make every key of that day name nothing.
    assert Asked().stored == (
        "c5fc4c18b3256d92b6d1fde305a0d6f1403d0e5edaf67c64c3110cd33e9d34ee",
        "cd261d6ce17c2e68267b347db49f5c6c3051a2372ac896131d3f120281d24b42",
    )


@pytest.mark.parametrize(
    ("changes", "same_name", "same_fingerprint"),
    [
        ({"key": "other"}, False, True),
        ({"user": UserId("bob")}, False, False),
        ({"conversation": ConversationId("work")}, True, False),
        ({"message": "Hello!"}, True, False),
        ({"use_memory": False}, True, False),
    ],
)
def test_the_name_tells_keys_apart_and_the_fingerprint_requests(
    changes: dict[str, object], same_name: bool, same_fingerprint: bool
) -> None:
    first, second = Asked().stored, replace(Asked(), **changes).stored  # type: ignore[arg-type]
    assert (same_name, same_fingerprint) == (first.name == second.name, first.fingerprint == second.fingerprint)


CHOSEN = TurnId("5f0c4f2e-1111-4111-8111-0123456789ab")


@pytest.mark.parametrize(
    ("changes", "same_name", "same_fingerprint"),
    [
        ({"turn_id": TurnId("5f0c4f2e-2222-4222-8222-0123456789ab")}, False, True),
        ({"principal": Principal(Role.SERVICE, "backend")}, True, True),
        ({"user": UserId("bob")}, False, False),
        ({"message": "Hello!"}, True, False),
        ({"key": "key"}, False, False),
        ({"key": CHOSEN}, False, False),
    ],
)
def test_a_turn_id_names_a_request_of_its_user_whoever_sends_it(
    changes: dict[str, object], same_name: bool, same_fingerprint: bool
) -> None:
    asked = Asked(key=None, turn_id=CHOSEN)
    first, second = asked.stored, replace(asked, **changes).stored  # type: ignore[arg-type]
    assert (same_name, same_fingerprint) == (first.name == second.name, first.fingerprint == second.fingerprint)


def test_with_a_key_the_turn_id_is_part_of_what_is_asked() -> None:
    alone, both = Asked().stored, Asked(turn_id=CHOSEN).stored
    assert (True, False) == (alone.name == both.name, alone.fingerprint == both.fingerprint)


def test_values_cannot_run_into_each_other() -> None:
    one, other = Asked(key='x", "y'), Asked(key="x")
    assert one.stored.name != other.stored.name


@pytest.mark.parametrize("user", ["turn", "ada"])
def test_no_user_can_choose_the_name_of_a_turn_that_another_request_has_begun(user: str) -> None:
    turn_id = TurnId("0b0f6d8e-3c69-4a8e-9d1c-0a6f3f1c2d3e")
    begun = IdempotencyKey.of_turn(turn_id, ANONYMOUS, ADA, "")
    chosen = IdempotencyKey.of(None, UserId(user), HOME, "Hello?", use_memory=True, turn_id=turn_id)
    assert begun.name != chosen.name
