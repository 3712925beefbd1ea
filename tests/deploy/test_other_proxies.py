"""Proxies of others before the real server, configured as docs/deployment.md has it: every way in comes through."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.support.chat import eventually
from tests.support.proxies import Proxy, buffering_proxy, caddy, haproxy, proxy_without_websockets, squid, varnish
from tests.support.servers import UNLIMITED, Server
from tests.support.streams import Stream

PATIENCE = 15.0

FLAGS = (*UNLIMITED, "--ping-interval", "300ms", "--ping-timeout", "10s")

ALL = [haproxy, caddy, varnish, squid]

Kind = Callable[[int], Proxy]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path, *FLAGS) as server:
        yield server


async def post(port: int, path: str, obj: Any) -> Any:
    """The JSON that comes back for a POST of `obj`."""

    def ask() -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(obj).encode(), headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    return await asyncio.to_thread(ask)


def members(server: Server) -> float:
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=PATIENCE) as answer:
        found = re.search(r"^tornado_chat_members (\S+)$", answer.read().decode(), re.MULTILINE)
    assert found is not None
    return float(found[1])


async def say(server: Server, *texts: str, room: str = "r") -> None:
    """Without a proxy."""
    async with connect(f"ws://127.0.0.1:{server.port}/ws", proxy=None) as chat:
        for text in texts:
            await chat.send(json.dumps({"type": "send", "room": room, "text": text, "id": text}))
        while json.loads(await asyncio.wait_for(chat.recv(), PATIENCE)).get("id") != texts[-1]:
            pass


@pytest.mark.parametrize("kind", [*ALL, proxy_without_websockets])
async def test_a_stream_comes_through_event_by_event(server: Server, kind: Kind) -> None:
    with kind(server.port) as proxy:
        async with await Stream.open(proxy.port, "/v1/rooms/r/events?after=0") as stream:
            assert stream.headers["content-type"] == "text/event-stream"
            await stream.until("synced")
            for number in range(5):
                await say(server, f"{number}")
                assert (await stream.until("message"))["text"] == f"{number}"
            pings = stream.pings
            while stream.pings < pings + 2:
                await stream.receive()
            assert members(server) == 1
        # Who hangs up is not kept for longer than a heartbeat or two.
        await eventually(lambda: members(server) == 0)


@pytest.mark.parametrize("kind", ALL)
async def test_the_end_of_a_stream_comes_through(server: Server, kind: Kind) -> None:
    with kind(server.port) as proxy:
        async with await Stream.open(proxy.port, "/v1/rooms/r/events?after=0") as stream:
            await stream.until("synced")
            stopped = asyncio.create_task(asyncio.to_thread(server.stop))
            blocks, whole = await stream.read_to_end()
            await stopped
            assert whole
            assert blocks[-1].data["type"] == "closing"
            assert blocks[-1].data["code"] == 1012
        server.start()
        async with await Stream.open(proxy.port, "/v1/rooms/r/events?after=0") as stream:
            await stream.until("synced")
            await asyncio.to_thread(server.kill)
            blocks, whole = await stream.read_to_end()
            assert "closing" not in [block.data["type"] for block in blocks]
            # Caddy 2.6 ends properly what was cut off: that `closing` is missing is all that a client can tell it by.
            assert whole is (kind is caddy)


@pytest.mark.parametrize("kind", [*ALL, proxy_without_websockets, buffering_proxy])
async def test_a_poll_is_held_until_there_is_something(server: Server, kind: Kind) -> None:
    with kind(server.port) as proxy:
        for number in range(3):
            poll = asyncio.create_task(post(proxy.port, "/v1/poll", {"rooms": {"r": number}, "wait": 30}))
            await eventually(lambda: polls_waiting(server) == 1)
            await say(server, f"{number}")
            answer = await poll
            assert [event["text"] for event in answer["events"]] == [f"{number}"]
            assert answer["cursors"] == {"r": number + 1}


def polls_waiting(server: Server) -> float:
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=PATIENCE) as answer:
        found = re.search(r"^tornado_chat_polls (\S+)$", answer.read().decode(), re.MULTILINE)
    assert found is not None
    return float(found[1])


@pytest.mark.parametrize("kind", ALL)
async def test_a_websocket_comes_through(server: Server, kind: Kind) -> None:
    with kind(server.port) as proxy:
        async with connect(f"{proxy.url.replace('http', 'ws')}/ws/r?name=Ada", proxy=None) as chat:
            await chat.send(json.dumps({"type": "send", "room": "r", "text": "hello", "id": "1"}))
            async with asyncio.timeout(PATIENCE):
                while json.loads(await chat.recv())["type"] != "message":
                    pass
            assert members(server) == 1
        await eventually(lambda: members(server) == 0)


async def test_a_proxy_that_knows_no_websockets_makes_a_plain_request_of_the_handshake(server: Server) -> None:
    """What clients see there: a 400 with our own words in it."""
    with proxy_without_websockets(server.port) as proxy, pytest.raises(InvalidStatus) as refused:
        await connect(f"{proxy.url.replace('http', 'ws')}/ws", proxy=None)
    assert refused.value.response.status_code == 400
    assert json.loads(refused.value.response.body or b"")["error"]["code"] == "bad_request"


async def test_a_proxy_that_buffers_holds_a_stream_back(server: Server) -> None:
    """Or the tests of clients that fall back from it would test nothing."""
    with buffering_proxy(server.port) as proxy:
        opening = asyncio.create_task(Stream.open(proxy.port, "/v1/rooms/r/events?after=0"))
        await eventually(lambda: members(server) == 1)
        await say(server, *(f"{number}" for number in range(100)))
        assert not opening.done()
        await asyncio.to_thread(server.stop)
        async with await opening as stream:
            blocks, whole = await stream.read_to_end()
            assert whole
            assert [block.data["text"] for block in blocks if block.data["type"] == "message"] == [
                f"{number}" for number in range(100)
            ]
