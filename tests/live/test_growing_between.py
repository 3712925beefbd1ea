"""Messages that grow, between servers on one log: readers, authors and stops anywhere, with Redis and without.

They run in one process here, each with its own hub and its own connections: what is true between them is what is true
between processes. Real processes are killed in tests/processes/test_growing_deaths.py.
"""

from __future__ import annotations

import asyncio
import sqlite3
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.live.test_growing import Text, append, author, bearer, begin, finish, posted, read, reader
from tests.support.chat import Client, Running, eventually, running
from tests.support.redis_servers import redis_of_the_session, redis_server
from tornado_chat.errors import LogUnavailable
from tornado_chat.live import growing_elsewhere, growing_messages
from tornado_chat.log.growing import Checkpoint
from tornado_chat.verify.redis_server import RedisServer
from tornado_chat.wire.replies import Chunk

pytest_plugins = ["tests.support.postgres_servers"]
__all__ = ["redis_of_the_session", "redis_server"]

KINDS = ["sqlite", "sqlite + redis", "postgresql + redis"]


@asynccontextmanager
async def servers(path: Path, count: int, database: str, redis: Sequence[str]) -> AsyncIterator[list[Running]]:
    """So many, in which nothing grows any more when they end, and nothing of it is left."""
    async with AsyncExitStack() as stack:
        settings: dict[str, Any] = {"database": database, "redis": tuple(redis), "siblings": count - 1}
        all = [await stack.enter_async_context(running(path, **settings)) for _ in range(count)]
        for here in all:
            await eventually(partial(_hears, here, redis))
        yield all
        for here in all:
            for client in here.clients:
                await client.close()
        for here in all:
            messages = here.server.context.growing
            for message in list(messages.by_name.values()):
                message.ends_at = 0.0
        for here in all:
            await eventually(partial(_is_empty, here))
            assert here.server.hub.elsewhere.chars == 0


def _hears(here: Running, redis: Sequence[str]) -> bool:
    return not redis or here.server.hub.broker.available


def _is_empty(here: Running) -> bool:
    return not here.server.context.growing.by_name and not here.server.hub.growing


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, list[str]]:
    """The database, and the `--redis` URLs."""
    database = f"sqlite:///{tmp_path}/chat.db"
    if request.param.startswith("postgresql"):
        database = request.getfixturevalue("postgres_url")
    redis = [request.getfixturevalue("redis_server").url] if "redis" in request.param else []
    return database, redis


async def ends_with(client: Client, wanted: str, seq: int = 1, text: Text | None = None) -> Any:
    """Read on to the end, which has to be so."""
    found = await read(client, seq, text=text)
    assert (found.text, found.end["reason"]) == (wanted, "done")
    return found.end


async def test_it_grows_before_the_eyes_of_those_who_are_elsewhere(
    tmp_path: Path, place: tuple[str, list[str]]
) -> None:
    async with servers(tmp_path, 3, *place) as (one, two, three):
        ann, ben, bot = await reader(one), await reader(two, "ben"), await author(one)
        await begin(bot)
        text, words = "", [f"word {number} \U0001f600" for number in range(100)]
        for word in words:
            await append(bot, len(text), word)
            text += word
            await asyncio.sleep(0.002)
        found = await read(ben, until=text)
        assert found.chunks > 0
        cid = await reader(three, "cid")
        stream = await cid.until("stream")
        assert (stream["seq"], stream["gen"], stream["offset"], stream["done"]) == (1, 1, 0, False)
        late = await read(cid, until=text, text=_of(stream))
        fetched = await ben.ask(type="fetch", room="r", seq=1, offset=5)
        assert (fetched["text"], fetched["done"]) == (text[5:], False)
        history = await cid.ask(type="history", room="r")
        assert (history["messages"][0]["text"], history["messages"][0]["streaming"]) == (text, True)
        await append(bot, len(text), "the end")
        await finish(bot, len(text) + 7)
        for client, so_far in ((ann, None), (ben, found), (cid, late)):
            end = await ends_with(client, text + "the end", text=so_far)
            assert "text" not in end


def _of(stream: Any) -> Text:
    text = Text()
    text.take(stream, stream["seq"])
    return text


