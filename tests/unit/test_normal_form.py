"""Normalisation in linear time."""

import sys
import unicodedata
from typing import get_args

import pytest

from domain.normal_form import MAX_RUN, Form, in_normal_form

FORMS = get_args(Form)
GRAVE_BELOW, ACUTE = "\u0316", "\u0301"
"""Combining characters of classes 220 and 230, in canonical order."""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", ["", "plain", "Größe", "Gro\u0308ße", "e" + ACUTE + GRAVE_BELOW, "ﬁ ｶﾞ 각 👩🏽‍💻"])
def test_a_text_is_normalised_as_by_the_standard_library(form: Form, text: str) -> None:
    assert in_normal_form(form, text) == unicodedata.normalize(form, text)


@pytest.mark.parametrize("form", FORMS)
def test_the_longest_run_that_a_language_may_need_is_put_in_order(form: Form) -> None:
    text = "e" + (ACUTE + GRAVE_BELOW) * (MAX_RUN // 2)
    assert in_normal_form(form, text) == unicodedata.normalize(form, text)


@pytest.mark.parametrize("form", FORMS)
def test_a_longer_run_keeps_its_order(form: Form) -> None:
    run = (ACUTE + GRAVE_BELOW) * MAX_RUN
    assert in_normal_form(form, f"x{run}y") == f"x{run}y"


def test_the_characters_of_a_long_run_are_normalised_one_by_one() -> None:
    assert in_normal_form("NFKD", "\uff9e" * (MAX_RUN + 1)) == "\u3099" * (MAX_RUN + 1)


@pytest.mark.parametrize("form", FORMS)
def test_every_character_that_can_prolong_a_run_counts(form: Form) -> None:
    """Each is put between two runs: if it did not belong to them, they would be short enough to be put in order."""
    run = ACUTE + GRAVE_BELOW
    for code in range(sys.maxunicode + 1):
        first = unicodedata.normalize(form, chr(code))[0]
        if unicodedata.combining(first):
            half = run * (MAX_RUN // 2)
            assert in_normal_form(form, half + chr(code) + half).startswith(half), hex(code)
