"""An agent in a room: what its handlers say, how they are stopped, and which messages they are called for."""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents import BOT, SECONDS, Room, address, living, person, reading, token
from tests.support.chat import eventually, running
from tests.support.servers import UNLIMITED, Server
from tornado_chat.agents import Agent, Context, Message, Reaction, ThreadContext, life
from tornado_chat.agents.question import Question
from tornado_chat.agents.turn import SORRY, TOO_LONG, TOO_SOON, Turn
from tornado_chat.client import Client, Closed
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.live import session
from tornado_chat.wire.events import Data


class Delta:
    """What a provider gives."""

    def __init__(self, text: str) -> None:
        self.text = text


async def words(text: str) -> AsyncIterator[Delta]:
    for word in text.split():
        yield Delta(word + " ")


async def yields(ctx: Context, message: Message) -> AsyncIterator[str]:
    for word in message.prompt.split():
        yield word + " "


async def yields_deltas(ctx: Context, message: Message) -> AsyncIterator[Delta]:
    async for delta in words(message.prompt):
        yield delta


async def returns(ctx: Context, message: Message) -> str:
    return message.prompt + " "


async def writes(ctx: Context, message: Message) -> None:
    await ctx.reply("say ")
    await ctx.stream(words(message.prompt.removeprefix("say")))


def returns_in_a_thread(ctx: ThreadContext, message: Message) -> str:
    assert threading.current_thread() is not threading.main_thread()
    return message.prompt + " "


def yields_in_a_thread(ctx: ThreadContext, message: Message) -> Iterator[str]:
    first, *others = message.prompt.split()
    ctx.reply(first + " ")
    for word in others:
        yield word + " "


def gives_a_stream(ctx: ThreadContext, message: Message) -> AsyncIterator[Delta]:
    return words(message.prompt)


HANDLERS: list[Any] = [yields, yields_deltas, returns, writes, returns_in_a_thread, yields_in_a_thread, gives_a_stream]


