"""What endpoints are told, over real sockets, out of both databases: in which order, how often, and who is given up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from tests.support.chat import eventually
from tests.support.entries import append, begun, deleted, edited, finished, message, reacted
from tests.support.receivers import Answer, Receiver
from tornado_chat.errors import LogReplaced
from tornado_chat.log import Log
from tornado_chat.log.opening import open_log, open_webhooks
from tornado_chat.log.webhooks import EVENTS, GIVEN_UP, Found, Lag, Webhook, Webhooks
from tornado_chat.webhooks import deliverer, endpoint, posting
from tornado_chat.webhooks.deliverer import Deliverer
from tornado_chat.webhooks.signing import new_secret

pytest_plugins = ["tests.support.database_fixtures", "tests.support.postgres_servers"]

HOUR = 3_600_000.0
REFUSED = "webhook refused "


class Clock:
    """Ms since 1970, and so many more."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() * 1000 + self.ahead


class Hooks:
    """The endpoints of the test's log, and who delivers to them."""

    def __init__(self, log: Log, store: Webhooks, database: str) -> None:
        self.log = log
        self.store = store
        self.database = database
        self.receivers: list[Receiver] = []
        self.clock: Clock | None = None

    async def receiver(self, answer: Answer = lambda body: 204, *, more: bytes = b"", **wanted: Any) -> Receiver:
        """A new endpoint, and who is told there."""
        receiver = Receiver(answer, more, wanted.get("before", ()))
        self.receivers.append(receiver)
        secret = new_secret()
        receiver.secrets.append(secret)
        rooms, events = wanted.get("rooms", ["*"]), wanted.get("events", EVENTS)
        assert await self.store.add(wanted.get("url", receiver.url), rooms, events, secret) is not None
        return receiver

    @asynccontextmanager
    async def delivering(self, holder: str = "me") -> AsyncIterator[asyncio.Task[None]]:
        store = await open_webhooks(self.database)
        living = asyncio.create_task(Deliverer(store, self.log, holder, self.clock).run())
        try:
            yield living
        finally:
            living.cancel()
            await asyncio.wait([living])
            await store.close()

    async def webhook(self) -> Webhook:
        (found,) = await self.store.all()
        return found

    async def lag(self) -> Lag:
        return await self.store.lag(await self.webhook())

    async def attempted(self, times: int) -> bool:
        """Whether the first room that is behind was refused so often."""
        found = await self.store.behind(await self.webhook(), 0, 1, 1 << 62, ())
        return bool(found.rooms) and found.rooms[0].attempts == times

    async def caught_up(self) -> None:
        await until(lambda: self._behind(0))

    async def _behind(self, events: int) -> bool:
        return (await self.lag()).events == events


