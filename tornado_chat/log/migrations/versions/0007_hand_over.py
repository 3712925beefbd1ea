"""Messages that move to another process, and wait for what the one before hands over."""

from __future__ import annotations

from alembic import op

from tornado_chat.log.migrating import run_sql

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_sql(op.get_bind(), revision)
