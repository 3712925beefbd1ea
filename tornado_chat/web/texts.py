"""`POST /v1/rooms/{room}/messages` with a body of `text/plain`: the body is a message that grows as it comes.

some-program | curl -T - -X POST -H 'Content-Type: text/plain; charset=utf-8' .../v1/rooms/lobby/messages
"""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import unquote

from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.live.body import Body
from tornado_chat.live.request import REQUEST_BYTES, TOKEN_NEEDED
from tornado_chat.web.endpoint import key_of, value_of
from tornado_chat.web.exchange import Exchange
from tornado_chat.web.written import Written, new_id
from tornado_chat.wire.commands import Begin, read

SILENT_SECONDS = 300.0
"""A body of which nothing comes for so long is cut off: its message ends like that of an author whose link has died."""


class Text:
    """A BodyReader."""

    __slots__ = ("_body", "_exchange", "_id")

    def __init__(self, exchange: Exchange) -> None:
        """ChatError: the exchange may not do that."""
        gate, arguments = exchange.gate, exchange.arguments
        gate.check_room_for_one_more(exchange.address)
        identity = exchange.who()
        if identity.new:
            raise ChatError(ErrorCode.UNAUTHORIZED, TOKEN_NEEDED)
        id, reply_to = arguments.get("id"), arguments.get("reply_to")
        asked = {
            "room": unquote(exchange.path["room"]),
            "id": key_of(exchange.headers) or new_id() if id is None else id,
            "reply_to": None if reply_to is None else value_of(int, reply_to),
        }
        begin = read(asked, Begin, gate.settings.text_chars)
        identity.check_room(begin.room)
        address = gate.context.limits.addresses.enter(exchange.address)
        self._exchange = exchange
        self._id = begin.id
        self._body = Body(gate.context, identity, address, begin, new_id(), self._on_over)
        self._body.owe_bytes(REQUEST_BYTES)
        self._wait()

    async def take(self, chunk: bytes) -> None:
        await self._body.add(chunk)
        self._wait()

    async def finish(self) -> None:
        await self._body.finish()
        body, ack = self._body, self._body.ack
        assert ack is not None
        assert ack.seq is not None
        assert ack.ts is not None
        status = HTTPStatus.OK if body.was_there else HTTPStatus.CREATED
        self._exchange.answer_object(status, Written(ack.room, ack.seq, ack.ts, self._id))

    def end(self) -> None:
        self._body.end()

    def _wait(self) -> None:
        self._exchange.connection.wait(SILENT_SECONDS)

    def _on_over(self, error: ChatError) -> None:
        if not self._exchange.is_answered:
            self._exchange.fail(error)
