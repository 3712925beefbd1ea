"""Group commit over a log that is slow, fails, or fails after it has committed: bounds hold, nothing is doubled."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat import Running, eventually, running
from tests.support.raw_chat import AsyncChat
from tornado_chat.errors import ChatError, ErrorCode, LogUnavailable
from tornado_chat.live import publisher as publisher_module
from tornado_chat.live import room as room_module
from tornado_chat.live import session as session_module
from tornado_chat.live.hub import Hub
from tornado_chat.live.session import Session
from tornado_chat.log import Appended, Entry

Batch = Sequence[Entry]


class Gate:
    """Stands before a server's `log.append`: holds commits back, and makes them fail, before or after they are done.

    Nothing goes into a commit that it holds.
    """

    def __init__(self, here: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        self.append = here.server.log.append
        self.open = asyncio.Event()
        self.open.set()
        self.waiting = 0  # entries that a commit under way holds
        self.batches: list[int] = []
        self.before: list[Exception] = []  # what the next commits fail with, without being done
        self.after: list[Exception] = []  # or although they are done
        monkeypatch.setattr(here.server.log, "append", self)

    async def __call__(self, batch: Batch, limit: int) -> list[Appended | ChatError]:
        batch = batch[:limit]
        self.waiting = len(batch)
        await self.open.wait()
        self.waiting = 0
        self.batches.append(len(batch))
        if self.before:
            raise self.before.pop(0)
        outcomes = await self.append(batch)
        if self.after:
            raise self.after.pop(0)
        return outcomes


def port(here: Running) -> int:
    return int(here.address.rpartition(":")[2])


def sends(name: str, count: int, room: str = "r", text: str = "x") -> list[dict[str, Any]]:
    return [{"type": "send", "room": room, "text": text, "id": f"{name} {number}"} for number in range(count)]


async def acks_of(chat: AsyncChat, name: str, count: int) -> list[int]:
    """Read the acks of `sends(name, count)`, which must come in order, and nothing else than events between them."""
    seqs: list[int] = []
    while len(seqs) < count:
        got = await chat.hear()
        if got["type"] == "ack":
            assert got["id"] == f"{name} {len(seqs)}"
            assert "duplicate" not in got
            seqs.append(got["seq"])
        else:
            assert got["type"] == "message", got
    assert seqs == sorted(seqs)
    return seqs


async def connected(here: Running, stack: AsyncExitStack, count: int) -> list[AsyncChat]:
    return [await stack.enter_async_context(await AsyncChat.connect(port(here))) for _ in range(count)]


async def test_what_comes_while_a_commit_runs_goes_into_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as here, AsyncExitStack() as stack:
        gate = Gate(here, monkeypatch)
        chats = await connected(here, stack, 5)
        gate.open.clear()
        await chats[0].say(*sends("first", 1))
        await eventually(lambda: gate.waiting == 1)
        for number, chat in enumerate(chats):
            await chat.say(*sends(str(number), 10))
        await eventually(lambda: len(here.server.publisher.queue) == 1 + 50)
        gate.open.set()
        await acks_of(chats[0], "first", 1)
        for number, chat in enumerate(chats):
            await acks_of(chat, str(number), 10)
        assert gate.batches == [1, 50]


def sessions_of(here: Running) -> list[Session]:
    return [line.listener for line in here.server.lines.open if isinstance(line.listener, Session)]


def is_full(session: Session) -> bool:
    """It has as much unfinished as it may have, so that its client is not read."""
    held = len(session.held or ())
    return session.unanswered + held >= session_module.UNFINISHED or session.held_bytes > session_module.HELD_BYTES


@pytest.mark.parametrize("bound", ["entries", "chars"])
async def test_a_full_queue_stops_the_reading_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    text = "x" * (1 if bound == "entries" else 1000)
    most = 100
    monkeypatch.setattr(publisher_module, "QUEUE_ENTRIES", most if bound == "entries" else 10**9)
    monkeypatch.setattr(publisher_module, "QUEUE_CHARS", 10**9 if bound == "entries" else most * len(text))
    async with running(tmp_path) as here, AsyncExitStack() as stack:
        gate = Gate(here, monkeypatch)
        publisher = here.server.publisher
        chats = await connected(here, stack, 20)
        bystander = (await connected(here, stack, 1))[0]
        gate.open.clear()
        await bystander.say(*sends("before", 1, text=text))
        await eventually(lambda: gate.waiting == 1)
        writing = [
            asyncio.create_task(chat.say(*sends(str(number), 500, text=text))) for number, chat in enumerate(chats)
        ]
        await eventually(lambda: len(publisher.queue) == most and sum(map(is_full, sessions_of(here))) == len(chats))
        taken = here.server.lines.messages_in
        for _ in range(200):
            await asyncio.sleep(0)
        assert here.server.lines.messages_in == taken, "it goes on reading"
        assert taken <= 1 + len(chats) * session_module.UNFINISHED
        held = [session.held_bytes for session in sessions_of(here)]
        assert max(held) <= session_module.HELD_BYTES + 2 * len(text) + 200
        assert len(publisher.queue) == most, "over its bound"
        assert publisher.queued_chars == most * len(text)
        # Who wants something else is served.
        assert (await bystander.ask(type="ping", id="p"))["type"] == "pong"
        gate.open.set()
        await acks_of(bystander, "before", 1)
        seqs = [await acks_of(chat, str(number), 500) for number, chat in enumerate(chats)]
        await asyncio.gather(*writing)
        assert sorted(seq for some in seqs for seq in some) == list(range(2, 20 * 500 + 2))
        assert not here.server.metrics.errors
        assert publisher.queued_chars == 0
        assert not publisher.blocked


async def test_a_room_with_much_to_flush_stops_the_reading_of_those_who_send_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 50
    monkeypatch.setattr(room_module, "PENDING_EVENTS", most)
    async with running(tmp_path) as here, AsyncExitStack() as stack:
        member = await stack.enter_async_context(await AsyncChat.connect(port(here), "/ws/r"))
        await member.until("synced")
        chats = await connected(here, stack, 4)
        room = here.server.hub.rooms["r"]
        flush, held = room_module.Room._flush, asyncio.Event()
        highest = 0

        def held_flush(one: room_module.Room) -> None:
            nonlocal highest
            highest = max(highest, len(room.pending))
            if held.is_set() or one is not room:
                flush(one)
            else:
                here.server.loop.call_later(0.001, held_flush, one)

        monkeypatch.setattr(room_module.Room, "_flush", held_flush)
        writing = [asyncio.create_task(chat.say(*sends(str(number), 500))) for number, chat in enumerate(chats)]
        await eventually(lambda: len(room.blocked) >= len(chats) and here.server.publisher.idle.is_set())
        pending = len(room.pending)
        assert most <= pending <= most + len(chats) * session_module.UNFINISHED
        elsewhere = (await connected(here, stack, 1))[0]
        assert (await elsewhere.ask(type="send", room="elsewhere", text="x", id="e"))["seq"] == 1
        assert len(room.pending) == pending
        held.set()
        for number, chat in enumerate(chats):
            await acks_of(chat, str(number), 500)
        await asyncio.gather(*writing)
        got = [(await member.until("message"))["seq"] for _ in range(2000)]
        assert got == list(range(1, 2001))
        assert highest <= most + len(chats) * session_module.UNFINISHED
        assert not here.server.metrics.errors


@pytest.mark.logs("log unavailable entries=10 reason=the disk is full")
async def test_a_log_that_fails_and_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as here, AsyncExitStack() as stack:
        gate = Gate(here, monkeypatch)
        member = await stack.enter_async_context(await AsyncChat.connect(port(here), "/ws/r"))
        await member.until("synced")
        chat = (await connected(here, stack, 1))[0]
        gate.before = [LogUnavailable("the disk is full")]
        await chat.say(*sends("a", 10))
        for number in range(10):
            got = await chat.hear()
            assert (got["type"], got["id"], got["code"]) == ("error", f"a {number}", "unavailable")
            assert "again with the same id" in got["message"]
        assert here.server.failing() == ["log"]
        await chat.say(*sends("a", 10))
        assert await acks_of(chat, "a", 10) == list(range(1, 11))
        assert here.server.failing() == []
        assert [(await member.hear())["id"] for _ in range(10)] == [f"a {number}" for number in range(10)]
        assert (await chat.ask(type="history", room="r", id="h"))["messages"][-1]["seq"] == 10
        assert here.server.metrics.errors == {"unavailable": 10}
        assert len(here.server.lines.open) == 2


@pytest.mark.logs("log unavailable entries=5 reason=no answer in time")
async def test_a_commit_whose_answer_was_lost_is_delivered_and_answered_as_a_duplicate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as here, AsyncExitStack() as stack:
        gate = Gate(here, monkeypatch)
        member = await stack.enter_async_context(await AsyncChat.connect(port(here), "/ws/r"))
        await member.until("synced")
        chat = (await connected(here, stack, 1))[0]
        gate.after = [LogUnavailable("no answer in time")]
        await chat.say(*sends("a", 5))
        assert [(await chat.hear())["code"] for _ in range(5)] == ["unavailable"] * 5
        # Nobody sends anything more: the poll of the heads finds them.
        assert [(await member.hear())["id"] for _ in range(5)] == [f"a {number}" for number in range(5)]
        await chat.say(*sends("a", 6))
        acks = [await chat.until("ack") for _ in range(6)]
        assert [ack.get("duplicate", False) for ack in acks] == [True] * 5 + [False]
        assert [ack["seq"] for ack in acks] == [1, 2, 3, 4, 5, 6]
        assert (await member.hear())["id"] == "a 5"
        await eventually(lambda: not here.server.failing())


@pytest.mark.logs("log unavailable entries=1 reason=no answer in time")
async def test_who_came_later_and_went_along_with_a_commit_whose_answer_was_lost_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as here, AsyncExitStack() as stack:
        member = await stack.enter_async_context(await AsyncChat.connect(port(here), "/ws/r"))
        await member.until("synced")
        first, second = await connected(here, stack, 2)
        append = here.server.log.append
        lost: list[object] = []

        async def lose(batch: Batch, limit: int) -> list[Appended | ChatError]:
            if lost:
                return await append(batch, limit)
            await eventually(lambda: len(batch) == 2)
            lost.append(await append(batch, limit))
            raise LogUnavailable("no answer in time")

        monkeypatch.setattr(here.server.log, "append", lose)
        await first.say(*sends("a", 1))
        await eventually(lambda: len(here.server.publisher.queue) == 1)
        await second.say(*sends("b", 1))
        assert (await first.hear())["code"] == "unavailable"
        ack = await second.hear()
        assert (ack["type"], ack["id"], ack["seq"], ack["duplicate"]) == ("ack", "b 0", 2, True)
        assert [(await member.hear())["id"] for _ in range(2)] == ["a 0", "b 0"]


async def no_poll(hub: Hub) -> None: ...


@pytest.mark.logs("log unavailable|log does not answer")
async def test_a_commit_that_was_given_up_takes_nothing_of_what_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may still be begun, when another process ends its turn, and its outcomes go nowhere."""
    async with running(tmp_path) as here, AsyncExitStack() as stack:
        chat = await stack.enter_async_context(await AsyncChat.connect(port(here)))
        given_up: list[Batch] = []
        append = here.server.log.append

        async def give_up(batch: Batch, limit: int) -> list[Appended | ChatError]:
            given_up.append(batch)
            monkeypatch.setattr(here.server.log, "append", append)
            raise LogUnavailable("of the test")

        monkeypatch.setattr(here.server.log, "append", give_up)
        assert (await chat.ask(type="send", room="r", text="one", id="1"))["code"] == "unavailable"
        assert (await chat.ask(type="send", room="r", text="two", id="2"))["type"] == "ack"
        assert [[entry.id for entry in batch] for batch in given_up] == [["1"]]


