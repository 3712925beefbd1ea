"""The transport that is a stream of server-sent events, and POST for commands."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from tornado_chat.client.ends import LONGEST_WAIT, Lost, Refused, closed, refused, spread
from tornado_chat.client.http import Connection, Response, reason
from tornado_chat.client.over_http import OverHttp
from tornado_chat.client.portion import Asked, Portion
from tornado_chat.client.sse import Parser
from tornado_chat.client.transport import MAX_MESSAGE_BYTES, Listener, Target, TransportKind, decode
from tornado_chat.errors import CloseCode, ErrorCode, retry_reason
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.events import Data

FORBIDDEN = 403
REFUSAL_BYTES = 64 << 10
HEARTBEATS = 2
"""So many may be missed."""
LATE = 2.0  # s, for one that is on its way


class Ended(Lost):
    """The server has ended the stream, as it does now and then; another is to follow after `wait`."""


class StreamTransport(OverHttp):
    """See Transport. Another set of rooms takes another stream, which is open before the one in use is closed."""

    kind: TransportKind = "stream"

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._first: Body | None = None  # opened, and not passed on yet
        self._bodies: set[Body] = set()  # all that may be open
        self._terms: object = None

    async def open(self, joins: Sequence[Data]) -> Data:
        self._begin_portions(joins)
        try:
            body, welcome = await self._open_body(self._portions[0])
        except Refused as refusal:
            if refusal.code != FORBIDDEN or len(joins) != 1:
                raise
            # The one room is refused, or all of us: without the room we shall know.
            self._begin_portions([])
            body, welcome = await self._open_body(self._portions[0])
        self._first = body
        self._terms = _terms(welcome)
        return welcome

    async def close(self) -> None:
        await super().close()
        for body in list(self._bodies):
            await self._close_body(body)

    async def _carry(self, portion: Portion, listener: Listener) -> None:
        body, self._first = self._first, None
        if body is None:
            body = await self._next_body(portion, listener)
        while True:
            reading = asyncio.create_task(body.pass_on(listener))
            changed = asyncio.create_task(portion.changed.wait())
            try:
                await asyncio.wait({reading, changed}, return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    await asyncio.sleep(_wait_after(reading))
                if self._is_spent(portion):
                    return
                newer = await self._next_body(portion, listener, reading)
            finally:
                reading.cancel()
                changed.cancel()
                await asyncio.wait({reading, changed})
                error = None if reading.cancelled() else reading.exception()
                await self._close_body(body)
            if error is not None and not isinstance(error, Lost):
                raise error
            body = newer

    async def _next_body(self, portion: Portion, listener: Listener, reading: asyncio.Task[None] | None = None) -> Body:
        """A stream for the rooms as they are now. While `reading` goes on, there is time for it."""
        while True:
            asked = list(portion.rooms.values())
            try:
                body, welcome = await self._open_body(portion)
            except Lost as lost:
                if lost.wait is None or reading is None or reading.done():
                    raise
                await asyncio.sleep(min(lost.wait, LONGEST_WAIT))
            except Refused as refusal:
                if refusal.code != FORBIDDEN or len(asked) != 1:
                    raise
                portion.forget(asked[0])
                await listener(
                    {"type": "error", "id": asked[0].id, "code": ErrorCode.FORBIDDEN.value, "message": str(refusal)}
                )
            else:
                if _terms(welcome) != self._terms:
                    raise Lost("the server has other terms now")  # which are told when all begins anew
                await listener(welcome)
                return body

    async def _open_body(self, portion: Portion) -> tuple[Body, Data]:
        body = Body(self._target, portion, self._on_heard)
        self._bodies.add(body)
        try:
            welcome = await body.open()
        except BaseException:
            await self._close_body(body)
            raise
        self._accept(welcome)
        return body, welcome

    async def _close_body(self, body: Body) -> None:
        await body.close()
        self._bodies.discard(body)

    def _on_heard(self) -> None:
        self.heard = asyncio.get_running_loop().time()


class Body:
    """One stream of the server."""

    __slots__ = (
        "_asked", "_connection", "_from", "_messages", "_on_heard", "_parser", "_portion", "_response", "_silence",
        "_target",
    )  # fmt: skip

    def __init__(self, target: Target, portion: Portion, on_heard: Callable[[], None]) -> None:
        self._portion = portion
        self._asked = dict(portion.rooms)  # this stream's; those of the portion may change
        self._from = {room: asked.after for room, asked in self._asked.items()}
        portion.changed.clear()
        self._target = target
        self._connection = Connection(target)
        self._response: Response | None = None
        self._parser = Parser(MAX_MESSAGE_BYTES)
        self._messages: deque[Data] = deque()  # of one chunk of the body
        self._on_heard = on_heard
        self._silence: float | None = target.connect_timeout  # s, that may pass without a byte; None: for ever

    async def open(self) -> Data:
        """`welcome`."""
        target = self._target
        body = JSON.encode({"join": [asked.field() for asked in self._asked.values()]})
        headers = {"Accept": "text/event-stream", "Content-Type": "application/json"}
        try:
            async with asyncio.timeout(target.connect_timeout):
                path = target.path("/v1/events", guest=True)
                response = await self._connection.begin("POST", path, headers, body)
                if response.status != 200:
                    text = await response.whole(REFUSAL_BYTES)
                    raise refused(target.where, response.status, response.headers, text, response.text)
                if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                    raise Refused(0, f"{target.where} does not speak server-sent events", suspect=True)
                self._response = response
                welcome = await self._next()
        except TimeoutError:
            raise Lost(f"{target.where} began no stream within {target.connect_timeout:g} s", suspect=True) from None
        except (OSError, EOFError) as error:
            raise Lost(f"cannot connect to {target.where}: {reason(error)}", suspect=True) from error
        except ValueError as error:
            raise self._odd(error) from error
        if welcome["type"] == "error":
            wait = spread(welcome.get("retry_after"))
            raise Lost(f"cannot connect to {target.where}: {welcome.get('message')}", wait)
        if welcome["type"] != "welcome":
            raise Refused(0, f"{target.where} began with {welcome['type']} instead of welcome")
        interval = float(welcome["ping_interval"])  # 0: the server has no heartbeat
        self._silence = HEARTBEATS * interval + LATE if interval else None
        return welcome

    async def pass_on(self, listener: Listener) -> None:
        """Pass on what comes until the stream ends: Ended, Lost or Refused."""
        while True:
            try:
                message = await self._next()
            except TimeoutError:
                raise Lost(f"nothing heard for {self._silence:g} s", suspect=True, silent=True) from None
            except (OSError, EOFError) as error:
                raise Lost("connection lost", suspect=True) from error
            except ValueError as error:
                raise self._odd(error) from error
            asked = self._asked.get(message.get("room", ""))
            if asked is not None and message["type"] == "joined":
                self._on_joined(asked, message)
            elif asked is not None and message["type"] == "error":
                message["id"] = asked.id
                self._portion.forget(asked)
            await listener(message)
            if asked is not None and "seq" in message and "ts" in message:
                asked.pass_by(message)

    async def close(self) -> None:
        await self._connection.close()

    async def _next(self) -> Data:
        """The next message; raises what `Response.read` does, and TimeoutError where not even a heartbeat comes."""
        assert self._response is not None
        while not self._messages:
            async with asyncio.timeout(self._silence):
                chunk = await self._response.read()
            if not chunk:
                raise EOFError("the stream ended")
            self._on_heard()
            for type, data in self._parser.feed(chunk):
                if type == "message":  # and not `ping`
                    self._messages.append(decode(data))
        message = self._messages.popleft()
        if message["type"] == "closing":
            raise self._verdict(message)
        return message

    def _on_joined(self, asked: Asked, message: Data) -> None:
        """The join may have come after it was asked for, from a later cursor."""
        message["id"] = asked.id
        begun = self._from[asked.room]
        if asked.after is None or "state" in message:  # that is true at its own cursor, whatever was asked for
            asked.after = message["cursor"]
        elif begun is not None and message["cursor"] >= begun:
            message["cursor"] = asked.after

    def _verdict(self, closing: Data) -> Lost | Refused:
        code, asked = closing["code"], closing.get("retry_after_ms")
        if code == CloseCode.SERVICE_RESTART and asked is not None:
            return Ended(f"connection closed with {code} {retry_reason(asked)}", asked / 1000)
        reason = closing.get("reason", "") if asked is None else retry_reason(asked)
        return closed(self._target.where, code, reason, self._target.longest_pause)

    def _odd(self, error: ValueError) -> Refused:
        return Refused(0, f"{self._target.where} does not speak server-sent events: {error}", suspect=True)


def _terms(welcome: Data) -> object:
    """What `welcome` says that holds for the whole connection: who we are, and what we may send."""
    return welcome["user"], welcome.get("limits")


def _wait_after(reading: asyncio.Task[None]) -> float:
    """How long to wait for the next stream; raises why there shall be none."""
    try:
        reading.result()
    except Ended as ended:
        return min(ended.wait or 0.0, LONGEST_WAIT)
    return 0.0
