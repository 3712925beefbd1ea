"""What makes it known which message of its room a message is; `log/numbering.py` counts what is there already."""

from __future__ import annotations

from alembic import op

from tornado_chat.log.migrating import run_sql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql(op.get_bind(), revision)
