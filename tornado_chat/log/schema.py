"""The schema's revisions: which there are, their SQL, and what to tell whoever has another.

A database's revision stands in Alembic's table `alembic_version`. Alembic itself comes in only where a database is
migrated (`log/migrating.py`): an empty one is made from the same SQL files without it, in a few milliseconds.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from tornado_chat.errors import ConfigError

Dialect = Literal["sqlite", "postgresql"]

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = """
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
)
"""


def revisions(dialect: Dialect) -> dict[str, str]:
    """The SQL that leads to each revision from the one before, by revision, oldest first."""
    files = sorted((MIGRATIONS / "versions").glob(f"*.{dialect}.sql"))
    return {file.name.partition("_")[0]: file.read_text("utf-8") for file in files}


def unfinished(revision: str) -> str:
    """What stands in `alembic_version` while the log is being copied there: nobody else may write to it, or read."""
    return f"copying-{revision}"


def migrating(revision: str) -> str:
    """What stands there while a migration to `revision` goes through the events: no server of any version starts."""
    return f"migrating-{revision}"


def check_revision(found: str, known: Collection[str], where: str, database: str) -> None:
    """ConfigError if `found` is not the newest of `known`; `where` is how messages name the database."""
    if found.startswith(migrating("")):
        raise ConfigError(
            f"database {where}: it is being migrated, or was until something went wrong; "
            f"to go on with that, run: tornado-chat migrate --database {shown(database)}"
        )
    check_known(found, known, where)
    newest = max(known)
    if found != newest:
        raise ConfigError(
            f"database {where}: its schema is of revision {found}, and this tornado_chat needs {newest}; "
            f"stop the servers and run: tornado-chat migrate --database {shown(database)}"
        )


def check_known(found: str, known: Collection[str], where: str) -> None:
    """ConfigError if `found` is none of `known`."""
    if found in known:
        return
    if found.startswith(unfinished("")):
        raise ConfigError(
            f"database {where}: a log is being copied there, or was until something went wrong; "
            "run the same tornado-chat copy-log again"
        )
    raise ConfigError(
        f"database {where}: its schema is of revision {found}, but this tornado_chat knows {max(known)} at most; "
        "install the version that wrote it"
    )


def shown(database: str) -> str:
    """The URL `database` without its password, and without its options, which may hold one too."""
    if database.startswith("sqlite:"):
        return database
    parts = urlsplit(database)
    login, at, hosts = parts.netloc.rpartition("@")
    path = parts.path if "@" not in parts.path else ""  # a password that holds a / ends up here
    return f"{parts.scheme}://{login.partition(':')[0]}{at}{hosts}{path}"


def new_epoch() -> str:
    return secrets.token_hex(8)
