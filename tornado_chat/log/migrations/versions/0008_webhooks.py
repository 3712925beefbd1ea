"""Webhooks: the endpoints that are told of events, and how far each is in each room."""

from __future__ import annotations

from alembic import op

from tornado_chat.log.migrating import run_sql

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    run_sql(op.get_bind(), revision)
