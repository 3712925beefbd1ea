"""The log: rooms, events, what was made of them, read marks."""

from __future__ import annotations

from alembic import op

from tornado_chat.log.migrating import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql(op.get_bind(), revision)
