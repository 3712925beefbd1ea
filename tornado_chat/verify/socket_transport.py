"""A device's conversation over a WebSocket."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from tornado_chat.verify.codecs import Data
from tornado_chat.verify.handshake import connect
from tornado_chat.verify.transport import Listener
from tornado_chat.verify.websocket import WebSocket


class SocketTransport:
    """All on one connection: commands, answers, events and signals."""

    prompt = True
    one_worker = True

    def __init__(self, device: Listener) -> None:
        self._device = device
        self._socket: WebSocket | None = None

    async def run(self) -> NoReturn:
        device = self._device
        self._socket = socket = await connect(device.address, device.token, device.offer)
        try:
            while True:
                for message in await socket.read():
                    device.take(self, message)
                await device.idle()
        finally:
            await socket.hang_up()

    def begin(self) -> None:
        for room, after in self._device.opening().items():
            self._join(room, after)

    def send(self, command: Data) -> None:
        if self._socket is not None:
            self._socket.send(command)

    def send_together(self, commands: list[Data], done: Callable[[bool], None] | None) -> None:
        for command in commands:
            self.send(command)

    def _join(self, room: str, after: int | None) -> None:
        where = {"after": after} if after is not None else {"last": 3} if self._device.dice.random() < 0.5 else {}
        self.send({"type": "join", "room": room, **where, "id": f"join {room}"})

    def join_again(self, room: str, after: int | None) -> None:
        """On the same connection."""
        self._device.ask(room, after)
        self._join(room, after)

    def leave(self, room: str) -> bool:
        self._device.rooms[room].leave()
        self.send({"type": "leave", "room": room, "id": f"leave {room}"})
        return True

    def cut(self, command: Data | None, part: float) -> bool:
        if self._socket is None:
            return False
        if command is not None:
            self._socket.send_half(command, part)
        self._socket.cut()
        return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
