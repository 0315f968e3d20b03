"""What a study's settings need beside its definition: contexts, a budget of cost, stops, earlier studies, analyses

Revision ID: 0002
Revises: 0001
Create Date: 2026-11-23 09:20:00
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: Any = None
depends_on: Any = None


def upgrade() -> None:
    op.add_column("studies", sa.Column("budget_cost", sa.Float()))
    op.add_column("studies", sa.Column("stop", sa.JSON()))  # says more than that nothing is left, and is found anew
    op.drop_column("studies", "exhausted_version")
    op.execute(sa.text("UPDATE studies SET best = NULL"))  # it says more now, and is computed when it is asked for
    op.add_column("suggestions", sa.Column("context", sa.String(32), nullable=False, server_default=""))
    op.add_column("asks", sa.Column("request", sa.String(), nullable=False, server_default="ask"))
    op.create_table(
        "earlier",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["source_id"], ["studies.id"], ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("study_id", "source_id"),
    )
    op.create_index("ix_earlier_source", "earlier", ["source_id"])
    op.create_table(
        "analyses",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("data_version", sa.Integer(), nullable=False),
        sa.Column("cards", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("study_id"),
    )


def downgrade() -> None:
    op.drop_table("analyses")
    op.drop_table("earlier")
    op.drop_column("asks", "request")
    op.drop_column("suggestions", "context")
    op.add_column("studies", sa.Column("exhausted_version", sa.Integer()))
    op.drop_column("studies", "stop")
    op.drop_column("studies", "budget_cost")
