"""One byte string to many sockets: by the extension and in Python alike, and never to one that is another's now."""

from __future__ import annotations

import os
import random
import shutil
import socket
import sysconfig
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.support.connections import Recorder, new_lines, until
from tests.support.hubs import MARK, PLAIN, MemoryLog, turns, unframe
from tornado_chat.broker.local import LocalBroker
from tornado_chat.config import PURE
from tornado_chat.live import batch, fanout, room
from tornado_chat.live.fanout import FAILED, UNTRIED, Direct, SendAll, send_all_in_python
from tornado_chat.live.hub import Hub
from tornado_chat.live.limits import AddressAccount, RoomLimits, TokenBucket
from tornado_chat.live.member import Member, Memberships
from tornado_chat.live.socket_line import Lines
from tornado_chat.live.websocket import WebSocket
from tornado_chat.metrics import Metrics
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.commands import Join
from tornado_chat.wire.events import Data

PLENTY = 60.0  # seconds


def both() -> list[object]:
    try:
        from tornado_chat.live._fanout import send_all as send_all_in_c
    except ImportError:  # test_the_extension_is_there_where_it_can_be fails then, where it should be there
        return [send_all_in_python]
    return [send_all_in_python, send_all_in_c]


@pytest.fixture(params=both(), ids=lambda way: "python" if way is send_all_in_python else "c")
def send_all(request: pytest.FixtureRequest) -> SendAll:
    way: SendAll = request.param
    return way


class Pairs:
    """Socket pairs: ours with their keys, and the other ends."""

    def __init__(self, count: int) -> None:
        self.direct = Direct()
        self.keys = array("Q")
        self.ours: list[socket.socket] = []
        self.others: list[socket.socket] = []
        for _ in range(count):
            self.add()

    def add(self) -> None:
        ours, other = socket.socketpair()
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        other.setblocking(False)
        self.ours.append(ours)
        self.others.append(other)
        self.keys.append(self.direct.new_key(ours.fileno()))

    def received(self) -> list[bytes]:
        return [self._received(other) for other in self.others]

    def _received(self, other: socket.socket) -> bytes:
        try:
            return other.recv(1 << 20)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        for each in (*self.ours, *self.others):
            each.close()


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    made = Pairs(40)
    yield made
    made.close()


def test_the_extension_is_there_where_it_can_be() -> None:
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if os.environ.get(PURE):
        assert f"not used: {PURE} is set" == fanout.EXTENSION
    elif shutil.which("cc") and headers.exists():
        assert fanout.EXTENSION == "used"
    else:
        assert fanout.EXTENSION.startswith("not there")


def test_all_between_two_places_get_the_bytes_and_nobody_else(send_all: SendAll, pairs: Pairs) -> None:
    assert send_all(b"hello", pairs.keys, pairs.direct.keys, 3, 37, PLENTY) == (37, [])
    assert pairs.received() == [b""] * 3 + [b"hello"] * 34 + [b""] * 3


def test_who_is_not_direct_is_told_and_not_sent_to(send_all: SendAll, pairs: Pairs) -> None:
    keys, direct = pairs.keys, pairs.direct.keys
    direct[pairs.ours[1].fileno()] = 0  # something waits for it
    keys[2] = 0  # a hole
    stale = keys[3]
    pairs.direct.new_key(pairs.ours[3].fileno())  # the descriptor is another line's now
    keys[4] = 7 << 32 | len(direct)  # a descriptor that no line had
    assert keys[3] == stale
    assert send_all(b"hello", keys, direct, 0, 6, PLENTY) == (6, [(place, UNTRIED) for place in (1, 2, 3, 4)])
    assert pairs.received()[:7] == [b"hello", b"", b"", b"", b"", b"hello", b""]


