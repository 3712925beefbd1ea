"""A session that was revoked: cut off everywhere, refused ever after."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest
from tornado.httpclient import HTTPClientError

from tests.support import ROOT
from tests.support.chat import SECRET, Client, eventually, running
from tornado_chat.auth import mint


def path(jti: str | None, user: str = "alice", ttl: float = 60) -> str:
    return f"/ws?token={mint(SECRET, user, ttl=ttl, jti=jti)}"


async def closed(client: Client) -> int | None:
    while await client.receive() is not None:
        pass
    return client.socket.close_code


async def test_connections_of_a_revoked_session_are_cut_off_and_no_others(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        devices = [await here.connect(path("phone")) for _ in range(2)]
        other = await here.connect(path("laptop"))
        without = await here.connect(path(None))
        await here.server.log.revoke("phone")
        started = time.monotonic()
        assert [await closed(device) for device in devices] == [4002, 4002]
        assert time.monotonic() - started < 5  # a second is wanted; a busy machine is no failure
        assert (await other.ask(type="ping"))["type"] == "pong"
        assert (await without.ask(type="ping"))["type"] == "pong"


async def test_a_revoked_session_does_not_come_in_again_not_even_after_a_restart(tmp_path: Path) -> None:
    for start in range(2):
        async with running(tmp_path) as here:
            if not start:
                await here.connect(path("phone"))
                await here.server.log.revoke("phone")
                await eventually(lambda: not here.server.lines.open)
            with pytest.raises(HTTPClientError) as refused:
                await here.connect(path("phone"))
            assert refused.value.code == 401
            await here.connect(path("laptop"))


async def test_more_revocations_than_one_answer_of_the_log_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("log.sqlite", "live.revocations"):
        monkeypatch.setattr(f"tornado_chat.{module}.REVOCATIONS", 3)
    async with running(tmp_path) as here:
        for number in range(10):
            await here.server.log.revoke(str(number))
    async with running(tmp_path) as here:
        for number in range(10):
            with pytest.raises(HTTPClientError) as refused:
                await here.connect(path(str(number)))
            assert refused.value.code == 401
        await here.connect(path("11"))


async def test_a_clock_that_was_wrong_for_a_moment_lets_nobody_in_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = path("phone", ttl=3600)
    async with running(tmp_path) as here:
        await here.connect(token)
        await here.server.log.revoke("phone")
        await eventually(lambda: not here.server.lines.open)
        with monkeypatch.context() as clock:
            now = time.time()
            clock.setattr(time, "time", lambda: now + 2 * 3600)
            await here.server.log.revoke("another")
            await asyncio.sleep(1.5)  # what is done each second is done with the wrong clock
        with pytest.raises(HTTPClientError) as refused:
            await here.connect(token)
        assert refused.value.code == 401


async def test_a_second_token_with_the_same_jti_stays_out_when_the_first_has_expired(tmp_path: Path) -> None:
    first, second = (mint(SECRET, "alice", ttl=ttl, jti="phone") for ttl in (1, 3600))
    async with running(tmp_path) as here:
        client = await here.connect(f"/ws?token={second}")
        command = [sys.executable, "-m", "tornado_chat", "revoke", first, "--database", here.server.settings.database]
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL)
        assert await process.wait() == 0
        assert await closed(client) == 4002
        await asyncio.sleep(2 + 1.2)  # it has expired, and what is done each second was done since
        with pytest.raises(HTTPClientError) as refused:
            await here.connect(f"/ws?token={second}")
        assert refused.value.code == 401
