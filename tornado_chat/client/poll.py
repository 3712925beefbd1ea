"""The transport that is one long poll after another, and POST for commands. It brings events, and no signals."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from tornado_chat.client.ends import Lost, Refused, error_in, refused, spread
from tornado_chat.client.http import Answer, Connection
from tornado_chat.client.over_http import OverHttp
from tornado_chat.client.portion import Asked, Portion
from tornado_chat.client.transport import MAX_MESSAGE_BYTES, Listener, Target, TransportKind
from tornado_chat.errors import ChatError
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.events import Data

WAIT = 25.0
"""s, that a poll is held where there is nothing new."""
WAIT_SPREAD = 0.1
"""So that those who came together do not for ever."""
OWN = "~"
"""The log of one's own."""
MAX_SEQ = 2**63 - 1
"""No room has so many events: the server answers with the head."""


class PollTransport(OverHttp):
    """See Transport. Another set of rooms breaks off the poll that is under way: nothing is kept for it."""

    kind: TransportKind = "poll"

    async def open(self, joins: Sequence[Data]) -> Data:
        self._begin_portions(joins)
        connection = Connection(self._target)
        target = self._target
        try:
            answer = await ask(connection, target.path("/v1/session", guest=True), {}, target.connect_timeout)
        finally:
            await connection.close()
        session = _object(answer, target)
        if session.get("token") == target.token:  # only a guest gets a fresh one
            del session["token"]
        welcome: Data = {"type": "welcome", **session}
        self._accept(welcome)
        return welcome

    async def _carry(self, portion: Portion, listener: Listener) -> None:
        polls = Polls(self._target, portion, listener)
        try:
            while not self._is_spent(portion):
                await polls.go_on()
                self.heard = asyncio.get_running_loop().time()
        finally:
            await polls.close()


