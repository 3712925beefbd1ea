"""The examples for FastAPI, Flask and Django, each as the process that it says how to start, beside a real server."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from tests.support import ROOT
from tests.support.agents import AgentProcess
from tests.support.servers import UNLIMITED, Server
from tornado_chat.verify.ports import free_port

AGENT = """
import asyncio

from tornado_chat.agents import Agent

agent = Agent("helper")


@agent.on_mention
async def answer(ctx, message):
    for word in message.prompt.split():
        yield word + " "
        await asyncio.sleep(0.2)
"""
COMMANDS = {
    "fastapi": ("-m", "uvicorn", "fastapi_app:app", "--port"),
    "flask": ("-m", "flask", "--app", "flask_app", "run", "--port"),
    "django": ("django_app.py", "runserver", "--noreload"),
}


@asynccontextmanager
async def app(name: str, server: Server, port: int, secret: str, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    environment = {
        "PYTHONPATH": str(ROOT),
        "TORNADO_CHAT_URL": server.url,
        "TORNADO_CHAT_TOKEN": server.token("shop", name="Shop"),
        "WEBHOOK_SECRET": secret,
        "AGENT": "helper",
    }
    command = [sys.executable, *COMMANDS[name], str(port)]
    with (folder / "app.out").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT / "examples", env={**os.environ, **environment}, stdout=output, stderr=output
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            async with asyncio.timeout(30):
                while True:
                    assert process.returncode is None, (folder / "app.out").read_text()
                    try:
                        await client.get("/")
                        break
                    except httpx.ConnectError:
                        await asyncio.sleep(0.05)
            yield client
    finally:
        process.terminate()
        async with asyncio.timeout(20):
            await process.wait()
        said = (folder / "app.out").read_text()
        assert "Traceback" not in said, said


async def webhook(server: Server, url: str) -> str:
    """The secret of a new endpoint."""
    command = [sys.executable, "-m", "tornado_chat", "webhook", "add", url, "--rooms", "orders", "--events", "message"]
    process = await asyncio.create_subprocess_exec(
        *command, "--database", f"sqlite:///{server.database}", cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    return said.decode().partition("secret: ")[2].strip()


def again(secret: str) -> tuple[bytes, dict[str, str]]:
    """The webhook of message 2 once more, signed by others' library."""
    id, text = "msg_1", "!status"
    now = datetime.now(UTC)
    data = {"type": "message", "room": "orders", "seq": 2, "n": 2, "user": "ann", "name": "Ann", "text": text, "ts": 1}
    body = json.dumps({"type": "message.created", "timestamp": now.isoformat(), "data": data})
    signature = Webhook(secret).sign(id, now, body)
    headers = {"webhook-id": id, "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}
    return body.encode(), {**headers, "content-type": "application/json"}


@pytest.mark.parametrize("name", COMMANDS)
async def test_it_asks_and_says_and_hears(name: str, tmp_path: Path) -> None:
    expected = ["webhook refused"]  # the program ends before the server does
    with (
        Server(tmp_path, *UNLIMITED, expected=expected) as server,
        AgentProcess(tmp_path, server, module=AGENT) as agent,
    ):
        await agent.answers()
        port = free_port()
        secret = await webhook(server, f"http://127.0.0.1:{port}/webhooks")
        async with app(name, server, port, secret, tmp_path) as shop:
            async with shop.stream("POST", "/ask", data={"question": "one two three four"}) as answer:
                pieces = [piece async for piece in answer.aiter_text()]
            assert answer.status_code == 200
            assert "".join(pieces) == "one two three four "
            assert len([piece for piece in pieces if piece]) > 1, "it comes as it is said"
            for _ in range(2):
                assert (await shop.post("/orders/7/paid")).status_code == 204
            ann = {"Authorization": f"Bearer {server.token('ann')}"}
            room = f"{server.url}/v1/rooms/orders/messages"
            (await shop.post(room, json={"text": "!status"}, headers=ann)).raise_for_status()
            messages: list[dict[str, Any]] = []
            async with asyncio.timeout(30):
                while len(messages) < 3:
                    messages = (await shop.get(room, headers=ann)).json()["messages"]
                    await asyncio.sleep(0.05)
            body, headers = again(secret)
            assert (await shop.post("/webhooks", content=body, headers=headers)).status_code == 204
            assert (await shop.post("/webhooks", content=body + b" ", headers=headers)).status_code == 400
            assert (await shop.post("/webhooks", content=body)).status_code == 400
            messages = (await shop.get(room, headers=ann)).json()["messages"]
            assert [(one["name"], one["text"]) for one in messages] == [
                ("Shop", "Order 7 is paid"),
                ("ann", "!status"),
                ("Shop", "All is well."),
            ]
            assert messages[-1]["reply_to"] == 2
