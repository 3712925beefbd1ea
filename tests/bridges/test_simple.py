"""POST /api/agent/chat and GET /api/chat/stream, over real sockets, with agents beside the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from httpx_sse import EventSource, ServerSentEvent

from tests.support.agents import BOT, SECONDS, living, token
from tests.support.chat import eventually, running
from tests.support.parrot import Parrot, by, parrot
from tests.support.servers import UNLIMITED, Server
from tornado_chat.agents import life
from tornado_chat.bridges import asking
from tornado_chat.client import Client as Chat


@asynccontextmanager
async def streamed(
    client: httpx.AsyncClient, headers: dict[str, str], **query: str
) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
    headers = {"Accept": "text/event-stream", **headers}
    async with client.stream("GET", "/api/chat/stream", params=query, headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        yield EventSource(answer).aiter_sse()


async def all_of(events: AsyncIterator[ServerSentEvent]) -> list[ServerSentEvent]:
    return [event async for event in events if event.event != "ping"]


def text_of(events: list[ServerSentEvent]) -> str:
    return "".join(json.loads(event.data)["text"] for event in events if event.event == "message")


@pytest.mark.logs("handler failed")
async def test_a_question_has_its_whole_answer_and_its_conversation_goes_on(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (here, bird, client):
        first = await client.post("/api/agent/chat", json={"message": "hello there"}, headers=by(here, "ann"))
        assert first.status_code == 200, first.text
        told = first.json()
        assert told == {**told, "reply": "hello there ", "agent": BOT, "reason": "done"}
        assert set(told) == {"reply", "session_id", "room", "agent", "reason"}
        more = {"message": "again", "session_id": told["session_id"], "agent": BOT}
        second = (await client.post("/api/agent/chat", json=more, headers=by(here, "ann"))).json()
        assert (second["room"], second["reply"]) == (told["room"], "again ")
        other = (await client.post("/api/agent/chat", json=more, headers=by(here, "bob"))).json()
        assert other["room"] != told["room"], "a session is its user's"
        async with Chat(here.address, token=token(here, "carl")) as chat:
            said = (await chat.history(told["room"]))["messages"]
            assert [one["text"] for one in said] == ["hello there", "hello there ", "again", "again "]
        failed = (await client.post("/api/agent/chat", json={"message": "fail"}, headers=by(here, "ann"))).json()
        assert failed["reason"] == "error"
        assert failed["reply"].startswith("Sorry")
    assert bird.asked == ["hello there", "again", "again", "fail"]


async def test_an_answer_streams_and_who_was_cut_off_goes_on_where_it_was(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (here, bird, client):
        bird.freely = False
        ann = by(here, "ann")
        async with streamed(client, ann, query="one two three", session_id="a/b c~\N{SNOWMAN}") as events:
            start = await anext(events)
            assert start.event == "start"
            begun = json.loads(start.data)
            assert (begun["agent"], begun["session_id"]) == (BOT, "a/b c~\N{SNOWMAN}")
            bird.go_on()
            first = await anext(events)
            assert (first.event, json.loads(first.data)) == ("message", {"text": "one "})
        bird.go_on(2)
        async with streamed(client, ann | {"Last-Event-ID": first.id}, query="one two three") as events:
            rest = await all_of(events)
        assert text_of(rest) == "two three "
        assert (rest[-1].event, json.loads(rest[-1].data)) == ("end", {"reason": "done"})
        async with streamed(client, ann, query="one two three", id=start.id) as events:
            assert text_of(await all_of(events)) == "one two three "
        again = await client.get(
            "/api/chat/stream", params={"query": "one two three"}, headers=ann | {"Last-Event-ID": rest[-1].id}
        )
        assert again.status_code == 204, "an EventSource that has all of it stops"
    assert bird.asked == ["one two three"]


async def test_a_question_with_an_id_is_asked_once(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (here, bird, client):
        ann = by(here, "ann")
        replies = [
            (await client.post("/api/agent/chat", json={"message": "hello", "session_id": "s"}, headers=headers)).json()
            for headers in [ann | {"Idempotency-Key": "1"}] * 2
        ]
        assert replies[0] == replies[1]
        for _ in range(2):
            async with streamed(client, ann, query="hello", session_id="t", id="once") as events:
                assert text_of(await all_of(events)) == "hello "
    assert bird.asked == ["hello", "hello"]


async def test_a_guest_is_given_a_session_and_another_page_is_not_answered(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (here, bird, client):
        first = await client.post("/api/agent/chat", json={"message": "hello"})
        told = first.json()
        assert "chat_session=" in first.headers["Set-Cookie"]
        origin = {"Origin": here.address}
        more = {"message": "again", "session_id": told["session_id"]}
        second = (await client.post("/api/agent/chat", json=more, headers=origin)).json()
        assert (second["room"], "token" in second) == (told["room"], False)
        ways = {
            200: [{"Sec-Fetch-Site": "same-origin"}, origin],
            403: [{}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "none"}, {"Origin": "http://evil.example"}],
        }
        for status, found in ways.items():
            for headers in found:
                params = {"query": "hi", "session_id": "s", "id": "1"}
                answer = await client.get("/api/chat/stream", params=params, headers=headers)
                assert answer.status_code == status, (headers, answer.text)
        # Beside the cookie neither is who asks: a link of any page can have both.
        for params, headers in [({"token": "x"}, {}), ({"token": ""}, {}), ({}, {"Authorization": "Basic eDp5"})]:
            headers = {"Sec-Fetch-Site": "cross-site", **headers}
            answer = await client.get("/api/chat/stream", params={"query": "hi", **params}, headers=headers)
            assert answer.status_code == 403, (params, headers, answer.text)
        assert (await client.post("/api/agent/chat", json=more)).status_code == 403
        client.cookies.clear()
        cross = {"Sec-Fetch-Site": "cross-site"}
        assert (await client.get("/api/chat/stream", params={"query": "hi"}, headers=cross)).status_code == 403
        with_token = {"query": "hi", "token": told["token"], "session_id": "t"}
        assert (await client.get("/api/chat/stream", params=with_token, headers=cross)).status_code == 200
    assert bird.asked == ["hello", "again", "hi", "hi"]


async def test_what_the_agent_does_is_told_and_what_it_asks_is_answered_by_the_next_message(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (here, _, client):
        ann = by(here, "ann")
        async with streamed(client, ann, query="look there") as events:
            came = await all_of(events)
        steps = [json.loads(event.data) for event in came if event.event == "step"]
        assert (steps[-1]["name"], steps[-1]["state"], steps[-1]["output"]) == ("search", "done", "found")
        asked = {"message": "ask", "session_id": "s"}
        told = (await client.post("/api/agent/chat", json=asked, headers=ann)).json()
        assert (told["reply"], told["reason"]) == ("What is it?", "asks")
        answer = {"message": "a bird", "session_id": "s"}
        told = (await client.post("/api/agent/chat", json=answer, headers=ann)).json()
        assert (told["reply"], told["reason"]) == ("It is a bird", "done")


async def test_an_answer_is_found_by_what_the_agent_asked_also_when_it_was_over_before_one_looked(
    tmp_path: Path,
) -> None:
    """Somebody else speaks in between, and the same request comes again after the reply has ended."""
    async with parrot(tmp_path) as (here, bird, client):
        ann = by(here, "ann")
        asked = {"message": "ask", "session_id": "s"}
        room = (await client.post("/api/agent/chat", json=asked, headers=ann)).json()["room"]
        async with Chat(here.address, token=token(here, "carl")) as chat:
            await chat.send(room, "I wonder")
        answer = {"message": "a bird", "session_id": "s", "id": "answer"}
        for _ in range(2):
            told = (await client.post("/api/agent/chat", json=answer, headers=ann)).json()
            assert (told["reply"], told["reason"]) == ("It is a bird", "done")
    assert bird.asked == ["ask"]


async def test_an_answer_that_another_replica_begins_anew_is_told_so_unless_it_is_the_same(tmp_path: Path) -> None:
    """Of "one two" another says "one two" again, and goes on; the next one says something else."""
    first, second, third = birds = [Parrot(), Parrot(), Parrot()]
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(running(tmp_path, default_agent=BOT))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=here.address, timeout=SECONDS))
        lives = [AsyncExitStack() for _ in birds]
        for bird in birds:
            bird.freely = False
        await lives[0].enter_async_context(living(first.agent, here, name="first"))
        events = await stack.enter_async_context(streamed(client, by(here, "ann"), query="one two three"))
        assert (await anext(events)).event == "start"
        first.go_on(2)
        given = ""
        while given != "one two ":
            given += text_of([await anext(events)])
        await lives[1].enter_async_context(living(second.agent, here, name="second"))
        await lives[0].aclose()
        await eventually(lambda: second.asked, SECONDS)
        second.lingers = True
        second.go_on(3)
        third.instead = "one but not two"
        given += text_of([await anext(events)])
        assert given == "one two three "
        await lives[2].enter_async_context(living(third.agent, here, name="third"))
        await lives[1].aclose()
        await eventually(lambda: third.asked, SECONDS)
        third.go_on(4)
        rest = await all_of(events)
        assert rest[0].event == "restart"
        assert text_of(rest) == "one but not two "
        await lives[2].aclose()


async def test_an_agent_that_does_not_come_is_named(tmp_path: Path) -> None:
    async with running(tmp_path) as here, httpx.AsyncClient(base_url=here.address, timeout=SECONDS) as client:
        here.server.askings.sign_seconds = 0.2
        ann = by(here, "ann")
        body = {"message": "hello", "agent": "nobody"}
        answer = await client.post("/api/agent/chat", json=body, headers=ann)
        assert answer.status_code == 503
        assert "'nobody'" in answer.json()["error"]["message"]
        async with streamed(client, ann, query="hello", agent="nobody") as events:
            last = (await all_of(events))[-1]
        assert (last.event, json.loads(last.data)["error"]["code"]) == ("end", "unavailable")
        answer = await client.post("/api/agent/chat", json={"message": "hello"}, headers=ann)
        assert answer.status_code == 400
        assert "--default-agent" in answer.json()["error"]["message"]
        assert not here.server.askings.open


async def test_more_answers_than_may_be_followed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "USER_ASKS", 2)
    monkeypatch.setattr(asking, "ASKS", 3)
    async with running(tmp_path) as here, httpx.AsyncClient(base_url=here.address, timeout=SECONDS) as client:

        async def ask(user: str) -> int:
            params = {"query": "hello", "agent": "nobody"}
            return (await client.get("/api/chat/stream", params=params, headers=by(here, user))).status_code

        tasks = [asyncio.create_task(ask(user)) for user in ("ann", "ann", "bob")]
        await eventually(lambda: len(here.server.askings.open) == 3)
        assert await ask("ann") == 429
        assert await ask("carl") == 503
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await eventually(lambda: not here.server.askings.open)
        assert not here.server.limits.users.connections("ann")


async def test_who_asks_more_at_once_than_may_be_followed_has_not_asked_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "USER_ASKS", 2)
    async with parrot(tmp_path) as (here, bird, client):
        bird.freely = False
        asked = [{"message": f"question {number}", "session_id": "s"} for number in range(6)]
        tasks = [
            asyncio.create_task(client.post("/api/agent/chat", json=body, headers=by(here, "ann"))) for body in asked
        ]
        await eventually(lambda: sum(task.done() for task in tasks) == 4, SECONDS)
        bird.go_on(4)
        answers = [await task for task in tasks]
        assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429, 429]
    assert len(bird.asked) == 2


async def test_a_server_that_stops_answers_who_waits(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (here, bird, client):
        bird.freely = False
        ann = by(here, "ann")
        waiting = asyncio.create_task(client.post("/api/agent/chat", json={"message": "one"}, headers=ann))
        async with streamed(client, ann, query="two") as events:
            await anext(events)
            await eventually(lambda: len(bird.asked) == 2)
            here.server.context.draining = True
            here.server.askings.drain()
            assert (await waiting).status_code == 503
            assert [event.event for event in await all_of(events)] == ["wait"], "an EventSource comes back by itself"
        here.server.context.draining = False


async def test_who_may_not_ask_or_look(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (here, _, client):
        kept_out = by(here, "ann", rooms=["lobby"])
        assert (await client.post("/api/agent/chat", json={"message": "hello"}, headers=kept_out)).status_code == 403
        async with streamed(client, by(here, "ann"), query="hello", session_id="s") as events:
            start = (await all_of(events))[0]
        for query in ({"id": start.id}, {"id": "s~99.0.0"}):
            answer = await client.get("/api/chat/stream", params=query, headers=by(here, "bob"))
            assert answer.status_code == 404, answer.text
        for wrong in ({}, {"query": ""}, {"query": "x" * 8001}, {"query": "x", "agent": "\n"}):
            answer = await client.get("/api/chat/stream", params=wrong, headers=by(here, "ann"))
            assert answer.status_code == 400, answer.text


async def test_an_agent_has_more_conversations_than_it_may_be_in_rooms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "ROOMS", 2)
    async with parrot(tmp_path) as (here, bird, client):
        for turn in ("one", "two"):
            for session in "abcd":
                asked = {"message": f"{turn} {session}", "session_id": session}
                answer = await client.post("/api/agent/chat", json=asked, headers=by(here, "ann"))
                assert answer.json()["reply"] == f"{turn} {session} "
        assert len(bird.asked) == 8
        followed = (await here.server.log.state(BOT)).rooms
        assert len(followed) <= 3, "it leaves those that it is not in any more"


async def test_a_process_that_is_told_to_end_leaves_nobody_waiting(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        headers = {"Authorization": f"Bearer {server.token('ann')}"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=SECONDS) as client:
            body = {"message": "hello", "agent": "nobody"}
            waiting = asyncio.create_task(client.post("/api/agent/chat", json=body))
            async with streamed(client, {}, query="hello", agent="nobody") as events:
                await anext(events)
                while (await client.get("/metrics")).text.count("answers_followed 2.0") == 0:  # noqa: ASYNC110 - of another process
                    await asyncio.sleep(0.02)
                stopping = asyncio.create_task(asyncio.to_thread(server.stop))
                assert [event.event for event in await all_of(events)] == ["wait"]
            assert (await waiting).status_code == 503
            await stopping
