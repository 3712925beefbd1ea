"""A body that is poured into a message, by a real server's rules."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.servers import UNLIMITED, Server
from tornado_chat.verify import pouring
from tornado_chat.verify.address import ServerAddress
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.growth import End, Growth
from tornado_chat.verify.http_connection import HTTPConnection
from tornado_chat.verify.pouring import Pouring

TEXT = "\N{MUSICAL SYMBOL G CLEF}" * 5


@pytest.mark.parametrize("sent", range(1, 9))
async def test_a_body_that_is_over_early_ends_between_characters(
    sent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pouring, "PIECE_BYTES", (1,))
    monkeypatch.setattr(pouring, "PAUSES", (0.0,))
    found: list[Finding] = []
    growth = Growth("r", "ann", "k", TEXT, asker=None, watched=False)
    send_chunk = HTTPConnection.send_chunk
    bodies: list[bytes] = []

    async def noting(self: HTTPConnection, data: bytes) -> None:
        bodies.append(data)
        if len(bodies) == sent:  # its readers are told that it was stopped
            growth.end = End(2, "stopped", 0, None)
        await send_chunk(self, data)

    monkeypatch.setattr(HTTPConnection, "send_chunk", noting)
    with Server(tmp_path, *UNLIMITED) as server:
        address, token = ServerAddress.of(server.url), server.token("ann")
        dice = random.Random(1)
        await Pouring(
            growth, address, token, None, dice, lambda finding, _: found.append(finding), cuts=False, deaths=False
        ).run()
    assert not found
    assert b"".join(bodies).decode() == TEXT[: growth.said]
    assert growth.said == (sent + 3) // 4
