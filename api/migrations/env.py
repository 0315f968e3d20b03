"""Alembic's entry point; `suffice.api.database.migrate` hands over the connection, the command line a URL."""

from alembic import context
from sqlalchemy import Connection

from suffice.api.database import connect
from suffice.api.tables import Base


def run() -> None:
    connection = context.config.attributes.get("connection")
    if connection is None:
        with connect(context.config.get_main_option("sqlalchemy.url") or "sqlite:///suffice.db").begin() as connection:
            upgrade(connection)
    else:
        upgrade(connection)


def upgrade(connection: Connection) -> None:
    # SQLite cannot alter most of a table in place: batch mode copies it.
    context.configure(
        connection=connection, target_metadata=Base.metadata, render_as_batch=True, transactional_ddl=True
    )
    context.run_migrations()


run()
