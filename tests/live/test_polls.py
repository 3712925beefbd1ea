"""Polls under every order of events, erasures, answers that get lost and clients that go: each event once, in order.

tests/web/test_poll.py does the same things over real connections.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.chat import eventually
from tests.support.hubs import MemoryLog, made_hub, turns
from tornado_chat.auth import Identity
from tornado_chat.config import Settings
from tornado_chat.errors import ChatError, ErrorCode, LogUnavailable
from tornado_chat.live import stays as stays_module
from tornado_chat.live import watch
from tornado_chat.live.limits import Limits
from tornado_chat.live.pages import MOST_BYTES
from tornado_chat.live.polls import MOST_EVENTS, Found, Poll, Polls
from tornado_chat.live.room import Room
from tornado_chat.live.shared import PAGE_READS
from tornado_chat.live.stays import SWEPT, Poller
from tornado_chat.live.turns import POLLS
from tornado_chat.live.watch import LONGEST_SECONDS
from tornado_chat.wire.events import Data, Event

LONG = 100.0


class Client:
    """One who polls the room `r`, and what it was answered."""

    def __init__(self, place: Place, user: str | None, address: str) -> None:
        self.place = place
        self.identity = Identity(user or "guest-1", "Ann", new=user is None)
        account = place.limits.addresses.find(address)
        self.poller = Poller(account, user or "\0" + address, user, "Ann", proxied=False)
        self.cursor = 0
        self.events: list[Data] = []
        self.answers = 0
        self.answer: Found | Exception | None = None
        self.poll: Poll | None = None

    def ask(self, after: int | None = None, *, limit: int = MOST_EVENTS, wait: float = LONG) -> None:
        self.answer = None
        cursors = {"r": self.cursor if after is None else after}
        self.poll = self.place.polls.begin(self.identity, self.poller, cursors, limit, wait, self._told)

    def _told(self, answer: Found | Exception) -> None:
        self.poll = None
        self.answer = answer
        if isinstance(answer, Found):
            for event in events_of(answer):
                assert ("text" in event) == ("text" in self.place.log.events[event["seq"] - 1]), "it was erased"
        self.answers += 1

    def take(self) -> None:
        """Read the answer; what it holds must follow what was there."""
        found = self.answer
        assert isinstance(found, Found)
        self.answer = None
        for event in events_of(found):
            assert event["seq"] == self.cursor + 1
            self.cursor += 1
            self.events.append(event)
        assert found.cursors["r"] == self.cursor
        assert found.heads["r"] >= self.cursor
        assert found.more == (found.heads["r"] > self.cursor)

    async def answered(self) -> Found:
        await eventually(lambda: self.answer is not None)
        assert isinstance(self.answer, Found), self.answer
        return self.answer


def _nothing() -> None: ...


def events_of(found: Found) -> list[Any]:
    events: list[Any] = json.loads(b"[%b]" % found.events)
    return events


class Place:
    """A hub with the room `r`, and those who poll it."""

    def __init__(self, log: MemoryLog, ring_bytes: int = 10**6) -> None:
        self.log = log
        self.hub = made_hub(log, ring_bytes)
        self.limits = Limits(Settings(join_rate=0), 0, self.hub.shared.loop.time)
        self.polls = Polls(self.hub, self.limits)

    def client(self, user: str | None = "ann", address: str = "10.0.0.1") -> Client:
        return Client(self, user, address)

    @property
    def room(self) -> Room:
        return self.hub.rooms["r"]

    def say(self, text: str = "x") -> Event:
        event = self.log.add(text)
        self.room.deliver(event)
        return event

    def erase(self, target: int) -> None:
        self.room.deliver(self.log.add("", target=target))

    async def standing(self, count: int) -> None:
        """So many polls stand where events wake them."""
        await eventually(lambda: "r" in self.hub.rooms and len(self.room.watched().waiting) == count)

    def fill_turns(self, count: int, room: str = "r") -> None:
        """Whatever is to have its turn now in this room waits for so many others."""
        self.hub.shared.turns.polls.add(room, *[_nothing] * count)

    async def waiting(self, client: Client, after: int | None = None) -> None:
        """Begin a poll that finds nothing."""
        client.ask(after)
        await eventually(lambda: self.room.watch is not None and self.room.watch.waiting)

    async def end(self) -> None:
        """Nothing is left of anybody."""
        self.polls.stays.end_idle()
        assert not self.polls.waiting
        assert not len(self.polls.stays)
        await eventually(lambda: not self.hub.tasks)
        assert not self.hub.rooms
        assert not self.hub.shared.budget.order
        assert self.hub.shared.budget.bytes == 0
        assert self.hub.shared.page_reads._value == PAGE_READS
        assert all(not account.rooms and not account.connections for account in self.limits.addresses.accounts.values())


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["say", "say", "erase", "poll", "poll", "look", "take", "lose", "go", "turn"]),
        st.integers(0, 7),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, ring_bytes=st.sampled_from([0, 3000, 10**6]), delay=st.integers(0, 4))
def test_whoever_polls_gets_every_event_once_and_in_order(
    steps: list[tuple[str, int]], ring_bytes: int, delay: int
) -> None:
    asyncio.run(_walk(steps, ring_bytes, delay))


async def _walk(steps: list[tuple[str, int]], ring_bytes: int, delay: int) -> None:
    place = Place(MemoryLog(), ring_bytes)
    place.log.delay = delay
    clients = [place.client(f"user {number}") for number in range(3)]
    keeper = place.client("keeper")  # the room stays open
    keeper.ask(10**6)
    await keeper.answered()
    for step, number in steps:
        client = clients[number % len(clients)]
        match step:
            case "say":
                place.say(f"text {len(place.log.events) + 1}")
            case "erase":
                texts = [event["seq"] for event in place.log.events if "text" in event]
                if texts:
                    place.erase(texts[number % len(texts)])
            case "poll" | "look":
                if client.poll is None and client.answer is None:
                    client.ask(limit=1 + number * 2, wait=LONG if step == "poll" else 0)
            case "take" if client.answer is not None:
                client.take()
            case "lose":  # the answer; the client asks the same again
                client.answer = None
            case "go" if client.poll is not None:
                client.poll.cancel()
                client.poll = None
            case "turn":
                await turns(number)
    for client in clients:
        while client.cursor < len(place.log.events):
            if client.poll is None and client.answer is None:
                client.ask()
            await client.answered()
            client.take()
        if client.poll is not None:
            client.poll.cancel()
    await place.end()


async def test_who_has_everything_waits_and_is_answered_with_what_comes() -> None:
    place = Place(MemoryLog())
    client = place.client()
    await place.waiting(client)
    await turns(20)
    assert client.answers == 0
    place.say("hello")
    found = await client.answered()
    assert [event["text"] for event in events_of(found)] == ["hello"]
    assert (found.cursors, found.heads, found.more) == ({"r": 1}, {"r": 1}, False)
    await place.end()


async def test_when_the_time_is_up_the_answer_is_empty() -> None:
    place = Place(MemoryLog())
    place.log.add("old")
    client = place.client()
    client.ask(1, wait=0.02)
    found = await client.answered()
    assert (found.events, found.cursors, found.heads, found.more) == (b"", {"r": 1}, {"r": 1}, False)
    await place.end()


async def test_nothing_is_told_of_a_room_before_the_log_has_told_where_it_ends() -> None:
    """Also if the time is up: else a room would seem to be empty, again and again while the log does not answer."""
    place = Place(MemoryLog())
    place.log.add("old")
    openings, told = place.log.openings, asyncio.Event()

    async def slow(rooms: Any) -> dict[str, tuple[int, bool]]:
        await told.wait()
        return await openings(rooms)

    place.hub.openings.query = slow
    client = place.client()
    client.ask(0, wait=0.001)
    await asyncio.sleep(0.02)
    assert client.answer is None
    told.set()
    found = await client.answered()
    assert (found.cursors, found.heads) == ({"r": 1}, {"r": 1})
    await place.end()


async def test_a_cursor_beyond_the_head_is_answered_at_once_with_the_head() -> None:
    place = Place(MemoryLog())
    place.log.add("a")
    for wait in (0.0, LONG):
        client = place.client()
        client.ask(7, wait=wait)
        found = await client.answered()
        assert (found.events, found.cursors, found.heads) == (b"", {"r": 1}, {"r": 1})
    await place.end()


async def test_a_cursor_that_another_process_has_told_is_waited_on() -> None:
    place = Place(MemoryLog())
    client = place.client()
    await place.waiting(client)
    place.log.add("committed elsewhere, and not told here")
    other = place.client("bob")
    other.ask(1)
    await eventually(lambda: place.room.head == 1)
    await client.answered()
    assert other.answers == 0
    place.say("next")
    found = await other.answered()
    assert [event["seq"] for event in events_of(found)] == [2]
    await place.end()


async def test_a_look_sees_what_the_log_has_although_it_was_not_told_here() -> None:
    place = Place(MemoryLog())
    keeper = place.client("keeper")
    await place.waiting(keeper, 0)
    place.say("told")
    await keeper.answered()
    place.log.add("not told")
    client = place.client()
    client.ask(0, wait=0)
    await client.answered()
    client.take()
    assert client.cursor == 2
    await place.end()


async def test_answers_have_a_bound_of_bytes_and_at_least_one_event() -> None:
    place = Place(MemoryLog())
    keeper = place.client("keeper")
    await place.waiting(keeper, 0)
    for text in ("x" * MOST_BYTES * 2, "y", "z" * (MOST_BYTES - 1000), "w" * 2000, "v"):
        place.say(text)
    await keeper.answered()
    client, got = place.client(), []
    while client.cursor < 5:
        client.ask()
        found = await client.answered()
        got.append([event["seq"] for event in events_of(found)])
        client.take()
    assert got == [[1], [2, 3, 4], [5]]
    await place.end()


async def test_a_limit_bounds_the_events_and_leaves_what_is_kept_for_others_whole() -> None:
    place = Place(MemoryLog())
    keeper = place.client("keeper")
    await place.waiting(keeper, 0)
    for _ in range(9):
        place.say()
    await keeper.answered()
    for limit, expected in ((4, 4), (MOST_EVENTS, 9), (5, 5)):
        client = place.client()
        client.ask(0, limit=limit)
        found = await client.answered()
        assert len(events_of(found)) == expected
        assert found.more == (expected < 9)
    await place.end()


async def test_a_page_goes_on_where_the_ring_of_the_room_begins() -> None:
    place = Place(MemoryLog())
    for _ in range(5):
        place.log.add("x")
    keeper = place.client("keeper")
    await place.waiting(keeper, 5)
    for _ in range(5):
        place.say()
    await keeper.answered()
    assert place.room.ring.first == 6
    for limit, expected in ((MOST_EVENTS, 10), (7, 7), (5, 5)):
        client = place.client()
        client.ask(0, limit=limit, wait=0)
        await client.answered()
        client.take()
        assert client.cursor == expected
    await place.end()


async def test_those_who_ask_the_same_share_one_query() -> None:
    place = Place(MemoryLog(), ring_bytes=0)
    for _ in range(5):
        place.log.add("x")
    place.log.delay = 5
    clients = [place.client(f"user {number}") for number in range(50)]
    for client in clients:
        client.ask(0)
    for client in clients:
        await client.answered()
    assert place.log.reads == 1
    await place.end()


async def test_a_text_that_is_erased_while_its_page_is_read_is_not_told() -> None:
    place = Place(MemoryLog(), ring_bytes=0)
    place.log.add("secret")
    keeper = place.client("keeper")
    await place.waiting(keeper, 1)
    place.log.delay = 20
    client = place.client()
    client.ask(0)
    while not place.log.reads:
        await turns(1)
    place.erase(1)
    found = await client.answered()  # Client looks at the texts itself
    assert events_of(found)[0]["deleted"]
    await keeper.answered()
    await place.end()


async def test_a_text_that_is_erased_while_its_page_waits_for_a_turn_is_not_told() -> None:
    place = Place(MemoryLog(), ring_bytes=0)
    place.log.add("secret")
    keeper = place.client("keeper")
    await place.waiting(keeper, 1)
    place.log.delay = 3
    client = place.client()
    client.ask(0)
    while not place.log.reads:
        await turns(1)
    place.fill_turns(POLLS * 50, "page of r")
    await turns(10)
    assert client.answer is None
    place.erase(1)
    found = await client.answered()
    assert events_of(found)[0]["deleted"]
    await keeper.answered()
    await place.end()


async def test_pages_that_wait_for_a_turn_are_few() -> None:
    place = Place(MemoryLog(), ring_bytes=0)
    for _ in range(100):
        place.log.add("x")
    keeper = place.client("keeper")
    await place.waiting(keeper, 100)
    place.log.delay = 3
    clients = [place.client(f"user {number}") for number in range(100)]
    for number, client in enumerate(clients):
        client.ask(number)
    while not place.log.reads:
        await turns(1)
    place.fill_turns(POLLS * 50, "page of r")
    await turns(30)
    assert place.log.reads <= PAGE_READS
    for client in clients:
        await client.answered()
    assert keeper.poll is not None
    keeper.poll.cancel()
    await place.end()


async def test_a_log_that_does_not_answer_is_told_and_nothing_stays() -> None:
    place = Place(MemoryLog(), ring_bytes=0)
    place.log.add("x")
    client = place.client()
    place.log.fail_next = True
    client.ask(0)
    await eventually(lambda: client.answer is not None)
    assert isinstance(client.answer, LogUnavailable)
    await place.end()


async def test_a_room_that_cannot_be_opened_is_told_and_is_opened_for_the_next() -> None:
    place = Place(MemoryLog())
    openings = place.log.openings

    async def fail(rooms: Any) -> dict[str, tuple[int, bool]]:
        place.hub.openings.query = openings  # it fails once
        raise LogUnavailable("of the test")

    place.hub.openings.query = fail
    client = place.client()
    client.ask(0)
    await eventually(lambda: client.answer is not None)
    assert isinstance(client.answer, LogUnavailable)
    await place.waiting(client, 0)
    place.say()
    await client.answered()
    await place.end()


async def test_a_busy_room_answers_in_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them each would be answered, and ask again, for each event."""
    monkeypatch.setattr(watch, "ANSWER_SECONDS", 0.03)
    place = Place(MemoryLog())
    clients = [place.client(f"user {number}") for number in range(10)]
    for client in clients:
        client.ask(0)
    await place.standing(10)
    events = 30
    for _ in range(events):
        place.say()
        await turns(3)
        for client in clients:
            if client.answer is not None:
                client.take()
                client.ask()
    while any(client.cursor < events for client in clients):
        await asyncio.sleep(0.001)
        for client in clients:
            if client.answer is not None:
                client.take()
                if client.cursor < events:
                    client.ask()
    assert sum(client.answers for client in clients) < len(clients) * events / 4
    for client in clients:
        if client.poll is not None:
            client.poll.cancel()
    await place.end()


