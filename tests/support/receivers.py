"""Who is told by webhooks: a server on a real socket, which checks each request by a library that we did not write."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import standardwebhooks
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders, HTTPServerRequest, ResponseStartLine
from tornado.netutil import bind_sockets

Answer = Callable[[dict[str, Any]], "int | Awaitable[int]"]
"""The status for a body; it may take its time."""


class Told:
    """One request that was taken or refused: its `webhook-id`, its body, and the answer."""

    __slots__ = ("body", "id", "status")

    def __init__(self, id: str, body: dict[str, Any], status: int) -> None:
        self.id = id
        self.body = body
        self.status = status

    @property
    def place(self) -> tuple[str, int]:
        return self.body["data"]["room"], self.body["data"]["seq"]


class Receiver:
    """`secrets` are those of which one must have signed each request. `told` are all that were answered, in order."""

    def __init__(self, answer: Answer = lambda body: 204, more: bytes = b"", before: Sequence[int] = ()) -> None:
        self.answer = answer
        self.more = more  # of the answer's body
        self.before = before  # interim answers, such as 103
        self.retry_after: str | None = None
        self.secrets: list[str] = []
        self.told: list[Told] = []
        self.open = self.most_open = 0
        (self._socket,) = bind_sockets(0, "127.0.0.1")
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/told"
        self._server = HTTPServer(self._on_request)
        self._server.add_socket(self._socket)
        self._tasks: set[asyncio.Task[None]] = set()

    def _on_request(self, request: HTTPServerRequest) -> None:
        task = asyncio.ensure_future(self._take(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take(self, request: HTTPServerRequest) -> None:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            headers = {name.lower(): value for name, value in request.headers.items()}
            body = [self._verified(secret, request.body, headers) for secret in self.secrets]
            assert request.method == "POST"
            assert headers["content-type"] == "application/json"
            await asyncio.sleep(0.001)  # so that another one may come meanwhile
            status = self.answer(body[0])
            if not isinstance(status, int):
                status = await status
            self.told.append(Told(headers["webhook-id"], body[0], status))
        finally:
            self.open -= 1
        assert request.connection is not None
        for interim in self.before:
            await request.connection.write_headers(ResponseStartLine("HTTP/1.1", interim, "Interim"), HTTPHeaders())
        about = HTTPHeaders({"Content-Length": str(len(self.more)), "Location": "http://127.0.0.1:1/"})
        if self.retry_after is not None:
            about["Retry-After"] = self.retry_after
        request.connection.write_headers(ResponseStartLine("HTTP/1.1", status, "Answer"), about, self.more)
        request.connection.finish()

    def _verified(self, secret: str, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
        found: dict[str, Any] = standardwebhooks.Webhook(secret).verify(body, headers)
        return found

    def taken(self, room: str | None = None) -> list[Told]:
        """What was answered with 2xx, each once."""
        first = {told.id: told for told in reversed(self.told) if told.status < 300}
        return [told for told in self.told if first.get(told.id) is told and room in (None, told.body["data"]["room"])]

    async def close(self) -> None:
        self._server.stop()
        await self._server.close_all_connections()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
