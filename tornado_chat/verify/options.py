"""The flags of `tornado-chat verify`."""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tornado_chat import auth, config
from tornado_chat.errors import ConfigError
from tornado_chat.verify.device import TRANSPORTS
from tornado_chat.verify.faults import AGENTS, DEVICE, FAULTS, NETWORK, POSTGRESQL, REDIS, WORKERS

MAX_AGENTS = 100

MAX_ROOMS = 1000
"""One connection may be in so many, and whoever reads the logs in the end is in all."""

EPILOG = (
    "Faults: "
    + "; ".join(f"{name}: {fault.help}" for name, fault in FAULTS.items())
    + ". With --url only those of clients and of the network can be chosen. "
    "Exit code: 0 if every promise held, 1 if one was broken or nothing could be verified, 2 for wrong usage. "
    "Ctrl-C ends the run early and still judges it."
)


@dataclass(frozen=True, slots=True)
class Options:
    """Times in seconds. `url` None: an installation of our own, as `workers`, `database` and `redis` say."""

    url: str | None
    token: str | None
    secret: bytes | None
    workers: int
    database: str
    redis: bool
    directory: str | None
    seconds: float
    clients: int
    rooms: int
    rate: float
    transports: tuple[str, ...]
    faults: tuple[str, ...]
    patience: float
    max_late: float | None
    seed: int
    json: bool
    agents: int = 0
    """Processes that are one agent, which is asked questions; 0: there is none."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("what is verified")
    where.add_argument("--url", help="a running server (default: one of its own, started in a temporary directory)")
    where.add_argument(
        "--token", help="with --url: everybody's token; better given as TORNADO_CHAT_TOKEN (default: guests)"
    )
    where.add_argument(
        "--secret-file", metavar="PATH", help="with --url: the server's key, to sign a token for each user"
    )
    where.add_argument("--workers", metavar="N", help="workers of its own server (default: 1)")
    where.add_argument(
        "--database", choices=("sqlite", "postgresql"), help="where its own server keeps the log (default: sqlite)"
    )
    where.add_argument("--redis", action="store_true", help="a Redis of its own between the workers")
    where.add_argument(
        "--directory",
        metavar="DIR",
        help="where its own server's files are made, and stay (default: removed at the end)",
    )
    where.add_argument(
        "--agents",
        metavar="N",
        nargs="?",
        const="3",
        help="an agent of N processes (3), with a model of its own: each question is answered, and once",
    )
    how = parser.add_argument_group("how hard")
    how.add_argument("--minutes", default="1", metavar="N", help="how long, such as 0.5 (default: 1)")
    how.add_argument("--clients", default="50", metavar="N", help="clients, two for each user (default: 50)")
    how.add_argument(
        "--rooms", default="10", metavar="N", help="rooms; each client is in 3 of them, some in one (default: 10)"
    )
    how.add_argument("--rate", default="200", metavar="N", help="commands a second, of all clients (default: 200)")
    how.add_argument(
        "--transports",
        metavar="LIST",
        help=f"the ways in of the clients, with commas (default: {','.join(TRANSPORTS)})",
    )
    how.add_argument(
        "--faults", metavar="LIST", help="the harm that is done, with commas (default: all that is possible)"
    )
    how.add_argument("--no-faults", action="store_true", help="do no harm")
    how.add_argument("--seed", metavar="N", help="what is done is drawn by this number (default: any)")
    how.add_argument(
        "--patience", default="30s", metavar="TIME", help="for everybody to hold everything in the end (default: 30s)"
    )
    how.add_argument(
        "--max-late", metavar="TIME", help="an event that comes later than this fails (default: none does)"
    )
    how.add_argument("--json", action="store_true", help="print the report as one JSON object")


def load(args: argparse.Namespace, check_url: Callable[[str], str]) -> Options:
    """What was asked for; ConfigError names the flag that is wrong."""
    own = args.url is None
    workers = _checked("workers", config.worker_count, args.workers, 1)
    database: str = args.database or "sqlite"
    for flag in ("token", "secret_file"):
        if own and getattr(args, flag) is not None:
            raise ConfigError(f"--{flag.replace('_', '-')}: goes with --url; a server of its own makes its own key")
    for flag in ("workers", "database", "redis", "directory"):
        if not own and getattr(args, flag):
            raise ConfigError(f"--{flag}: is for a server of its own; leave it or --url out")
    agents = _checked("agents", config.integer(1, MAX_AGENTS), args.agents, 0)
    if agents and not own and args.secret_file is None:
        raise ConfigError("--agents: with --url it needs --secret-file, to sign the agent's token")
    transports = _transports(args.transports)
    minutes = _checked("minutes", _number(0.05, 7 * 1440), args.minutes)
    return Options(
        url=None if own else check_url(args.url),
        token=None if own else args.token or os.environ.get("TORNADO_CHAT_TOKEN") or None,
        secret=_secret(args.secret_file),
        workers=workers,
        database=database,
        redis=args.redis,
        directory=args.directory,
        seconds=minutes * 60,
        clients=_checked("clients", config.integer(1, 10_000), args.clients),
        rooms=_checked("rooms", config.integer(1, MAX_ROOMS), args.rooms),
        rate=_checked("rate", _number(0.1, 100_000), args.rate),
        transports=transports,
        faults=_faults(args, own, database, len(transports) > 1, agents > 0),
        patience=_checked("patience", config.duration("1s", "1h"), args.patience),
        max_late=_checked("max-late", config.duration("1ms", "1h"), args.max_late, None),
        seed=_checked("seed", config.integer(0, 10**18), args.seed, random.randrange(10**6)),
        json=args.json,
        agents=agents,
    )


def _checked(flag: str, check: config.Check, raw: str | None, default: Any = None) -> Any:
    if raw is None:
        return default
    try:
        return check(raw)
    except ValueError as error:
        raise ConfigError(f"--{flag}: {error}") from None


def _number(minimum: float, maximum: float) -> config.Check:
    def check(raw: object) -> float:
        try:
            value = float(str(raw))
        except ValueError:
            value = -1.0
        if not minimum <= value <= maximum:  # nor NaN
            raise ValueError(f"{str(raw)[:80]!r} is not a number from {minimum:g} to {maximum:g}")
        return value

    return check


def _secret(path: str | None) -> bytes | None:
    if path is None:
        return None
    return auth.load_secret(config.load({"secret_file": path}, {}, ("secret_file",)))


def _transports(listed: str | None) -> tuple[str, ...]:
    if listed is None:
        return tuple(TRANSPORTS)
    names = tuple(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))
    for name in names:
        if name not in TRANSPORTS:
            raise ConfigError(f"--transports: there is no {name!r}; there are {', '.join(TRANSPORTS)}")
    if not names:
        raise ConfigError(f"--transports: name one at least of {', '.join(TRANSPORTS)}")
    return names


def _faults(args: argparse.Namespace, own: bool, database: str, several: bool, agents: bool) -> tuple[str, ...]:
    if args.no_faults:
        if args.faults is not None:
            raise ConfigError("--no-faults: leave it or --faults out")
        return ()
    ours = {
        DEVICE: True,
        NETWORK: True,
        WORKERS: own,
        REDIS: own and args.redis,
        POSTGRESQL: own and database == "postgresql",
        AGENTS: agents,
    }
    if args.faults is None:
        return tuple(name for name, fault in FAULTS.items() if ours[fault.needs] and (several or name != "changes"))
    names = tuple(name.strip() for name in args.faults.split(",") if name.strip())
    for name in names:
        if name not in FAULTS:
            raise ConfigError(f"--faults: there is no {name!r}; there are {', '.join(FAULTS)}")
        if not ours[FAULTS[name].needs]:
            raise ConfigError(f"--faults: {name} can only be done to {FAULTS[name].needs}")
        if name == "changes" and not several:
            raise ConfigError("--faults: changes needs several --transports")
    return names