async def test_who_comes_after_a_round_waits_for_the_next_and_who_is_behind_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "ANSWER_SECONDS", 0.3)
    place = Place(MemoryLog())
    client, other, behind = place.client("one"), place.client("two"), place.client("three")
    await place.waiting(client)
    place.say()
    await client.answered()
    place.say()
    await turns(5)
    other.ask(1)
    behind.ask(0)
    await turns(30)
    assert other.answer is None
    assert len(events_of(await behind.answered())) == 2
    assert [event["seq"] for event in events_of(await other.answered())] == [2]
    await place.end()


async def test_a_round_does_not_wait_for_ever() -> None:
    place = Place(MemoryLog())
    client = place.client()
    await place.waiting(client)
    room_watch = place.room.watched()
    for _ in range(round(LONGEST_SECONDS / watch.ANSWER_SECONDS) * 2):
        room_watch.answers_now(place.room.flushed)
        room_watch._pay(1)
    assert room_watch._paid <= place.hub.shared.loop.time() + LONGEST_SECONDS
    assert client.poll is not None
    client.poll.cancel()
    await place.end()


async def test_few_answers_are_given_in_one_loop_turn() -> None:
    place = Place(MemoryLog())
    clients = [place.client(f"user {number}") for number in range(200)]
    for client in clients:
        client.ask(0)
    await place.standing(200)
    place.say()
    most = before = 0
    while before < 200:
        await turns(1)
        now = sum(client.answers for client in clients)
        most = max(most, now - before)
        before = now
    assert most <= POLLS
    await place.end()


