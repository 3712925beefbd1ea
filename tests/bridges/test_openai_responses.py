"""/v1/responses, judged by OpenAI's own client, across two workers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI

from tests.support.agents import BOT, SECONDS, living, token
from tests.support.chat import Running, eventually, running
from tests.support.parrot import Parrot, by, parrot
from tests.support.several_servers import servers
from tornado_chat.bridges import asking
from tornado_chat.bridges.openai_responses import named_by, response_id
from tornado_chat.errors import ChatError


def client_of(here: Running, user: str = "ann", **claims: Any) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=here.address + "/v1", api_key=token(here, user, **claims), timeout=SECONDS)


async def test_a_response_is_whole_or_streamed_and_goes_on_with_the_next(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (here, bird, client), client_of(here) as ai:
        first = await ai.responses.create(model=BOT, input="hello there", instructions="Be brief.")
        assert (first.output_text, first.status, first.model) == ("hello there ", "completed", BOT)
        assert first.metadata is not None
        room = first.metadata["room"]
        events: list[Any] = []
        async with ai.responses.stream(model=BOT, input="one two", previous_response_id=first.id) as stream:
            events = [event async for event in stream]
            second = await stream.get_final_response()
        assert (second.output_text, second.previous_response_id) == ("one two ", first.id)
        numbers = [event.sequence_number for event in events]
        assert numbers == sorted(set(numbers))
        kinds = [event.type for event in events]
        assert kinds[:4] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
        ]
        assert kinds[-4:] == [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        again = await ai.responses.retrieve(second.id)
        assert (again.output_text, again.status) == ("one two ", "completed")
        said = (await client.get(f"/v1/rooms/{room}/messages", headers=by(here, "ann"))).json()["messages"]
        assert [one["text"] for one in said] == ["Be brief.", "hello there", "hello there ", "one two", "one two "]
    assert bird.asked == ["hello there", "one two"]


async def test_what_was_cut_off_goes_on_at_another_worker_exactly_where_it_was(tmp_path: Path) -> None:
    bird = Parrot()
    bird.freely = False
    async with (
        servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db") as (one, other),
        living(bird.agent, one),
        client_of(one) as here,
        client_of(other) as there,
    ):
        stream: Any = await here.responses.create(model=BOT, input="one two three", stream=True)
        bird.go_on()
        seen: list[Any] = []
        async for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        id = seen[0].response.id
        going_on: Any = await there.responses.retrieve(id, stream=True, starting_after=seen[-1].sequence_number)
        await eventually(lambda: other.server.askings.open, SECONDS)
        assert one.server.context.growing.by_name, "hanging up stops nothing"
        halfway = await there.responses.retrieve(id)
        assert halfway.status == "in_progress"
        assert "one two three ".startswith(halfway.output_text)
        bird.go_on(2)
        seen += [event async for event in going_on]
        assert "".join(event.delta for event in seen if event.type == "response.output_text.delta") == "one two three "
        numbers = [event.sequence_number for event in seen]
        assert numbers == sorted(set(numbers))
        assert seen[-1].response.output_text == "one two three "
        all_of_it: Any = await there.responses.retrieve(id, stream=True)
        whole = [event async for event in all_of_it]
        assert [event.sequence_number for event in whole if event.type != "response.output_text.delta"] == [
            number for event, number in zip(seen, numbers, strict=True) if event.type != "response.output_text.delta"
        ]
        for event in whole:  # from wherever it is
            rest: Any = await there.responses.retrieve(id, stream=True, starting_after=event.sequence_number)
            assert [found.sequence_number async for found in rest] == [
                found.sequence_number for found in whole if found.sequence_number > event.sequence_number
            ]
        another: Any = await there.responses.retrieve(id, stream=True, starting_after=3 << 12 | 1)
        (told,) = [event async for event in another]
        assert (told.type, told.code) == ("error", "conflict"), "it is not the text that this number is of"


async def test_a_cancel_ends_what_grows_and_what_has_not_begun(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (here, bird, _), client_of(here) as ai:
        bird.freely = False
        begun = await ai.responses.create(model=BOT, input="one two", background=True)
        assert begun.status in ("queued", "in_progress")
        bird.go_on()
        await eventually(lambda: any(one.length for one in here.server.context.growing.by_name.values()))
        async with client_of(here, "bob") as bob:
            with pytest.raises(openai.PermissionDeniedError):
                await bob.responses.cancel(begun.id)
        cancelled = await ai.responses.cancel(begun.id)
        assert (cancelled.status, cancelled.output_text) == ("cancelled", "one ")
        assert (await ai.responses.cancel(begun.id)).status == "cancelled"
        waiting = await ai.responses.create(model="nobody", input="hello", background=True)
        assert waiting.status == "queued"
        assert (await ai.responses.cancel(waiting.id)).status == "cancelled"


@pytest.mark.logs("handler failed")
async def test_what_fails_says_so(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (here, _, _), client_of(here) as ai:
        failed = await ai.responses.create(model=BOT, input="fail")
        assert failed.status == "failed"
        assert failed.error is not None
        kept_out = client_of(here, "bob", rooms=["lobby"])
        for id, client in ((failed.id, kept_out), ("resp_", ai), (response_id("lobby", 7), ai), ("x", ai)):
            with pytest.raises(openai.PermissionDeniedError if client is kept_out else openai.NotFoundError):
                await client.responses.retrieve(id)
        await kept_out.close()
        result = {"type": "function_call_output", "call_id": "1", "output": "2"}  # as the API has it: without a role
        wrong: list[Any] = [([result], "only messages"), ([{"type": "message"}], "last"), (7, "int"), ([], "last")]
        for input, why in wrong:
            with pytest.raises(openai.BadRequestError, match=why):
                await ai.post("/responses", body={"model": BOT, "input": input}, cast_to=object)
        here.server.askings.sign_seconds = 0.1
        stream: Any = await ai.responses.create(model="nobody", input="hello", stream=True)
        last = [event async for event in stream][-1]
        assert last.type == "error"
        assert "'nobody'" in last.message


async def test_to_look_at_an_old_response_reads_no_more_than_it_and_is_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "LOOK_EVENTS", 2)
    async with parrot(tmp_path, send_rate=1, send_burst=20) as (here, _, client), client_of(here) as ai:
        first = await ai.responses.create(model=BOT, input="one", metadata={"room": "team"})
        for number in range(10):
            told = await client.post("/v1/rooms/team/messages", json={"text": f"{number}"}, headers=by(here, "bob"))
            assert told.status_code == 201
        read, reads = here.server.log.read, 0

        async def counted(*args: Any, **options: Any) -> Any:
            nonlocal reads
            reads += 1
            return await read(*args, **options)

        monkeypatch.setattr(here.server.log, "read", counted)
        assert (await ai.responses.retrieve(first.id)).output_text == "one "
        assert reads == 1
        seq = (await client.get("/v1/rooms/team/messages", headers=by(here, "bob"))).json()["messages"][0]["seq"]
        edit = {"text": "two", "id": "e"}
        await client.patch(f"/v1/rooms/team/messages/{seq}", json=edit, headers=by(here, "ann"))
        await eventually(lambda: not here.server.context.growing.by_name)
        again: Any = await ai.responses.retrieve(first.id, stream=True)
        assert [event.text async for event in again if event.type == "response.output_text.done"] == ["two "]
        asked = [client.get(f"/v1/responses/{first.id}", headers=by(here, "ann")) for _ in range(30)]
        assert 429 in {answer.status_code for answer in await asyncio.gather(*asked)}


async def test_a_worker_that_stops_ends_a_stream_with_an_error(tmp_path: Path) -> None:
    bird = Parrot()
    bird.freely = False
    async with running(tmp_path) as here, living(bird.agent, here), client_of(here) as ai:
        stream: Any = await ai.responses.create(model=BOT, input="one", stream=True)
        await anext(aiter(stream))
        here.server.context.draining = True
        here.server.askings.drain()
        events = [event async for event in stream]
        assert events[-1].type == "error"
        here.server.context.draining = False


@given(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True), st.integers(1, 10**17))
def test_an_id_names_its_room_and_question(room: str, question: int) -> None:
    assert named_by(response_id(room, question)) == (room, question)


@given(st.text())
def test_no_other_text_is_an_id(text: str) -> None:
    try:
        room, question = named_by("resp_" + text)
    except ChatError:
        return
    assert named_by(response_id(room, question)) == (room, question)
