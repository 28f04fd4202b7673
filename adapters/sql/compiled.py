"""The statements of every turn, run on the driver's own cursor."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ClauseElement, Connection, Dialect
from sqlalchemy.sql.compiler import SQLCompiler


class _Ready(NamedTuple):
    """A statement in the words of one database."""

    sql: str
    places: Sequence[tuple[str, Callable[[Any], Any] | None]]
    """Which value belongs where, and what makes it one of the driver's."""
    fixed: Mapping[str, Any]
    """The values that are part of the statement."""
    named: bool
    """The driver takes values by name."""


class Compiled:
    """A statement that is compiled once for each database.

    SQLAlchemy keeps what it compiles too. But looking that up, and wrapping what comes back, takes longer than the
    statement takes SQLite: a sixth of a turn of one token.
    """

    def __init__(self, statement: ClauseElement) -> None:
        self.statement = statement
        self._ready: dict[Dialect, _Ready] = {}

    def run(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        """The driver's cursor after the statement, with rows as the driver gives them.

        Raises:
            KeyError: a value is missing.
            TypeError: a value is not of its type.
            Exception: any of `errors.DATABASE_ERRORS`.
        """
        sql, places, fixed, named = self._ready.get(connection.dialect) or self.compile(connection.dialect)
        if fixed:
            values = {**fixed, **values}
        given = [values[name] if made is None else made(values[name]) for name, made in places]
        cursor = connection.connection.cursor()
        try:
            cursor.execute(sql, dict(zip(dict(places), given, strict=True)) if named else given)
        except BaseException:
            cursor.close()  # which the error's traceback would keep, and with it the transaction
            raise
        return cursor

    def compile(self, dialect: Dialect) -> _Ready:
        """Put the statement into the words of a database."""
        compiled = self.statement.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)
        assert not compiled.post_compile_params, "its words depend on its values"
        names = compiled.positiontup if compiled.positional else list(compiled.bind_names.values())
        bound = {name: compiled.binds[name] for name in names or ()}
        assert all(one.callable is None for one in bound.values()), "a value is made anew each time"
        made = {name: one.type.dialect_impl(dialect).bind_processor(dialect) for name, one in bound.items()}
        fixed = {name: one.value for name, one in bound.items() if not one.required}
        places = [(name, made[name]) for name in names or ()]
        self._ready[dialect] = ready = _Ready(str(compiled), places, fixed, not compiled.positional)
        return ready