async def test_a_room_with_many_who_poll_makes_no_other_wait() -> None:
    place = Place(MemoryLog())
    client = place.client()
    await place.waiting(client)
    place.fill_turns(10_000, "another")
    place.say()
    await turns(10)
    await client.answered()
    assert len(place.hub.shared.turns.polls._queues["another"]) > 9_000
    await place.end()


async def test_one_who_polls_alone_waits_for_no_round() -> None:
    place = Place(MemoryLog())
    client = place.client()
    await place.waiting(client, 0)
    for number in range(1, 6):
        place.say()
        await client.answered()
        client.take()
        assert client.cursor == number
        client.ask()
    assert client.poll is not None
    client.poll.cancel()
    await place.end()


async def test_who_polls_is_present_until_some_time_after_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stays_module, "LINGER_SECONDS", 0.05)
    place = Place(MemoryLog())
    client, other = place.client(), place.client()
    await place.waiting(client, 0)
    room = place.room
    assert room.presence.names == {"ann": "Ann"}
    other.ask(0)
    place.say()
    await client.answered()
    await other.answered()
    assert room.presence.names == {"ann": "Ann"}
    assert place.hub.rooms
    await eventually(lambda: not room.presence.names)
    assert not place.hub.rooms
    await place.end()


async def test_who_polls_on_was_never_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stays_module, "LINGER_SECONDS", 2.0)
    place = Place(MemoryLog())
    client = place.client()
    await place.waiting(client, 0)
    departed = place.room.presence.departed
    for _ in range(25):
        place.say()
        await client.answered()
        client.take()
        await asyncio.sleep(0.1)
        client.ask()
    assert not departed
    assert client.poll is not None
    client.poll.cancel()
    await place.end()


