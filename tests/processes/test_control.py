"""The pipe between a parent and its worker, both ends in one process."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import pytest

from tests.support.chat import eventually
from tornado_chat.metrics import Metrics
from tornado_chat.processes import control
from tornado_chat.processes.control import RECONNECTS_A_SECOND, VARIABLE, Parent, Pipe, Place, reconnects

CORES = len(os.sched_getaffinity(0))


class Server:
    """A worker's server, as its parent's end of the pipe sees it."""

    def __init__(self) -> None:
        self.uid = "u"
        self.metrics = Metrics()
        self.paused = 0
        self.died: list[str] = []

    def pause(self) -> None:
        self.paused += 1

    def on_worker_died(self, uid: str) -> None:
        self.died.append(uid)


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Pipe, Pipe]]:
    ours, theirs = socket.socketpair()
    one, two = await Pipe.open(ours), await Pipe.open(theirs)
    try:
        yield one, two
    finally:
        await one.close()
        await two.close()


@asynccontextmanager
async def connected(workers: int = 4) -> AsyncIterator[tuple[Pipe, Server, Parent]]:
    async with pair() as (ours, theirs):
        server = Server()
        parent = Parent(theirs, server, workers)
        parent.start()
        try:
            assert await ours.receive() == {"type": "ready", "uid": "u"}
            yield ours, server, parent
        finally:
            await parent.close()


async def until(pipe: Pipe, type: str) -> control.Message:
    async with asyncio.timeout(5):
        while True:
            message = await pipe.receive()
            assert message is not None
            if message["type"] == type:
                return message


async def test_messages_arrive_in_order_and_the_end_too() -> None:
    async with pair() as (one, two):
        for number in range(100):
            one.send("n", number=number, text="ü\n" * number)
        for number in range(100):
            assert await two.receive() == {"type": "n", "number": number, "text": "ü\n" * number}
        one.send("last")
        await one.close()
        assert await two.receive() == {"type": "last"}
        assert await two.receive() is None
        two.send("to nobody")
        one.send("from nobody")


async def test_an_end_that_reads_nothing_costs_a_limited_amount_of_memory() -> None:
    async with pair() as (one, two):
        for number in range(1000):
            one.send("n", number=number, text="x" * 65536)
        assert one._writer.transport.get_write_buffer_size() < control.UNREAD_BYTES + 70_000
        got = 0
        one.send("dropped")
        while (message := await two.receive()) is not None:
            assert message["number"] == got, "what is dropped is the end of it"
            got += 1
            if one._writer.transport.get_write_buffer_size() == 0:
                break
        assert got < 1000


@pytest.mark.logs("control pipe broken")
@pytest.mark.parametrize("said", [b"no json\n", b"x" * 1000], ids=["not JSON", "too long"])
async def test_what_is_no_message_ends_the_channel(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MESSAGE_BYTES", 100)
    ours, theirs = socket.socketpair()
    with closing(ours):
        ours.sendall(said)
        pipe = await Pipe.open(theirs)
        assert await pipe.receive() is None
        await pipe.close()


async def test_half_a_message_is_none() -> None:
    ours, theirs = socket.socketpair()
    pipe = await Pipe.open(theirs)
    with closing(ours):
        ours.sendall(b'{"type":"drain"')
    assert await pipe.receive() is None
    await pipe.close()


async def test_what_a_parent_says() -> None:
    async with connected() as (pipe, server, parent):
        pipe.send("died", uid="other")
        pipe.send("something that a newer parent says")
        pipe.send("pause")
        await until(pipe, "paused")
        assert server.paused == 1
        assert server.died == ["other"]
        pipe.send("drain", reconnects=123.5)
        assert await parent.leaving == 123.5
        pipe.send("drain", reconnects=1.0)
        server.metrics.events = 7
        pipe.send("report", number=5)
        while (report := await until(pipe, "report"))["answers"] != 5:
            pass
        assert report["counts"]["events"] == {"": 7}, "a worker that drains still reports"


async def test_a_worker_reports_each_second_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REPORT_SECONDS", 0.02)
    async with connected() as (pipe, server, parent):
        for events in range(1, 4):
            server.metrics.events = events
            while (await until(pipe, "report"))["counts"]["events"] != {"": events}:
                pass
        server.metrics.events = 99
        await parent.close()
        while (await until(pipe, "report"))["counts"]["events"] != {"": 99}:
            pass
        assert await pipe.receive() is None


async def test_a_worker_whose_parent_is_gone_leaves() -> None:
    async with connected() as (pipe, _, parent):
        await pipe.close()
        assert await parent.leaving == reconnects(4, sharing=4)


@pytest.mark.logs("parent not understood")
async def test_a_parent_that_is_not_understood_is_one_that_is_gone() -> None:
    async with connected() as (pipe, _, parent):
        pipe.send("died")
        await parent.leaving


async def test_a_worker_that_leaves_by_itself_says_so() -> None:
    async with connected() as (pipe, _, parent):
        parent.leave()
        assert await parent.leaving == reconnects(3)
        await until(pipe, "leaving")


async def test_scrapes_at_the_same_time_are_one_question() -> None:
    async with connected() as (pipe, server, _):
        all = [{"worker": 1, "started": 1.0, "restarts": 0, "counts": {}, "levels": {}}]
        scrapes = [asyncio.create_task(server.metrics.scrape()) for _ in range(3)]
        await until(pipe, "scrape")
        pipe.send("metrics", workers=all)
        assert await asyncio.gather(*scrapes) == [all] * 3
        later = asyncio.create_task(server.metrics.scrape())
        await until(pipe, "scrape")
        pipe.send("metrics", workers=[])
        assert await later == []


async def test_a_scrape_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "SCRAPE_SECONDS", 0.05)
    async with connected() as (pipe, server, parent):
        with pytest.raises(TimeoutError):
            await server.metrics.scrape()
        pipe.send("metrics", workers=["too late"])
        pipe.send("pause")
        await eventually(lambda: server.paused)
        assert not parent.leaving.done()


def test_a_place_is_inherited_once() -> None:
    ours, theirs = socket.socketpair()
    listener = socket.create_server(("127.0.0.1", 0))
    with ours, theirs, listener:
        place = Place(3, 5, theirs, [listener])
        copies = [os.dup(descriptor) for descriptor in place.descriptors()]
        environ = {VARIABLE: f"3 5 {copies[0]} {copies[1]}", "OTHER": "x"}
        assert place.variable() == f"3 5 {theirs.fileno()} {listener.fileno()}"
        found = Place.inherited(environ)
        assert found is not None
        assert environ == {"OTHER": "x"}
        assert (found.number, found.workers) == (3, 5)
        with found.socket, found.listeners[0]:
            assert found.listeners[0].getsockname() == listener.getsockname()
            assert not any(os.get_inheritable(descriptor) for descriptor in found.descriptors())
            assert found.fail("because", 2)
        assert ours.recv(1000) == b'{"type":"failed","error":"because","code":2}\n'
        assert not found.fail("again", 2), "its socket is closed"
    assert Place.inherited(environ) is None


def test_how_many_may_come_back() -> None:
    assert reconnects(1) == RECONNECTS_A_SECOND
    assert reconnects(0) == RECONNECTS_A_SECOND, "somebody will start it again"
    assert reconnects(1000) == RECONNECTS_A_SECOND * CORES, "more workers than cores take no more"
    assert reconnects(1000, sharing=1000) == RECONNECTS_A_SECOND * CORES / 1000
