"""Messages that grow, over real sockets: their authors, their readers, and how they end."""

from __future__ import annotations

import asyncio
import json
import os
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest

from tests.support.chat import SECRET, Client, Running, eventually, running
from tornado_chat.auth import mint
from tornado_chat.live import growing, growing_messages, writing
from tornado_chat.live.growing import STREAM_CHARS, Growing
from tornado_chat.live.growing_messages import OPEN_MESSAGES
from tornado_chat.live.limits import BEGIN_BYTES, FRAME_BYTES
from tornado_chat.live.session import Session
from tornado_chat.log import sqlite_growing
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.encodings import BARE, Encoding
from tornado_chat.wire.events import Event


def bearer(user: str, **claims: Any) -> dict[str, str]:
    return {"Authorization": "Bearer " + mint(SECRET, user, ttl=60, **claims)}


@asynccontextmanager
async def chat(path: Path, **settings: Any) -> AsyncIterator[Running]:
    """A server in which nothing grows any more when it ends, and nothing of it is left."""
    async with running(path, **settings) as here:
        yield here
        for client in here.clients:
            await client.close()
        messages = here.server.context.growing
        for message in list(messages.by_name.values()):
            message.ends_at = 0.0
        await eventually(lambda: not messages.by_name)
        await eventually(lambda: not here.server.hub.growing)
        assert not messages._open
        assert not here.server.hub.pace.sizes


async def author(here: Running, user: str = "bot", **claims: Any) -> Client:
    return await here.connect(headers=bearer(user, **claims))


async def reader(here: Running, user: str = "ann", **join: Any) -> Client:
    client = await here.connect(headers=bearer(user))
    client.joined = await client.ask(type="join", room="r", **join)
    await client.until("synced")
    return client


async def begin(client: Client, id: str = "re:1", **more: Any) -> Any:
    return await client.ask(type="begin", id=id, room="r", **more)


async def append(client: Client, offset: int, text: str, id: str = "re:1", **more: Any) -> None:
    await client.send(type="append", room="r", stream=id, offset=offset, text=text, **more)


async def finish(client: Client, length: int, id: str = "re:1", reason: str = "done", **more: Any) -> Any:
    more.setdefault("key", f"end {id}")
    more["id"] = more.pop("key")
    return await client.ask(type="finish", room="r", stream=id, length=length, reason=reason, **more)


def find(here: Running, seq: int = 1) -> Growing:
    message = here.server.context.growing.find("r", seq)
    assert message is not None
    return message


class Text:
    """The text of one message as a reader puts it together; every chunk must continue it."""

    def __init__(self) -> None:
        self.gen = 0
        self.text = ""
        self.chunks = 0
        self.end: Any = None

    def take(self, got: Any, seq: int) -> None:
        if got["type"] == "appended":
            for number, gen, offset, text in got["chunks"]:
                if number == seq:
                    if gen > self.gen:
                        self.gen, self.text = gen, ""
                    assert gen == self.gen
                    assert offset == len(self.text), "a chunk does not continue the text"
                    self.text += text
                    self.chunks += 1
        elif got["type"] == "stream" and got["seq"] == seq:
            assert got["offset"] <= len(self.text)
            self.gen = got["gen"]
            self.text = self.text[: got["offset"]] + got["text"]
        elif got["type"] == "finished" and got["target"] == seq:
            self.end = got
            self.text = self.text[: got["length"]]
            assert len(self.text) == got["length"]
            assert zlib.crc32(self.text.encode()) == got["crc"]


async def read(client: Client, seq: int = 1, until: str | None = None, text: Text | None = None) -> Text:
    """Read on until the message has ended, or has this text."""
    text = text or Text()
    while text.end is None and (until is None or text.text != until):
        got = await client.receive()
        assert got is not None
        text.take(got, seq)
    return text


