"""The peer "FastAPI + uvicorn": a broadcast with `gather` of `send_text`, on uvloop, httptools and websockets.

python fastapi_server.py PORT      # /ws broadcasts any text to all of one room, /echo answers

The streams of server-sent events at /events, by sse-starlette, are in the same room: each has a queue.
"""

# FastAPI is installed in bench/.venv only, where mypy does not look:
# mypy: disable-error-code="import-not-found,untyped-decorator"

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from sse_starlette import EventSourceResponse


def application() -> FastAPI:
    app = FastAPI()
    members: dict[WebSocket, None] = {}  # a dict, not a set: every server serves its members in the order they came
    streams: dict[asyncio.Queue[str], None] = {}

    @app.websocket("/ws")
    async def chat(socket: WebSocket) -> None:
        await socket.accept()
        members[socket] = None
        try:
            while True:
                text = await socket.receive_text()
                for queue in streams:
                    queue.put_nowait(text)
                await asyncio.gather(*(member.send_text(text) for member in members), return_exceptions=True)
        except WebSocketDisconnect:
            pass
        finally:
            del members[socket]

    @app.get("/events")
    async def events() -> EventSourceResponse:
        queue: asyncio.Queue[str] = asyncio.Queue()
        streams[queue] = None

        async def listen() -> AsyncIterator[dict[str, str]]:
            try:
                while True:
                    yield {"data": await queue.get()}
            finally:
                del streams[queue]

        return EventSourceResponse(listen())

    @app.websocket("/echo")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        try:
            while True:
                await socket.send_text(await socket.receive_text())
        except WebSocketDisconnect:
            pass

    return app


if __name__ == "__main__":
    uvicorn.run(
        application(),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws_per_message_deflate=False,
        log_level="warning",
    )
