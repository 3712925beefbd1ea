"""The commands that work on the log itself, without a server: revoke, migrate, copy-log, new-epoch."""

from __future__ import annotations

import argparse
import asyncio
import os
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

    old, new = migrating.migrate(settings.database)
    done = f"was empty, is of revision {new} now" if old is None else f"from revision {old} to {new}"
    print(f"{shown(settings.database)}: {f'revision {new}, nothing to do' if old == new else done}")
    return 0


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
