"""What is erased in slices, marks that lapse, and revocations for ever."""

from __future__ import annotations

from alembic import op

from tornado_chat.log.migrating import run_sql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql(op.get_bind(), revision)
