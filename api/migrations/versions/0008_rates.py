"""Rates of keys, counted by all replicas together

Revision ID: 0008
Revises: 0007
Create Date: 2026-11-23 19:25:00
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: Any = None
depends_on: Any = None


def upgrade() -> None:
    op.add_column("keys", sa.Column("refilled_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    op.drop_column("keys", "refilled_at")