async def test_who_reads_elsewhere_where_nobody_reads_at_home(tmp_path: Path, place: tuple[str, list[str]]) -> None:
    async with servers(tmp_path, 2, *place) as (one, two):
        ben, bot = await reader(two, "ben"), await author(one)
        await begin(bot)
        await append(bot, 0, "first ")
        text = await read(ben, until="first ")
        await append(bot, 6, "second")
        await append(bot, 12, " third")
        await read(ben, until="first second third", text=text)
        await finish(bot, 18)
        await ends_with(ben, "first second third", text=text)


async def test_an_author_that_comes_to_another_server_goes_on_there(
    tmp_path: Path, place: tuple[str, list[str]]
) -> None:
    """The first one lets go; its readers, and all others, go on to be told."""
    async with servers(tmp_path, 3, *place) as all:
        readers = [await reader(here, f"ann{number}") for number, here in enumerate(all)]
        text = "".join(f"{number} " for number in range(2000))
        said, texts = 0, [Text() for _ in readers]
        bot = await author(all[0])
        for number in range(6):
            bot = await author(all[number % 3])
            ack = await begin(bot, replica="a")
            assert (ack["gen"], ack["seq"]) == (1, 1)
            assert ack["length"] <= said
            start = ack["length"]
            said += 700
            for offset in range(start, said, 100):
                await append(bot, offset, text[offset : min(said, offset + 100)])
            await bot.ask(type="presence", room="r")
            assert len(all[number % 3].server.context.growing.by_name) == 1
        await finish(bot, said)
        for client, so_far in zip(readers, texts, strict=True):
            await ends_with(client, text[:said], text=so_far)
        await eventually(lambda: not any(here.server.context.growing.by_name for here in all))


async def test_who_has_it_no_more_is_told_so(tmp_path: Path, place: tuple[str, list[str]]) -> None:
    async with servers(tmp_path, 2, *place) as (one, two):
        old = await author(one)
        await begin(old)
        await append(old, 0, "abc")
        new = await author(two)
        ack = await begin(new)
        await eventually(lambda: not one.server.context.growing.by_name)
        await append(old, 3, "lost")
        assert (await old.until("error"))["code"] == "conflict"
        gone = await finish(old, 3)
        assert (gone["code"], gone["stream"]) == ("conflict", "re:1")
        await append(new, ack["length"], "abcdef"[ack["length"] :])
        assert (await finish(new, 6))["seq"] == 2
        assert (await finish(old, 6))["duplicate"] is True, "the one that was committed"
        late = await finish(old, 6, id="another")
        assert late["code"] == "conflict"
        ack = await begin(old)
        assert (ack["reason"], ack["length"], ack["duplicate"]) == ("done", 6, True)
        await append(old, 6, "late")
        error = await old.until("error")
        assert (error["code"], error["reason"]) == ("conflict", "done")


async def test_who_writes_on_when_it_has_ended_elsewhere_is_told_why(
    tmp_path: Path, place: tuple[str, list[str]]
) -> None:
    async with servers(tmp_path, 2, *place) as (one, two):
        old, new = await author(one), await author(two)
        for id in ("re:ended", "re:again", "re:moved"):
            await begin(old, id)
            await begin(new, id)
        await finish(new, 0, "re:ended", "error")
        await finish(new, 0, "re:again")
        await eventually(lambda: not one.server.context.growing.by_name)
        await append(old, 0, "late", "re:ended")
        await append(old, 4, "later", "re:ended")
        for _ in range(2):
            error = await old.until("error")
            assert (error["code"], error["reason"], error["stream"]) == ("conflict", "error", "re:ended")
        await append(old, 0, "on", "re:moved")
        error = await old.until("error")
        assert (error["code"], error["stream"], "reason" in error) == ("conflict", "re:moved", False)
        answers = await posted(
            one,
            {"type": "begin", "id": "re:again", "room": "r"},
            {"type": "append", "id": "a", "room": "r", "stream": "re:again", "offset": 0, "text": "late"},
            {"type": "ping", "id": "p"},
        )
        assert [(one.get("id"), one.get("reason")) for one in answers] == [
            ("re:again", "done"), ("a", "done"), ("p", None),
        ]  # fmt: skip
        await finish(new, 0, "re:moved")


