"""The endpoints of webhooks in the databases: where each begins, its lease, and that who lost it moves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tornado.ioloop import IOLoop

from tests.support.entries import append, followed, message
from tornado_chat.log import Log
from tornado_chat.log.opening import open_webhooks
from tornado_chat.log.webhooks import ACTIVE, GIVEN_UP, Behind, Webhook, Webhooks

pytest_plugins = ["tests.support.database_fixtures", "tests.support.postgres_servers"]

URL = "https://example.org/told"
SECRET = "whsec_c2VjcmV0"
FIRST = 1 << 62  # no room is newer than what the first round looks at


@pytest.fixture
def webhooks(log: Log, database: str, io_loop: IOLoop) -> Iterator[Webhooks]:
    opened: Webhooks = io_loop.run_sync(lambda: open_webhooks(database))
    yield opened
    io_loop.run_sync(opened.close)


async def added(webhooks: Webhooks, *rooms: str) -> Webhook:
    id = await webhooks.add(URL, rooms or ("*",), ["message"], SECRET)
    return next(webhook for webhook in await webhooks.all() if webhook.id == id)


async def behind(webhooks: Webhooks, webhook: Webhook) -> dict[str, tuple[int, int]]:
    found = await webhooks.behind(webhook, 0, 1000, FIRST, ())
    return {room.name: (room.seq, room.head) for room in found.rooms}


async def held(webhooks: Webhooks, holder: str = "me", seconds: float = 60.0) -> Webhook:
    (webhook,) = await webhooks.claim(holder, seconds)
    return webhook


async def test_it_begins_with_what_is_said_after_it_was_added(
    log: Log, webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{type(webhooks).__module__}.PAGE", 2)
    await append(log, *(message(room=room) for room in ("a", "b", "team-1", "team_1", "team-2")), message(room="a"))
    await append(log, followed("a"), followed("quiet"))
    every, team, inner = (
        await added(webhooks),
        await added(webhooks, "team-*", "none-*"),
        await added(webhooks, "*x*", "a", "b"),
    )
    assert await behind(webhooks, every) == {}
    await append(log, message(room="a"), message(room="team-2"), message(room="new"), message(room="teamx1"))
    await append(log, followed("b"), message(mentions=("bob",), room="team-3"))
    new = {"new": (0, 1), "team-3": (0, 1), "teamx1": (0, 1)}
    assert await behind(webhooks, every) == new | {"a": (2, 3), "team-2": (1, 2)}, "logs of one's own are nobody's"
    assert await behind(webhooks, team) == {"team-2": (1, 2), "team-3": (0, 1)}
    assert await behind(webhooks, inner) == {"a": (2, 3), "teamx1": (0, 1)}
    lag = await webhooks.lag(every)
    assert (lag.events, lag.rooms, lag.given_up) == (5, 5, 0)


async def test_rooms_are_looked_at_in_rounds_and_some_each_time(log: Log, webhooks: Webhooks) -> None:
    webhook = await added(webhooks)
    await append(log, *(message(room=f"r{number}") for number in range(5)))
    names: list[str] = []
    after = 0
    rounds = 0
    while True:
        found = await webhooks.behind(webhook, after, 2, FIRST, ())
        names += [room.name for room in found.rooms]
        rounds += 1
        if found.last is None:
            break
        after = found.last
    assert (sorted(names), rounds) == ([f"r{number}" for number in range(5)], 3)
    ids = {room.name: room.id for room in (await webhooks.behind(webhook, 0, 9, FIRST, ())).rooms}
    found = await webhooks.behind(webhook, ids["r4"], 2, ids["r2"], [ids["r0"], 10**6])
    assert sorted(room.name for room in found.rooms) == ["r0", "r3", "r4"]
    assert found.newest == ids["r4"]


async def test_one_delivers_and_whoever_comes_too_late_moves_nothing(log: Log, webhooks: Webhooks) -> None:
    await added(webhooks)
    await append(log, message(room="a"))
    ours = await held(webhooks, "one", 0.3)
    assert await webhooks.claim("two", 60) == []
    assert (await held(webhooks, "one", 0.3)).fence == ours.fence, "a renewal is no change"
    (room,) = (await webhooks.behind(ours, 0, 10, FIRST, ())).rooms
    room.seq = 1
    assert await webhooks.move(ours, [room], failing=None, error=None, state=ACTIVE)
    await asyncio.sleep(0.35)
    theirs = await held(webhooks, "two")
    assert theirs.fence > ours.fence
    room.seq = 0
    assert not await webhooks.move(ours, [room], failing=5, error="no", state=GIVEN_UP)
    assert await behind(webhooks, theirs) == {}
    assert (await webhooks.all())[0].state == ACTIVE
    await webhooks.release("one")
    assert await webhooks.claim("one", 60) == []
    await webhooks.release("two")
    assert (await held(webhooks, "one")).fence > theirs.fence


async def test_it_is_known_whether_others_have_committed_anything(log: Log, webhooks: Webhooks) -> None:
    await added(webhooks)
    before = await webhooks.version()
    webhook = await held(webhooks)
    await webhooks.move(webhook, [], failing=1, error="x", state=ACTIVE)
    assert await webhooks.version() == await webhooks.version() == before, "what we commit ourselves is no news"
    await append(log, message(room="a"))
    assert await webhooks.version() != before


async def test_given_up_and_gone_on_with(log: Log, webhooks: Webhooks) -> None:
    await added(webhooks)
    await append(log, message(room="a"), message(room="a"), message(room="b"))
    webhook = await held(webhooks)
    rooms = {room.name: room for room in (await webhooks.behind(webhook, 0, 10, FIRST, ())).rooms}
    rooms["a"].failing, rooms["a"].attempts, rooms["a"].given_up = 1, 9, 2
    assert await webhooks.move(webhook, [rooms["a"]], failing=None, error="HTTP 500", state=ACTIVE)
    assert await behind(webhooks, webhook) == {"b": (0, 1)}
    told = await log.deliveries()
    assert (told.endpoints, told.failing, told.given_up) == (1, 0, 1)
    assert (await webhooks.lag(webhook)).given_up == 1
    assert await webhooks.resume(webhook.id, skip=False)
    assert not await webhooks.move(webhook, [], failing=None, error=None, state=ACTIVE), "its process begins anew"
    assert await behind(webhooks, webhook) == {"a": (0, 2), "b": (0, 1)}

    webhook = await held(webhooks)
    b = Behind(rooms["b"].id, "b", 1, 0, failing=1, attempts=3)
    assert await webhooks.move(webhook, [rooms["a"], b], failing=7, error="HTTP 410", state=GIVEN_UP)
    assert await webhooks.claim("me", 60) == []
    told = await log.deliveries()
    assert (told.endpoints, told.failing, told.given_up) == (1, 1, 1)
    assert await webhooks.resume(webhook.id, skip=True)
    assert (await log.deliveries()).given_up == 0
    assert await behind(webhooks, await held(webhooks)) == {"a": (1, 2)}
    assert not await webhooks.resume(99, skip=False)


async def test_one_that_is_removed_lacks_nothing(log: Log, webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever delivers hears of it at the next claim only, and would tell it everything from the first event on."""
    monkeypatch.setattr(f"{type(webhooks).__module__}.PAGE", 2)
    await append(log, *(message(room=f"r{number}") for number in range(5)))
    webhook = await added(webhooks)
    await append(log, message(room="r1"))
    assert await behind(webhooks, webhook) == {"r1": (1, 2)}
    removing = asyncio.create_task(webhooks.remove(webhook.id))
    while not removing.done():
        assert await behind(webhooks, webhook) in ({"r1": (1, 2)}, {})
    assert await removing
    also = await webhooks.behind(webhook, 0, 1000, 0, [1, 2])
    assert await behind(webhooks, webhook) == {}
    assert also.rooms == []


async def test_secrets_removal_and_how_many_there_may_be(
    log: Log, webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{type(webhooks).__module__}.PAGE", 2)
    await append(log, *(message(room=f"r{number}") for number in range(5)))
    webhook = await added(webhooks)
    assert await webhooks.rotate(webhook.id, "whsec_bmV3", 60)
    (found,) = await webhooks.all()
    assert (found.secret, found.former_secret) == ("whsec_bmV3", SECRET)
    assert found.former_until is not None
    assert 59_000 < found.former_until - found.created < 65_000
    assert await webhooks.remove(webhook.id)
    assert await webhooks.all() == []
    assert not await webhooks.remove(webhook.id)
    assert not await webhooks.rotate(webhook.id, SECRET, 60)
    again = await added(webhooks)
    assert again.id != webhook.id, "what another was told has its id"
    monkeypatch.setattr(f"{type(webhooks).__module__}.WEBHOOKS", 1)
    assert await webhooks.add(URL, ["*"], ["message"], SECRET) is None
