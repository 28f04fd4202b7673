"""A think block at the start of a reply is removed, however the text is split."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.openai_api.think_block import ThinkBlockFilter

PARTS = st.sampled_from(["<think>", "</think>", "<", "think", ">", "</", " ", "\n", "a", "é"])
TEXTS = st.lists(PARTS).map("".join)


def filtered(*pieces: str) -> str:
    block = ThinkBlockFilter()
    return "".join(map(block.feed, pieces)) + block.finish()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("<think>hm</think>Hello", "Hello"),
        ("<think>hm</think>\n\nHello", "\n\nHello"),
        ("\n<think>\nhm\n</think>Hello", "Hello"),
        ("<think></think>Hello", "Hello"),
        ("<think>a<think>b</think>Hello</think>", "Hello</think>"),
        ("<think>a</think><think>b</think>", "<think>b</think>"),
        ("<think>hm", ""),
        ("<think>hm</thin", ""),
        ("<think", "<think"),
        ("<thinking>hm</thinking>", "<thinking>hm</thinking>"),
        ("hm</think>Hello", "hm</think>Hello"),
        ("</think>Hello", "</think>Hello"),
        ("Hello <think>hm</think>", "Hello <think>hm</think>"),
        (" " * 64 + "<think>hm</think>", ""),
        (" " * 65 + "<think>hm</think>", " " * 65 + "<think>hm</think>"),
        ("   ", "   "),
        ("", ""),
    ],
)
def test_only_a_block_at_the_start_is_removed(text: str, kept: str) -> None:
    assert filtered(text) == kept
    assert filtered(*text) == kept


@given(TEXTS, st.lists(st.integers(0, 60)))
@example("<think>a</think>b", [7, 8, 16])
def test_the_split_of_the_text_makes_no_difference(text: str, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:stop] for start, stop in pairwise(edges)]
    assert filtered(*pieces) == filtered(text)


@given(TEXTS, TEXTS)
def test_all_of_the_reply_after_the_block_is_kept(thought: str, reply: str) -> None:
    thought = thought.replace("</think>", "").replace("<", "")
    assert filtered(f"<think>{thought}</think>{reply}") == reply


def test_ordinary_text_is_not_held_back() -> None:
    block = ThinkBlockFilter()
    assert (block.feed("Hello"), block.passed, block.removed) == ("Hello", True, False)
