"""Short deltas share their memory, within a limit."""

from hypothesis import given
from hypothesis import strategies as st

from adapters.openai_api.delta_cache import DeltaCache


def copy(text: str) -> str:
    return "".join([text[:1], text[1:]])


def test_equal_short_deltas_are_the_same_object() -> None:
    cache = DeltaCache()
    assert cache[copy("token")] is cache[copy("token")]


def test_long_deltas_are_not_kept() -> None:
    cache = DeltaCache(max_chars=5)
    assert cache["123456"] == "123456"
    assert len(cache) == 0


@given(st.lists(st.text(max_size=3)))
def test_a_delta_is_unchanged_and_the_table_stays_within_its_limit(deltas: list[str]) -> None:
    cache = DeltaCache(max_entries=4, max_chars=2)
    assert [cache[delta] for delta in deltas] == deltas
    assert len(cache) <= 4
