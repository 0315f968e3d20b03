"""Projects, and the keys that open them: names, versions and idempotency keys are unique within a project

Revision ID: 0005
Revises: 0004
Create Date: 2026-11-23 13:00:00
"""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: Any = None
depends_on: Any = None

# What a row of each table is known by, besides its id: the columns so far, which get the project before them. SQLite
# knows these constraints by no name, so it is told one; PostgreSQL has named them itself.
UNIQUE: dict[str, tuple[str, ...]] = {"samplings": ("key",), "calibrations": ("name", "version")}
NAMES = {"uq": "uq_%(table_name)s"}


def upgrade() -> None:
    projects = op.create_table(
        "projects",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sqlite_autoincrement=True,
    )
    op.bulk_insert(projects, [{"name": "default", "created_at": datetime.now(UTC)}])
    op.create_table(
        "keys",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("public_id", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("parent_id", sa.Integer()),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("name", sa.String(100)),
        sa.Column("tokens_per_day", sa.BigInteger()),
        sa.Column("requests_per_minute", sa.Integer()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], ondelete="RESTRICT"),
        sa.ForeignKeyConstraint(["parent_id"], ["keys.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_keys_public_id", "keys", ["public_id"], unique=True)
    op.create_index("ix_keys_parent_id", "keys", ["parent_id"])
    op.create_table(
        "usage",
        sa.Column("key_id", sa.Integer(), nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key_id", "day"),
    )
    for table in ("studies", "samplings", "calibrations"):
        _into_projects(table)


def _into_projects(table: str) -> None:
    """Everything so far goes into the project ``default``."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    last_id = sa.text(f"SELECT seq FROM sqlite_sequence WHERE name = '{table}'")
    seq = op.get_bind().execute(last_id).scalar() if sqlite else None
    op.add_column(table, sa.Column("project_id", sa.Integer(), nullable=False, server_default="1"))
    options: dict[str, Any] = {"naming_convention": NAMES, "table_kwargs": {"sqlite_autoincrement": True}}
    with op.batch_alter_table(table, **options) as batch:
        if table == "studies":
            batch.drop_index("ix_studies_name")
        else:
            batch.drop_constraint(f"uq_{table}" if sqlite else f"{table}_{'_'.join(UNIQUE[table])}_key", type_="unique")
        batch.alter_column("project_id", server_default=None)
        batch.create_foreign_key(f"fk_{table}_project", "projects", ["project_id"], ["id"], ondelete="RESTRICT")
        if table == "studies":
            batch.create_index("ix_studies_name", ["project_id", "name"], unique=True)
        else:
            batch.create_unique_constraint(f"uq_{table}_project", ["project_id", *UNIQUE[table]])
    if seq is not None:  # an id is never used twice
        again = sa.text("UPDATE sqlite_sequence SET seq = :seq WHERE name = :name")
        op.get_bind().execute(again, {"seq": seq, "name": table})


def downgrade() -> None:
    raise NotImplementedError("what is in two projects under one name cannot go back into one: restore a backup")