async def test_what_has_moved_and_ended_before_that_was_noticed_is_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The room was told of the end by then: nothing counts on as a copy, or waits for the end for ever."""
    monkeypatch.setattr(growing_messages, "TICK_SECONDS", 60.0)
    async with servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db", []) as (one, two):
        keeper, ann = await author(two), await reader(one)
        await begin(keeper, "re:keep")  # the room goes on to have something that grows
        for number, id in enumerate(("re:moved", "re:finished")):
            old, new = await author(one), await author(two)
            await begin(old, id)
            await append(old, 0, "abc", id)
            await begin(new, id)
            await append(new, 0, "abc", id)
            await finish(new, 3, id)
            await ends_with(ann, "abc", 2 + 2 * number)
            if number:
                assert (await finish(old, 2, id, key="late"))["code"] == "conflict"
                assert not one.server.context.growing.by_name
            else:
                one.server.context.growing.on_moved()
                await eventually(lambda: not one.server.context.growing.by_name)
            assert one.server.hub.elsewhere.chars == 0
        await finish(keeper, 0, "re:keep")
        monkeypatch.undo()
        for here in (one, two):
            here.server.context.growing.on_moved()


async def test_what_was_told_before_its_author_went_elsewhere_is_handed_over(
    tmp_path: Path, place: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The author is told what the checkpoints hold, and the message is stopped before all of it is said again."""
    monkeypatch.setattr(growing_messages, "HANDED_SECONDS", 0.0)
    monkeypatch.setattr(growing_messages, "STOP_SECONDS", 3 * growing_messages.TICK_SECONDS)
    async with servers(tmp_path, 2, *place) as (one, two):
        ann, bot, anybody = await reader(one), await author(one), {one: await author(one), two: await author(two)}
        cases = [(0, 0, two, True), (0, 3, two, True), (10, 3, two, True), (10, 3, two, False), (10, 3, one, False)]
        for number, (kept, again, where, stays) in enumerate(cases):
            id, seq, text = f"re:{number}", 1 + 2 * number, "what was \U0001f600 shown " * 5
            await begin(bot, id)
            await append(bot, 0, text[:kept], id)
            shown = await read(ann, seq, until=text[:kept])
            await one.server.context.growing.checkpoint()
            await append(bot, kept, text[kept:], id)
            await read(ann, seq, until=text, text=shown)
            other = await author(two)
            ack = await begin(other, id)
            await append(other, ack["length"], text[ack["length"] :][:again], id)
            if not stays:
                await other.close()
            await anybody[where].send(type="stop", id=f"stop {number}", room="r", seq=seq)
            end = (await read(ann, seq, text=shown)).end
            assert (end["reason"], end["length"]) == ("stopped", len(text))
            await other.close()


async def test_the_connection_before_says_nothing_more(tmp_path: Path, place: tuple[str, list[str]]) -> None:
    """Whatever it said counts, or nothing of it: the `length` that the new one is told has it."""
    async with servers(tmp_path, 2, *place) as (one, two):
        ann, ben, old, new = await reader(one), await reader(two), await author(one), await author(two)
        for number in range(5):
            id, seq = f"re:{number}", 1 + 2 * number
            await begin(old, id)
            await append(old, 0, "from one,", id)
            shown = await read(ben, seq, until="from one,")
            _, ack = await asyncio.gather(_go_on(old, id, 9, 50), begin(new, id))
            length = ack["length"]
            text = (
                "from one,"
                + "".join(f" {word:03}" for word in range(50))[: length - 9]
                + " from two, and longer than before"
            )
            await append(old, length, " from one again", id)
            assert (await old.until("error"))["code"] == "conflict"
            await append(new, length, text[length:], id)
            await finish(new, len(text), id)
            await ends_with(ann, text, seq)
            await ends_with(ben, text, seq, text=shown)


def _is_long(here: Running, seq: int, length: int) -> bool:
    message = here.server.context.growing.find("r", seq)
    return message is not None and message.length == length


async def _go_on(client: Client, id: str, start: int, words: int) -> None:
    for word in range(words):
        await append(client, start + 4 * word, f" {word:03}", id)
        await asyncio.sleep(0.002)


