"""`tornado-chat revoke`: what it takes, what it keeps, what it says."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable

import jwt
import pytest

from tests.support import ROOT
from tests.support.databases import sql
from tornado_chat.auth import mint
from tornado_chat.log import Log
from tornado_chat.log.opening import open_log
from tornado_chat.log.schema import shown

pytest_plugins = ["tests.support.database_fixtures", "tests.support.postgres_servers"]

TIMEOUT = 30.0
KEY = b"k" * 32


@pytest.fixture
def made(database: str) -> str:
    """The URL of a log that is empty."""
    asyncio.run(closed(database))
    return database


async def closed(database: str) -> None:
    log: Log = await open_log(database)
    await log.close()


def revoke(session: str, database: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tornado_chat", "revoke", session, "--database", database],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def kept(database: str) -> list[str]:
    return [jti for (jti,) in sql(database, "SELECT jti FROM revocations ORDER BY id")]


def test_a_token_is_revoked_for_ever_by_its_jti(made: str) -> None:
    """Not until it expires: another token may have the same `jti` and expire later."""
    for ttl in (1000, -10):
        result = revoke(mint(KEY, "alice", ttl=ttl, jti="phone"), made)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == f"revoked 'phone' for ever, in {shown(made)}\n"
        assert kept(made) == ["phone"]


@pytest.mark.parametrize("session", ["phone", "a.b.c", "\u00e9'\\", "eyJ-but-no-token"])
def test_a_bare_jti_is_revoked_for_ever(made: str, session: str) -> None:
    result = revoke(session, made)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"revoked {session!r} for ever, in {shown(made)}\n"
    assert kept(made) == [session]


@pytest.mark.parametrize("session", ["guest-0a1b", mint(KEY, "guest-0a1b", ttl=1000, jti="guest-0a1b", guest=True)])
def test_a_guest_is_thrown_out_for_ever(made: str, session: str) -> None:
    """A newer token of the same guest has the same jti."""
    result = revoke(session, made)
    assert result.stdout == f"revoked 'guest-0a1b' for ever, in {shown(made)}\n"
    assert kept(made) == ["guest-0a1b"]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: mint(KEY, "alice", ttl=100), "the token has no `jti`"),
        (lambda: mint(KEY, "alice", ttl=100, jti="a\n"), "printable"),
        (lambda: jwt.encode({"jti": 7, "exp": 1}, KEY), "cannot be read"),
        (lambda: mint(KEY, "alice", ttl=100, jti="a")[:60], "cannot be read"),
        (lambda: mint(KEY, "alice", ttl=100, jti="a") + ".", "cannot be read"),
    ],
)
def test_what_cannot_be_revoked(made: str, make: Callable[[], str], why: str) -> None:
    result = revoke(make(), made)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert why in line
    assert "eyJ" not in line, "a token is never shown"
    assert kept(made) == []
