"""The commands that work on the log itself, without a server: revoke, migrate, copy-log, new-epoch."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tornado_chat import auth, config
from tornado_chat.errors import ConfigError
from tornado_chat.log import Log
from tornado_chat.log.opening import open_existing
from tornado_chat.log.schema import shown

T = TypeVar("T")


def revoke(args: argparse.Namespace) -> int:
    settings = config.load(vars(args), os.environ, ("database",))
    jti = auth.jti_of(args.session)
    asyncio.run(_with_log(settings.database, lambda log: log.revoke(jti)))
    print(f"revoked {jti!r} for ever, in {shown(settings.database)}")
    return 0


def migrate(args: argparse.Namespace) -> int:
    settings = config.load(vars(args), os.environ, ("database",))
    from tornado_chat.log import migrating

    old, new = migrating.migrate(settings.database, Progress())
    if old == migrating.COUNTING:
        done = f"revision {new}, by a migration that was begun before"
    elif old == new:
        done = f"revision {new}, nothing to do"
    else:
        done = f"was empty, is of revision {new} now" if old is None else f"from revision {old} to {new}"
    print(f"{shown(settings.database)}: {done}")
    return 0


class Progress:
    """`migrating.Report` as lines on stderr, one each `seconds`, with an estimate by how long the last ones took."""

    __slots__ = ("_begun", "_from", "_seconds", "_told")

    def __init__(self, seconds: float = 3.0) -> None:
        self._seconds = seconds
        self._begun = self._told = time.monotonic()
        self._from: int | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._from is None:
            self._from, self._begun = done, now
        elif now - self._told >= self._seconds:
            self._told = now
            left = (now - self._begun) * (total - done) / max(1, done - self._from)
            part = 100 * done // max(1, total)
            line = f"numbering the messages: {done} of {total} events, {part} %, about {left:.0f} s to go"
            print(line, file=sys.stderr, flush=True)


def copy_log(args: argparse.Namespace) -> int:
    source, target = (_database(name, getattr(args, name.lower())) for name in ("FROM", "TO"))
    from tornado_chat.copy_progress import run

    return asyncio.run(run(source, target))


def _database(name: str, url: str) -> str:
    try:
        return config.database(url)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None


def new_epoch(args: argparse.Namespace) -> int:
    settings = config.load(vars(args), os.environ, ("database",))
    print(asyncio.run(_with_log(settings.database, lambda log: log.new_epoch())))
    return 0


async def _with_log(database: str, action: Callable[[Log], Awaitable[T]]) -> T:
    log = await open_existing(database)
    try:
        return await action(log)
    finally:
        await log.close()