async def test_acks_of_a_room_come_in_order_though_a_begin_waits(tmp_path: Path, place: tuple[str, list[str]]) -> None:
    async with servers(tmp_path, 2, *place) as (one, two):
        old, new = await author(one), await author(two)
        for id in ("re:1", "re:2"):
            await begin(old, id)
            await append(old, 0, "what is handed over", id)
        await new.send(type="begin", id="re:1", room="r")
        await new.send(type="send", id="between", room="r", text="x")
        await new.send(type="begin", id="re:2", room="r")
        await new.send(type="follow", id="followed", room="r", level="nothing")
        await new.send(type="send", id="elsewhere", room="other", text="x")
        await new.send(type="send", id="last", room="r", text="x")
        answers = [answer async for answer in _answers(new, 6)]
        assert [one["id"] for one in answers if one["id"] != "elsewhere"] == [
            "re:1", "between", "re:2", "followed", "last",
        ]  # fmt: skip
        assert [one["length"] for one in answers if one["id"].startswith("re:")] == [19, 19]


async def test_a_process_that_ends_answers_who_waits_for_a_hand_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing_messages, "HANDED_SECONDS", 60.0)
    async with servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db", []) as (one, two):
        old, new = await author(one), await author(two)
        slow, ends = one.server.context.growing, two.server.context.growing
        await begin(old)
        await append(old, 0, "what was said")
        await eventually(partial(_is_long, one, 1, 13))
        with monkeypatch.context() as slowed:
            slowed.setattr(slow, "_turn", partial(asyncio.sleep, 0))
            await asyncio.sleep(growing_messages.TICK_SECONDS)  # it may be in the middle of one
            asked = asyncio.create_task(begin(new))
            await eventually(lambda: ends.by_name)
            goes_on = asyncio.Event()
            slowed.setattr(ends, "_turn", goes_on.wait)
            await asyncio.sleep(growing_messages.TICK_SECONDS)  # nobody else answers any more
            await ends.leave()
            assert (await asked)["length"] == 0  # what one has is not handed over yet
            goes_on.set()
        slow.on_moved()
        await eventually(lambda: not slow.by_name)


