"""The client without asyncio, beside a real server: where a loop runs already, in threads, in forks, at the end."""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.client.test_answers import say
from tests.client.test_replies import client
from tests.client.test_transports import PATIENCE
from tests.support import ROOT
from tests.support.agents import BOT
from tests.support.servers import UNLIMITED, Server
from tornado_chat.client import Client, Closed, Failed, Refused, messages
from tornado_chat.client.messages import Messages
from tornado_chat.client.sync import Chat, RoomView
from tornado_chat.errors import ChatError


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path, *UNLIMITED) as server:
        yield server


def chat(server: Server, user: str = "ann", **options: Any) -> Chat:
    return Chat(server.url, token=server.token(user), **options)


def until(room: RoomView, holds: Callable[[list[Any]], object]) -> list[Any]:
    """The messages as soon as that holds of them."""
    deadline = time.monotonic() + PATIENCE
    version = 0
    while not holds(room.messages):
        assert time.monotonic() < deadline, room.messages
        version = room.wait(version, 1.0)
    return room.messages


def texts(found: list[Any]) -> list[str]:
    return [message.get("text", "-") for message in found]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tornado-chat"]


# Rooms


async def test_a_room_is_as_its_history_though_a_loop_runs_already(server: Server) -> None:
    """As in a notebook: the test's own loop stands still while it waits."""
    async with client(server, BOT) as bot:
        for number in range(8):
            await bot.send("lobby", str(number))
        with chat(server) as ann:
            lobby = ann.join("lobby", last=5)
            assert texts(lobby.messages) == ["3", "4", "5", "6", "7"]
            assert ann.user == "ann"
            version = lobby.version
            lobby.send("mine", reply_to=8, meta={"a": 1}, mentions=[BOT])
            assert lobby.wait(version, PATIENCE) > version
            await _anything(bot)
            last = (await bot.send("lobby", "the end")).seq
            found = until(lobby, lambda found: found[-1]["seq"] == last)
            for message in found:
                message.pop("reason", None)
            page = (await bot.history("lobby", limit=200))["messages"]
            assert found == [message for message in page if message["seq"] >= 4]
            assert ann.join("lobby").messages[-1]["text"] == "the end"  # again: nothing is fetched, and nothing lost
            older = lobby.history(before=4, limit=2)
            assert (texts(older["messages"]), older["more"]) == (texts(page[1:3]), True)
            assert lobby.wait(lobby.version, 0.01) == lobby.version


async def _anything(bot: Client) -> None:
    """What may happen to messages, to those that are held and others."""
    chance = random.Random(11)
    seqs = list(range(1, 9))
    for number in range(60):
        seq = chance.choice(seqs)
        try:
            match chance.randrange(6):
                case 0:
                    seqs.append((await bot.send("lobby", f"more {number}")).seq)
                case 1:
                    await bot.edit("lobby", seq, f"edited {number}")
                case 2:
                    await bot.delete("lobby", seq)
                case 3 | 4:
                    await bot.react("lobby", seq, chance.choice("👍🎉"), chance.random() < 0.7)
                case 5:
                    async with bot.stream("lobby") as reply:
                        await reply.write(f"grown {number}")
                        await reply.finish("done", meta={"steps": []} if number % 2 else None)
                    seqs.append(reply.seq)
        except ChatError:  # it is deleted
            continue


async def test_a_message_that_grows_is_there_as_far_as_it_is(server: Server) -> None:
    async with client(server, BOT) as bot:
        with chat(server, "ben") as ben, chat(server) as ann:
            lobby = ben.join("lobby", last=0)
            async with bot.stream("lobby") as reply:
                await reply.write("a few ")
                await asyncio.to_thread(until, lobby, lambda found: texts(found) == ["a few "])
                late = ann.join("lobby")  # this loop stands still meanwhile, and theirs does not
                await reply.write("words")
                for room in (lobby, late):
                    (message,) = await asyncio.to_thread(until, room, lambda found: texts(found) == ["a few words"])
                    assert message["streaming"]
            for room in (lobby, late):
                (message,) = until(room, lambda found: "streaming" not in found[0])
                assert (message["text"], message["reason"]) == ("a few words", "done")


