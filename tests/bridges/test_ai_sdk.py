"""/v1/agents/{agent}/chat, judged by the AI SDK's own transport and reader of message streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.agents import BOT, SECONDS, living, token
from tests.support.chat import Running, eventually
from tests.support.node import packages
from tests.support.parrot import Parrot, by, parrot
from tests.support.several_servers import servers

AI_SDK = ROOT / "tests" / "judges" / "ai_sdk"


@pytest.fixture(scope="module")
def node() -> str:
    packages(AI_SDK)
    return "node"


class Page:
    """A program that has a chat by the AI SDK."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout

    def begin(self, act: str, **fields: Any) -> None:
        self._in.write(json.dumps({"act": act, **fields}).encode() + b"\n")

    async def end(self) -> Any:
        async with asyncio.timeout(SECONDS):
            return json.loads(await self._out.readline())

    async def act(self, act: str, **fields: Any) -> Any:
        self.begin(act, **fields)
        return await self.end()


@asynccontextmanager
async def page(node: str, here: Running, user: str = "ann", chat: str = "chat 1") -> AsyncIterator[Page]:
    process = await asyncio.create_subprocess_exec(
        *(node, "chat.mjs", f"{here.address}/v1/agents/{BOT}/chat", token(here, user), chat),
        cwd=AI_SDK,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Page(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(SECONDS):
            await process.wait()


def text_of(told: Any) -> str:
    return "".join(part.get("text", "") for part in told["message"]["parts"] if part["type"] == "text")


@pytest.mark.logs("handler failed")
async def test_a_chat_with_steps_a_regeneration_an_edit_and_an_error(node: str, tmp_path: Path) -> None:
    async with parrot(tmp_path) as (here, bird, client), page(node, here) as chat:
        told = await chat.act("send", id="q1", text="look there")
        assert told["error"] is None
        assert text_of(told) == "look there "
        message = told["message"]
        assert message["role"] == "assistant"
        (tool,) = [part for part in message["parts"] if part["type"] == "dynamic-tool"]
        assert [tool[key] for key in ("toolName", "state", "input", "output")] == [
            "search",
            "output-available",
            "it",
            "found",
        ]
        again = await chat.act("regenerate")
        assert text_of(again) == "look there "
        assert again["message"]["id"] != message["id"]
        assert text_of(await chat.act("edit", text="other words")) == "other words "
        assert bird.asked == ["look there", "look there", "other words"]
        failed = await chat.act("send", id="q2", text="fail")
        assert "failed" in failed["error"]
        assert (await chat.act("resume")) == {"message": None}, "nothing goes on"
        said = (await client.get(f"/v1/rooms/{message['metadata']['room']}/messages", headers=by(here, "ann"))).json()
        assert [one["text"] for one in said["messages"] if one["user"] == "ann"] == ["other words", "fail"]


async def test_who_hangs_up_stops_nothing_and_resumes_at_any_worker(node: str, tmp_path: Path) -> None:
    bird = Parrot()
    bird.freely = False
    async with (
        servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db") as (one, other),
        living(bird.agent, one),
        page(node, one) as first,
        page(node, other) as second,
    ):
        first.begin("send", id="q1", text="one two three", cutAt="one")
        bird.go_on()
        assert text_of(await first.end()) == "one "
        second.begin("resume")
        await eventually(lambda: other.server.askings.open)
        bird.go_on(2)
        assert text_of(await second.end()) == "one two three "
        assert (await second.act("resume")) == {"message": None}
        assert text_of(await first.act("again")) == "one two three ", "a request that is repeated does not ask again"
        assert bird.asked == ["one two three"]


async def test_a_stop_ends_it_and_says_so(node: str, tmp_path: Path) -> None:
    async with parrot(tmp_path) as (here, bird, client), page(node, here) as chat:
        bird.freely = False
        chat.begin("send", id="q1", text="one two")
        bird.go_on()
        await eventually(lambda: bird.asked)
        address = f"/v1/agents/{BOT}/chat/chat%201/stop"
        await eventually(lambda: here.server.context.growing.by_name)
        assert (await client.post(address, headers=by(here, "ann"))).json()["stopped"] is True
        told = await chat.end()
        assert [chunk["type"] for chunk in told["transient"]] == ["abort"]
        assert (await client.post(address, headers=by(here, "ann"))).json()["stopped"] is False


async def test_what_is_no_chat_is_refused(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (here, _, client):
        for body in (b"{}", b'{"id":"c","messages":[]}', b'{"id":"","messages":[{"role":"user"}]}', b"[" * 100000):
            answer = await client.post(
                f"/v1/agents/{BOT}/chat",
                content=body,
                headers={"Content-Type": "application/json", **by(here, "ann")},
            )
            assert answer.status_code == 400, (body[:40], answer.text)
        parts = [{"type": "text", "text": "What is it?"}, {"type": "file", "mediaType": "image/png", "url": "data:,"}]
        seen = {"id": "c", "messages": [{"role": "user", "parts": parts}]}
        answer = await client.post(f"/v1/agents/{BOT}/chat", json=seen, headers=by(here, "ann"))
        assert (answer.status_code, "files" in answer.text) == (400, True)
        answer = await client.get(f"/v1/agents/{BOT}/chat/never/stream", headers=by(here, "ann"))
        assert answer.status_code == 204
