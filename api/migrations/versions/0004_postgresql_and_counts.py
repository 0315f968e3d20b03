"""Trials counted by state; on PostgreSQL wider numbers, and a notification of every change of a study

Revision ID: 0004
Revises: 0003
Create Date: 2026-11-23 12:40:00
"""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: Any = None
depends_on: Any = None

# Sent with the commit. It says where the study stands, so that nobody who listens has to ask; a study that is gone has
# no sequence. `suffice.api.replicas` listens.
NOTIFY = """
CREATE FUNCTION suffice_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM pg_notify('suffice_studies', json_build_object('study', OLD.id)::text);
    ELSE
        PERFORM pg_notify('suffice_studies', json_build_object(
            'study', NEW.id, 'sequence', NEW.sequence, 'data_version', NEW.data_version,
            'next_number', NEW.next_number)::text);
    END IF;
    RETURN NULL;
END $$
"""
CHANGED = """
CREATE TRIGGER suffice_studies_changed AFTER UPDATE ON studies FOR EACH ROW
WHEN (OLD.sequence IS DISTINCT FROM NEW.sequence) EXECUTE FUNCTION suffice_notify()
"""
DELETED = """
CREATE TRIGGER suffice_studies_deleted AFTER DELETE ON studies FOR EACH ROW EXECUTE FUNCTION suffice_notify()
"""


def upgrade() -> None:
    op.add_column("studies", sa.Column("counts", sa.JSON(), nullable=False, server_default="{}"))
    _count()
    if op.get_bind().dialect.name == "postgresql":
        for table in ("measurements", "suggestions"):
            op.alter_column(table, "id", type_=sa.BigInteger(), existing_type=sa.Integer(), existing_nullable=False)
            op.execute(sa.text(f"ALTER SEQUENCE {table}_id_seq AS bigint"))
        for statement in (NOTIFY, CHANGED, DELETED):
            op.execute(sa.text(statement))


def _count() -> None:
    connection = op.get_bind()
    found: dict[int, dict[str, int]] = {}
    query = sa.text("SELECT study_id, state, count(*) FROM trials GROUP BY study_id, state")
    for study_id, state, count in connection.execute(query):
        found.setdefault(study_id, {})[state] = count
    for study_id, counts in found.items():
        values = {"counts": json.dumps(counts), "id": study_id}
        connection.execute(sa.text("UPDATE studies SET counts = :counts WHERE id = :id"), values)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(sa.text("DROP TRIGGER suffice_studies_changed ON studies"))
        op.execute(sa.text("DROP TRIGGER suffice_studies_deleted ON studies"))
        op.execute(sa.text("DROP FUNCTION suffice_notify"))
        for table in ("measurements", "suggestions"):
            op.alter_column(table, "id", type_=sa.Integer(), existing_type=sa.BigInteger(), existing_nullable=False)
    op.drop_column("studies", "counts")
