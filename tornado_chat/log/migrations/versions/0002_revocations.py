"""Sessions that may not come in any more."""

from __future__ import annotations

from alembic import op

from tornado_chat.log.migrating import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql(op.get_bind(), revision)