def test_what_is_held_of_a_room_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "KEPT", 3)
    monkeypatch.setattr(messages, "KEPT_CHARS", 100)
    held = Messages()
    for seq in range(1, 6):
        assert held.heed({"type": "message", "seq": seq, "text": "x", "streaming": True})
    assert [message["seq"] for message in held.now()] == [3, 4, 5]
    assert not held.heed({"type": "edited", "target": 2, "text": "y", "ts": 1})
    assert held.heed({"type": "grown", "seq": 4, "offset": 1, "text": "x" * 98})
    assert [message["seq"] for message in held.now()] == [4, 5]
    assert held.heed({"type": "grown", "seq": 5, "offset": 0, "text": "x" * 200})
    assert [message["seq"] for message in held.now()] == [5]
    assert held.heed({"type": "reset"})
    assert (held.now(), held._chars) == ([], 0)


async def test_who_is_put_out_of_a_room_is_told(server: Server) -> None:
    with Chat(server.url, token=server.token("ann", rooms=["open"])) as ann:
        with pytest.raises(ChatError, match="closed"):
            ann.join("closed")
        room = ann.join("open")
        ann.leave("open")
        with pytest.raises(Closed, match="open was left"):
            room.wait(room.version, PATIENCE)
        assert ann.join("open").send("x").seq == 1
    with Chat(server.url, token=lambda: "no token") as ben, pytest.raises(Refused):
        ben.send("open", "x")


# Answers


async def test_an_answer_may_be_read_in_part_and_again_from_its_first_word(server: Server) -> None:
    async with client(server, BOT) as bot:
        with chat(server) as ann:
            asked = ann.ask(BOT, "?")
            pieces = iter(asked)
            saying = asyncio.create_task(say(bot, asked._answer, "one ", "two ", "three"))
            assert await asyncio.to_thread(next, pieces) == "one "
            del pieces  # as a script that is run again from its top does
            assert await asyncio.to_thread(asked.whole) == "one two three"
            await saying
            assert "".join(asked) == asked.text == "one two three"
            assert (asked.reason, asked.question, asked.reply, asked.ended) == ("done", 1, 2, True)
            assert "".join(ann.ask(BOT, "?", room=asked.room, id=asked.id)) == "one two three"


async def test_an_answer_that_is_stopped_or_none_says_so(server: Server) -> None:
    async with client(server, BOT) as bot:
        with chat(server, timeout=1.0) as ann:
            asked = ann.ask(BOT, "?")
            with pytest.raises(TimeoutError, match="stop of the answer"):
                asked.stop()  # it has not begun
            saying = asyncio.create_task(say(bot, asked._answer, *["word "] * 1000))
            await asyncio.to_thread(asked.wait, asked.version, PATIENCE)
            await asyncio.to_thread(asked.stop)
            assert (asked.reason, asked.whole()) == ("stopped", asked.text)
            await saying
            asked = ann.ask(BOT, "?")
            await say(bot, asked._answer, "Sorry.", reason="error")
            with pytest.raises(Failed, match="could not answer"):
                asked.whole()
            assert asked.text == "Sorry."
            with pytest.raises(TimeoutError, match="no sign of nobody"):
                ann.ask("nobody", "?", silence=0.1).whole()


# Threads, forks, and ends


def test_two_clients_in_two_threads_share_one_and_leave_none(server: Server) -> None:
    def talk(user: str) -> list[str]:
        with chat(server, user) as mine:
            room = mine.join(user)
            for number in range(20):
                room.send(str(number))
            assert len(threads()) == 1
            return texts(until(room, lambda found: len(found) == 20))

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(talk, ["a", "b", "c", "d"]):
            assert found == [str(number) for number in range(20)]
    assert not threads()