async def test_no_answer_waits_for_a_process_that_had_it_and_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never says that it has handed over all: so each `stop` of it took a second more, for it begins it again."""
    monkeypatch.setattr(growing_messages, "HANDED_SECONDS", 3600.0)
    monkeypatch.setattr(growing_messages, "HAND_OVER_SECONDS", 0.2)
    async with servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db", []) as (one, two):
        old, new = await author(one), await author(two)
        dead = one.server.context.growing
        await begin(old)
        await append(old, 0, "what was said")
        await eventually(partial(_is_long, one, 1, 13))
        with monkeypatch.context() as slowed:
            slowed.setattr(dead, "_turn", partial(asyncio.sleep, 0))
            await asyncio.sleep(growing_messages.TICK_SECONDS)  # it may be in the middle of one
            await asyncio.wait_for(begin(new), 10)
            await asyncio.wait_for(begin(new), 10)
            dead.on_moved()
        await eventually(lambda: not dead.by_name)


@pytest.mark.logs("begin not answered room=r")
async def test_an_answer_that_fails_keeps_no_other_from_being_given(tmp_path: Path) -> None:
    async with servers(tmp_path, 1, f"sqlite:///{tmp_path}/chat.db", []) as (one,):
        bot, messages, answered = await author(one), one.server.context.growing, asyncio.Event()
        await begin(bot)
        message = messages.find("r", 1)
        assert message is not None
        messages.when_handed(message, partial(divmod, 1, 0))
        messages.when_handed(message, answered.set)
        await asyncio.wait_for(answered.wait(), 10)
        await append(bot, 0, "kept")
        await finish(bot, 4)


async def _answers(client: Client, count: int) -> AsyncIterator[Any]:
    while count:
        got = await client.receive()
        if got["type"] in ("ack", "error"):
            count -= 1
            yield got


async def test_what_a_slow_process_hands_over_counts_where_it_fits(
    tmp_path: Path, place: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing_messages, "HANDED_SECONDS", 0.0)
    async with servers(tmp_path, 2, *place) as (one, two):
        ann, old, new, slow = await reader(one), await author(one), await author(two), one.server.context.growing
        for number, (said, whole) in enumerate([("what w", "what was said"), ("another", "another text")]):
            id, seq = f"re:{number}", 1 + 2 * number
            await begin(old, id)
            await append(old, 0, "what was said", id)
            await read(ann, seq, until="what was said")
            with monkeypatch.context() as slowed:
                slowed.setattr(slow, "_turn", partial(asyncio.sleep, 0))
                await asyncio.sleep(growing_messages.TICK_SECONDS)  # it may be in the middle of one
                assert (await begin(new, id))["length"] == 0
                await append(new, 0, said, id)
                await eventually(partial(_is_long, two, seq, len(said)))
            slow.on_moved()
            await eventually(lambda: not slow.by_name)
            await append(new, len(said), whole[len(said) :], id)
            await finish(new, len(whole), id)
            assert (await ann.until("finished"))["crc"] == zlib.crc32(whole.encode())


async def test_what_a_request_appended_to_what_has_moved_does_not_count_as_kept(
    tmp_path: Path, place: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits for the log another process takes the message, and what this one hands over does not arrive."""
    monkeypatch.setattr(growing_messages, "HANDED_SECONDS", 0.0)
    first = {"type": "begin", "id": "re:1", "room": "r"}
    part = {"type": "append", "room": "r", "stream": "re:1"}
    async with servers(tmp_path, 2, *place) as (one, two):
        slow, log = one.server.context.growing, one.server.log
        await posted(one, first, part | {"offset": 0, "text": "first "})
        real, asked, held = log.checkpoint, asyncio.Event(), asyncio.Event()

        async def late(home: str, parts: Sequence[Checkpoint]) -> list[bool]:
            asked.set()
            await held.wait()
            return await real(home, parts)

        async def refuse(home: str, parts: Sequence[Checkpoint]) -> None:
            raise LogUnavailable("not now")

        with monkeypatch.context() as patch:
            patch.setattr(log, "checkpoint", late)
            patch.setattr(log, "hand_over", refuse)
            request = asyncio.create_task(posted(one, first, part | {"offset": 6, "text": "second"}))
            await asked.wait()
            assert (await posted(two, first))[0]["length"] == 6
            slow.on_moved()
            await eventually(lambda: not slow.by_name)
            held.set()
            assert (await request)[1]["code"] == "unavailable"
        ack, nothing = await posted(two, first, part | {"offset": 6, "text": "second"})
        assert (ack["length"], nothing) == (6, None)