async def test_a_message_grows_before_the_eyes_of_those_who_are_there(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        ann, bot = await reader(here), await author(here)
        ack = await begin(bot, reply_to=None)
        assert {key: ack.get(key) for key in ("seq", "gen", "length", "duplicate", "held", "reason")} == {
            "seq": 1, "gen": 1, "length": 0, "duplicate": None, "held": None, "reason": None,
        }  # fmt: skip
        message = await ann.until("message")
        assert (message["streaming"], message["text"], message["id"], message["user"]) == (True, "", "re:1", "bot")
        words = ["Grüße", ", ", "\U0001f600", "!"]
        offset = 0
        for word in words:
            await append(bot, offset, word)
            offset += len(word)
        found = await read(ann, until="".join(words))
        assert found.gen == 1
        ack = await finish(bot, offset)
        assert ack["seq"] == 2
        await read(ann, text=found)
        assert found.end == {
            "type": "finished", "room": "r", "seq": 2, "target": 1, "user": "bot", "ts": ack["ts"], "reason": "done",
            "length": 9, "crc": zlib.crc32("Grüße, \U0001f600!".encode()),
        }  # fmt: skip
        late = await here.connect(headers=bearer("ben"))
        await late.send(type="join", room="r", after=0)
        events = await late.collect(1)
        assert events[0]["streaming"] is True
        assert (await late.until("finished"))["text"] == "Grüße, \U0001f600!"
        history = await late.ask(type="history", room="r")
        assert (history["messages"][0]["text"], "streaming" in history["messages"][0]) == ("Grüße, \U0001f600!", False)


async def test_who_comes_late_goes_on_from_what_is_there(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        ann, bot = await reader(here), await author(here)
        await begin(bot)
        await append(bot, 0, "first ")
        await read(ann, until="first ")
        ben = await here.connect(headers=bearer("ben"))
        await ben.send(type="join", room="r")
        await ben.until("synced")
        stream = await ben.receive()
        assert stream == {
            "type": "stream", "room": "r", "seq": 1, "gen": 1, "offset": 0, "text": "first ", "done": False,
        }  # fmt: skip
        text = Text()
        text.take(stream, 1)
        history = await ben.ask(type="history", room="r")
        assert (history["messages"][0]["text"], history["messages"][0]["streaming"]) == ("first ", True)
        await append(bot, 6, "second")
        await read(ben, until="first second", text=text)
        fetched = await ben.ask(type="fetch", room="r", seq=1, offset=6)
        assert (fetched["text"], fetched["offset"], fetched["done"]) == ("second", 6, False)
        await finish(bot, 12)
        await read(ben, text=text)
        fetched = await ben.ask(type="fetch", room="r", seq=1)
        assert (fetched["text"], fetched["gen"], fetched["done"]) == ("first second", 1, True)
        assert (await ben.ask(type="fetch", room="r", seq=2))["code"] == "not_found"


async def test_all_at_once_without_waiting_for_anything(tmp_path: Path) -> None:
    """Begin, text and end may be in one flush: the text comes after its message and before its end."""
    async with chat(tmp_path) as here:
        ann, bot = await reader(here), await author(here)
        for number in range(20):
            id, seq = f"re:{number}", 2 * number + 1
            await bot.send(type="begin", id=id, room="r")
            await append(bot, 0, "all ", id)
            await append(bot, 4, "of it", id)
            await bot.send(type="finish", id=f"end:{number}", room="r", stream=id, length=9, reason="done")
            text = await read(ann, seq)
            assert text.text == "all of it"
            assert (await bot.until("ack", id=f"end:{number}"))["seq"] == seq + 1


async def test_many_messages_are_told_in_one_frame(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        ann, bot = await reader(here), await author(here)
        for number in range(10):
            await begin(bot, f"re:{number}")
        texts = {number + 1: Text() for number in range(10)}
        for _ in range(30):
            for number in range(10):
                await append(bot, len("word ") * _, "word ", f"re:{number}")
        frames = 0
        while any(text.text != "word " * 30 for text in texts.values()):
            got = await ann.receive()
            frames += got["type"] == "appended"
            for seq, text in texts.items():
                text.take(got, seq)
        assert frames <= 30, "300 appends in a moment"
        assert all(text.chunks <= frames for text in texts.values())


async def test_an_author_hears_of_a_gap_once_and_repeats_in_vain(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        ann, bot = await reader(here), await author(here)
        await begin(bot)
        await append(bot, 0, "abc")
        await append(bot, 0, "abc")
        await append(bot, 1, "bcdé")
        await append(bot, 9, "far")
        await append(bot, 12, "farther")
        await bot.send(type="ping", id="p")
        error = await bot.receive()
        assert error.pop("message")
        assert error == {"type": "error", "room": "r", "code": "conflict", "stream": "re:1", "gen": 1, "length": 5}
        assert (await bot.receive())["type"] == "pong", "the second gap is the same one"
        await append(bot, 5, "f")
        await append(bot, 9, "again")
        assert (await bot.until("error"))["length"] == 6
        await begin(bot)
        await append(bot, 9, "and again")
        assert (await bot.until("error"))["length"] == 6, "it has been told where to go on"
        await read(ann, until="abcdéf")
        assert (await finish(bot, 7))["code"] == "conflict"
        ack = await finish(bot, 4, id="re:1")
        assert ack["seq"] == 2
        end = await ann.until("finished")
        assert (end["length"], end["crc"]) == (4, zlib.crc32(b"abcd"))
        assert (await finish(bot, 4)) == {**ack, "duplicate": True}
        await append(bot, 4, "late")
        await append(bot, 8, "later")
        await bot.send(type="ping", id="q")
        error = await bot.receive()
        assert (error["code"], error["reason"], error["stream"]) == ("conflict", "done", "re:1")
        assert (await bot.receive())["type"] == "pong"
        late = await bot.ask(type="finish", id="another", room="r", stream="re:1", length=4, reason="error")
        assert (late["code"], late["reason"]) == ("conflict", "done")
        again = await begin(bot)
        assert (again["duplicate"], again["length"], again["reason"]) == (True, 4, "done")


async def test_an_end_needs_an_id_of_its_own(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        ann, bot = await reader(here), await author(here)
        await begin(bot)
        await append(bot, 0, "abc")
        assert (await finish(bot, 3, key="re:1"))["code"] == "bad_request"
        await append(bot, 3, "def")
        assert (await finish(bot, 6))["seq"] == 2
        assert (await read(ann)).text == "abcdef"


async def test_a_process_that_did_not_have_it_knows_how_it_has_ended(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        bot = await author(here)
        await begin(bot)
        await finish(bot, 0, reason="error")
        here.server.context.growing.ended.clear()
        again = await author(here)
        error = await finish(again, 0, key="another")
        assert (error["code"], error["reason"], error["stream"]) == ("conflict", "error", "re:1")


async def test_what_was_never_begun_has_no_text(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        bot = await author(here)
        await append(bot, 0, "x")
        assert (await bot.until("error"))["code"] == "conflict"
        assert (await finish(bot, 0))["code"] in ("conflict", "not_found")
        await bot.ask(type="send", room="r", id="plain", text="hello")
        assert (await begin(bot, "plain"))["duplicate"] is True
        await append(bot, 0, "x", "plain")
        assert (await bot.until("error"))["code"] == "conflict"


async def test_a_text_has_its_bound_and_a_user_too(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        bot = await author(here)
        await begin(bot)
        size = 8192
        for start in range(0, STREAM_CHARS, size):
            await append(bot, start, "é" * size)
        await append(bot, STREAM_CHARS, "!")
        error = await bot.until("error")
        assert error["code"] == "too_large"
        await append(bot, STREAM_CHARS + 1, "!")
        assert (await finish(bot, STREAM_CHARS))["seq"] == 2
        for number in range(OPEN_MESSAGES + 9):
            await bot.send(type="begin", id=f"more:{number}", room="r")  # without waiting for the answers
        for number in range(OPEN_MESSAGES):
            await bot.until("ack", id=f"more:{number}")
        assert (await begin(bot, "one too many"))["code"] == "too_large"
        assert here.server.context.growing._open == {"bot": OPEN_MESSAGES}
        assert (await begin(bot, "more:0"))["duplicate"] is True


async def test_only_what_an_append_needs_is_not_charged(tmp_path: Path) -> None:
    """Or whoever fills up frames with spaces might send without limit."""
    async with chat(tmp_path) as here:
        bot = await author(here)
        await begin(bot)
        (session,) = [line.listener for line in here.server.lines.open if isinstance(line.listener, Session)]
        before = session.uncharged
        filled = '{"type":"append","room":"r","stream":"re:1","offset":0,"text":"a"' + " " * 10_000 + "}"
        await bot.socket.write_message(filled)
        await eventually(lambda: find(here).length == 1)
        assert session.uncharged - before > 9_000
        before = session.uncharged
        await append(bot, 1, "b")
        await eventually(lambda: find(here).length == 2)
        assert session.uncharged - before == 9
        before = session.uncharged
        await append(bot, 0, "c", "never begun")
        await bot.until("error")
        assert session.uncharged - before == 9 + FRAME_BYTES
        for command in (
            {"type": "append", "offset": 0, "text": "c", "gen": 1},
            {"type": "finish", "id": "end", "length": 0, "reason": "done"},
        ):
            session.uncharged = 0
            await bot.send(room="invented", stream="never begun", **command)
            await bot.until("error")
            assert session.uncharged > BEGIN_BYTES, "the log was asked, and may know the room now"


async def test_all_that_a_connection_writes_is_let_go_of_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend writes for many users more than a connection remembers of what has ended."""
    monkeypatch.setattr(writing, "STREAMS", 4)
    async with chat(tmp_path) as here:
        bot = await author(here)
        for number in range(10):
            await begin(bot, f"re:{number}")
        await finish(bot, 0, "re:9")
        await bot.close()
        messages = here.server.context.growing.by_name
        await eventually(lambda: all(message.ends_at is not None for message in messages.values()))
        assert len(messages) == 9


async def test_who_goes_on_by_an_older_connection_is_there(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        old, new = await author(here), await author(here)
        await begin(old)
        await begin(new)
        await new.close()
        await eventually(lambda: find(here).writer is None)
        assert find(here).ends_at is not None
        await append(old, 0, "abc")
        await eventually(lambda: find(here).length == 3)
        assert find(here).ends_at is None
        await old.close()
        await eventually(lambda: find(here).ends_at is not None)


async def test_a_user_who_begins_many_at_once_has_no_more_than_one_may(tmp_path: Path) -> None:
    async with chat(tmp_path, send_rate=0) as here:
        bots = [await author(here), await author(here)]
        for number in range(OPEN_MESSAGES):
            for which, bot in enumerate(bots):
                await bot.send(type="begin", id=f"{which}:{number}", room="r")
        answers = [await bot.receive() for bot in bots for _ in range(OPEN_MESSAGES)]
        assert {answer.get("code") for answer in answers} == {None, "too_large"}
        assert sum(answer["type"] == "ack" for answer in answers) == OPEN_MESSAGES
        assert len(here.server.context.growing.by_name) == OPEN_MESSAGES


async def test_a_room_and_a_process_have_no_more_that_grows_than_they_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing_messages, "ROOM_MESSAGES", 2)
    monkeypatch.setattr(growing_messages, "GROWN_CHARS", 10)
    async with chat(tmp_path) as here:
        bot = await author(here)
        await begin(bot, "1")
        await begin(bot, "2")
        assert (await begin(bot, "3"))["code"] == "too_large"
        assert (await begin(bot, "1"))["duplicate"] is True, "what grows goes on"
        assert (await bot.ask(type="begin", id="3", room="elsewhere"))["seq"] == 1
        await append(bot, 0, "x" * 10, "1")
        refused = await bot.ask(type="begin", id="4", room="elsewhere")
        assert (refused["code"], refused["retry_after"]) == ("overloaded", 5.0)
        await finish(bot, 10, "1")
        await eventually(lambda: here.server.context.growing._chars == 0)
        assert (await begin(bot, "3"))["type"] == "ack"


async def test_only_the_last_that_began_it_writes(tmp_path: Path) -> None:
    """Or two connections might mix their texts."""
    async with chat(tmp_path) as here:
        ann, old, new = await reader(here), await author(here), await author(here)
        await begin(old)
        await append(old, 0, "old")
        await eventually(lambda: find(here).length == 3)
        assert (await begin(new))["length"] == 3
        await append(old, 3, "er")
        error = await old.until("error")
        assert (error["code"], error["stream"], error["length"]) == ("conflict", "re:1", 3)
        assert "another connection" in error["message"]
        assert (await finish(old, 3))["code"] == "conflict"
        await append(new, 3, " and new")
        assert (await finish(new, 11))["seq"] == 2
        assert (await read(ann)).text == "old and new"


async def test_a_room_where_very_many_grow_can_be_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is handed no more of their frames at once than the kernel takes."""
    count = os.sysconf("SC_IOV_MAX") + 10
    monkeypatch.setattr(growing_messages, "OPEN_MESSAGES", count)
    monkeypatch.setattr(growing_messages, "ROOM_MESSAGES", count)
    async with chat(tmp_path, send_rate=0) as here:
        bot = await author(here)
        for number in range(count):
            await bot.send(type="begin", id=f"re:{number}", room="r")
        for _ in range(count):
            assert (await bot.receive())["type"] == "ack"
        for at_once in (growing.TOLD_CHARS, 1_000_000):
            monkeypatch.setattr(growing, "TOLD_CHARS", at_once)
            ann = await reader(here)
            assert {(await ann.until("stream"))["seq"] for _ in range(count)} == set(range(1, count + 1))


async def test_what_the_server_finishes_goes_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others write to the log, too."""
    monkeypatch.setattr(growing_messages, "ENDING_CHARS", 1)
    async with chat(tmp_path) as here:
        ann, bot = await reader(here), await author(here)
        for number in range(10):
            await begin(bot, f"re:{number}")
        await bot.close()
        messages = here.server.context.growing
        await eventually(lambda: all(message.ends_at is not None for message in messages.by_name.values()))
        before = sum(here.server.metrics.batch_size.counts)
        for message in messages.by_name.values():
            message.ends_at = 0.0
        for _ in range(10):
            assert (await ann.until("finished"))["reason"] == "interrupted"
        assert sum(here.server.metrics.batch_size.counts) - before >= 10


async def test_who_may_stop_it_and_the_author_ends_it(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        ann, bot, other = await reader(here), await author(here), await author(here)
        await ann.ask(type="send", room="r", text="?", id="q")
        await begin(bot, reply_to=1)
        await append(bot, 0, "well")
        eve = await here.connect(headers=bearer("eve"))
        assert (await eve.ask(type="stop", room="r"))["code"] == "not_found"
        assert (await eve.ask(type="stop", room="r", seq=2))["code"] == "forbidden"
        assert (await eve.ask(type="stop", room="r", seq=1))["code"] == "not_found"
        await ann.send(type="stop", id="s", room="r", seq=2)
        for client in (bot, other):
            assert (await client.until("stop")) == {"type": "stop", "room": "r", "seq": 2, "by": "ann"}
        await finish(bot, 4, reason="stopped")
        assert (await ann.until("finished"))["reason"] == "stopped"
        assert (await ann.until("ack", id="s"))["room"] == "r"
        assert (await ann.ask(type="stop", room="r", seq=2))["type"] == "ack", "it has ended"
        assert (await ann.ask(type="stop", room="r"))["code"] == "not_found"


@pytest.mark.parametrize("who", ["asker", "author", "moderator"])
async def test_the_server_stops_who_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    monkeypatch.setattr(growing_messages, "STOP_SECONDS", 0.3)
    async with chat(tmp_path) as here:
        ann, bot = await reader(here), await author(here)
        await ann.ask(type="send", room="r", text="?", id="q")
        await begin(bot, reply_to=1)
        await append(bot, 0, "on and on")
        stopper = {"asker": ann, "author": await author(here), "moderator": await author(here, "mod", moderator=True)}
        await stopper[who].send(type="stop", id="s", room="r")
        text = await read(ann, 2)
        assert (text.text, text.end["reason"]) == ("on and on", "stopped")
        await stopper[who].until("ack", id="s") if who != "asker" else None
        await append(bot, 9, "more")
        error = await bot.until("error")
        assert (error["code"], error["reason"]) == ("conflict", "stopped")


async def test_what_was_stopped_is_kept_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may end it, if this one is too late."""
    for name in ("KEEP_SECONDS", "RENEW_SECONDS", "STOP_SECONDS"):
        monkeypatch.setattr(growing_messages, name, 60.0)
    async with chat(tmp_path) as here:
        bot = await author(here)
        await begin(bot)
        await append(bot, 0, "shown, ")
        await eventually(lambda: find(here).length == 7)
        assert find(here).kept == 0
        other = await author(here)
        await other.send(type="stop", room="r")
        await bot.until("stop")
        await append(bot, 7, "and more")
        await eventually(lambda: find(here).kept == 15)
        assert (await finish(bot, 15))["seq"] == 2


async def test_an_author_that_comes_back_goes_on(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        ann, bot = await reader(here), await author(here)
        await begin(bot, replica="a")
        await append(bot, 0, "first ")
        text = await read(ann, until="first ")
        bot.socket.close()
        again = await author(here)
        ack = await begin(again, replica="a")
        assert (ack["gen"], ack["length"], ack["duplicate"]) == (1, 6, True)
        await append(again, 6, "second")
        await finish(again, 12)
        await read(ann, text=text)
        assert text.text == "first second"


async def test_an_author_that_stays_away_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing_messages, "LEASE_SECONDS", 0.3)
    async with chat(tmp_path) as here:
        ann, bot = await reader(here), await author(here)
        await begin(bot)
        await append(bot, 0, "so far")
        bot.socket.close()
        text = await read(ann)
        assert (text.text, text.end["reason"]) == ("so far", "interrupted")


async def test_one_replica_answers_and_another_may_take_over(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        ann, one, two = await reader(here), await author(here), await author(here)
        await begin(one, replica="1")
        held = await begin(two, replica="2")
        assert (held["held"], held["seq"], held["gen"]) == (True, 1, 1)
        error = await begin(two, replica="2", take_over=True)
        assert (error["code"], error["gen"], error["room"]) == ("conflict", 1, "r")
        await append(one, 0, "the first one's")
        text = await read(ann, until="the first one's")
        one.socket.close()
        await eventually(lambda: not find(here).linked)
        ack = await begin(two, replica="2", take_over=True)
        assert (ack["gen"], ack["length"]) == (2, 0)
        await append(two, 0, "anew", gen=1)
        assert (await two.until("error"))["gen"] == 2
        await append(two, 0, "anew")
        await finish(two, 4)
        await read(ann, text=text)
        assert (text.text, text.gen) == ("anew", 2)


async def test_a_deletion_stops_it_first(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        ann, bot = await reader(here), await author(here)
        await begin(bot)
        await append(bot, 0, "secret")
        assert (await bot.ask(type="edit", room="r", seq=1, text="x"))["code"] == "conflict"
        assert (await ann.ask(type="react", room="r", seq=1, emoji="+", on=True))["type"] == "ack"
        await bot.send(type="delete", room="r", id="d", seq=1)
        await bot.until("stop")
        await finish(bot, 6, reason="stopped")
        assert (await bot.until("ack", id="d"))["seq"] == 4
        assert (await ann.until("deleted"))["target"] == 1
        ben = await here.connect(headers=bearer("ben"))
        await ben.send(type="join", room="r", after=0)
        end = await ben.until("finished")
        assert end["deleted"] is True
        assert not {"text", "crc"} & end.keys()


async def test_a_slow_reader_gets_what_is_there(tmp_path: Path) -> None:
    """It reads nothing while more is written than all sockets hold: what it is told then is the text, not its past."""
    async with chat(tmp_path, high_water_mark=16_384) as here:
        ann, bot = await reader(here), await author(here)
        texts = {number + 1: Text() for number in range(40)}
        for seq in texts:
            await begin(bot, f"re:{seq}")
            await append(bot, 0, "begin ", f"re:{seq}")
        part, parts = "x" * 30_000, 8
        for number in range(parts):
            for seq in texts:
                await append(bot, 6 + number * len(part), part, f"re:{seq}")
        await bot.ask(type="presence", room="r")
        await eventually(lambda: here.server.metrics.frames_deferred > 0)
        told: list[Any] = []
        while any(len(text.text) < 6 + parts * len(part) for text in texts.values()):
            got = await ann.receive()
            told.append(got["type"])
            for seq, text in texts.items():
                text.take(got, seq)
        assert told.count("behind") == told.count("synced") > 0
        assert told.count("stream") > 0
        for seq, text in texts.items():
            await finish(bot, 6 + parts * len(part), f"re:{seq}")
            await read(ann, seq, text=text)


def a_room(pace: growing.Pace, members: int) -> tuple[growing.RoomGrowing, list[float]]:
    """A room with a message that grows; the list gets the time of each flush that it wants."""
    room = growing.RoomGrowing(asyncio.get_running_loop(), pace, "r", lambda _: None)
    flushes: list[float] = []
    room.open(lambda: flushes.append(monotonic()), lambda: members)
    room.messages[1] = Growing("r", 1, "bot", "Bot", "re:1", 1, "")
    return room, flushes


async def test_all_rooms_together_tell_as_often_as_their_share_allows() -> None:
    """Of what a member costs, as it was measured last."""
    pace = growing.Pace()
    rooms = [a_room(pace, 1_000)[0] for _ in range(4)]
    now = monotonic()
    for room in rooms[:3]:
        room.next = now
    share = growing.SHARE
    assert pace.gap(now) == pytest.approx(3_000 * growing.MEMBER_SECONDS / share), "one of them is silent"
    rooms[3].next = now
    for turn in range(100):
        pace.spent(10_000, 10_000 * 20e-6)
        pace.gap(now + turn * 0.2)
    for room in rooms:
        room.next = now + 100
    assert pace.gap(now + 100) == pytest.approx(4_000 * 20e-6 / share, rel=0.01)
    rooms.append(a_room(pace, 10**6)[0])
    rooms[4].next = now + 200
    assert pace.gap(now + 200) == growing.LONGEST_SECONDS
    for room in rooms:
        room.close()
    assert not pace.sizes


async def test_the_first_of_a_message_waits_for_no_window_and_the_next_ones_wait_for_it() -> None:
    pace = growing.Pace()
    room, flushes = a_room(pace, 1_000)
    gap = 1_000 * growing.MEMBER_SECONDS / growing.SHARE
    assert 0 < gap < growing.WINDOW_SECONDS

    def tell() -> None:
        room.messages[1].add("text")
        room.take(1, [])

    room.want()
    tell()
    room.want()
    assert len(flushes) == 1, "the next one waits"
    room.want(first=True)
    assert len(flushes) == 2
    tell()
    room.want(first=True)
    assert len(flushes) == 2, "two in a gap"
    await eventually(lambda: len(flushes) == 3)
    assert flushes[2] - flushes[1] < growing.WINDOW_SECONDS
    for _ in range(8):  # always one more than has been paid for
        tell()
        room.want(first=True)
        await eventually(lambda: room.ready)
    assert flushes[-1] - flushes[2] > 7 * gap
    room.remove(1)


async def test_what_is_due_soon_goes_with_events() -> None:
    room, flushes = a_room(growing.Pace(), 1)
    room.messages[2] = Growing("r", 2, "bot", "Bot", "re:2", 1, "")
    for seq in (1, 2):
        room.messages[seq].add("text")
    room.want()
    assert told_by(room, 1, []) == [[[1, 1, 0, "text"]]]
    room.messages[1].add("more")
    room.want()
    message = Event(2, {"type": "message", "seq": 2})
    assert told_by(room, 1, [message]) == ["message", [[2, 1, 0, "text"]]], "the window has only begun"
    await asyncio.sleep(growing.WINDOW_SECONDS * 0.7)
    if not room.ready:  # else this machine was asleep
        message = Event(3, {"type": "message", "seq": 3})
        assert told_by(room, 2, [message]) == [[[1, 1, 4, "more"]], "message"]
        await asyncio.sleep(growing.WINDOW_SECONDS * 0.7)
        assert len(flushes) == 1, "nothing waits any more"
    for seq in (1, 2):
        room.remove(seq)


async def test_what_is_too_much_for_a_flush_goes_with_the_next_ones() -> None:
    room, flushes = a_room(growing.Pace(), 1)
    size = growing.TOLD_CHARS // 2
    for seq in (1, 2, 3, 4, 5):
        room.messages[seq] = Growing("r", seq, "bot", "Bot", f"re:{seq}", 1, "")
        room.messages[seq].add("x" * size)
    room.want()
    told: list[Any] = []
    while len(told) < 2:
        await eventually(lambda: len(flushes) > len(told))
        room.messages[1].add("y" * size)
        (chunks,) = told_by(room, 5, [])
        told.append([(seq, offset, len(text)) for seq, _, offset, text in chunks])
    assert told == [[(1, 0, 2 * size), (2, 0, size)], [(3, 0, size), (4, 0, size), (5, 0, size)]]
    assert flushes[1] - flushes[0] < growing.WINDOW_SECONDS
    await eventually(lambda: room.ready)
    for seq in (1, 2, 3, 4, 5):
        room.remove(seq)


async def test_another_process_goes_on_where_this_one_died(tmp_path: Path) -> None:
    async with chat(tmp_path, siblings=1) as here:
        bot = await author(here)
        await begin(bot, replica="a")
        await append(bot, 0, "x" * 5000)
        await eventually(lambda: find(here).kept == 5000)
        await append(bot, 5000, "lost")
        await asyncio.sleep(0.05)
        async with running(tmp_path, siblings=1) as there:
            ann, again = await reader(there), await author(there)
            ack = await begin(again, replica="a")
            assert (ack["gen"], ack["length"], ack["duplicate"]) == (1, 5000, True)
            await append(again, 5000, "lost and found")
            text = Text()
            await finish(again, 5014)
            end = await ann.until("finished")
            assert end["crc"] == zlib.crc32(b"x" * 5000 + b"lost and found")
            await eventually(lambda: not here.server.context.growing.by_name)
            await append(bot, 5004, "late")
            assert (await bot.until("error"))["code"] == "conflict"
            assert text.end is None


async def test_what_a_process_left_is_finished_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_growing, "LAPSE_SECONDS", 1.0)
    monkeypatch.setattr(growing_messages, "LAPSED_SECONDS", 0.1)
    async with running(tmp_path) as here:
        bot = await author(here)
        await begin(bot)
        await append(bot, 0, "so far")
    async with chat(tmp_path) as there:
        ann = await there.connect(headers=bearer("ann"))
        await ann.send(type="join", room="r", after=0)
        end = await ann.until("finished")
        assert (end["reason"], end.get("crc")) == ("interrupted", zlib.crc32(b"so far"))


async def posted(here: Running, *commands: dict[str, Any], user: str = "bot") -> list[Any]:
    """The answers to the commands of one request."""
    request = HTTPRequest(
        here.address + "/v1/commands",
        method="POST",
        headers=bearer(user) | {"Content-Type": "application/json"},
        body=json.dumps(commands),
    )
    answers: list[Any] = json.loads((await AsyncHTTPClient().fetch(request)).body)
    return answers


async def test_a_message_that_grows_by_requests(tmp_path: Path) -> None:
    """Each begins it again, and what it appended is in the log when it is answered."""
    async with chat(tmp_path) as here:
        ann = await reader(here)
        first = {"type": "begin", "id": "re:1", "room": "r"}
        part = {"type": "append", "room": "r", "stream": "re:1"}
        ack, nothing = await posted(here, first, part | {"offset": 0, "text": "first "})
        assert (ack["seq"], ack["gen"], ack["length"], nothing) == (1, 1, 0, None)
        assert [one.text for one in await here.server.log.open("r", 1)] == ["first "]
        text = await read(ann, until="first ")
        ack, _, gap = await posted(
            here, first, part | {"offset": 6, "text": "second"}, part | {"offset": 20, "text": "hole"}
        )
        assert (ack["length"], ack["duplicate"]) == (6, True)
        assert (gap["code"], gap["length"], gap["stream"]) == ("conflict", 12, "re:1")
        await read(ann, until="first second", text=text)
        (alone,) = await posted(here, part | {"offset": 12, "text": "!"})
        assert alone["code"] == "conflict"
        fetched, other = await posted(
            here,
            {"type": "fetch", "room": "r", "seq": 1},
            {"type": "stop", "id": "s", "room": "r", "seq": 1},
            user="eve",
        )
        assert (fetched["text"], other["code"]) == ("first second", "forbidden")
        end = {"type": "finish", "room": "r", "stream": "re:1", "length": 12, "reason": "done"}
        assert (await posted(here, end))[0]["code"] == "bad_request", "it has no id"
        ack, done = await posted(here, first, end | {"id": "end"})
        assert (ack["length"], done["seq"]) == (12, 2)
        await read(ann, text=text)
        assert text.text == "first second"


async def test_the_answers_of_a_request_stand_in_their_places(tmp_path: Path) -> None:
    """The second message that names many waits for the next commit; what begins to grow behind it does not."""
    async with chat(tmp_path) as here:
        crowd = [f"user{number}" for number in range(100)]
        naming = [
            {"type": "send", "id": room, "room": room, "text": "x", "mentions": names}
            for room, names in (("a", crowd[:50]), ("b", crowd[50:]))
        ]
        last = {"type": "send", "id": "d", "room": "d", "text": "x"}
        answers = await posted(here, *naming, {"type": "begin", "id": "c", "room": "c"}, last)
        assert [(answer["id"], answer["room"], "gen" in answer) for answer in answers] == [
            ("a", "a", False),
            ("b", "b", False),
            ("c", "c", True),
            ("d", "d", False),
        ]


async def test_a_deletion_by_request_stops_it_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing_messages, "STOP_SECONDS", 0.2)
    async with chat(tmp_path) as here:
        bot = await author(here)
        await begin(bot)
        deletion = {"type": "delete", "id": "d", "room": "r", "seq": 1}
        gone, pong = await posted(here, deletion, {"type": "ping", "id": "p"})
        assert (gone["seq"], pong["type"]) == (3, "pong")
        assert [event.data["type"] for event in await here.server.log.read("r", 0, max_events=9, max_bytes=99)] == [
            "message",
            "finished",
            "deleted",
        ]


async def test_a_backend_lets_a_message_of_its_user_grow(tmp_path: Path) -> None:
    ada: dict[str, Any] = {"as": {"user": "app-ada", "name": "Ada"}}
    async with chat(tmp_path) as here:
        ann = await reader(here)
        backend = await author(here, "backend", acts_as=["app-*"])
        assert (await begin(backend, **ada))["seq"] == 1
        assert (await begin(backend))["seq"] == 2, "its own has the same id"
        await append(backend, 0, "hers", **ada)
        await append(backend, 0, "its own")
        assert (await begin(backend, id="x", **{"as": {"user": "other"}}))["code"] == "forbidden"
        assert (await finish(backend, 4, **ada))["seq"] == 3
        assert (await finish(backend, 7))["seq"] == 4
        told = [await ann.until(type) for type in ("message", "message", "finished", "finished")]
        assert [event["user"] for event in told] == ["app-ada", "backend"] * 2
        assert [event.get("name") for event in told[:2]] == ["Ada", "backend"]
        assert [event["crc"] for event in told[2:]] == [zlib.crc32(text) for text in (b"hers", b"its own")]


async def test_a_backend_hears_that_what_it_writes_for_somebody_is_to_end(tmp_path: Path) -> None:
    ada: dict[str, Any] = {"as": {"user": "app-1"}}
    async with chat(tmp_path) as here:
        backend, app = await author(here, "backend", acts_as=["app-*"]), await author(here, "app-1")
        await begin(backend, **ada)
        await app.send(type="stop", id="s", room="r", seq=1)
        for client in (backend, app):
            assert await client.until("stop") == {"type": "stop", "room": "r", "seq": 1, "by": "app-1"}
        await finish(backend, 0, reason="stopped", **ada)
        await app.until("ack", id="s")


async def test_what_has_ended_is_told_by_its_stream(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        bot = await author(here)
        await begin(bot)
        await finish(bot, 0)
        late = await finish(bot, 0, key="another")
        assert (late["code"], late["reason"], late["stream"]) == ("conflict", "done", "re:1")
        never = await finish(bot, 0, id="never")
        assert (never["code"], never["stream"]) == ("conflict", "never")
        assert "begin" in never["message"]
        kept = here.server.context.growing.ended["r", "bot", "re:1"]
        assert (kept.gen, kept.length, kept.reason) == (1, 0, "done"), "and not its text"


async def test_a_server_that_stops_keeps_what_it_has(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        bot = await author(here)
        await begin(bot)
        await append(bot, 0, "kept")
        await eventually(lambda: find(here).length == 4)
        await here.server.stop()
    async with chat(tmp_path) as there:
        again = await author(there)
        assert (await begin(again))["length"] == 4
        await finish(again, 4)


async def test_who_reads_pages_and_streams_gets_the_text_with_the_end(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        bot = await author(here)
        await begin(bot)
        await append(bot, 0, "text")
        await finish(bot, 4)
        address = here.address + "/v1/rooms/r/events"
        page = json.loads((await AsyncHTTPClient().fetch(address, headers=bearer("ann"))).body)
        assert [event["type"] for event in page["events"]] == ["message", "finished"]
        assert page["events"][1]["text"] == "text"


def told_by(room: growing.RoomGrowing, flushed: int, events: list[Event]) -> list[Any]:
    """What a flush writes, in its order: the chunks and the types of the events."""
    frames = [BARE.frame(event.data) + b"\n" for event in events]
    signals: list[tuple[bytes, str | None]] = []
    lines = Encoding(JSON, lambda payload: payload + b"\n")
    chunks = room.take(flushed, events)
    if chunks is not None:
        chunks.put(lines, frames, signals)
    said = [json.loads(line) for line in b"".join([*frames, *(data for data, _ in signals)]).splitlines()]
    return [one["chunks"] if one["type"] == "appended" else one["type"] for one in said]


async def test_a_chunk_stands_behind_its_message_and_before_its_end() -> None:
    room = growing.RoomGrowing(asyncio.get_running_loop(), growing.Pace(), "r", lambda _: None)
    room.open(lambda: None, lambda: 1)
    for seq in (1, 2, 3, 9):
        room.messages[seq] = Growing("r", seq, "bot", "Bot", f"re:{seq}", 1, "")
        room.messages[seq].add(f"text {seq}")
    events = [
        Event(seq, {"type": type, "seq": seq, "target": target})
        for seq, type, target in ((2, "message", 0), (3, "message", 0), (4, "finished", 1), (5, "finished", 2))
    ]
    room.want_now()
    assert told_by(room, 1, events) == [
        [[1, 1, 0, "text 1"]],
        "message",
        [[2, 1, 0, "text 2"]],
        "message",
        "finished",
        "finished",
        [[3, 1, 0, "text 3"]],
    ]
    assert list(room.messages) == [3, 9], "the message of the last one has not come"
    assert told_by(room, 5, []) == []
    room.messages[3].add("!")
    stream = growing.snapshot(room.messages[3], 0)
    assert (stream.text, stream.offset) == ("text 3", 0), "the next chunk continues it"
    room.want_now()
    assert told_by(room, 9, []) == [[[3, 1, 6, "!"], [9, 1, 0, "text 9"]]]
    for seq in (3, 9):
        room.remove(seq)


async def test_who_asks_for_the_text_of_a_room_that_nobody_is_in_gets_all_of_it(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        bot = await author(here)
        await begin(bot)
        await append(bot, 0, "so ")
        await append(bot, 3, "far")
        fetched = await bot.ask(type="fetch", room="r", seq=1, offset=3)
        assert (fetched["text"], fetched["done"]) == ("far", False)
        history = await bot.ask(type="history", room="r")
        assert history["messages"][0]["text"] == "so far"
        ann = await reader(here)
        assert (await ann.until("stream"))["text"] == "so far"
        await append(bot, 6, "!")
        assert (await ann.until("appended"))["chunks"] == [[1, 1, 6, "!"]]
        await finish(bot, 7)