def test_what_a_socket_does_not_take_is_told(send_all: SendAll, pairs: Pairs) -> None:
    big = bytes(1 << 20)
    place, odd = send_all(big, pairs.keys, pairs.direct.keys, 0, 1, PLENTY)
    assert place == 1
    ((first, taken),) = odd
    assert first == 0
    assert 0 < taken < len(big)
    assert send_all(big, pairs.keys, pairs.direct.keys, 0, 1, PLENTY) == (1, [(0, 0)])
    assert pairs.received()[0] == big[:taken]


def test_a_socket_that_fails_is_told_and_harms_nobody(send_all: SendAll, pairs: Pairs) -> None:
    pairs.others[1].close()
    assert send_all(b"hello", pairs.keys, pairs.direct.keys, 0, 3, PLENTY) == (3, [(1, FAILED)])
    pairs.others[1] = pairs.others[0]
    assert pairs.received()[2] == b"hello"


def test_it_stops_when_its_time_is_up_but_does_eight(send_all: SendAll, pairs: Pairs) -> None:
    assert send_all(b"hello", pairs.keys, pairs.direct.keys, 2, 40, -1.0) == (10, [])
    assert pairs.received() == [b""] * 2 + [b"hello"] * 8 + [b""] * 30
    assert send_all(b"hello", pairs.keys, pairs.direct.keys, 40, 40, -1.0) == (40, [])


def test_wrong_arguments_are_refused(send_all: SendAll, pairs: Pairs) -> None:
    with pytest.raises(IndexError):
        send_all(b"hello", pairs.keys, pairs.direct.keys, 39, 41, PLENTY)
    assert send_all(b"", pairs.keys, pairs.direct.keys, 0, 0, PLENTY) == (0, [])


def test_keys_are_never_the_same_and_never_none() -> None:
    direct = Direct()
    direct._serial = 0xFFFF_FFFE  # as after four thousand million lines
    keys = [direct.new_key(5) for _ in range(4)]
    assert len(set(keys)) == 4
    assert all(key >> 32 and key & 0xFFFF_FFFF == 5 for key in keys)
    assert list(direct.keys) == [0] * 5 + keys[-1:]


class Guest:
    """A client in the room "r" over a real socket, and its session: it leaves the room when its line tells the end."""

    def __init__(self, hub: Hub, lines: Lines, number: int) -> None:
        ours, self.socket = socket.socketpair()
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        self.socket.setblocking(False)
        self.descriptor = ours.fileno()
        self.hub = hub
        self.line = WebSocket(lines, ours, self, JSON, deflate=False)
        self.line.start()
        self.user = f"user-{number}"
        self.memberships = Memberships()
        self.address = AddressAccount(TokenBucket(0, 0, 0))
        self.bytes = b""
        self.ended = False

    async def join(self) -> None:
        member = Member(self.line, self.user, "name", PLAIN)
        await self.hub.admit(member, Join(room="r"), 0, self.memberships, self.address)

    def on_message(self, payload: bytes) -> None: ...

    def on_overhead(self, size: int) -> None: ...

    def on_drained(self) -> None:
        self.hub.drained(self.memberships)

    def on_closed(self, code: int, reason: str) -> None:
        self.ended = True
        self.hub.leave("r", self.memberships, self.address)

    def read(self, size: int) -> None:
        try:
            self.bytes += self.socket.recv(size)
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self.ended = True

    def check(self, *, to: int | None) -> None:
        """Nothing of the room before `joined`; from there on each event once, in order, up to `to` if it is given."""
        cursor: int | None = None
        for data in unframe_whole(self.bytes):
            match data["type"]:
                case "joined":
                    assert cursor is None
                    cursor = data["cursor"]
                case "message":
                    assert cursor is not None, f"written to who is not in the room: {data}"
                    assert data["seq"] == cursor + 1
                    cursor += 1
        if to is not None and self.memberships:
            assert cursor == to


def unframe_whole(data: bytes) -> list[Data]:
    """The whole frames at the beginning of what was received; close frames have no object."""
    end = 0
    while end + 4 <= len(data) and data[end] == 0x81:
        length = data[end + 1]
        size = 4 + int.from_bytes(data[end + 2 : end + 4], "big") if length == 126 else 2 + length
        if end + size > len(data):
            break
        end += size
    return unframe(data[:end])


