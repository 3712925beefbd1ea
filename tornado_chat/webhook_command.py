"""The commands `webhook …`: which endpoints are told of events, and the process that tells them."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import secrets
import signal
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson

from tornado_chat import config, logs
from tornado_chat.errors import ChatError, ConfigError, ErrorCode, LogReplaced
from tornado_chat.log.opening import open_existing, open_webhooks
from tornado_chat.log.webhooks import EVENTS, WEBHOOKS, Lag, Webhook, Webhooks
from tornado_chat.processes.children import HOLDER, watch_parent
from tornado_chat.webhooks.deliverer import Deliverer
from tornado_chat.webhooks.signing import new_secret

logger = logging.getLogger(__name__)

T = TypeVar("T")

PATTERNS = 50
"""Patterns of rooms that one endpoint may have."""

FORMER_SECONDS = 86400.0
"""How long a secret signs beside the one that follows it."""

_PATTERN = re.compile(r"[a-z0-9._*-]{1,64}")


def add(args: argparse.Namespace) -> int:
    url, rooms, events = _address(args.url), _rooms(args.rooms), _events(args.events)
    secret = new_secret()
    id = asyncio.run(_with_webhooks(args, lambda webhooks: webhooks.add(url, rooms, events, secret)))
    if id is None:
        raise ChatError(ErrorCode.TOO_LARGE, f"there are {WEBHOOKS} webhooks already: remove one first")
    print(f"webhook {id} is told of what is said from now on\nsecret: {secret}")
    return 0


def show(args: argparse.Namespace) -> int:
    found = asyncio.run(_with_webhooks(args, _all))
    if args.json:
        print(orjson.dumps([_as_json(webhook, lag) for webhook, lag in found], option=orjson.OPT_INDENT_2).decode())
    elif not found:
        print("there are none; tornado-chat webhook add URL makes one")
    for webhook, lag in () if args.json else found:
        print(f"{webhook.id}  {webhook.url}  {webhook.state}")
        print(f"    rooms {','.join(webhook.rooms)}  events {','.join(webhook.events)}  since {_time(webhook.created)}")
        print(f"    behind: {lag.events} events in {lag.rooms} rooms")
        if lag.given_up:
            print(f"    given up in {lag.given_up} rooms")
        if webhook.failing is not None:
            hours = (time.time() * 1000 - webhook.failing) / 3_600_000
            print(f"    takes nothing since {_time(webhook.failing)} ({hours:.1f} hours)")
        if webhook.error is not None:
            print(f"    last answer: {webhook.error}")
    return 0


def remove(args: argparse.Namespace) -> int:
    _check(args, asyncio.run(_with_webhooks(args, lambda webhooks: webhooks.remove(args.id))))
    print(f"webhook {args.id} is removed")
    return 0


def resume(args: argparse.Namespace) -> int:
    _check(args, asyncio.run(_with_webhooks(args, lambda webhooks: webhooks.resume(args.id, skip=args.skip))))
    print(f"webhook {args.id} goes on {'behind what it refused' if args.skip else 'where it stopped'}")
    return 0


def rotate(args: argparse.Namespace) -> int:
    secret = new_secret()
    done = asyncio.run(_with_webhooks(args, lambda webhooks: webhooks.rotate(args.id, secret, FORMER_SECONDS)))
    _check(args, done)
    print(f"webhook {args.id}: the former secret signs beside this one for {FORMER_SECONDS / 3600:g} hours")
    print(f"secret: {secret}")
    return 0


def deliver(args: argparse.Namespace) -> int:
    settings = config.load(vars(args), os.environ, ("database", "log_format", "log_level"))
    logs.configure(settings.log_format, settings.log_level)
    import uvloop

    return uvloop.run(_deliver(settings.database, os.environ.get(HOLDER) or secrets.token_hex(8)))


async def _deliver(database: str, holder: str) -> int:
    """Until SIGTERM or Ctrl-C, or until the parent is gone."""
    loop = asyncio.get_running_loop()
    log = await open_existing(database)
    try:
        store = await open_webhooks(database)
        try:
            living = asyncio.create_task(Deliverer(store, log, holder).run())
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, living.cancel)
            watch_parent(living.cancel)
            logger.info("webhooks are delivered")
            try:
                await living
            except asyncio.CancelledError:
                logger.info("stopped")
            except LogReplaced as error:
                logger.error("the log was replaced, this process ends reason=%s", error)
                return 1
        finally:
            await store.close()
    finally:
        await log.close()
    return 0


async def _all(webhooks: Webhooks) -> list[tuple[Webhook, Lag]]:
    return [(webhook, await webhooks.lag(webhook)) for webhook in await webhooks.all()]


async def _with_webhooks(args: argparse.Namespace, action: Callable[[Webhooks], Awaitable[T]]) -> T:
    settings = config.load(vars(args), os.environ, ("database",))
    log = await open_existing(settings.database)  # it is there, and of this version
    try:
        webhooks = await open_webhooks(settings.database)
        try:
            return await action(webhooks)
        finally:
            await webhooks.close()
    finally:
        await log.close()


def _check(args: argparse.Namespace, found: bool) -> None:
    if not found:
        raise ChatError(ErrorCode.NOT_FOUND, f"there is no webhook {args.id}; tornado-chat webhook list shows them")


def _as_json(webhook: Webhook, lag: Lag) -> dict[str, Any]:
    """Without its secrets."""
    return {
        "id": webhook.id,
        "url": webhook.url,
        "rooms": webhook.rooms,
        "events": webhook.events,
        "state": webhook.state,
        "created": webhook.created,
        "failing": webhook.failing,
        "error": webhook.error,
        "behind": {"events": lag.events, "rooms": lag.rooms},
        "rooms_given_up": lag.given_up,
    }


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and url.isascii()
    except ValueError:
        good = False
    if not good or not url.isprintable() or " " in url:
        raise ConfigError(f"URL: {url!r} is no address to tell, such as https://example.org/chat-events")
    if parts.username is not None or parts.fragment:
        raise ConfigError("URL: may have no user, no password and no fragment; the signature says who is calling")
    return url


def _rooms(given: list[str] | None) -> list[str]:
    found = _listed(given) or ["*"]
    for pattern in found:
        if not _PATTERN.fullmatch(pattern):
            raise ConfigError(f"--rooms: {pattern!r} is no pattern of rooms, such as 'team-*'")
    if len(found) > PATTERNS:
        raise ConfigError(f"--rooms: {len(found)} patterns are too many; give {PATTERNS} at most")
    return found


def _events(given: list[str] | None) -> list[str]:
    found = _listed(given) or list(EVENTS)
    for type in found:
        if type not in EVENTS:
            raise ConfigError(f"--events: {type!r} is none of {', '.join(EVENTS)}")
    return found


def _listed(given: list[str] | None) -> list[str]:
    return list(dict.fromkeys(part.strip() for listed in given or () for part in listed.split(",")))
