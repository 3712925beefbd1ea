"""A client that polls over plain HTTP, and keeps what it was told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from tests.support.chat import Running
from tests.support.plain_http import HTTP, Answer

PATIENCE = 30.0


class PollingHTTP(HTTP):
    """A connection on which pages and polls are asked for, by whoever `token` names."""

    def __init__(self, here: Running | int, token: str | None = None) -> None:
        super().__init__(here)
        self.headers = {"Host": "localhost"}
        if token is not None:
            self.headers["Authorization"] = f"Bearer {token}"

    async def page(self, room: str, query: str = "", **options: Any) -> Answer:
        async with asyncio.timeout(PATIENCE):
            return await self.ask(f"/v1/rooms/{room}/events{query}", self.headers, **options)

    async def poll(self, rooms: Mapping[str, int], wait: float = 0) -> Answer:
        async with asyncio.timeout(PATIENCE):
            return await self.tell("POST", "/v1/poll", {"rooms": dict(rooms), "wait": wait}, **self.headers)


class Follower:
    """One who polls rooms for as long as it likes; `seen` is what came, by room, and has no hole and no double."""

    def __init__(self, here: Running | int, *rooms: str, token: str | None = None) -> None:
        self.here = here
        self.token = token
        self.cursors = dict.fromkeys(rooms, 0)
        self.seen: dict[str, list[Any]] = {room: [] for room in rooms}
        self.cycles = 0
        self._http: PollingHTTP | None = None

    async def cycle(self, wait: float = 20) -> None:
        """One poll, and what it brings."""
        answer = await (await self._connection()).poll(self.cursors, wait)
        assert answer.status == 200, answer
        self.cycles += 1
        if answer.headers.get("connection") == "close":
            self.hang_up()
        news = json.loads(answer.body)
        for event in news["events"]:
            room = event["room"]
            self.cursors[room] += 1
            assert event["seq"] == self.cursors[room]
            self.seen[room].append(event)
        assert news["cursors"] == self.cursors

    async def lose(self, seconds: float) -> None:
        """Hang up so long after a poll has begun, without reading its answer."""
        http = await self._connection()
        asking = asyncio.ensure_future(http.poll(self.cursors, 20))
        await asyncio.wait([asking], timeout=seconds)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        self.hang_up()

    def hang_up(self) -> None:
        if self._http is not None:
            self._http.sock.close()
            self._http = None

    async def _connection(self) -> PollingHTTP:
        if self._http is None:
            self._http = PollingHTTP(self.here, self.token)
            try:
                await self._http.__aenter__()
            except OSError:
                self.hang_up()
                raise
        return self._http
