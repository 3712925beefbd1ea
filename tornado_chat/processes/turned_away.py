"""Sockets that are refused, whatever they ask for: what comes of a request only tells how to say so."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from functools import partial

from tornado_chat.wire.refusals import Unread

LINGERING, LINGER_SECONDS = 64, 1.0
"""So many are left open so long: closing a socket whose request is still on its way would make the kernel take the
answer back (RST). Among them are those whose request has not come yet: it is waited for so long."""

AGAIN_SECONDS = 1.0
"""So much later who is to ask again at once is told so, where there is room for it (LINGERING): others are refused."""

SPREAD_MS = 1000
"""Of those who are told by a stream when to come back; others have `Retry-After` in seconds, and wait as they like."""

_HEARD_BYTES = 16384


class TurnedAway:
    """They get their answer, and are left open for a moment; a request that has not come is waited for before."""

    __slots__ = ("_again", "_lingering", "_loop", "_silent")

    def __init__(self, loop: asyncio.AbstractEventLoop, again: Callable[[bytes], bytes | None] | None = None) -> None:
        """`again`: of what somebody said, the answer that lets it ask again, if it is to do so."""
        self._loop = loop
        self._again = again
        self._lingering: set[socket.SocketType] = set()
        self._silent: dict[socket.SocketType, asyncio.TimerHandle] = {}  # whose request is waited for

    def __len__(self) -> int:
        return len(self._lingering) + len(self._silent)

    def add(self, sock: socket.SocketType, refusal: Unread, room: int = 0) -> None:
        """Answer; `room`: how many may linger, where that is more than LINGERING. The rest is closed at once."""
        sock.setblocking(False)
        said = _hear(sock)
        if said is None and len(self) < LINGERING:
            answer = partial(self._answer_silent, sock, refusal, room)
            self._silent[sock] = self._loop.call_later(LINGER_SECONDS, answer)
            self._loop.add_reader(sock.fileno(), answer)
        else:
            self._answer(sock, said, refusal, room)

    def close(self) -> None:
        for sock, timer in self._silent.items():
            timer.cancel()
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._silent.clear()
        for sock in self._lingering:
            sock.close()
        self._lingering.clear()

    def _answer_silent(self, sock: socket.SocketType, refusal: Unread, room: int) -> None:
        self._silent.pop(sock).cancel()
        self._loop.remove_reader(sock.fileno())
        self._answer(sock, _hear(sock), refusal, room)

    def _answer(self, sock: socket.SocketType, said: bytes | None, refusal: Unread, room: int) -> None:
        again = self._again(said) if said and self._again is not None and len(self) < LINGERING else None
        if again is not None:
            self._lingering.add(sock)
            self._loop.call_later(AGAIN_SECONDS, self._say_last, sock, again)
            return
        self._say(sock, refusal.answer(said or b"", random.randint(0, SPREAD_MS)))
        if len(self) >= max(LINGERING, room):
            sock.close()
            return
        self._lingering.add(sock)
        self._loop.call_later(LINGER_SECONDS, self._let_go, sock)

    def _say_last(self, sock: socket.SocketType, answer: bytes) -> None:
        if sock in self._lingering:  # else all were closed meanwhile
            self._say(sock, answer)
            self._loop.call_later(LINGER_SECONDS, self._let_go, sock)

    def _say(self, sock: socket.SocketType, answer: bytes) -> None:
        try:
            sock.send(answer)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has gone already

    def _let_go(self, sock: socket.SocketType) -> None:
        self._lingering.discard(sock)
        sock.close()


def _hear(sock: socket.SocketType) -> bytes | None:
    """What has come; None: nothing yet."""
    try:
        return sock.recv(_HEARD_BYTES)
    except BlockingIOError:
        return None
    except OSError:  # it has gone already
        return b""