@pytest.fixture
def hooks(log: Log, database: str, io_loop: IOLoop, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hooks]:
    monkeypatch.setattr(deliverer, "TURN_SECONDS", 0.02)
    monkeypatch.setattr(deliverer, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(endpoint, "SHORTEST_PAUSE", 0.02)
    store: Webhooks = io_loop.run_sync(lambda: open_webhooks(database))
    made = Hooks(log, store, database)
    yield made
    for receiver in made.receivers:
        io_loop.run_sync(receiver.close)
    io_loop.run_sync(store.close)


def places(receiver: Receiver, room: str = "lobby") -> list[int]:
    return [told.place[1] for told in receiver.taken(room)]


async def told(receiver: Receiver, room: str, count: int) -> None:
    await eventually(lambda: len(places(receiver, room)) == count)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(1000):
        if await condition():
            return
        await asyncio.sleep(0.02)
    raise TimeoutError("it does not come to that")


async def given_up(log: Log) -> bool:
    return (await log.deliveries()).given_up == 1


async def test_what_is_told_and_how(log: Log, hooks: Hooks) -> None:
    await append(log, message("before"))
    receiver = await hooks.receiver()
    only = await hooks.receiver(rooms=["team-*"], events=["finished"])
    await append(log, message("hello", key="k", meta={"a": [1]}, mentions=("bob",)), edited(2), reacted(2))
    await append(log, message("SECRET"), deleted(5))
    await append(log, begun("re:2", "bot", reply_to=2), message("meanwhile"), finished(7, "grew \u00e9", "bot"))
    await append(log, begun("re:1", "bot", room="team-a"), finished(1, "other", "bot", room="team-a", reason="stopped"))
    await append(log, message("not told", room="team-b"))
    async with hooks.delivering():
        await eventually(lambda: len(receiver.taken()) == 9 and len(only.taken()) == 1)
        await asyncio.sleep(0.1)
    bodies = {one.place: one.body for one in receiver.told}
    assert len(receiver.told) == len(bodies) == 9
    assert places(receiver) == [2, 3, 4, 5, 6, 8, 9], "a growing message is told at its end"
    types = [bodies["lobby", seq]["type"] for seq in places(receiver)]
    assert types == [
        "message.created",
        "message.edited",
        "message.reacted",
        "message.created",
        "message.deleted",
        "message.created",
        "message.finished",
    ]
    (first,) = await log.read("lobby", 1, before=3, max_events=1, max_bytes=1000)
    hello = bodies["lobby", 2]
    assert hello.keys() == {"type", "timestamp", "data"}
    assert hello["timestamp"].endswith("Z")
    assert hello["data"] == {**first.data, "meta": {"a": [1]}}
    assert bodies["lobby", 5]["data"]["deleted"] is True
    assert "SECRET" not in str(bodies)
    end = bodies["lobby", 9]["data"]
    assert (end["target"], end["text"], end["length"], end["reason"]) == (7, "grew \u00e9", 6, "done")
    about = end["message"]
    assert (about["seq"], about["id"], about["reply_to"], about["name"]) == (7, "re:2", 2, "Bot")
    assert not about.keys() & {"text", "streaming"}
    assert [one.place for one in only.told] == [("team-a", 2)]
    ids = [one.id for one in receiver.told + only.told]
    assert len(set(ids)) == len(ids), "another endpoint is told it under another id"
    assert not any("." in id for id in ids)


@pytest.mark.logs(REFUSED)
async def test_a_room_that_is_refused_waits_and_the_others_go_on(log: Log, hooks: Hooks) -> None:
    tries = 0

    def answer(body: dict[str, Any]) -> int:
        nonlocal tries
        if body["data"].get("text") != "poison":
            return 200
        tries += 1
        return 500 if tries < 4 else 200

    receiver = await hooks.receiver(answer)
    await append(log, *(message("poison" if n == 2 else "x", room="a") for n in range(6)))
    await append(log, *(message(room=f"r{n % 20}") for n in range(100)))
    async with hooks.delivering():
        await hooks.caught_up()
    assert places(receiver, "a") == [1, 2, 3, 4, 5, 6]
    assert all(places(receiver, f"r{n}") == [1, 2, 3, 4, 5] for n in range(20))
    poison = [told for told in receiver.told if told.place == ("a", 3)]
    assert [told.status for told in poison] == [500, 500, 500, 200]
    assert len({told.id for told in poison}) == 1
    at = receiver.told.index(poison[-1])
    assert not [told for told in receiver.told[:at] if told.place[0] == "a" and told.place[1] > 3]
    assert receiver.most_open > 1, "rooms are told side by side"


@pytest.mark.logs(REFUSED)
async def test_an_endpoint_that_takes_nothing_is_tried_by_one_at_a_time(log: Log, hooks: Hooks) -> None:
    up = False

    async def answer(body: dict[str, Any]) -> int:
        await asyncio.sleep(0.02)
        return 200 if up else 503

    receiver = await hooks.receiver(answer)
    await append(log, *(message(room=f"r{n % 30}") for n in range(90)))
    async with hooks.delivering():
        await eventually(lambda: len(receiver.told) >= endpoint.AT_ONCE)
        receiver.most_open = 0
        tried = len(receiver.told)
        await eventually(lambda: len(receiver.told) >= tried + 4)
        assert receiver.most_open == 1
        rooms = [told.place[0] for told in receiver.told[-4:]]
        assert len(set(rooms)) == 4, "no room keeps the others from being tried"
        assert (await hooks.webhook()).failing is not None
        up = True
        await hooks.caught_up()
    assert all(places(receiver, f"r{n}") == [1, 2, 3] for n in range(30))
    assert (await hooks.webhook()).failing is None


@pytest.mark.logs(REFUSED)
@pytest.mark.logs("webhook given up .*it took nothing for 24 hours.*HTTP 500.*go_on_with=tornado-chat webhook resume 1")
@pytest.mark.logs("webhook is given up ")
async def test_an_endpoint_is_given_up_after_a_day_and_goes_on_where_it_stopped(
    log: Log, hooks: Hooks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(endpoint, "SHORTEST_PAUSE", 300.0)
    monkeypatch.setattr(endpoint, "LEAST_REFUSALS", 3)
    hooks.clock = Clock()
    receiver = await hooks.receiver(lambda body: 500)
    await append(log, message(), message())
    async with hooks.delivering():
        await until(lambda: hooks.attempted(1))
        await asyncio.sleep(0.2)
        assert len(receiver.told) == 1, "the next attempt has its time"
        hooks.clock.ahead += 23 * HOUR
        await until(lambda: hooks.attempted(2))
        assert len(receiver.told) == 2
        hooks.clock.ahead += 1 * HOUR
        await eventually(lambda: len(receiver.told) == 3)
        await until(lambda: given_up(log))
        hooks.clock.ahead += 9 * HOUR
        await append(log, message())
        await asyncio.sleep(0.2)
        assert len(receiver.told) == 3
    assert (await hooks.webhook()).state == GIVEN_UP
    receiver.answer = lambda body: 200
    async with hooks.delivering():
        await eventually(lambda: "is given up" in caplog.text)
        assert await hooks.store.resume(1, skip=False)
        await hooks.caught_up()
    assert places(receiver) == [1, 2, 3], "nothing is left out in silence"


@pytest.mark.logs(REFUSED)
@pytest.mark.logs("webhook given up ")
async def test_while_nothing_delivered_nothing_was_tried(
    log: Log, hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "LEAST_REFUSALS", 2)
    monkeypatch.setattr(endpoint, "SHORTEST_PAUSE", 300.0)
    hooks.clock = Clock()
    await hooks.receiver(lambda body: 500)
    await append(log, message())
    async with hooks.delivering():
        await until(lambda: hooks.attempted(1))
    hooks.clock.ahead += 48 * HOUR
    async with hooks.delivering():
        await until(lambda: hooks.attempted(2))
        assert not await given_up(log)
        hooks.clock.ahead += 1 * HOUR
        await until(lambda: given_up(log))


@pytest.mark.logs(REFUSED)
@pytest.mark.logs("room given up .*room=a seq=2 reason=HTTP 422")
async def test_a_room_is_given_up_alone_where_the_others_are_taken(
    log: Log, hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "LEAST_REFUSALS", 3)
    hooks.clock = Clock()
    receiver = await hooks.receiver(lambda body: 422 if body["data"]["text"] == "poison" else 200)
    await append(log, message(room="a"), message("poison", room="a"), message(room="a"))
    async with hooks.delivering():
        for count in range(1, 4):
            await eventually(lambda: receiver.told and receiver.told[-1].status == 422)
            await append(log, message(room="b"))
            await told(receiver, "b", count)
            hooks.clock.ahead += 12 * HOUR
        await until(lambda: given_up(log))
        await append(log, message(room="a"), message(room="b"))
        await eventually(lambda: len(places(receiver, "b")) == 4)
        assert places(receiver, "a") == [1]
        assert (await log.deliveries()).given_up == 1
        assert await hooks.store.resume(1, skip=True)
        await hooks.caught_up()
    assert places(receiver, "a") == [1, 3, 4]


@pytest.mark.logs(REFUSED)
@pytest.mark.logs("webhook given up .*it wants no more.*HTTP 410")
async def test_gone_is_given_up_at_once(log: Log, hooks: Hooks) -> None:
    receiver = await hooks.receiver(lambda body: 410)
    await append(log, message())
    async with hooks.delivering():
        await eventually(lambda: bool(receiver.told))
        await until(lambda: given_up(log))
    assert len(receiver.told) == 1


def http_date(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.logs(REFUSED)
@pytest.mark.parametrize(
    ("wanted", "seconds"),
    [
        ("120", 120),
        (lambda: http_date(120), 120),
        ("86400", 300),
        ("9" * 400, 300),
        ("0", 0),
        (lambda: http_date(-9000), 0),
        ("-5", 0),
        ("soon", 0),
        ("\u00b2", 0),
    ],
)
async def test_an_endpoint_says_when_to_come_again(
    log: Log, hooks: Hooks, wanted: str | Callable[[], str], seconds: float
) -> None:
    receiver = await hooks.receiver(lambda body: 503)
    receiver.retry_after = wanted if isinstance(wanted, str) else wanted()
    await append(log, *(message(room=f"r{n}") for n in range(endpoint.AT_ONCE + 4)))
    async with hooks.delivering():
        if not seconds:
            await eventually(lambda: len(receiver.told) > endpoint.AT_ONCE)
            return
        await until(lambda: hooks.attempted(1))
        (room,) = (await hooks.store.behind(await hooks.webhook(), 0, 1, 1 << 62, ())).rooms
        assert room.failing is not None
        assert seconds - 2 < (room.retry_at - room.failing) / 1000 <= seconds
        await eventually(lambda: len(receiver.told) >= endpoint.AT_ONCE)
        await asyncio.sleep(0.3)
        assert len(receiver.told) <= endpoint.AT_ONCE + 1, "one more, since the first might speak of its room only"


def test_a_date_that_names_no_zone_is_of_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        try:
            assert 100 < posting._seconds(time.asctime(time.gmtime(time.time() + 120))) <= 120
        finally:
            patch.undo()
            time.tzset()


async def talk_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An answer whose headers do not end."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * (2 * posting.HEADER_BYTES))
    with contextlib.suppress(ConnectionError):
        await writer.drain()
        await reader.read()
    writer.close()


@pytest.mark.logs(REFUSED)
async def test_what_is_an_answer_and_what_is_none(log: Log, hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "ANSWER_SECONDS", 0.3)
    hanging = asyncio.Event()

    async def hang(body: dict[str, Any]) -> int:
        await hanging.wait()
        return 200

    redirects = await hooks.receiver(lambda body: 302)
    slow = await hooks.receiver(hang)
    long = await hooks.receiver(more=b"x" * (posting.ANSWER_BYTES + 1))
    await hooks.receiver(url="http://127.0.0.1:1/")
    interim = await hooks.receiver(before=[100, 103])
    talker = await asyncio.start_server(talk_headers, "127.0.0.1", 0)
    await hooks.receiver(url=f"http://127.0.0.1:{talker.sockets[0].getsockname()[1]}/")
    await append(log, message())

    found: list[str] = []

    async def all_answered() -> bool:
        found[:] = [webhook.error or "" for webhook in await hooks.store.all()]
        return all(found[:2] + found[3:4] + found[5:]) and bool(interim.told)

    async with hooks.delivering():
        await until(all_answered)
        hanging.set()
    talker.close()
    assert found[0] == "HTTP 302"
    assert "imeout" in found[1]
    assert found[2] == "", "a success has a status, however long the text behind it"
    assert "refused" in found[3].lower()
    assert found[4] == "", "what comes before the answer is none"
    assert f"{posting.HEADER_BYTES} bytes" in found[5]
    assert slow.most_open >= 1
    assert len(long.told) == 1
    assert redirects.told


async def test_a_new_secret_signs_beside_the_former_one(log: Log, hooks: Hooks) -> None:
    receiver = await hooks.receiver()
    secret = new_secret()
    await hooks.store.rotate(1, secret, 60)
    receiver.secrets.append(secret)  # both must have signed it
    await append(log, message("one"))
    async with hooks.delivering():
        await eventually(lambda: places(receiver) == [1])
        await hooks.store.rotate(1, other := new_secret(), -60)
        receiver.secrets[:] = [other]
        await asyncio.sleep(0.3)  # it reads how its endpoints are with each sign that it gives
        await append(log, message("two"))
        await eventually(lambda: places(receiver) == [1, 2])


async def test_of_two_that_deliver_one_does_and_the_other_takes_over(
    log: Log, hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliverer, "LEASE_SECONDS", 10.0)
    monkeypatch.setattr(deliverer, "SEND_SECONDS", 0.5)
    receiver = await hooks.receiver()
    async with hooks.delivering("one"):
        async with hooks.delivering("two"):
            for n in range(20):
                await append(log, message(room=f"r{n % 3}"), message(room=f"r{n % 3}"))
                await asyncio.sleep(0.01)
            await hooks.caught_up()
        await append(log, *(message(room="r0") for _ in range(5)))
        await eventually(lambda: len(receiver.taken("r0")) == 19)
    assert [told.id for told in receiver.told] == [told.id for told in receiver.taken()], "each once, while both live"
    for room, count in ("r0", 19), ("r1", 14), ("r2", 12):
        assert places(receiver, room) == list(range(1, count + 1))


async def test_the_lease_of_one_that_died_lapses(log: Log, hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliverer, "LEASE_SECONDS", 3.0)
    monkeypatch.setattr(deliverer, "SEND_SECONDS", 0.5)

    async def nothing(store: Webhooks, holder: str) -> None:
        """As of a process that was killed."""

    monkeypatch.setattr(type(hooks.store), "release", nothing)
    receiver = await hooks.receiver()
    await append(log, message())
    async with hooks.delivering("one"):
        await hooks.caught_up()
    assert await hooks.store.claim("two", 3.0) == []
    await append(log, message())
    async with hooks.delivering("two"):
        await hooks.caught_up()
    assert [one.place for one in receiver.told] == [("lobby", 1), ("lobby", 2)]


async def test_more_rooms_than_are_known_at_a_time(log: Log, hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "ROOMS", 4)
    monkeypatch.setattr(endpoint, "WARM", 2)
    monkeypatch.setattr(deliverer, "LOOKED", 3)

    async def slow(body: dict[str, Any]) -> int:
        await asyncio.sleep(0.02)
        return 200

    receiver = await hooks.receiver(slow)
    await append(log, *(message(room=f"r{n % 25}") for n in range(75)))
    async with hooks.delivering():
        await hooks.caught_up()
        await append(log, message(room="r3"), message(room="new"))
        await hooks.caught_up()
    assert [told.id for told in receiver.told] == [told.id for told in receiver.taken()]
    assert all(places(receiver, f"r{n}") == [1, 2, 3] + [4] * (n == 3) for n in range(25))
    assert places(receiver, "new") == [1]


async def test_what_was_told_while_the_log_was_asked_is_not_told_again(
    log: Log, hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def answer(body: dict[str, Any]) -> int:
        if body["data"]["room"] == "lobby":
            await asked.wait()
        return 200

    receiver = await hooks.receiver(answer)
    look = type(hooks.store).behind

    async def late(store: Webhooks, webhook: Webhook, *wanted: Any) -> Found:
        found = await look(store, webhook, *wanted)
        if len(found.rooms) == 2 and not asked.is_set():
            asked.set()
            await eventually(lambda: len(receiver.told) == 2)
        return found

    monkeypatch.setattr(type(hooks.store), "behind", late)
    await append(log, message(), message())
    async with hooks.delivering():
        await eventually(lambda: receiver.open == 1)
        await append(log, message(room="other"))
        await eventually(lambda: len(receiver.told) == 3)
        await asyncio.sleep(0.1)
    assert [one.place for one in receiver.told] == [("lobby", 1), ("lobby", 2), ("other", 1)]


async def test_a_log_with_another_epoch_ends_it(log: Log, hooks: Hooks) -> None:
    """What the log calls seq 1 from then on is another event, and has to have another id."""
    await hooks.receiver()
    async with hooks.delivering() as living:
        other = await open_log(hooks.database)
        await other.new_epoch()
        await other.close()
        await asyncio.wait([living], timeout=10)
        assert isinstance(living.exception(), LogReplaced)