def test_who_waits_while_it_is_closed_is_told_and_what_came_stays(server: Server) -> None:
    ann = chat(server)
    lobby = ann.join("lobby")
    lobby.send("here")
    until(lobby, lambda found: texts(found) == ["here"])
    asked = ann.ask(BOT, "?")
    with ThreadPoolExecutor(2) as pool:
        waiting: list[Future[Any]] = [pool.submit(lobby.wait, lobby.version), pool.submit(asked.whole)]
        time.sleep(0.1)  # else they may come too late, which is the next assertion's case
        ann.close()
        for one in waiting:
            assert isinstance(one.exception(PATIENCE), Closed)
    for call in (lambda: lobby.send("x"), lambda: ann.join("lobby"), lambda: lobby.wait(lobby.version), asked.whole):
        with pytest.raises(Closed):
            call()
    assert texts(lobby.messages) == ["here"]
    ann.close()


def test_one_that_nobody_has_any_more_is_closed(server: Server) -> None:
    ann = chat(server)
    room = ann.join("lobby")
    (thread,) = threads()
    del ann
    gc.collect()
    room.send("its room keeps it open")
    del room
    gc.collect()
    thread.join(PATIENCE)
    assert not threads()


def test_its_own_thread_cannot_wait_for_itself(server: Server) -> None:
    with chat(server) as ann:
        ann.send("lobby", "x")

        async def inside() -> None:
            ann.send("lobby", "x")

        with pytest.raises(RuntimeError, match="own thread"):
            ann._call(inside())


SCRIPT = """
import os, signal, sys, threading, time
from tornado_chat.client import Closed
from tornado_chat.client.sync import Chat
chat = Chat({url!r}, name="script")
lobby = chat.join("lobby")
"""


def run(server: Server, script: str, *, interrupt: bool = False) -> str:
    """What it prints; it ends by itself, and says nothing on stderr."""
    command = [sys.executable, "-c", SCRIPT.format(url=server.url) + script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            if interrupt:
                assert process.stdout is not None
                assert process.stdout.readline() == "waiting\n"
                time.sleep(0.3)
                process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, "")
    return out


def test_a_fork_has_to_open_its_own(server: Server) -> None:
    said = run(
        server,
        """
lobby.send("parent")
child = os.fork()
if not child:
    for call in (lambda: lobby.send("x"), lambda: lobby.wait(lobby.version), lambda: chat.ask("bot", "?")):
        try:
            call()
        except Closed as error:
            print(error)
    chat.close()
    with Chat(chat._core.client._link._url.geturl(), name="child") as own:
        own.join("lobby").send("child")
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
lobby.send("parent again")
while len(lobby.messages) < 3:
    lobby.wait(lobby.version, 1)
print(*[message["text"] for message in lobby.messages], sep=",")
""",
    )
    *refused, told = said.splitlines()
    assert told == "parent,child,parent again"
    assert len(refused) == 3
    assert set(refused) == {"the client was opened before this process was forked: open another one here"}


def test_an_interpreter_that_ends_in_the_middle_says_nothing(server: Server) -> None:
    began = time.monotonic()
    run(
        server,
        """
answer = chat.ask("bot", "?")
threading.Thread(target=answer.whole, daemon=True).start()
threading.Thread(target=lobby.wait, args=[lobby.version], daemon=True).start()
time.sleep(0.2)
""",
    )
    assert time.monotonic() - began < PATIENCE / 2


def test_ctrl_c_ends_a_wait_and_nothing_else(server: Server) -> None:
    said = run(
        server,
        """
print("waiting", flush=True)
try:
    chat.ask("bot", "?").whole()
except KeyboardInterrupt:
    print(lobby.send("still here").seq)
""",
        interrupt=True,
    )
    assert said == "1\n"
