"""The file of an SQLite log: open it, know it for ours, make it if there is none."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from tornado_chat.errors import ConfigError
from tornado_chat.log import schema

APPLICATION_ID = 0x54436861  # "TCha", in the header of the file: `file` and SQLite's own tools show it
JOURNAL_LIMIT = 64 << 20  # bytes; a write-ahead log that a burst made longer is cut to this

T = TypeVar("T")

MAGIC = b"SQLite format 3\0"
NOT_SQLITE = "not an SQLite file, or its beginning is damaged; name another file or restore a backup"


def connect(path: str, busy_timeout: float) -> sqlite3.Connection:
    """A connection for the thread that calls; it waits `busy_timeout` seconds at most for a lock of another process."""
    db = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, cached_statements=128)
    db.execute("PRAGMA synchronous = FULL")  # a power failure loses nothing that was acknowledged
    db.execute("PRAGMA secure_delete = ON")  # what a `deleted` erases is overwritten, not only forgotten
    db.execute("PRAGMA temp_store = MEMORY")
    db.execute("PRAGMA wal_autocheckpoint = 0")  # SQLiteLog has its own, beside the commits and not inside them
    db.execute(f"PRAGMA journal_size_limit = {JOURNAL_LIMIT}")
    return db


class Connected:
    """What a thread of a `Threads` owns: one connection."""

    def __init__(self, path: str, busy_timeout: float) -> None:
        self.db = connect(path, busy_timeout)

    def interrupt(self) -> None:
        with suppress(sqlite3.ProgrammingError):  # its thread has closed it already
            self.db.interrupt()

    def close(self) -> None:
        self.db.close()


def prepare(path: str, timeout: float) -> None:
    """Make the file if there is none, check it; ConfigError, in one line, if it cannot be this server's log."""
    opened(path, timeout, partial(_prepare, path))


def opened(path: str, timeout: float, action: Callable[[sqlite3.Connection], T]) -> T:
    """The result of `action` on the file at `path`, an empty one if there is none; again while others are in the way.

    ConfigError, in one line, if the file cannot be this server's log.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        journal = Path(f"{path}-wal")
        # Looked at before the file: a process that makes both at this moment makes the file first.
        has_journal = journal.exists() and journal.stat().st_size > 0
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)  # SQLite gives -wal and -shm the same mode
        beginning = os.read(file, len(MAGIC))
        os.close(file)
        if beginning and beginning != MAGIC:  # SQLite would write over a file that is short
            raise ConfigError(f"database {path}: {NOT_SQLITE}")
        if not beginning and has_journal:
            # SQLite would take it for a new file, and throw the journal away.
            raise ConfigError(f"database {path}: empty, but {journal.name} beside it is not; restore a backup")
    except OSError as error:
        raise ConfigError(f"database {path}: cannot be opened for writing: {error.strerror}") from None
    deadline = time.monotonic() + timeout
    while True:
        try:
            db = connect(path, timeout)
            try:
                return action(db)
            finally:
                db.close()
        except sqlite3.Error as error:
            # Two processes that make the file at the same time: SQLite refuses one of them without waiting.
            if code_of(error) == sqlite3.SQLITE_BUSY and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            raise ConfigError(f"database {path}: {_explain(error)}") from None


def code_of(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 if the error is Python's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _explain(error: sqlite3.Error) -> str:
    match code_of(error):
        case sqlite3.SQLITE_NOTADB:
            return NOT_SQLITE
        case sqlite3.SQLITE_CORRUPT:
            return f"damaged or truncated ({error}); restore a backup and run `tornado-chat new-epoch`"
        case sqlite3.SQLITE_BUSY:
            return f"another process holds it ({error}); stop that process"
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY:
            return f"cannot be opened for writing ({error}); SQLite has to make files beside it, too"
        case _:
            return f"cannot be used: {error}"


def _prepare(path: str, db: sqlite3.Connection) -> None:
    with transaction(db, "BEGIN"):
        _check(db, path)
    db.execute("PRAGMA journal_mode = WAL")
    with transaction(db, "BEGIN IMMEDIATE"):
        # Again, now that no other process can be at it.
        if _check(db, path) is None:
            create(db)


def _check(db: sqlite3.Connection, path: str) -> str | None:
    """The file's revision, None for an empty file; ConfigError if it is another than this package's newest."""
    revision = revision_of(db, path)
    if revision is not None:
        schema.check_revision(revision, schema.revisions("sqlite"), path, f"sqlite:///{path}")
    return revision


def create(db: sqlite3.Connection) -> None:
    """Make all the tables in an empty file, inside the caller's transaction."""
    steps = schema.revisions("sqlite")
    for step in steps.values():
        for statement in statements(step):
            db.execute(statement)
    stamp(db, max(steps))
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute("INSERT INTO meta VALUES ('epoch', ?)", (schema.new_epoch(),))


def stamp(db: sqlite3.Connection, revision: str) -> None:
    """Make the table in which Alembic looks up the revision, in a file without it."""
    db.execute(schema.VERSION_TABLE)
    db.execute("INSERT INTO alembic_version VALUES (?)", (revision,))


def statements(script: str) -> list[str]:
    return script.split(";\n")


def revision_of(db: sqlite3.Connection, path: str) -> str | None:
    """The file's revision, None for an empty file; ConfigError if it is not ours."""
    application_id: int = db.execute("PRAGMA application_id").fetchone()[0]
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    empty: bool = db.execute("SELECT count(*) = 0 FROM sqlite_schema").fetchone()[0]
    if application_id != APPLICATION_ID and not (empty and application_id == 0 and version == 0):
        raise ConfigError(f"database {path}: another program's SQLite file; name a file that does not exist yet")
    if empty:
        return None
    if not is_stamped(db):
        return f"{version:04}"  # the version before Alembic counted there
    revision: str | None = db.execute("SELECT max(version_num) FROM alembic_version").fetchone()[0]
    return revision or "none"


def is_stamped(db: sqlite3.Connection) -> bool:
    """Whether Alembic's table is there: the version before it had only SQLite's `user_version`."""
    found = db.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'alembic_version'").fetchone()
    return found is not None


@contextmanager
def transaction(db: sqlite3.Connection, begin: str) -> Iterator[None]:
    db.execute(begin)
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # the first error is the one to tell
            db.execute("ROLLBACK")
        raise