async def test_whatever_a_handler_is_what_it_says_is_one_reply(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"])
    for handler in HANDLERS:
        agent.on_command(handler.__name__)(handler)
    agent.on_command("partial")(partial(yields))
    async with running(tmp_path) as here, living(agent, here), reading(here) as room:
        for name in [*(handler.__name__ for handler in HANDLERS), "partial"]:
            asked = await room.ask(f"@bot: /{name} it")
            end = await room.answer(asked)
            assert end["reason"] == "done"
            assert end["text"].split() == f"/{name} it".split() or name == "writes"
            message = await room.reply(asked)
            assert (message["agent"], message["user"]) == (True, "bot")
            assert len(room.replies(asked)) == 1


async def test_a_stop_ends_the_handler_where_it_waits_and_keeps_what_was_said(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"])
    closed: list[float] = []

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> AsyncIterator[str]:
        try:
            yield "so far"
            await asyncio.Event().wait()
        finally:
            closed.append(time.monotonic())

    async with running(tmp_path) as here, living(agent, here), reading(here) as room, person(here, "bot") as own:
        for stop in (room.chat.stop, own.stop):
            asked = await room.ask("?")
            message = await room.grows(asked, "so far")
            said_at = time.monotonic()
            await stop("r", message["seq"])
            end = await room.answer(asked)
            assert (end["reason"], end["text"]) == ("stopped", "so far")
            assert closed.pop() - said_at < 2


@pytest.mark.logs("(?s)handler failed as its reply ended room=r id=re:1.*ValueError: in the end")
async def test_what_fails_while_it_is_stopped_is_in_the_log_alone(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"])

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> AsyncIterator[str]:
        try:
            while True:  # it hears of the stop here or there
                yield "on "
                await asyncio.sleep(0.001)
                if message.text == "wait":
                    await asyncio.Event().wait()
        finally:
            if message.text == "wait":
                raise ValueError("in the end")

    async with running(tmp_path) as here, living(agent, here), reading(here) as room:
        for text in ("wait", "do not wait", "do not wait"):
            asked = await room.ask(text)
            message = await room.grows(asked, "on ")
            await room.chat.stop("r", message["seq"])
            end = await room.answer(asked)
            assert end["reason"] == "stopped"
            assert end["text"].replace("on ", "") == ""


async def test_a_stop_is_heard_from_another_process_of_the_server(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"])
    cancelled = asyncio.Event()

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> AsyncIterator[str]:
        try:
            while True:
                yield "on "
                await asyncio.sleep(0.05)
        finally:
            cancelled.set()

    with Server(tmp_path, *UNLIMITED, "--workers", "2") as server:
        async with living(agent, server):
            for turn in range(2):  # so that some are connected elsewhere
                cancelled.clear()
                async with reading(server, f"ann{turn}") as room:
                    asked = await room.ask("?")
                    message = await room.reply(asked)
                    said_at = time.monotonic()
                    await room.chat.stop("r", message["seq"])
                    async with asyncio.timeout(2):
                        await cancelled.wait()
                    assert time.monotonic() - said_at < 2.5
                    assert (await room.answer(asked))["reason"] == "stopped"


async def test_what_was_to_be_taken_over_is_not_where_another_log_has_come(tmp_path: Path) -> None:
    async with running(tmp_path) as here, living(Agent("bot", rooms=["r"]), here) as (alive,):
        room = alive.rooms["r"]
        question = Question({"seq": 1, "user": "ann", "ts": 1})
        question.open = 2
        room._try_again(question, 2, 1)
        assert room._again
        room.on_event({"type": "reset", "room": "r", "epoch": "another"})
        assert not room._again


@pytest.mark.logs("reply failed room=r id=re:1")
async def test_a_reply_that_fails_as_nobody_thought_of_does_not_stay_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Agent("bot", rooms=["r"])

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> str:
        return "hello"

    async def fail(self: Turn) -> None:
        raise KeyError("a fault of ours")

    async with running(tmp_path) as here, living(agent, here), reading(here) as room:
        with monkeypatch.context() as patch:
            patch.setattr(Turn, "_make", fail)
            assert (await room.answer(await room.ask("?")))["reason"] == "stopped"
        assert (await room.answer(await room.ask("?")))["text"] == "hello"


async def test_a_thread_goes_on_to_its_next_yield_and_counts_until_then(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"], max_open=1, double_texting="concurrent")
    go_on = threading.Event()
    ended: list[str] = []

    @agent.on_mention
    def answer(ctx: ThreadContext, message: Message) -> Iterator[str]:
        try:
            yield "so far"
            go_on.wait(10)
            assert ctx.cancelled
            while True:
                yield "nobody hears this"
        finally:
            ended.append("closed")

    @agent.on_command("quick")
    async def quick(ctx: Context, message: Message) -> str:
        return "quick"

    async with running(tmp_path) as here, living(agent, here), reading(here) as room:
        asked = await room.ask("?")
        message = await room.grows(asked, "so far")
        await room.chat.stop("r", message["seq"])
        assert (await room.answer(asked))["text"] == "so far"
        later = await room.ask("/quick")
        await asyncio.sleep(0.2)
        assert not room.replies(later)
        assert not ended
        go_on.set()
        assert (await room.answer(later))["text"] == "quick"
        assert ended == ["closed"]


@pytest.mark.logs("(?s)handler failed .*ValueError: the secret detail")
@pytest.mark.logs("(?s)handler failed .*TypeError: a handler returns or yields str")
async def test_what_fails_is_told_as_a_sentence_and_the_details_are_not(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"])

    @agent.on_command("fail")
    async def fail(ctx: Context, message: Message) -> AsyncIterator[str]:
        yield "half of it"
        raise ValueError("the secret detail")

    @agent.on_command("number")
    def number(ctx: ThreadContext, message: Message) -> Any:
        return 7

    async with running(tmp_path) as here, living(agent, here), reading(here) as room:
        end = await room.answer(await room.ask("/fail"))
        assert (end["reason"], end["text"]) == ("error", f"half of it\n\n{SORRY}")

        @agent.on_error
        async def sorry(ctx: Context, message: Message, error: Exception) -> str:
            return f"{type(error).__name__} at {message.command}"

        end = await room.answer(await room.ask("/number"))
        assert (end["reason"], end["text"]) == ("error", "TypeError at number")


async def test_who_has_nothing_to_say_leaves_no_message(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"])

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> None:
        pass

    async with running(tmp_path) as here, living(agent, here), reading(here) as room:
        message = await room.reply(await room.ask("?"))
        await eventually(lambda: any(one["type"] == "deleted" for one in room.events))
        assert room.events[-1]["target"] == message["seq"]


async def test_what_is_edited_is_asked_again(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"])

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> AsyncIterator[str]:
        yield f"{ctx.attempt}: {message.text}"
        if "wait" in message.text:
            await asyncio.Event().wait()

    async with running(tmp_path) as here, living(agent, here), reading(here) as room:
        asked = await room.ask("one")
        assert (await room.answer(asked))["text"] == "1: one"
        await room.chat.edit("r", asked, "one")
        assert (await room.answer(asked, 2))["text"] == "2: one"
        await room.chat.edit("r", asked, "wait")
        await room.grows(asked, "3: wait", 3)
        await room.chat.edit("r", asked, "two")
        assert (await room.answer(asked, 4))["text"] == "4: two"
        third = await room.answer(asked, 3)
        assert (third["reason"], third["text"]) == ("stopped", "3: wait")
        await room.chat.edit("r", asked, "wait")
        await room.grows(asked, "5: wait", 5)
        await room.chat.delete("r", asked)
        assert (await room.answer(asked, 5))["reason"] == "stopped"


async def _two_at_once(agent: Agent, tmp_path: Path) -> tuple[Room, int, int]:
    """The second question comes while the first is being answered; `go on` lets that end."""
    go_on = asyncio.Event()

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> AsyncIterator[str]:
        yield f"to {message.text}"
        if message.text == "one":
            await go_on.wait()
        yield "."

    async with running(tmp_path) as here, living(agent, here), reading(here) as room:
        one = await room.ask("one")
        await room.grows(one, "to one")
        two = await room.ask("two")
        if agent.double_texting == "enqueue":
            await asyncio.sleep(0.1)
            assert not room.replies(two)
            go_on.set()
        await room.answer(two)
        go_on.set()
        await room.answer(one)
        await eventually(
            lambda: agent.double_texting != "rollback" or "deleted" in {one["type"] for one in room.events}
        )
        return room, one, two


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("enqueue", ("done", "to one."), "to two."),
        ("concurrent", ("done", "to one."), "to two."),
        ("reject", ("done", "to one."), TOO_SOON),
        ("interrupt", ("stopped", "to one"), "to two."),
        ("rollback", ("stopped", "to one"), "to two."),
    ],
)
async def test_what_comes_while_another_is_answered(
    tmp_path: Path, kind: Any, first: tuple[str, str], second: str
) -> None:
    room, one, two = await _two_at_once(Agent("bot", rooms=["r"], double_texting=kind), tmp_path)
    end = await room.answer(one)
    assert (end["reason"], end["text"]) == first
    assert (await room.answer(two))["text"] == second
    assert any(one["type"] == "deleted" for one in room.events) == (kind == "rollback")


async def test_the_person_is_asked_and_their_answer_is_no_question(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"])

    @agent.on_message
    async def answer(ctx: Context, message: Message) -> str:
        where = await ctx.ask("Where?")
        when = await ctx.ask("When?")
        return f"{message.text} {where.text} {when.text}"

    @agent.on_command("hasty")
    def hasty(ctx: ThreadContext, message: Message) -> str:
        try:
            return ctx.ask("Quick!", seconds=0.2).text
        except TimeoutError as error:
            return str(error)

    async with running(tmp_path) as here, living(agent, here), reading(here) as room:
        asked = await room.ask("meet")
        for question, text in (("Where?", "here"), ("When?", "now")):
            await room.said(question)
            assert room.events[-1]["mentions"] == ["ann"]
            await room.ask(text)
        assert (await room.answer(asked))["text"] == "meet here now"
        hasty_asked = await room.ask("/hasty")
        assert (await room.answer(hasty_asked))["text"] == "no answer within 0.2 s"
        after = await room.ask("late")
        await room.reply(after)  # it was taken back, so this is a question
        begun = [one["id"] for one in room.events if one.get("id", "").startswith("re:")]
        assert begun == [f"re:{asked}", f"re:{hasty_asked}", f"re:{after}"]
        await room.chat.stop("r")


async def test_steps_and_status_are_shown_and_the_steps_are_kept(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"])
    go_on = asyncio.Event()

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> str:
        await ctx.status("thinking")
        async with ctx.step("search", input="x" * 3000) as step:
            await go_on.wait()
            step.output = "found"
        try:
            async with ctx.step("compute"):
                raise ZeroDivisionError
        except ZeroDivisionError:
            return "so"

    async with running(tmp_path) as here, living(agent, here), reading(here) as room:
        asked = await room.ask("?")
        message = await room.reply(asked)
        await eventually(lambda: any(one["type"] == "step" for one in room.signals))
        status = next(one for one in room.signals if one["type"] == "status")
        assert (status["text"], status["seq"], status["user"]) == ("thinking", message["seq"], "bot")
        step = next(one for one in room.signals if one["type"] == "step")
        assert (step["seq"], step["step"]["name"], step["step"]["state"]) == (message["seq"], "search", "running")
        assert len(step["step"]["input"]) == 1000
        go_on.set()
        steps = (await room.answer(asked))["meta"]["steps"]
        assert [(one["name"], one["state"], one.get("output")) for one in steps] == [
            ("search", "done", "found"),
            ("compute", "error", "ZeroDivisionError"),
        ]
        assert any(one["type"] == "status" and one["text"] == "" for one in room.signals)


@dataclass
class Call:
    """As a provider gives them."""

    id: str
    name: str
    arguments: str


@dataclass
class Result:
    id: str
    name: str
    content: str
    error: bool


class ProviderFailure(Exception):
    sentence = "The model took too long."


@pytest.mark.logs("(?s)handler failed .*ProviderFailure: details")
async def test_what_a_provider_gives_is_taken_as_it_is(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"])

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> AsyncIterator[object]:
        yield "Let me see. "
        yield Call("a", "weather", '{"city": "Rome"}')
        yield Result("a", "weather", "sunny", False)
        yield Call("b", "weather", '{"city": "Oslo"}')
        yield Result("b", "weather", "no such city", True)
        yield "Sunny."
        raise ProviderFailure("details")

    async with running(tmp_path) as here, living(agent, here), reading(here) as room:
        end = await room.answer(await room.ask("?"))
        assert (end["reason"], end["text"]) == ("error", "Let me see. Sunny.\n\nThe model took too long.")
        assert [(one["name"], one["state"], one["output"]) for one in end["meta"]["steps"]] == [
            ("weather", "done", "sunny"),
            ("weather", "error", "no such city"),
        ]


async def test_the_history_is_that_of_the_conversation(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"])
    histories: list[list[Any]] = []

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> str:
        histories.append(await ctx.history(tokens=500))
        if message.text == "long":
            await ctx.say("by the way")
        return f"to {message.text}"

    async with running(tmp_path) as here, living(agent, here), reading(here) as room, reading(here, "bob") as other:
        await room.answer(await room.ask("one"))
        await other.ask("two")
        asked = await room.ask("long")
        await room.answer(asked)
        await room.chat.edit("r", asked, "again")
        await room.answer(asked, 2)
        assert histories[0] == [{"role": "user", "content": "one", "name": "ann"}]
        assert [(one["role"], one["content"]) for one in histories[-1]] == [
            ("user", "one"),
            ("assistant", "to one"),
            ("user", "two"),
            ("assistant", "to two"),
            ("user", "again"),
        ]
        await room.answer(await room.ask("x" * 1400))
        assert [one["content"][:5] for one in histories[-1]] == ["to tw", "again", "by th", "to ag", "xxxxx"]


async def test_agents_are_not_answered_unless_wanted_and_then_three_in_a_row(tmp_path: Path) -> None:
    async def answer(ctx: Context, message: Message) -> str:
        return f"after {message.text}"

    agents = [Agent(f"bot{number}", rooms=["r"], answer_agents=True) for number in range(2)]
    for agent in agents:
        agent.on_message(answer)
    quiet = Agent("quiet", rooms=["r"])
    quiet.on_message(answer)
    async with (
        running(tmp_path) as here,
        living(agents[0], here, user="bot0"),
        living(agents[1], here, user="bot1"),
        living(quiet, here, user="quiet"),
        reading(here) as room,
    ):
        await room.chat.send("r", "hi")
        await eventually(lambda: any(one["user"] == "quiet" for one in room.events))
        # Two answer the person, and each answers the other and the quiet one, as long as they may.
        count = 0
        while count != len(room.events):
            count = len(room.events)
            await asyncio.sleep(0.5)
        said = [one for one in room.events if one["type"] == "message"]
        assert len([one for one in said if one["user"] == "quiet"]) == 1
        hops = [one.get("meta", {}).get("hops", 1) for one in said if one.get("agent")]
        assert sorted(set(hops)) == [1, 2, 3]
        assert len(said) < 20


async def test_which_handler_is_called(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"])

    def said(text: str) -> Any:
        async def handler(ctx: Context, message: Message) -> str:
            return f"{text} {message.arguments}".strip()

        return handler

    agent.on_mention(said("mention"))
    agent.on_command("weather")(said("weather"))
    agent.on_message(when=lambda message: "help" in message.text)(said("help"))

    @agent.on_reaction
    async def reacted(ctx: Context, reaction: Reaction) -> str:
        return f"{reaction.user} {reaction.emoji}"

    async with running(tmp_path) as here, living(agent, here, replicas=2), reading(here) as room:
        for text, answer in (
            ("/weather Paris ", "weather Paris"),
            ("@bot /Weather in Rome", "weather in Rome"),
            ("/wether", None),
            ("help", "help"),
            ("hi @bot!", "mention"),
            ("hi @bottle", None),
            ("me@bot.org", None),
        ):
            asked = (await room.chat.send("r", text)).seq
            if answer is not None:
                assert (await room.answer(asked))["text"] == answer
            else:
                await asyncio.sleep(0.05)
                assert not room.replies(asked)
        others = (await room.chat.send("r", "/weather", mentions=["helper"])).seq
        about = (await room.chat.send("r", "/weather @carl", mentions=["carl"])).seq
        assert (await room.answer(about))["text"] == "weather @carl"
        assert not room.replies(others), "the command of another agent"
        spoken = next(one for one in room.events if one["user"] == "bot")
        asked = (await room.chat.send("r", "and?", reply_to=spoken["seq"])).seq
        assert (await room.answer(asked))["text"] == "mention"
        reacted_at = (await room.chat.react("r", 1, "👍")).seq
        reply = await room.reply(reacted_at)
        assert (reply["text"], reply["reply_to"]) == ("ann 👍", 1)


@pytest.mark.logs("(?s)handler failed .*a message that grows has at most 262,144 characters")
async def test_who_says_too_much_is_told_so(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"])

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> AsyncIterator[str]:
        while True:
            yield "more " * 20_000

    async with running(tmp_path) as here, living(agent, here), reading(here) as room:
        end = await room.answer(await room.ask("?"))
        assert (end["reason"], end["text"]) == ("error", "more " * 40_000 + f"\n\n{TOO_LONG}")


@pytest.mark.logs("(?s)handler failed .*the handler wanted to exit with 2")
@pytest.mark.logs("(?s)handler failed .*the handler wanted to exit with 'no'")
async def test_a_handler_that_exits_ends_its_own_reply_alone(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"])

    @agent.on_command("roll")
    async def roll(ctx: Context, message: Message) -> str:
        parser = argparse.ArgumentParser("/roll")
        parser.add_argument("sides", type=int)
        return f"1 of {parser.parse_args(message.arguments.split()).sides}"

    @agent.on_command("thread")
    def thread(ctx: ThreadContext, message: Message) -> str:
        sys.exit("no")

    async with running(tmp_path) as here, living(agent, here), reading(here) as room:
        for text, answer in (("/roll many", SORRY), ("/thread", SORRY), ("/roll 6", "1 of 6")):
            assert (await room.answer(await room.ask(text)))["text"] == answer


async def test_it_comes_where_it_is_named_or_invited(tmp_path: Path) -> None:
    agent = Agent("bot")
    agent.on_mention(returns)

    @agent.on_message
    async def other(ctx: Context, message: Message) -> str:
        return "other"

    async with running(tmp_path) as here, living(agent, here) as (life,):
        async with reading(here, name="somewhere") as room:
            await room.chat.send("somewhere", "not for it")
            asked = await room.ask("hello")
            assert (await room.answer(asked))["text"] == "hello "
            later = (await room.chat.send("somewhere", "nor this")).seq
            await room.answer(await room.ask("hello"))
            assert not room.replies(later)
        async with reading(here, name="party") as room:
            await room.chat.send("party", "before")
            await room.chat.invite("party", "bot")
            await eventually(lambda: "party" in life.rooms and life.rooms["party"]._live)
            asked = (await room.chat.send("party", "all ears")).seq
            assert (await room.answer(asked))["text"] == "other"
            assert not room.replies(1)


async def test_it_leaves_a_room_for_another_one_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "ROOMS", 3)
    monkeypatch.setattr(session, "ROOMS", 4)  # with the inbox: as many as the server lets it be in
    agent = Agent("bot")
    agent.on_mention(returns)
    async with running(tmp_path) as here, living(agent, here) as (one,), person(here, "ann") as ann:
        for name in ("a", "b", "c", "d", "e", "a"):
            answer = await ann.ask("bot", f"@bot in {name}", room=name, silence=20)
            assert await answer.whole() == f"in {name} "
        assert set(one.rooms) == {"d", "e", "a"}


@pytest.mark.logs("invited to too many rooms, heard where it is named only room=i[234]")
async def test_whoever_invites_it_everywhere_leaves_it_room_for_those_who_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "ROOMS", 4)
    monkeypatch.setattr(life, "INVITED", 2)
    agent = Agent("bot")
    agent.on_message(returns)
    async with running(tmp_path) as here, person(here, "ann") as ann:
        for _ in range(2):  # it is so when it starts anew, too
            async with living(agent, here) as (one,):
                for room in ("i0", "i1", "i2", "i3", "i4"):
                    await ann.invite(room, "bot")
                    await eventually(partial(one._levels.get, room))
                    await eventually(lambda: all(there._live for there in one.rooms.values()))
                for room in ("i4", "elsewhere", "i0"):
                    answer = await ann.ask("bot", f"@bot in {room}", room=room, silence=20)
                    assert await answer.whole() == f"in {room} "
                assert sorted(room.level for room in one.rooms.values()).count("everything") == 2


@pytest.mark.logs("room not joined, it would be one too many room=b")
async def test_where_there_was_no_place_it_comes_when_it_is_named_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(life, "ROOMS", 1)
    agent, go_on = Agent("bot"), asyncio.Event()

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> str:
        await go_on.wait()
        return ctx.room

    async with running(tmp_path) as here, living(agent, here) as (one,), person(here, "ann") as ann:
        first = await ann.ask("bot", "?", room="a")
        await eventually(lambda: one.turns)
        await ann.send("b", "@bot?", mentions=["bot"])
        await eventually(lambda: "one too many" in caplog.text)
        go_on.set()
        assert await first.whole() == "a"
        await eventually(lambda: one.rooms["a"].is_idle)
        assert await (await ann.ask("bot", "?", room="b", silence=20)).whole() == "b"


async def test_a_replica_that_comes_later_leaves_what_was_there_before(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"])
    agent.on_message(returns)
    async with running(tmp_path) as here, reading(here) as room:
        before = (await room.chat.send("r", "before")).seq
        async with living(agent, here), living(agent, here):
            asked = (await room.chat.send("r", "now")).seq
            assert (await room.answer(asked))["text"] == "now "
            assert not room.replies(before)


async def test_what_is_said_where_it_was_invited_is_answered_though_it_was_away(tmp_path: Path) -> None:
    agent = Agent("bot")
    agent.on_message(returns)
    async with running(tmp_path) as here, reading(here) as room:
        before = (await room.chat.send("r", "before")).seq
        await room.chat.invite("r", "bot")
        async with living(agent, here) as (life,):
            await eventually(lambda: "r" in life.rooms and life.rooms["r"]._live)
            await room.answer((await room.chat.send("r", "here")).seq)
        asked = (await room.chat.send("r", "away")).seq
        async with living(agent, here):
            assert (await room.answer(asked))["text"] == "away "
        assert not room.replies(before)


async def test_it_comes_where_its_user_follows_a_room(tmp_path: Path) -> None:
    agent = Agent("bot")
    agent.on_message(returns)
    async with running(tmp_path) as here, living(agent, here) as (life,), reading(here) as room:
        async with person(here, "bot") as own:
            await own.follow("r")
        await eventually(lambda: "r" in life.rooms and life.rooms["r"]._live)
        asked = (await room.chat.send("r", "hello")).seq
        assert (await room.answer(asked))["text"] == "hello "


async def test_a_room_to_which_it_came_by_name_is_heard_whole_when_it_is_told_so(tmp_path: Path) -> None:
    agent = Agent("bot")
    agent.on_message(returns)
    agent.on_mention(returns)
    async with running(tmp_path) as here, reading(here) as room:
        async with living(agent, here):
            await room.answer(await room.ask("come"))
            left = (await room.chat.send("r", "not for it")).seq
        agent.rooms = ("r",)
        async with living(agent, here) as (life,):
            await eventually(lambda: life.rooms["r"].level == "everything")
            asked = (await room.chat.send("r", "all ears")).seq
            assert (await room.answer(asked))["text"] == "all ears "
            assert not room.replies(left)


@pytest.mark.logs("too many reactions at once, one is left alone room=r")
async def test_reactions_that_are_answered_at_a_time_are_bounded(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"], max_open=2)
    go_on = asyncio.Event()
    told: list[str] = []

    @agent.on_reaction
    async def reacted(ctx: Context, reaction: Reaction) -> str:
        told.append(reaction.emoji)
        await go_on.wait()
        return reaction.emoji

    async with running(tmp_path) as here, living(agent, here), reading(here) as room:
        seq = (await room.chat.send("r", "x")).seq
        seqs = [(await room.chat.react("r", seq, str(number))).seq for number in range(4)]
        await eventually(lambda: len(room.events) == 5)
        go_on.set()
        for at in seqs[:2]:
            await room.reply(at)
        assert told == ["0", "1"]


@pytest.mark.logs("too many reactions in a minute, one is left alone room=r")
async def test_reactions_of_a_minute_are_bounded_and_cost_no_reply(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"], replies_a_minute=2)
    agent.on_mention(yields)

    @agent.on_reaction
    async def reacted(ctx: Context, reaction: Reaction) -> str:
        return reaction.emoji

    async with running(tmp_path) as here, living(agent, here), reading(here) as room:
        seq = (await room.chat.send("r", "x")).seq
        seqs = [(await room.chat.react("r", seq, str(number))).seq for number in range(4)]
        for at in seqs[:2]:
            await room.reply(at)
        async with asyncio.timeout(SECONDS):
            await room.answer(await room.ask("hello"))
        assert [one["text"] for one in room.events if one["user"] == "bot" and one.get("reply_to") == seq] == ["0", "1"]


@pytest.mark.logs("room not joined, it would be one too many room=r")
async def test_where_there_was_no_room_for_it_it_comes_when_it_is_named_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tornado_chat.agents.life.ROOMS", 2)
    agent = Agent("bot", rooms=["one", "two"])
    agent.on_mention(yields)
    async with running(tmp_path) as here, living(agent, here) as (life,), reading(here) as room:
        too_many = await room.ask("too many")
        await eventually(lambda: any("one too many" in line for line in caplog.messages))
        async with person(here, "bot") as own:
            await own.unfollow("one")
        await eventually(lambda: "one" not in life.rooms)
        assert (await room.answer(await room.ask("again")))["text"] == "again "
        assert not room.replies(too_many)


@pytest.mark.parametrize("allowed", [True, pytest.param(False, marks=pytest.mark.logs("room not joined room=r"))])
async def test_it_says_that_it_answers_when_it_hears_its_rooms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, allowed: bool
) -> None:
    agent = Agent("bot", rooms=["r"])
    agent.on_message(returns)
    go_on = asyncio.Event()
    join = Client.join

    async def late(self: Client, room: str, **more: Any) -> Data:
        if room == "r":
            await go_on.wait()
            if not allowed:
                raise ChatError(ErrorCode.FORBIDDEN, "not there")
        return await join(self, room, **more)

    monkeypatch.setattr(Client, "join", late)
    caplog.set_level("INFO")
    async with running(tmp_path) as here:
        one = life.Life(agent, "replica")
        task = asyncio.create_task(one.run(address(here), token(here, BOT, agent=True)))
        await eventually(lambda: "r" in one.rooms)
        await asyncio.sleep(0.2)
        assert "agent answers" not in caplog.text
        go_on.set()
        await eventually(lambda: "agent answers" in caplog.text)
        assert ("r" in one.rooms and one.rooms["r"]._questions is not None) is allowed
        task.cancel()
        await asyncio.wait([task])


async def test_replies_of_a_minute_are_bounded(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"], replies_a_minute=2)
    agent.on_mention(returns)
    async with running(tmp_path) as here, living(agent, here, replicas=2), reading(here) as room:
        asked = [await room.ask(str(number)) for number in range(4)]
        for seq in asked[:2]:
            await room.answer(seq)
        await asyncio.sleep(0.3)
        assert not room.replies(asked[2])


async def test_what_is_asked_again_after_long_is_answered_however_often_it_was_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replica that answers has read nothing of the question, nor of the attempts to answer it."""
    monkeypatch.setattr(life, "BACK", 5)
    agent = Agent("bot", rooms=["r"])

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> str:
        return f"{ctx.attempt}: {message.text}"

    async with running(tmp_path) as here, reading(here) as room:
        async with living(agent, here):
            asked = await room.ask("0")
            await room.answer(asked)
            for text in "12":
                await room.chat.edit("r", asked, text)
                assert (await room.answer(asked, int(text) + 1))["text"] == f"{int(text) + 1}: {text}"
        for number in range(20):
            await room.chat.send("r", f"noise {number}")
        async with person(here, "bot") as bot:  # a replica that is gone again
            await bot.read("r", (await room.chat.send("r", "noise")).seq)
        async with living(agent, here, replicas=2) as lives:
            assert all(one.rooms["r"]._questions.get(asked) is None for one in lives if one.rooms["r"]._questions)
            for text in "34":
                await room.chat.edit("r", asked, text)
                assert (await room.answer(asked, int(text) + 1))["text"] == f"{int(text) + 1}: {text}"


@pytest.mark.logs("when failed, a message is left alone room=r error=KeyError")
async def test_a_when_that_fails_costs_one_message_and_not_the_agent(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"])

    @agent.on_message(when=lambda message: bool(message.meta["kind"] == "question"))
    async def answer(ctx: Context, message: Message) -> str:
        return "yes"

    async with running(tmp_path) as here, living(agent, here), reading(here) as room:
        left_alone = await room.ask("without meta")
        asked = await room.ask("?", meta={"kind": "question"})
        assert (await room.answer(asked))["text"] == "yes"
        assert not room.replies(left_alone)


async def test_what_waits_for_a_thread_that_was_stopped_comes_when_that_has_ended(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"], max_open=1, double_texting="concurrent")
    go_on = threading.Event()

    @agent.on_mention
    def answer(ctx: ThreadContext, message: Message) -> str:
        go_on.wait(SECONDS)
        return "too late"

    @agent.on_command("quick")
    async def quick(ctx: Context, message: Message) -> str:
        return "quick"

    async with running(tmp_path) as here, living(agent, here) as (life,), reading(here) as room:
        asked = await room.ask("?")
        message = await room.reply(asked)
        await eventually(lambda: life.turns.threads.alive)
        await room.chat.stop("r", message["seq"])
        assert (await room.answer(asked))["reason"] == "stopped"
        later = await room.ask("/quick")
        await eventually(lambda: not life.turns and life.rooms["r"] in life.turns._hungry)
        await asyncio.sleep(1.5)  # then no signal comes any more that would let the room look
        assert not room.replies(later)
        go_on.set()
        async with asyncio.timeout(10):  # after 30 s its mark would move, a signal as well
            assert (await room.answer(later))["text"] == "quick"


@pytest.mark.logs("(?s)handler failed room=r.*(ChatError|Closed)")
@pytest.mark.parametrize("error", [ChatError(ErrorCode.CONFLICT, "of a draft"), Closed("another client")])
async def test_what_a_handler_does_elsewhere_may_fail_in_any_way_and_its_reply_ends(
    tmp_path: Path, error: Exception
) -> None:
    agent = Agent("bot", rooms=["r"])

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> AsyncIterator[str]:
        yield "so far"
        raise error

    async with running(tmp_path) as here, living(agent, here), reading(here) as room:
        end = await room.answer(await room.ask("?"))
        assert (end["reason"], end["text"]) == ("error", f"so far\n\n{SORRY}")
