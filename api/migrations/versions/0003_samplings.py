"""Samplings and calibrations

Revision ID: 0003
Revises: 0002
Create Date: 2026-11-23 11:00:00
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: Any = None
depends_on: Any = None


def upgrade() -> None:
    op.create_table(
        "calibrations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("drift_total", sa.Float(), nullable=False),
        sa.Column("drift_alarm", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name", "version"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "samplings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("public_id", sa.String(32), nullable=False),
        sa.Column("key", sa.String(200)),
        sa.Column("definition", sa.JSON(), nullable=False),
        sa.Column("calibration_id", sa.Integer()),
        sa.Column("info", sa.JSON(), nullable=False),
        sa.Column("prompts", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.Float(), nullable=False),
        sa.Column("stop", sa.JSON()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["calibration_id"], ["calibrations.id"], ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_samplings_public_id", "samplings", ["public_id"], unique=True)
    op.create_index("ix_samplings_calibration", "samplings", ["calibration_id"])
    op.create_table(
        "prompts",
        sa.Column("sampling_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("prompt", sa.String(200), nullable=False),
        sa.Column("prior", sa.JSON()),
        sa.Column("told", sa.Integer(), nullable=False),
        sa.Column("decided", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.Float(), nullable=False),
        sa.Column("watched", sa.Boolean(), nullable=False),
        sa.Column("stop", sa.JSON()),
        sa.Column("decisions", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["sampling_id"], ["samplings.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sampling_id", "position"),
        sa.UniqueConstraint("sampling_id", "prompt"),
    )
    op.create_table(
        "draws",
        sa.Column("sampling_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(200)),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column("told_at", sa.DateTime(timezone=True)),
        sa.Column("answer", sa.JSON()),
        sa.Column("score", sa.Float()),
        sa.Column("tokens", sa.Float()),
        sa.ForeignKeyConstraint(["sampling_id"], ["samplings.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sampling_id", "position", "number"),
    )
    op.create_index("ix_draws_key", "draws", ["sampling_id", "key"])
    op.create_index("ix_draws_out", "draws", ["sampling_id", "told_at", "expires_at"])


def downgrade() -> None:
    op.drop_table("draws")
    op.drop_table("prompts")
    op.drop_table("samplings")
    op.drop_table("calibrations")
