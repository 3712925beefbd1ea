"""What Alembic runs: on the connection that `log/migrating.py` gives it, inside that one's transaction."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
