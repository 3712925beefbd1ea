"""A log that is asked for much: what is small goes on beside it, health tells of it, one line of the log says so."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat import SECRET, Client, Running, eventually, running
from tests.support.databases import sql_in
from tests.support.plain_http import get
from tornado_chat import server
from tornado_chat.auth import mint
from tornado_chat.log import sqlite, sweeping
from tornado_chat.log.sqlite_reader import Reader


class Gate:
    """What a thread of the log stands still at until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        self.opened = threading.Event()
        asked = getattr(Reader, method)

        def wait(*args: Any) -> Any:
            assert self.opened.wait(30)
            return asked(*args)

        monkeypatch.setattr(Reader, method, wait)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Health calls late what is a tenth of a second old."""
    monkeypatch.setattr(server, "LOG_SECONDS", 0.1)


async def ready(here: Running) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((await get(here, "/readyz")).body)
    return answer


async def comes_to(here: Running, **wanted: Any) -> None:
    """Return when /readyz says so."""
    async with asyncio.timeout(20):
        while not wanted.items() <= (await ready(here)).items():  # noqa: ASYNC110  # /readyz has no Event
            await asyncio.sleep(0.05)


async def closed(client: Client) -> int | None:
    while await client.receive() is not None:
        pass
    return client.socket.close_code


@pytest.mark.usefixtures("impatient")
@pytest.mark.logs("log unavailable reason=12 calls wait for the log's histories already times=1$")
async def test_a_crowd_that_asks_for_histories_delays_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite, "WAITING_HISTORIES", 12)
    gate = Gate(monkeypatch, "history")
    async with running(tmp_path) as here:
        session = f"/ws?token={mint(SECRET, 'alice', ttl=60, jti='phone')}"
        alice = await here.join("r", session)
        await alice.ask(type="send", room="r", text="hello")
        crowd = [await here.connect() for _ in range(20)]
        for guest in crowd:
            await guest.send(type="history", room="r", id="h")
        refused = [await guest.until("error", code="unavailable") for guest in crowd[12:]]
        assert all(error["retry_after"] for error in refused)
        joined = [await here.join(room, after=0) for room in ("r", "new")]
        assert [client.joined["head"] for client in joined] == [1, 0]
        assert (await joined[0].ask(type="read", room="r", seq=1))["type"] == "ack"
        assert (await here.join("r")).joined["head"] == 1
        await here.server.log.revoke("phone")
        assert await closed(alice) == 4002
        await comes_to(here, status="ok", degraded=["history"])  # it serves
        gate.opened.set()
        for guest in crowd[:12]:
            assert [message["text"] for message in (await guest.until("history"))["messages"]] == ["hello"]
        await comes_to(here, status="ok", degraded=[])
    assert sum("log unavailable" in line for line in caplog.messages) == 1


@pytest.mark.usefixtures("impatient")
async def test_not_ready_while_nobody_gets_what_was_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, ring_bytes=65536) as here:
        client = await here.join("r")
        for _ in range(20):
            await client.ask(type="send", room="r", text="x" * 8000)
        gate = Gate(monkeypatch, "read")
        late = await here.connect()
        await late.send(type="join", room="r", after=0)
        await comes_to(here, status="unavailable", failing=["log"])
        gate.opened.set()
        assert len(await late.collect(20)) == 20
        await comes_to(here, status="ok", failing=[])


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.logs("log does not answer reason=.* was moved, deleted or replaced")
async def test_a_file_that_is_moved_while_nobody_does_anything(tmp_path: Path, replaced: bool) -> None:
    async with running(tmp_path) as here:
        path, aside = tmp_path / "chat.db", tmp_path / "aside.db"
        await here.connect()
        os.rename(path, aside)
        if replaced:  # what is revoked there reaches nobody here
            path.write_bytes(aside.read_bytes())
        await comes_to(here, status="unavailable", failing=["log"])
        os.rename(aside, path)
        await comes_to(here, status="ok", failing=[])


async def test_a_message_that_was_edited_again_and_again_is_erased_in_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SWEEP_SECONDS", 0.1)
    edits = 5 * sweeping.EDITS
    async with running(tmp_path) as here:
        client = await here.join("r")
        await client.ask(type="send", room="r", text="SECRET")
        for number in range(edits):
            await client.send(type="edit", room="r", seq=1, text=f"SECRET {number}")
        await client.ask(type="delete", room="r", seq=1)
        late = await here.connect()
        await late.send(type="join", room="r", after=0)
        assert not any("text" in event for event in await late.collect(edits + 2))
        left = "SELECT (SELECT count(text) FROM events), (SELECT count(*) FROM erasures)"
        await eventually(lambda: sql_in(tmp_path / "chat.db", left) == [(0, 0)])


async def test_what_a_guest_has_read_is_forgotten_when_the_guest_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SWEEP_SECONDS", 0.1)
    database = tmp_path / "chat.db"
    tokens = {}
    async with running(tmp_path) as here:
        alice = await here.join("r", f"/ws?token={mint(SECRET, 'alice', ttl=60)}")
        await alice.ask(type="send", room="r", text="hello", mark=False)
        await alice.ask(type="read", room="r", seq=1)
        for name in ("gone", "back"):
            guest = await here.join("r", f"/ws?name={name}")
            tokens[name] = guest.welcome["token"]
            await guest.ask(type="read", room="r", seq=1)
        assert sql_in(database, "SELECT count(*), count(lapses) FROM marks") == [(3, 2)]
        sql_in(database, "UPDATE marks SET lapses = lapses - 30 * 86400 WHERE lapses IS NOT NULL")
        assert (await here.join("r", f"/ws?token={tokens['back']}")).joined["read"] == 1
        renewed = "SELECT count(*) FROM marks WHERE lapses > unixepoch() + 30 * 86400"
        await eventually(lambda: sql_in(database, renewed) == [(1,)])
        sql_in(database, "UPDATE marks SET lapses = lapses - 2 * 86400 WHERE lapses IS NOT NULL")
        await eventually(lambda: sql_in(database, "SELECT count(*) FROM marks") == [(2,)])
        assert (await here.join("r", f"/ws?token={tokens['gone']}")).joined["read"] == 0
        assert (await here.join("r", f"/ws?token={tokens['back']}")).joined["read"] == 1
        assert sql_in(database, "SELECT count(*) FROM events WHERE type = 'message'") == [(1,)]
