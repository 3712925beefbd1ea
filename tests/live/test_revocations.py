"""A session that was revoked: cut off everywhere, refused ever after."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tornado.httpclient import HTTPClientError

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
        await here.server.log.revoke("phone", None)
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
                await here.server.log.revoke("phone", time.time() + 3600)
                await eventually(lambda: not here.server.lines.open)
            with pytest.raises(HTTPClientError) as refused:
                await here.connect(path("phone"))
            assert refused.value.code == 401
            await here.connect(path("laptop"))


async def test_what_is_kept_of_a_revocation_goes_with_its_token(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        await here.connect(path("phone"))
        await here.server.log.revoke("phone", time.time() + 1.2)
        revocations = here.server.context.revocations
        await eventually(lambda: not revocations._lines)
        assert revocations._expires
        await eventually(lambda: not revocations._expires)
