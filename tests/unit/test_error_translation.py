"""Error causes that name foreign exceptions without quoting their messages."""

import sqlite3
from contextlib import closing

import pytest

from adapters.error_translation import ForeignError, exception_chain, foreign_error


class StatusError(Exception):
    status_code = 404


def raised_while_handling(inner: Exception, outer: Exception, *, hide: bool) -> Exception:
    try:
        try:
            raise inner
        except type(inner):
            if hide:
                raise outer from None
            raise outer  # noqa: B904  # the point of the test
    except type(outer) as error:
        return error


def caused(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


def test_the_cause_contains_class_names_and_numbers_but_no_message() -> None:
    error = foreign_error(caused(ValueError("secret"), ConnectionResetError(104, "secret")))
    assert isinstance(error, ForeignError)
    assert str(error) == "builtins.ValueError from builtins.ConnectionResetError [Errno 104]"
    assert (error.__cause__, error.__context__) == (None, None)


def test_the_cause_contains_the_status_and_the_given_details() -> None:
    expected = f"{__name__}.StatusError 404 model_not_found model"
    assert expected == str(foreign_error(StatusError("secret"), "model_not_found", "model"))


def test_an_error_of_sqlite_is_named() -> None:
    with closing(sqlite3.connect(":memory:")) as connection, pytest.raises(sqlite3.Error) as raised:
        connection.execute("SELECT secret")

    assert str(foreign_error(raised.value)).startswith("sqlite3.OperationalError SQLITE_ERROR")


@pytest.mark.parametrize(("hide", "expected"), [(False, [ValueError, KeyError]), (True, [ValueError])])
def test_the_chain_consists_of_the_errors_that_a_traceback_shows(hide: bool, expected: list[type[Exception]]) -> None:
    error = raised_while_handling(KeyError("secret"), ValueError("secret"), hide=hide)
    assert expected == [type(link) for link in exception_chain(error)]