async def test_guests_without_a_token_are_nobody_and_stay_as_one() -> None:
    place = Place(MemoryLog())
    for _ in range(3):
        place.client(None).ask(0)
    await place.standing(3)
    assert not place.room.presence.names
    assert len(place.polls.stays) == 1
    place.say()
    await eventually(lambda: not place.polls.waiting)
    await place.end()


async def test_many_who_end_their_stay_do_so_a_slice_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stays_module, "LINGER_SECONDS", 0.05)
    place = Place(MemoryLog())
    clients = [place.client(f"user {number}") for number in range(SWEPT * 3)]
    for client in clients:
        client.ask(0)
    await place.standing(len(clients))
    room = place.room
    place.say()
    await eventually(lambda: not place.polls.waiting)
    before, most = len(place.polls.stays), 0
    while before:
        await asyncio.sleep(0)
        now = len(place.polls.stays)
        most = max(most, before - now)
        before = now
    assert most <= SWEPT
    assert not room.presence.names
    await place.end()


async def test_beyond_their_bound_stays_do_not_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stays_module, "STAYS", 1)
    place = Place(MemoryLog())
    first, second = place.client("one"), place.client("two")
    first.ask(0)
    second.ask(0)
    await place.standing(2)
    place.say()
    await first.answered()
    await second.answered()
    assert len(place.polls.stays) == 1
    await place.end()


