"""Sockets that were refused without being read."""

from __future__ import annotations

import asyncio
import socket

LINGERING, LINGER_SECONDS = 64, 1.0
"""So many are left open so long: closing a socket whose request is still on its way would make the kernel take the
answer back (RST)."""


class TurnedAway:
    """They got their answer, and are left open for a moment."""

    __slots__ = ("_lingering", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lingering: set[socket.SocketType] = set()

    def __len__(self) -> int:
        return len(self._lingering)

    def add(self, sock: socket.SocketType, answer: bytes, room: int = 0) -> None:
        """Send `answer`; `room`: how many may linger, where that is more than LINGERING. The rest is closed at once."""
        try:
            sock.setblocking(False)
            sock.send(answer)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has gone already
        if len(self._lingering) >= max(LINGERING, room):
            sock.close()
            return
        self._lingering.add(sock)
        self._loop.call_later(LINGER_SECONDS, self._let_go, sock)

    def close(self) -> None:
        for sock in self._lingering:
            sock.close()
        self._lingering.clear()

    def _let_go(self, sock: socket.SocketType) -> None:
        self._lingering.discard(sock)
        sock.close()
