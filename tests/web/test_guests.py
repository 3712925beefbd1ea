"""Guests over a real socket: who is one, whose token is renewed, and how one is thrown out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.support.chat import SECRET, eventually, running
from tests.support.plain_http import shake
from tornado_chat.auth import mint
from tornado_chat.errors import CloseCode


def claims(token: str) -> Any:
    return jwt.decode(token, options={"verify_signature": False})


async def test_a_backends_token_for_such_an_id_is_good_until_it_expires_and_never_renewed(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        token = mint(SECRET, "guest-0123456789abcdef", name="Ann", device="d", ttl=1)
        client = await here.connect(f"/ws?token={token}")
        assert client.welcome["user"] == "guest-0123456789abcdef"
        assert "token" not in client.welcome
        await eventually(lambda: time.time() > claims(token)["exp"])
        assert (await shake(here, f"/ws?token={token}")).status == 401


async def test_a_guest_stays_the_same_over_reconnects(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        first = await here.connect("/ws?name=Ann")
        token = first.welcome["token"]
        second = await here.connect(f"/ws?token={token}")
        renewed = second.welcome["token"]
        for field in ("user", "name", "device"):
            assert second.welcome[field] == first.welcome[field]
        assert claims(token)["jti"] == claims(renewed)["jti"] == first.welcome["user"]
        third = await here.connect(f"/ws?token={renewed}&name=Bea")
        assert (third.welcome["user"], third.welcome["name"]) == (first.welcome["user"], "Bea")
        assert claims(third.welcome["token"])["name"] == "Bea"


@pytest.mark.parametrize("came", ["new", "back", "of an older version"])
async def test_a_guest_is_thrown_out_by_the_user_id(tmp_path: Path, came: str) -> None:
    async with running(tmp_path) as here:
        client = await here.connect()
        user, token = client.welcome["user"], client.welcome["token"]
        if came == "back":
            client = await here.connect(f"/ws?token={token}")
        elif came == "of an older version":
            token = mint(SECRET, user, name="Ann", device="d", ttl=60)
            client = await here.connect(f"/ws?token={token}")
        await here.server.log.revoke(user)
        assert await client.receive() is None
        assert client.socket.close_code == CloseCode.SESSION_REVOKED
        answer = await shake(here, f"/ws?token={token}")
        assert answer.status == 401
        assert "revoked" in answer.error["message"]
        newcomer = await here.connect()
        assert newcomer.welcome["user"] != user


async def test_a_blank_name_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        for blank in ("%20", "%e3%85%a4", "%e2%80%8d"):
            answer = await shake(here, f"/ws?name={blank}")
            assert answer.status == 400
            assert "can be seen" in answer.error["message"]