async def test_a_line_is_direct_while_it_is_open_and_has_sent_all() -> None:
    lines = new_lines()
    ours, other = socket.socketpair()
    ours.setblocking(False)
    other.setblocking(False)
    recorder = Recorder()
    line = WebSocket(lines, ours, recorder, JSON, deflate=False)
    keys, descriptor = lines.direct.keys, ours.fileno()
    assert keys[descriptor] == line.key
    line.cork()
    assert keys[descriptor] == 0, "what is sent now would overtake what was gathered"
    line.uncork()
    assert keys[descriptor] == line.key
    line.write(bytes(1 << 20))
    assert line.outbox_bytes
    assert keys[descriptor] == 0

    def drained() -> bool:
        with suppress(BlockingIOError):
            other.recv(1 << 20)
        return not line.outbox_bytes

    await until(drained)
    assert keys[descriptor] == line.key
    line.abort(1011)
    assert keys[descriptor] == 0
    other.close()
    await until(lambda: recorder.closed)


@pytest.mark.parametrize("seed", range(8))
async def test_no_flush_reaches_a_descriptor_that_was_closed_or_is_anothers(
    seed: int, send_all: SendAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sockets come and go, stall and drain while flushes run, three members in a turn; descriptors are used again."""
    monkeypatch.setattr(batch, "send_all", send_all)
    monkeypatch.setattr(room, "SLICE", 3)
    chance = random.Random(seed)
    lines = new_lines(high_water_mark=MARK, close_timeout=1.0)
    log, direct = MemoryLog(), lines.direct
    hub = Hub(
        lines.loop,
        log,
        LocalBroker(alone=True),
        "here",
        Metrics(),
        direct,
        high_water_mark=MARK,
        ring_bytes=1 << 20,
        limits=RoomLimits(0, 0),
    )
    keeper = hub.open_room("r")
    keeper.holds += 1
    await keeper.opened
    guests: list[Guest] = []
    gone: list[Guest] = []
    used: set[int] = set()
    again = 0
    with ExitStack() as stack:
        for number in range(1200):
            step = chance.random()
            if step < 0.15 and len(guests) < 30:
                guest = Guest(hub, lines, number)
                stack.callback(guest.socket.close)
                again += guest.descriptor in used
                used.add(guest.descriptor)
                guests.append(guest)
                if chance.random() < 0.8:
                    await guest.join()
            elif step < 0.25 and guests:
                guest = guests.pop(chance.randrange(len(guests)))
                gone.append(guest)
                how = chance.randrange(4)
                if how == 0:
                    guest.line.abort(1011)
                elif how == 1:
                    guest.line.close(1001)
                elif how == 2:
                    guest.socket.shutdown(socket.SHUT_RDWR)
                else:
                    guest.read(1 << 20)
                    guest.socket.close()
            elif step < 0.6:
                keeper.deliver(log.add("x" * chance.choice((10, 300, 2000))))
            elif step < 0.8 and guests:
                chance.choice(guests).read(chance.choice((100, 5000, 1 << 20)))
            else:
                await turns(1)
        for line in [guest.line for guest in gone]:
            line.abort(1011)

        def quiet() -> bool:
            for guest in guests:
                guest.read(1 << 20)
            return not (
                keeper.pending or keeper.flushing or keeper.catching or any(g.line.outbox_bytes for g in guests)
            )

        await until(quiet)
        for guest in guests:
            guest.read(1 << 20)
            guest.check(to=keeper.head)
        for guest in gone:
            if guest.socket.fileno() >= 0:
                guest.read(1 << 20)
            guest.check(to=None)
        assert again > 20
        for guest in guests:
            guest.line.abort(1011)
        await until(lambda: not lines.open)
        await until(lambda: not keeper.groups)
    assert not any(direct.keys)
    keeper.holds -= 1
    keeper.release()
    await hub.stop()
