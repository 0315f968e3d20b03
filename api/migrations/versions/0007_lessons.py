"""What prompts of gateways taught

Revision ID: 0007
Revises: 0006
Create Date: 2026-11-23 18:50:00
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: Any = None
depends_on: Any = None


def upgrade() -> None:
    op.create_table(
        "lessons",
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("calibration", sa.String(100), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("features", sa.JSON(), nullable=False),
        sa.Column("right", sa.Float(), nullable=False),
        sa.Column("drawn", sa.Integer(), nullable=False),
        sa.Column("counted", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("project_id", "calibration", "number"),
    )


def downgrade() -> None:
    op.drop_table("lessons")
