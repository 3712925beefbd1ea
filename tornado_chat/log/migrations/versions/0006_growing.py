"""Messages that grow: a row for each while it does, and the parts of its text."""

from __future__ import annotations

from alembic import op

from tornado_chat.log.migrating import run_sql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_sql(op.get_bind(), revision)
