"""How the statements of one transaction reach the database: one after the other. `pipeline.py` has PostgreSQL's way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import JSON, BindParameter, Column, Connection, Dialect, Executable, bindparam
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

Values = Mapping[str, Any]
Query = tuple[Executable, Values]


class Statements:
    """Runs the statements of the transaction that is open on a connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def read(self, *queries: Query) -> list[Sequence[Any]]:
        """The rows of each of these queries, which do not depend on each other; they see all that was written."""
        return [self.connection.execute(query, values).all() for query, values in queries]

    def write(self, statement: Executable, rows: Sequence[Values]) -> None:
        """Have a statement executed for each of these rows: at the latest before the next query, or the commit."""
        self.connection.execute(statement, rows)

    def flush(self) -> None:
        """Have everything executed that was to be written."""

    def commit(self) -> None:
        """End the transaction, if whoever opened it is not to do it."""


class Listed(TypeDecorator[list[Any]]):
    """Values in one parameter: an array on PostgreSQL, JSON on SQLite."""

    impl = JSON
    cache_ok = True

    def __init__(self, item: TypeEngine[Any]) -> None:
        super().__init__()
        self.item = item

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(ARRAY(self.item) if dialect.name == "postgresql" else JSON())


class Among(FunctionElement[bool]):
    """Whether a column holds one of the values that the parameter ``many`` lists.

    Unlike IN, this is one statement however many they are, so that it is prepared once.
    """

    inherit_cache = True

    def __init__(self, column: Column[Any]) -> None:
        many: BindParameter[list[Any]] = bindparam("many", type_=Listed(column.type))
        super().__init__(column, many)


@compiles(Among, "sqlite")
def _among_json(element: Among, compiler: Any, **options: Any) -> str:
    column, many = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({many}))"


@compiles(Among, "postgresql")
def _among_array(element: Among, compiler: Any, **options: Any) -> str:
    column, many = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} = ANY ({many})"
