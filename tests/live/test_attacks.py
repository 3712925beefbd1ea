"""What attacks once did to the whole server, done again over real sockets: they cost their author, and nobody else."""

from __future__ import annotations

import asyncio
import socket
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import msgpack
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.chat import SECRET, Running, eventually, running
from tests.support.raw_chat import BINARY, CLOSE, PING, PONG, TEXT, AsyncChat, commands, text_frame
from tests.support.raw_websocket import client_frame
from tests.support.servers import Server
from tornado_chat.auth import mint
from tornado_chat.errors import LogUnavailable
from tornado_chat.live import socket_line
from tornado_chat.live.flood import BURST, RATE, UNHEARD
from tornado_chat.live.session import HELD_BYTES, UNCHARGED_BYTES, Session
from tornado_chat.live.socket_line import ANSWERS_RATE, SocketLine
from tornado_chat.metrics import CLOSES
from tornado_chat.wire.replies import Read, Typing

LIMITED: dict[str, Any] = {"send_rate": 20, "send_burst": 100}
"""The limits that a server has by default."""

LARGEST = 65536
"""A message of the default --max-frame-bytes."""

MSGPACK = "Sec-WebSocket-Protocol: chat.v1.msgpack"
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


@asynccontextmanager
async def chat(here: Running, *headers: str, path: str = "/ws", buffer: int | None = None) -> AsyncIterator[AsyncChat]:
    async with await AsyncChat.connect(int(here.address.rpartition(":")[2]), path, *headers, buffer=buffer) as made:
        yield made


def behind(address: str) -> str:
    """The header by which the server's own proxy names a client's address."""
    return f"X-Forwarded-For: {address}"


def bearer(user: str) -> str:
    return "Authorization: Bearer " + mint(SECRET, user, ttl=60)


