"""Logs of one's own: what they hold, who follows what, which mentions are unread; marks that move with messages."""

from __future__ import annotations

from alembic import op

from tornado_chat.log.migrating import run_sql

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_sql(op.get_bind(), revision)