@pytest.mark.logs("log unavailable entries=1 reason=no answer in time")
async def test_the_next_event_brings_the_one_whose_answer_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the poll comes to it, and in order."""
    monkeypatch.setattr(Hub, "poll", no_poll)
    async with running(tmp_path) as here, AsyncExitStack() as stack:
        gate = Gate(here, monkeypatch)
        member = await stack.enter_async_context(await AsyncChat.connect(port(here), "/ws/r"))
        await member.until("synced")
        chat = (await connected(here, stack, 1))[0]
        gate.after = [LogUnavailable("no answer in time")]
        assert (await chat.ask(type="send", room="r", text="lost?", id="a"))["code"] == "unavailable"
        assert (await chat.ask(type="send", room="r", text="next", id="b"))["seq"] == 2
        assert [(await member.hear())["id"] for _ in range(2)] == ["a", "b"]
        gate.after = []
        # A duplicate's ack does it too.
        assert (await chat.ask(type="send", room="r", text="lost?", id="a"))["duplicate"] is True


@pytest.mark.logs("log unavailable entries=1 reason=no answer in time")
async def test_a_resend_brings_the_one_whose_answer_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub, "poll", no_poll)
    async with running(tmp_path) as here, AsyncExitStack() as stack:
        gate = Gate(here, monkeypatch)
        member = await stack.enter_async_context(await AsyncChat.connect(port(here), "/ws/r"))
        await member.until("synced")
        chat = (await connected(here, stack, 1))[0]
        gate.after = [LogUnavailable("no answer in time")]
        assert (await chat.ask(type="send", room="r", text="lost?", id="a"))["code"] == "unavailable"
        ack = await chat.ask(type="send", room="r", text="lost?", id="a")
        assert (ack["seq"], ack["duplicate"]) == (1, True)
        assert (await member.hear())["id"] == "a"


@pytest.mark.logs("commit failed")
@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_nobody_expected_is_unavailable_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    async with running(tmp_path) as here, AsyncExitStack() as stack:
        gate = Gate(here, monkeypatch)
        chat = await stack.enter_async_context(await AsyncChat.connect(port(here), "/ws/r"))
        await chat.until("synced")
        getattr(gate, when).append(RuntimeError("of the test"))
        await chat.say(*sends("a", 3))
        errors = [await chat.until("error") for _ in range(3)]
        assert [(error["id"], error["code"]) for error in errors] == [(f"a {n}", "unavailable") for n in range(3)]
        assert "of the test" not in errors[0]["message"], "what failed inside is nobody's business outside"
        await chat.say(*sends("a", 3))
        acks: list[Any] = []
        seen: list[Any] = []
        while len(acks) < 3 or len(seen) < 3:
            got = await chat.hear()
            (acks if got["type"] == "ack" else seen).append(got)
        assert [ack.get("duplicate", False) for ack in acks] == [when == "after"] * 3
        assert [message["id"] for message in seen] == ["a 0", "a 1", "a 2"]


async def test_an_entry_that_is_refused_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as here, AsyncExitStack() as stack:
        gate = Gate(here, monkeypatch)
        chat = (await connected(here, stack, 1))[0]
        gate.open.clear()
        await chat.say(*sends("first", 1))
        await eventually(lambda: gate.waiting)
        await chat.say(
            *sends("a", 2), {"type": "edit", "room": "r", "seq": 99, "text": "x", "id": "bad"}, *sends("b", 2)
        )
        gate.open.set()
        got = [await chat.hear() for _ in range(6)]
        assert {data["id"]: data.get("seq", data.get("code")) for data in got} == {
            "first 0": 1,
            "a 0": 2,
            "a 1": 3,
            "bad": ErrorCode.NOT_FOUND,
            "b 0": 4,
            "b 1": 5,
        }


async def test_what_waits_for_its_turn_is_carried_out_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as here, AsyncExitStack() as stack:
        gate = Gate(here, monkeypatch)
        chat = (await connected(here, stack, 1))[0]
        gate.open.clear()
        await chat.say(
            *sends("a", 3),
            {"type": "join", "room": "r", "last": 1, "id": "join"},
            *sends("b", 2),
            {"type": "history", "room": "r", "id": "history"},
            {"type": "read", "room": "r", "seq": 9, "id": "read"},
            {"type": "presence", "room": "r", "id": "presence"},
            {"type": "ping", "id": "ping"},
        )
        await eventually(lambda: gate.waiting)
        (session,) = [connection.listener for connection in here.server.lines.open]
        assert isinstance(session, session_module.Session)
        await eventually(lambda: len(session.held or ()) == 7)
        gate.open.set()
        got: list[Any] = []
        while not {"ping", 5} <= {data.get("id") if data["type"] != "message" else data["seq"] for data in got}:
            got.append(await chat.hear())
        gate.open.clear()
        await chat.say(*sends("c", 1), {"type": "leave", "room": "r", "id": "leave"}, *sends("d", 1))
        await eventually(lambda: gate.waiting and len(session.held or ()) == 2)
        gate.open.set()
        while got[-1].get("id") != "d 0":
            got.append(await chat.hear())
        answers = [data["id"] for data in got if data["type"] not in ("message", "read", "synced")]
        assert answers == [
            *["a 0", "a 1", "a 2", "join", "b 0", "b 1", "history", "read", "presence", "ping", "c 0", "leave", "d 0"]
        ]
        by_id = {data["id"]: data for data in got if "id" in data and data["type"] != "message"}
        assert (by_id["join"]["head"], by_id["join"]["cursor"]) == (3, 2)
        assert [message["seq"] for message in by_id["history"]["messages"]] == [1, 2, 3, 4, 5]
        assert by_id["presence"]["count"] == 1
        shown = [data["seq"] for data in got if data["type"] == "message"]
        assert shown in ([3, 4, 5], [3, 4, 5, 6]), "it may have left before the flush"
        left = got.index(by_id["leave"])
        assert [data["type"] for data in got[left + 1 :]] == ["ack"]


@pytest.mark.parametrize("descriptor", ["closed", "somebody else's"])
async def test_a_client_that_was_reset_in_the_middle_of_its_commits_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, descriptor: str
) -> None:
    """Its later acks find its descriptor closed, or given to somebody else."""
    async with running(tmp_path) as here, AsyncExitStack() as stack:
        gate = Gate(here, monkeypatch)
        other = (await connected(here, stack, 1))[0]
        gone = await AsyncChat.connect(port(here))
        gate.open.clear()
        await gone.say(*sends("first", 1))
        await eventually(lambda: gate.waiting == 1)
        await gone.say(*sends("gone", 200))
        await eventually(lambda: len(here.server.publisher.queue) >= session_module.UNFINISHED)
        await other.say(*sends("other", 3))
        await eventually(lambda: len(here.server.publisher.queue) >= session_module.UNFINISHED + 3)
        (connection,) = [
            connection
            for connection in here.server.lines.open
            if isinstance(connection.listener, session_module.Session)
            and connection.listener.user == gone.welcome["user"]
        ]
        gone.reset()
        await eventually(lambda: not connection._reading)  # it has seen that something is up, while it is paused
        first_commit, gate.open = gate.open, asyncio.Event()
        first_commit.set()
        await eventually(lambda: connection.closing and connection not in here.server.lines.open)
        others = [other]
        if descriptor != "closed":
            others += await connected(here, stack, 5)  # one of them has it, on one of its two ends
        gate.open.set()
        await acks_of(other, "other", 3)
        for number, chat in enumerate(others):
            assert (await chat.ask(type="ping", id="p"))["type"] == "pong"
            assert (await chat.ask(type="send", room="r", text="x", id=f"n {number}"))["type"] == "ack"
        assert not here.server.metrics.errors
        await eventually(lambda: len(here.server.lines.open) == len(others))


async def test_a_stop_finishes_what_was_read_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as here, AsyncExitStack() as stack:
        gate = Gate(here, monkeypatch)
        chat = (await connected(here, stack, 1))[0]
        gate.open.clear()
        await chat.say(*sends("a", 500))
        await eventually(lambda: gate.waiting and here.server.lines.messages_in >= session_module.UNFINISHED)
        stopping = asyncio.create_task(here.server.stop())
        await eventually(lambda: here.server.draining)
        gate.open.set()
        acks, closed = await chat.read_to_close()
        assert closed.code == 1012
        assert session_module.UNFINISHED <= len(acks) < 500
        assert [ack["seq"] for ack in acks] == list(range(1, len(acks) + 1))
        await chat.answer_close()
        await stopping