async def test_what_a_request_appended_to_what_has_ended_elsewhere_does_not_count_as_kept(
    tmp_path: Path, place: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {"type": "begin", "id": "re:1", "room": "r"}
    part = {"type": "append", "room": "r", "stream": "re:1"}
    end = {"type": "finish", "id": "f", "room": "r", "stream": "re:1", "length": 6, "reason": "done"}
    async with servers(tmp_path, 2, *place) as (one, two):
        slow, log = one.server.context.growing, one.server.log
        await posted(one, first, part | {"offset": 0, "text": "first "})
        real, asked, held = log.checkpoint, asyncio.Event(), asyncio.Event()

        async def late(home: str, parts: Sequence[Checkpoint]) -> list[bool]:
            asked.set()
            await held.wait()
            return await real(home, parts)

        with monkeypatch.context() as patch:
            patch.setattr(log, "checkpoint", late)
            patch.setattr(slow, "_turn", partial(asyncio.sleep, 0))
            patch.setattr(growing_messages, "HANDED_SECONDS", 0.0)
            request = asyncio.create_task(posted(one, first, part | {"offset": 6, "text": "second"}))
            await asked.wait()
            assert [said["type"] for said in await posted(two, first, end)] == ["ack", "ack"]
            held.set()
            assert (await request)[1]["code"] == "unavailable"


async def test_a_stop_reaches_the_author_wherever_it_is_said(tmp_path: Path, place: tuple[str, list[str]]) -> None:
    async with servers(tmp_path, 3, *place) as (one, two, three):
        ann, bot, other = await reader(two), await author(one), await author(three)
        await begin(bot)
        await append(bot, 0, "well")
        await read(ann, until="well")
        await ann.send(type="stop", id="none", room="r")
        assert (await ann.until("error", id="none"))["code"] == "not_found"
        moderator = await author(two, "mod", moderator=True)
        await moderator.send(type="stop", id="s", room="r", seq=1)
        for client in (bot, other):
            assert (await client.until("stop")) == {"type": "stop", "room": "r", "seq": 1, "by": "mod"}
        await finish(bot, 4, reason="stopped")
        await moderator.until("ack", id="s")
        assert (await ann.until("finished"))["reason"] == "stopped"


async def test_a_deletion_elsewhere_stops_it_first(
    tmp_path: Path, place: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing_messages, "STOP_SECONDS", 0.2)
    async with servers(tmp_path, 2, *place) as (one, two):
        bot, other = await author(one), await author(two)
        await begin(bot)
        await append(bot, 0, "secret")
        assert (await other.ask(type="delete", room="r", id="d", seq=1))["seq"] == 3


async def test_another_replica_hears_of_an_orphan_and_takes_it_over(
    tmp_path: Path, place: tuple[str, list[str]]
) -> None:
    async with servers(tmp_path, 3, *place) as (one, two, three):
        ann = await reader(three)
        first, second = await author(one), await author(two)
        await second.ask(type="join", room="~")
        await second.until("synced")
        await begin(first, replica="1")
        assert (await begin(second, replica="2"))["held"] is True
        refused = await begin(second, replica="2", take_over=True)
        assert (refused["code"], refused["gen"]) == ("conflict", 1)
        await append(first, 0, "the first one's")
        text = await read(ann, until="the first one's")
        first.socket.close()
        assert await second.until("orphaned") == {"type": "orphaned", "room": "r", "seq": 1, "id": "re:1"}
        ack = await begin(second, replica="2", take_over=True)
        assert (ack["gen"], ack["length"]) == (2, 0)
        await append(second, 0, "anew")
        await read(ann, until="anew", text=text)
        assert text.gen == 2
        await finish(second, 4)
        await ends_with(ann, "anew", text=text)
        await eventually(lambda: not one.server.context.growing.by_name)


async def test_a_hole_is_filled_once_by_who_has_the_message(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = f"sqlite:///{tmp_path}/chat.db"
    async with servers(tmp_path, 2, database, [redis_server.url]) as (one, two):
        readers = [await reader(two, f"ann{number}") for number in range(3)]
        bot = await author(one)
        await begin(bot)
        await append(bot, 0, "heard ")
        texts = [await read(client, until="heard ") for client in readers]
        asked, publish_wanted = [], two.server.hub.broker.publish_wanted

        def count(*wanted: Any) -> None:
            asked.append(wanted)
            publish_wanted(*wanted)

        monkeypatch.setattr(two.server.hub.broker, "publish_wanted", count)
        monkeypatch.setattr(two.server.log, "parts", None)  # the log is not needed
        on_appended = two.server.hub.on_appended
        monkeypatch.setattr(two.server.hub, "on_appended", lambda *_: None)
        (message,) = one.server.context.growing.by_name.values()
        await append(bot, 6, "lost ")
        await eventually(lambda: message.sent == 11)
        await asyncio.sleep(0.1)
        monkeypatch.setattr(two.server.hub, "on_appended", on_appended)
        await append(bot, 11, "found")
        for client, text in zip(readers, texts, strict=True):
            await read(client, until="heard lost found", text=text)
        assert asked == [(one.server.uid, "r", 1, 1, 6)]
        monkeypatch.undo()
        await finish(bot, 16)


async def test_a_hole_that_nobody_fills_is_filled_from_the_checkpoint(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing_messages, "KEEP_SECONDS", 0.1)
    monkeypatch.setattr(growing_elsewhere, "ANSWER_SECONDS", 0.2)
    database = f"sqlite:///{tmp_path}/chat.db"
    async with servers(tmp_path, 2, database, [redis_server.url]) as (one, two):
        ann, bot = await reader(two), await author(one)
        await begin(bot)
        await append(bot, 0, "heard ")
        text = await read(ann, until="heard ")
        monkeypatch.setattr(one.server.hub, "on_wanted", lambda *_: None)
        on_appended = two.server.hub.on_appended

        def lose(room: str, worker: str, chunks: list[Chunk]) -> None:
            on_appended(room, worker, [chunk for chunk in chunks if chunk[2] >= 11])

        monkeypatch.setattr(two.server.hub, "on_appended", lose)
        (message,) = one.server.context.growing.by_name.values()
        await append(bot, 6, "lost ")
        await eventually(lambda: message.sent == 11)
        await append(bot, 11, "found")
        await read(ann, until="heard lost found", text=text)
        await finish(bot, 16)
        await ends_with(ann, "heard lost found", text=text)


async def test_who_lacks_something_at_the_end_gets_it_with_the_end(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = f"sqlite:///{tmp_path}/chat.db"
    async with servers(tmp_path, 2, database, [redis_server.url]) as (one, two):
        monkeypatch.setattr(two.server.hub, "on_appended", lambda *_: None)
        ann, bot = await reader(two), await author(one)
        await begin(bot)
        await append(bot, 0, "never heard of")
        await finish(bot, 14)
        await ends_with(ann, "never heard of")


async def test_there_is_a_bound_for_what_grows_elsewhere(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing_elsewhere, "COPIED_CHARS", 1000)
    monkeypatch.setattr(growing_elsewhere, "logger", _Quiet())
    database = f"sqlite:///{tmp_path}/chat.db"
    async with servers(tmp_path, 2, database, [redis_server.url]) as (one, two):
        ann, bot = await reader(two), await author(one)
        await begin(bot)
        await begin(bot, "re:2")
        await append(bot, 0, "x" * 900, "re:2")
        small = await read(ann, 2, until="x" * 900)
        await append(bot, 0, "y" * 900)
        await eventually(lambda: two.server.hub.elsewhere.chars == 900)
        await append(bot, 900, "x", "re:2")
        await read(ann, 2, until="x" * 901, text=small)
        await finish(bot, 900)
        end = await read(ann)
        assert end.text == "y" * 900
        assert end.end["crc"] == zlib.crc32(b"y" * 900)
        await finish(bot, 901, "re:2")
        await ends_with(ann, "x" * 901, 2, text=small)


class _Quiet:
    def warning(self, *_: object) -> None: ...

    def debug(self, *_: object) -> None: ...


@pytest.mark.logs("redis is away")
async def test_without_its_redis_what_grows_comes_late_and_whole(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as own:
        async with servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db", [own.url]) as (one, two):
            ann, bot = await reader(two), await author(one)
            await begin(bot)
            await append(bot, 0, "heard ")
            text = await read(ann, until="heard ")
            await asyncio.to_thread(own.stop)
            await eventually(lambda: not two.server.hub.broker.available)
            await append(bot, 6, "late ")
            await read(ann, until="heard late ", text=text)
            await asyncio.to_thread(own.start)
            await eventually(lambda: two.server.hub.broker.available and one.server.hub.broker.available)
            await append(bot, 11, "and soon")
            await read(ann, until="heard late and soon", text=text)
            await finish(bot, 19)
            await ends_with(ann, "heard late and soon", text=text)
            ben = await two.connect(headers=bearer("ben"))
            assert (await ben.ask(type="fetch", room="r", seq=1))["done"] is True


async def test_an_end_that_comes_too_late_takes_nothing_from_who_goes_on_here(tmp_path: Path) -> None:
    async with servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db", []) as (one, two):
        old, away, new = await author(one), await author(two), await author(one)
        await begin(old)
        await begin(away)
        await eventually(lambda: not one.server.context.growing.by_name)
        with closing(sqlite3.connect(tmp_path / "chat.db", isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            await new.send(type="begin", id="re:1", room="r")
            await eventually(lambda: one.server.publisher.queued == 1)
            await old.send(type="finish", id="late", room="r", stream="re:1", length=0, reason="done")
            await eventually(lambda: one.server.publisher.queued == 2)
            lock.execute("ROLLBACK")
        await new.until("ack", id="re:1")
        assert (await old.until("error", id="late"))["code"] == "conflict"
        await append(new, 0, "goes on")
        assert (await finish(new, 7))["seq"] == 2