def deflated(opcode: int, payload: bytes) -> bytes:
    compressor = zlib.compressobj(9, wbits=-15)
    data = (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    return client_frame(opcode, data, rsv=4)


def line_of(here: Running, user: str) -> SocketLine:
    """The server's end of the one connection that `user` has."""
    (line,) = [line for line in here.server.lines.open if session_of(line).user == user]
    return line


def narrow_line_of(here: Running, user: str) -> SocketLine:
    """The same, with as little as possible in the kernel: an attack that takes minutes is seen in seconds."""
    line = line_of(here, user)
    line._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return line


def session_of(line: SocketLine) -> Session:
    assert isinstance(line.listener, Session)
    return line.listener


# A small message that is a large one to read.

ODD_JSON = b'{"type":"ping","x":["\\ud800"' + b",1" * 32_000 + b"]}"
EXTENSIONS = b"\x82\xa4type\xa4ping\xa1x\xdd" + (21_000).to_bytes(4, "big") + b"\xd4\x01\x00" * 21_000


@pytest.mark.parametrize(
    ("headers", "frame"),
    [((DEFLATE,), deflated(TEXT, ODD_JSON)), ((DEFLATE, MSGPACK), deflated(BINARY, EXTENSIONS))],
    ids=["json", "msgpack"],
)
async def test_inflated_bytes_are_paid_for(tmp_path: Path, headers: tuple[str, ...], frame: bytes) -> None:
    """200 frames of some 126 bytes are 13 MB: those that go past what a user may send at once wait their time."""
    async with running(tmp_path, **LIMITED) as here, chat(here, *headers) as attacker:
        assert len(frame) < 200, "else it is no attack"
        line = line_of(here, attacker.welcome["user"])
        await attacker.send(frame * 200)
        await eventually(lambda: line.reading_paused)
        account = session_of(line).account.bytes
        assert account is not None
        assert account.tokens < 0
        assert here.server.lines.messages_in <= account.burst // LARGEST + 2
        owed = here.server.lines.messages_in
        async with chat(here) as other:
            assert (await other.ask(type="ping", id="other"))["type"] == "pong"
        await eventually(lambda: here.server.lines.messages_in > owed + 1)  # when it has paid
        assert line.reading_paused
        assert here.server.lines.messages_in < 100


async def test_an_address_pays_for_all_its_users(tmp_path: Path) -> None:
    """No user of it owes anything, and none of them is read: they are too many. Others are."""
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(running(tmp_path, send_rate=100, send_burst=100, address_users=4))
        crowd = [await stack.enter_async_context(chat(here, DEFLATE, behind("198.51.100.7"))) for _ in range(16)]
        other = await stack.enter_async_context(chat(here, behind("198.51.100.8")))
        for attacker in crowd:
            await attacker.send(deflated(TEXT, ODD_JSON) * 8)
        lines = [line_of(here, attacker.welcome["user"]) for attacker in crowd]
        await eventually(lambda: all(line.reading_paused for line in lines))
        for line in lines:
            account = session_of(line).account.bytes
            assert account is not None
            assert account.tokens > 0
        address = session_of(lines[0]).address.bytes
        assert address is not None
        assert address.tokens < 0
        assert (await other.ask(type="ping", id="other"))["type"] == "pong"
        assert not line_of(here, other.welcome["user"]).reading_paused


async def test_who_owes_gains_nothing_by_a_new_connection(tmp_path: Path) -> None:
    async with running(tmp_path, **LIMITED) as here:
        async with chat(here, DEFLATE, bearer("alice")) as first:
            await first.send(deflated(TEXT, ODD_JSON) * 50)
            await eventually(lambda: line_of(here, "alice").reading_paused)
        await eventually(lambda: not here.server.lines.open)
        here.server.limits.sweep()
        async with chat(here, DEFLATE, bearer("alice")) as second:
            before = here.server.lines.messages_in
            await second.send(deflated(TEXT, ODD_JSON) * 50)
            await eventually(lambda: line_of(here, "alice").reading_paused)
            assert here.server.lines.messages_in <= before + 2


async def test_a_send_rate_of_zero_lifts_what_bytes_cost(tmp_path: Path) -> None:
    async with running(tmp_path, send_rate=0) as here, chat(here, DEFLATE) as client:
        await client.send(deflated(TEXT, ODD_JSON) * 100)
        await eventually(lambda: here.server.lines.messages_in == 100)
        assert not line_of(here, client.welcome["user"]).reading_paused


@pytest.mark.parametrize(
    "frame",
    [
        client_frame(PING),
        client_frame(PONG),
        client_frame(TEXT, b"", fin=False) + client_frame(0, b"", fin=False) * 3 + client_frame(0, b"{}"),
        text_frame(b'{"type":"ping"}'),
        text_frame(b'{"type":"leave","room":"r"}'),
        text_frame(b'{"type":"nothing"}'),
        text_frame(b"{"),
    ],
    ids=["ping of the WebSocket", "pong", "fragments", "ping", "leave", "unknown type", "bad JSON"],
)
async def test_every_kind_of_frame_is_charged(tmp_path: Path, frame: bytes) -> None:
    async with running(tmp_path, **LIMITED) as here, chat(here) as client:
        session = session_of(line_of(here, client.welcome["user"]))
        await client.send(frame * 200)
        await eventually(lambda: session.account.bytes and session.address.bytes)
        for account in (session.account, session.address):
            assert account.bytes is not None
            assert account.bytes.burst - account.bytes.tokens > UNCHARGED_BYTES


async def test_a_message_that_never_ends_is_charged(tmp_path: Path) -> None:
    """Of empty fragments, which no bound on a message's size counts."""
    async with running(tmp_path, **LIMITED) as here, chat(here) as client:
        line = line_of(here, client.welcome["user"])
        await client.send(client_frame(TEXT, b"", fin=False) + client_frame(0, b"", fin=False) * 7000)
        await eventually(lambda: line.reading_paused)


async def test_who_sends_only_what_is_wrong_is_cut_off(tmp_path: Path) -> None:
    """As fast as it can, and reading all the answers, under the settings that a server has by default."""
    with Server(tmp_path, "--guests") as server:
        async with await AsyncChat.connect(server.port) as attacker, asyncio.timeout(10):
            began = time.monotonic()

            async def send_on() -> None:
                while True:
                    await attacker.send(text_frame(b"{") * 100)

            sending = asyncio.create_task(send_on())
            objects, closed = await attacker.read_to_close()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            assert closed.code == 1008
            assert {got["code"] for got in objects} == {"bad_request"}
            assert len(objects) <= UNHEARD + BURST + RATE * (time.monotonic() - began) + 1


# Memory that a message holds.


@pytest.mark.parametrize("headers", [(), (MSGPACK,)], ids=["json", "msgpack"])
async def test_rings_hold_what_they_say_whatever_a_meta_is_made_of(tmp_path: Path, headers: tuple[str, ...]) -> None:
    """2,047 bytes that are 680 objects, which take 48 KiB of memory."""
    ring_bytes, count = 1 << 18, 200
    meta: Any = {"a": [{}] * 680}
    if headers:
        block = b"".join(
            client_frame(BINARY, msgpack.packb({"type": "send", "room": "r", "text": "x", "meta": meta, "id": str(n)}))
            for n in range(count)
        )
    else:
        block = commands(
            *({"type": "send", "room": "r", "text": "x", "meta": meta, "id": str(n)} for n in range(count))
        )
    async with running(tmp_path, ring_bytes=ring_bytes) as here, chat(here, *headers, path="/ws/r") as client:
        tracemalloc.start()
        try:
            sending = asyncio.create_task(client.send(block))
            while (await client.hear()).get("seq") != count:
                pass
            await sending
            budget = here.server.hub.shared.budget
            assert ring_bytes * 3 // 4 < budget.bytes <= ring_bytes
            ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/tornado_chat/*")])
            assert sum(trace.size for trace in ours.traces) < 2 * ring_bytes
        finally:
            tracemalloc.stop()


async def test_commands_that_wait_are_bounded_by_their_bytes(tmp_path: Path) -> None:
    """Behind answers that are not read: what is sent beyond them stays in the sockets."""
    async with running(tmp_path, high_water_mark=65536) as here:
        await fill(here, 20)
        async with chat(here, buffer=4096) as attacker:
            line = narrow_line_of(here, attacker.welcome["user"])
            histories = [{"type": "history", "room": "r"}] * 4
            sending = asyncio.create_task(
                attacker.send(commands(*histories, *[{"type": "send", "room": "r", "text": "x" * 8000}] * 59))
            )
            await eventually(lambda: line.outbox_bytes > LARGEST and session_of(line).held_bytes > HELD_BYTES)
            assert session_of(line).held_bytes < HELD_BYTES + 2 * 8192
            assert line.outbox_bytes < 2 * LARGEST + 20 * 8192
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def test_who_asks_for_much_and_hardly_reads_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of what it has to, and often enough never to take no byte at all for the whole time.

    All of it is a thousand times quicker than in earnest: kernels ask for more in pieces that would take it minutes.
    """
    ends: list[tuple[int, str]] = []
    on_closed = Session.on_closed

    def note(session: Session, code: int, reason: str) -> None:
        ends.append((code, reason))
        on_closed(session, code, reason)

    monkeypatch.setattr(socket_line, "ANSWERS_RATE", 1 << 20)
    async with running(tmp_path, write_timeout=1.0, high_water_mark=65536) as here:
        await fill(here, 40)
        monkeypatch.setattr(Session, "on_closed", note)
        async with chat(here, buffer=4096) as attacker:
            line = narrow_line_of(here, attacker.welcome["user"])
            await attacker.send(commands(*[{"type": "history", "room": "r"}] * 4))
            await eventually(lambda: line.outbox_bytes > LARGEST)
            async with asyncio.timeout(10):
                while not line.closing:
                    await attacker.receive(4096)
                    await asyncio.sleep(0.04)
        await eventually(lambda: ends)
        assert ends == [(4003, "answers were asked for and hardly read")]
        assert here.server.lines.outbox_bytes == 0


async def test_who_asks_for_much_and_reads_slowly_stays(tmp_path: Path) -> None:
    async with running(tmp_path, write_timeout=1.0, high_water_mark=65536) as here:
        await fill(here, 10)
        async with chat(here, buffer=4096) as reader:
            line = narrow_line_of(here, reader.welcome["user"])
            await reader.send(commands(*[{"type": "history", "room": "r"}] * 4))
            await eventually(lambda: line.asked_bytes)
            began = time.monotonic()
            while time.monotonic() - began < 3.0:  # three times as long as it would be waited for
                await reader.receive(ANSWERS_RATE)
                await asyncio.sleep(0.125)
            assert line.asked_bytes
            assert not line.closing


async def test_who_is_only_told_much_and_reads_slowly_stays(tmp_path: Path) -> None:
    """What comes in a room was not asked for: it waits in the log, not in memory."""
    async with (
        running(tmp_path, write_timeout=0.6, high_water_mark=65536) as here,
        chat(here, path="/ws/r", buffer=4096) as reader,
    ):
        line = narrow_line_of(here, reader.welcome["user"])
        await fill(here, 60)
        await eventually(lambda: line.outbox_bytes)
        began = time.monotonic()
        while time.monotonic() - began < 2.0:
            await reader.receive(ANSWERS_RATE // 20)  # some bytes each time, and fewer than answers would need
            line.stuck = 0  # the kernel takes them in pieces that are too big for so short a time
            await asyncio.sleep(0.1)
        assert line.outbox_bytes
        assert line.asked_bytes == 0
        assert not line.closing


async def fill(here: Running, count: int) -> None:
    """Give the room `r` so many messages of 8,000 characters."""
    writer = await here.connect()
    for number in range(count):
        await writer.ask(type="send", room="r", text=f"{number:08000d}", id=str(number))
    await writer.close()


# Rooms.


async def test_rooms_are_bounded_for_an_address_and_for_the_process(tmp_path: Path) -> None:
    per_address, per_process = 6, 8
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(
            running(tmp_path, rooms_per_address=per_address, max_rooms=per_process, join_rate=0)
        )
        hub, accounts = here.server.hub, here.server.limits.addresses

        async def join(client: AsyncChat, *rooms: str) -> list[Any]:
            """All at once; the codes, `joined` for those that were let in."""
            await client.say(*({"type": "join", "room": room, "id": room} for room in rooms))
            answers: dict[str, Any] = {}
            while len(answers) < len(rooms):
                got = await client.hear()
                if got["type"] in ("joined", "error"):
                    answers[got["id"]] = got.get("code", "joined")
            return [answers[room] for room in rooms]

        crowd = [await stack.enter_async_context(chat(here, behind("198.51.100.7"))) for _ in range(4)]
        answers = await asyncio.gather(
            *(join(client, *(f"r{number}-{n}" for n in range(10))) for number, client in enumerate(crowd))
        )
        assert sorted(chain.from_iterable(answers)) == ["joined"] * per_address + ["overloaded"] * (40 - per_address)
        assert len(hub.rooms) == len(accounts.accounts["198.51.100.7"].rooms) == per_address
        (held, *_) = hub.rooms
        assert [await join(client, held) for client in crowd] == [["joined"]] * 4, "it is no other room"
        other = await stack.enter_async_context(chat(here, behind("198.51.100.8")))
        assert await join(other, "a", "b", "c", held) == ["joined", "joined", "overloaded", "joined"]
        assert len(hub.rooms) == per_process
        # What is left is given back, whether by `leave` or by going.
        assert (await other.ask(type="leave", room="a", id="leave"))["type"] == "left"
        assert await join(other, "c") == ["joined"]
        for client in crowd:
            client.reset()
        await eventually(lambda: not accounts.accounts["198.51.100.7"].rooms)
        assert set(hub.rooms) == {"b", "c", held}
        assert accounts.accounts["198.51.100.8"].rooms == {"b": 1, "c": 1, held: 1}
        other.reset()
        await eventually(lambda: not hub.rooms)
        here.server.limits.sweep()
        assert not accounts.accounts


@pytest.mark.logs("log unavailable")
async def test_a_join_that_fails_gives_its_room_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(rooms: Any) -> dict[str, tuple[int, bool]]:
        raise LogUnavailable("a fault of the test")

    async with running(tmp_path, rooms_per_address=2) as here, chat(here) as client:
        monkeypatch.setattr(here.server.hub.openings, "query", fail)
        for number in range(5):
            assert (await client.ask(type="join", room=f"r{number}", id="join"))["code"] == "unavailable"
        assert not session_of(line_of(here, client.welcome["user"])).address.rooms
        assert not here.server.hub.rooms
        monkeypatch.undo()
        for _ in range(3):
            assert (await client.ask(type="join", room="r", id="join"))["type"] == "joined"
        assert session_of(line_of(here, client.welcome["user"])).address.rooms == {"r": 1}


# Names.


async def test_guests_that_renew_themselves_share_the_bucket_of_their_address(tmp_path: Path) -> None:
    sends = commands(*({"type": "send", "room": "r", "text": "x", "id": str(number)} for number in range(5)))
    rate, burst, users = 2, 5, 4

    async def sent(here: Running, *headers: str) -> list[str]:
        """The codes of five messages, sent on a new connection that is then closed."""
        async with chat(here, behind("198.51.100.7"), *headers) as client:
            await client.send(sends)
            answers: dict[str, str] = {}
            while len(answers) < 5:
                got = await client.hear()
                answers[got["id"]] = got.get("code", got["type"])
            return list(answers.values())

    async with running(tmp_path, send_rate=rate, send_burst=burst, address_users=users) as here:
        began = time.monotonic()
        answers = [*chain.from_iterable(await asyncio.gather(*(sent(here) for _ in range(60))))]
        most = max(rate * users, burst) + rate * users * (time.monotonic() - began)
        assert 8 <= answers.count("ack") <= most
        assert set(answers) == {"ack", "rate_limited"}
        # Those who signed in cannot be someone new each time: they have their own, and nothing of it is used up.
        assert await sent(here, bearer("alice")) == ["ack"] * 5
        assert await sent(here, bearer("bob")) == ["ack"] * 5
        assert "rate_limited" in await sent(here, bearer("bob"))
        await eventually(lambda: not here.server.lines.open)
        accounts = here.server.limits.addresses.accounts
        here.server.limits.sweep()
        assert set(accounts) == {"198.51.100.7"}, "a bucket that is not full is kept"


async def test_close_codes_of_ones_own_invention_are_other(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        codes = [*range(3000, 3030), 4000, 4999, 1001, 1000, 4003]
        for code in codes:
            async with chat(here) as client:
                await client.send(client_frame(CLOSE, code.to_bytes(2, "big")))
                assert (await client.read_to_close())[1].code == code
        await eventually(lambda: not here.server.lines.open)
        text = (await here.server.metrics.text()).decode()
        closes = {
            sample.labels["code"]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "tornado_chat_closes_total"
        }
        assert closes == {"other": 32, "1001": 1, "1000": 1, "4003": 1}
        assert len(CLOSES) < 20


# Signals.


async def test_signals_of_one_user_in_one_turn_are_the_newest(tmp_path: Path) -> None:
    async with running(tmp_path) as here, chat(here, path="/ws/r") as member:
        await member.until("synced")
        for seq in range(1, 501):
            for user in ("alice", "bob"):
                here.server.hub.signal("r", Read(room="r", user=user, name=user, seq=seq))
                typing = Typing(room="r", user=user, name=user, on=seq % 2 == 0)
                here.server.hub.signal("r", typing, not_for=user)
        await member.say({"type": "send", "room": "r", "text": "after", "id": "after"})
        told: list[Any] = []
        while not told or told[-1]["type"] != "ack":
            told.append(await member.hear())
        signals = [(got["type"], got["user"], got.get("seq", got.get("on"))) for got in told[:-1]]
        assert sorted(got for got in signals if got[0] != "message") == [
            ("read", "alice", 500),
            ("read", "bob", 500),
            ("typing", "alice", True),
            ("typing", "bob", True),
        ]
        assert here.server.metrics.signals_dropped == 0
