"""The command `agent`: let an agent live, in this process, or in several that this one keeps running."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import logging
import os
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import jwt

from tornado_chat import auth, config, logs
from tornado_chat.agents import Agent
from tornado_chat.client import Refused
from tornado_chat.config import Settings
from tornado_chat.errors import ChatError, ConfigError
from tornado_chat.processes.children import Child, Children, is_child, program, watch_parent

logger = logging.getLogger(__name__)

DEMO = "tornado_chat.agents.demo:agent"

TOKEN_SECONDS = 86400.0
"""How long a token is good that is made for an agent; another one follows it."""

WATCH_SECONDS = 0.5
"""Between two looks at the files."""
WATCHED = 5000
"""Files that are looked at."""


def run(args: argparse.Namespace) -> int:
    settings = config.load(vars(args), os.environ, ("database", "secret_file", "log_format", "log_level"))
    logs.configure(settings.log_format, settings.log_level)
    if not is_child() and (args.replicas > 1 or args.reload):
        folder = _folder(args.agent) if args.reload else None
        return asyncio.run(_supervise(args.agent, args.replicas, folder))
    agent = load(args.agent)
    agent.rooms = tuple(dict.fromkeys([*agent.rooms, *(args.rooms or ())]))
    url = args.url or agent.url or args.default_url
    token = args.token or agent.token or _maker(settings, agent.name)
    if isinstance(token, str):
        _check(token)
    return asyncio.run(_live(agent, url, token))


async def _live(agent: Agent, url: str, token: str | Callable[[], Awaitable[str]]) -> int:
    """Until SIGTERM or Ctrl-C, or until the parent is gone."""
    loop = asyncio.get_running_loop()
    living = asyncio.create_task(agent.serve(url=url, token=token))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, living.cancel)
    watch_parent(living.cancel)
    logger.info("agent starts agent=%s url=%s", agent.name, url)
    try:
        await living
    except asyncio.CancelledError:
        logger.info("agent stopped agent=%s", agent.name)
    except Refused as error:
        print(f"tornado-chat: error: the server will not have {agent.name}: {error}", file=sys.stderr)
        return 1
    return 0


def load(target: str) -> Agent:
    """The agent that `module:name` is, or `demo`; ConfigError."""
    module, colon, name = (DEMO if target == "demo" else target).partition(":")
    if not colon or not name:
        raise ConfigError(f"AGENT: {target!r} is neither demo nor module:name, such as my_agents:agent")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        made = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        logger.debug("not imported module=%s", module, exc_info=error)
        raise ConfigError(f"AGENT: importing {module} failed: {type(error).__name__}: {error}{_where(error)}") from None
    if not isinstance(made, Agent):
        raise ConfigError(f"AGENT: {name} of {module} is no Agent; give the name of one")
    return made


def _where(error: BaseException) -> str:
    """The line of a file that raised it."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file != __file__ and not file.startswith("<") and "importlib" not in file:
            place = f" ({file}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return place


# Its token


def _maker(settings: Settings, name: str) -> Callable[[], Awaitable[str]]:
    """What makes a token for the agent, with the key of the server beside which it runs."""
    secret = auth.find_secret(settings)

    async def make() -> str:
        return auth.mint(secret, name, ttl=TOKEN_SECONDS, jti=secrets.token_urlsafe(16), agent=True)

    try:
        auth.mint(secret, name, ttl=TOKEN_SECONDS, agent=True)
    except ChatError as error:
        raise ConfigError(f"AGENT: its name: {error.message}") from None
    return make


def _check(token: str) -> None:
    """ConfigError for a person's token: what is said with that would be theirs."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.PyJWTError as error:
        raise ConfigError(f"--token: is no token: {error}") from None
    if claims.get("agent") is not True:
        raise ConfigError(
            "--token (or TORNADO_CHAT_TOKEN): is not an agent's; make one with "
            "tornado-chat token --agent --user NAME, or give none where the server's key is at hand"
        )


# Several processes, or new ones when a file has changed


async def _supervise(target: str, replicas: int, folder: Path | None) -> int:
    command = [*program(), *sys.argv[1:]]
    names = [target] if replicas == 1 else [f"{target}/{number}" for number in range(1, replicas + 1)]
    children = Children([Child(name, command, os.environ) for name in names])
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    children.start()
    watching = asyncio.create_task(_watch(folder, children)) if folder is not None else None
    try:
        await told.wait()
    finally:
        if watching is not None:
            watching.cancel()
        await children.stop()
    logger.info("stopped")
    return 0


def _folder(target: str) -> Path:
    """Where the module is that is to be watched."""
    module = (DEMO if target == "demo" else target).partition(":")[0]
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        found = None
    if found is None or found.origin is None:
        raise ConfigError(f"AGENT: there is no module {module!r} here whose files could be watched")
    return Path(found.origin).resolve().parent


async def _watch(folder: Path, children: Children) -> None:
    seen = await asyncio.to_thread(_files, folder)
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        now = await asyncio.to_thread(_files, folder)
        if now != seen:
            changed = sorted(path.name for path, _ in now.symmetric_difference(seen))
            logger.info("files changed file=%s", changed[0])
            seen = now
            children.restart()


def _files(folder: Path) -> set[tuple[Path, int]]:
    """The Python files below `folder` and when each was changed."""
    found: set[tuple[Path, int]] = set()
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__")) and name != "site-packages"]
        for name in names:
            if name.endswith(".py") and len(found) < WATCHED:
                path = Path(root, name)
                try:
                    found.add((path, path.stat().st_mtime_ns))
                except FileNotFoundError:
                    continue
    return found
