"""Copying an SQLite log's write-ahead log into the file while the writer goes on."""

from __future__ import annotations

import sqlite3

from tornado_chat.errors import LogUnavailable
from tornado_chat.log.sqlite_file import Connected


class Checkpointer(Connected):
    """One connection, for checkpoints that wait for nobody and that nobody waits for. Blocking."""

    def checkpoint(self) -> None:
        """Copy what no reader stands in the way of; LogUnavailable if SQLite could not."""
        try:
            self.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            raise LogUnavailable(f"SQLite: {error}") from error