async def test_who_stays_does_not_join_anew() -> None:
    place = Place(MemoryLog())
    place.limits = Limits(Settings(join_rate=1), 0, lambda: 0.0)
    place.polls = Polls(place.hub, place.limits)
    client = place.client()
    for _ in range(5):
        await place.waiting(client)
        place.say()
        await client.answered()
        client.take()
    strangers = [place.client(f"stranger {number}") for number in range(2)]
    strangers[0].ask(place.room.head)
    with pytest.raises(ChatError) as refused:
        strangers[1].ask(place.room.head)
    assert refused.value.code is ErrorCode.RATE_LIMITED
    for poll in list(place.polls.waiting):
        poll.cancel()
    await place.end()


async def test_a_drain_answers_all_and_everybody_is_away() -> None:
    place = Place(MemoryLog())
    clients = [place.client(f"user {number}") for number in range(40)]
    for client in clients:
        client.ask(0)
    await place.standing(40)
    place.polls.drain()
    for client in clients:
        assert (await client.answered()).events == b""
    assert not place.hub.rooms
    late = place.client()
    late.ask(0)
    await late.answered()
    assert not place.hub.rooms
    await place.end()


async def test_a_session_that_is_revoked_or_expires_is_told_so() -> None:
    place = Place(MemoryLog())
    revoked, expired, other = place.client("one"), place.client("two"), place.client("three")
    revoked.identity = revoked.identity.__class__("one", "One", jti="j")
    expired.identity = expired.identity.__class__("two", "Two", expires_at=0.0)
    for client in (revoked, expired, other):
        client.ask(0)
    await eventually(lambda: expired.answer is not None)
    place.polls.end_sessions({"j"})
    for client in (revoked, expired):
        assert isinstance(client.answer, ChatError)
        assert client.answer.code is ErrorCode.UNAUTHORIZED
    assert other.poll is not None
    assert set(place.room.presence.names) == {"three"}
    other.poll.cancel()
    await place.end()