class Polls:
    """Those for the rooms of one portion, one after another."""

    __slots__ = ("_connection", "_epoch", "_listener", "_portion", "_target")

    def __init__(self, target: Target, portion: Portion, listener: Listener) -> None:
        self._target = target
        self._portion = portion
        self._listener = listener
        self._connection = Connection(target)
        self._epoch: str | None = None

    async def go_on(self) -> None:
        """One poll and what it brings, or as much of it as the rooms stay the same for; Lost, Refused."""
        portion = self._portion
        portion.changed.clear()
        asked = dict(portion.rooms)
        if any(not room.started for room in asked.values()):
            await self._begin([room for room in asked.values() if not room.started])
        elif asked:
            wait = random.uniform(1 - WAIT_SPREAD, 1 + WAIT_SPREAD) * WAIT
            answer = await self._poll(asked, wait if all(room.synced for room in asked.values()) else 0.0)
            if answer is not None:
                await self._pass_on(asked, answer)
        else:
            await portion.changed.wait()

    async def close(self) -> None:
        await self._connection.close()

    async def _begin(self, new: list[Asked]) -> None:
        """Find the heads of `new` rooms, and tell `joined`."""
        for asked in new:
            if asked.room == OWN:
                await self._begin_own(asked)
        new = [asked for asked in new if asked.room != OWN]
        if not new:
            return
        try:
            answer = await self._ask({asked.room: MAX_SEQ for asked in new}, 0.0)
        except _Declined as declined:
            for asked in new:
                await self._decline(asked, declined.error)
            return
        self._check_epoch(answer)
        for asked in new:
            if (error := answer.get("errors", {}).get(asked.room)) is not None:
                await self._decline(asked, error)
            elif self._portion.rooms.get(asked.room) is asked:  # not left, nor joined anew
                head = answer["cursors"][asked.room]
                cursor = max(0, head - (asked.last or 0)) if asked.after is None else min(asked.after, head)
                await self._tell_joined(asked, head, cursor)

    async def _begin_own(self, asked: Asked) -> None:
        """As `_begin`, of the log of one's own: a page of it has the state where a join would."""
        after = "" if asked.after is None else f"&after={asked.after}"
        path = self._target.path(f"/v1/rooms/{OWN}/events", f"limit=1{after}")
        try:
            page = await self._answer("GET", path, None, 0.0)
        except _Declined as declined:
            await self._decline(asked, declined.error)
            return
        self._check_epoch(page)
        if self._portion.rooms.get(asked.room) is asked:
            cursor = page["cursor"] if "state" in page or asked.after is None else min(asked.after, page["head"])
            await self._tell_joined(asked, page["head"], cursor, page.get("state"))

    async def _tell_joined(self, asked: Asked, head: int, cursor: int, state: Data | None = None) -> None:
        asked.after, asked.started = cursor, True
        joined = {"room": asked.room, "head": head, "cursor": cursor, "epoch": self._epoch}
        if state is not None:
            joined["state"] = state
        await self._listener({"type": "joined", "id": asked.id, **joined})

    async def _decline(self, asked: Asked, error: Data) -> None:
        self._portion.forget(asked)
        await self._listener({"type": "error", "id": asked.id, **error})

    async def _poll(self, asked: dict[str, Asked], wait: float) -> Data | None:
        """The answer; None if other rooms are to be asked for before it comes."""
        polling = asyncio.create_task(self._ask({room: asked[room].after for room in asked}, wait))
        changed = asyncio.create_task(self._portion.changed.wait())
        try:
            await asyncio.wait({polling, changed}, return_when=asyncio.FIRST_COMPLETED)
            return polling.result() if polling.done() else None
        except _Declined as declined:
            raise Lost(
                f"polls are refused: {declined.error.get('message')}", spread(declined.error.get("retry_after"))
            ) from None
        finally:
            polling.cancel()
            changed.cancel()
            await asyncio.wait({polling, changed})

    async def _pass_on(self, asked: dict[str, Asked], answer: Data) -> None:
        if not self._check_epoch(answer):
            return
        if (mine := asked.get(OWN)) is not None and "state" in answer and self._portion.rooms.get(OWN) is mine:
            events = [event["seq"] for event in answer["events"] if event["room"] == OWN]
            cursor = events[0] - 1 if events else answer["cursors"][OWN]
            await self._tell_joined(mine, cursor, cursor, answer["state"])
        for event in answer["events"]:
            room = asked[event["room"]]
            if self._portion.rooms.get(room.room) is room:
                await self._listener(event)
                room.pass_by(event)
        for name, error in answer.get("errors", {}).items():
            await self._decline(asked[name], error)
        for name, cursor in answer["cursors"].items():
            room = asked[name]
            assert room.after is not None
            if cursor < room.after:  # the log went back
                room.started = room.synced = False
            elif not answer["more"] and not room.synced and self._portion.rooms.get(name) is room:
                room.synced = True
                await self._listener({"type": "synced", "room": name, "seq": cursor})

    def _check_epoch(self, answer: Data) -> bool:
        """Whether it is the log that the cursors are of; else all rooms begin anew."""
        before, self._epoch = self._epoch, answer["epoch"]
        if before in (None, self._epoch):
            return True
        for asked in self._portion.rooms.values():
            asked.started = asked.synced = False
        return False

    async def _ask(self, rooms: dict[str, int | None], wait: float) -> Data:
        """The answer to a poll; _Declined if it is refused for the rooms' sake, or for now."""
        return await self._answer("POST", self._target.path("/v1/poll"), {"rooms": rooms, "wait": wait}, wait)

    async def _answer(self, method: str, path: str, body: Data | None, wait: float) -> Data:
        answer = await ask(self._connection, path, body, wait + self._target.connect_timeout, method)
        error = error_in(answer.body)
        if error is not None and answer.status in (403, 429, 503):
            raise _Declined(error)
        return _object(answer, self._target)


class _Declined(Exception):
    """This poll was refused by the server itself, and another may not be; `error` is as an `error` has it."""

    def __init__(self, error: Data) -> None:
        super().__init__(error.get("message"))
        self.error = error


async def ask(connection: Connection, path: str, body: Data | None, seconds: float, method: str = "POST") -> Answer:
    headers = {"Accept": "application/json"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    data = b"" if body is None else JSON.encode(body)
    return await connection.ask(method, path, headers, data, seconds=seconds, max_bytes=MAX_MESSAGE_BYTES)


def _object(answer: Answer, target: Target) -> Data:
    """What a good answer holds; else why it is none."""
    if answer.status not in (200, 201):
        raise refused(target.where, answer.status, answer.headers, answer.body, answer.text)
    try:
        decoded = JSON.decode(answer.body)
    except ChatError as error:
        raise Refused(0, f"{target.where} does not answer with JSON: {error.message}", suspect=True) from None
    if not isinstance(decoded, dict):
        raise Refused(0, f"{target.where} does not answer with an object", suspect=True)
    return decoded
