"""What the parent does in the place of a worker that is not there: it tells newcomers to come back.

Without it they would wait in the queue of a socket that nobody accepts from, for as long as the back-off lasts.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket

from tornado_chat.errors import ErrorCode
from tornado_chat.processes.listeners import Listeners
from tornado_chat.processes.turned_away import TurnedAway
from tornado_chat.wire.refusals import Unread, last_answer

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1
ACCEPTS = 64
"""Connections refused in one loop turn."""

_REFUSAL = Unread(
    503,
    ErrorCode.UNAVAILABLE,
    f"this process of the server is being started again: try again in {RETRY_SECONDS} s",
    RETRY_SECONDS,
)


_PAGE = re.compile(rb"GET /(?:(?:static/(?:[\w.-]+/)*|agent/)([\w.~%-]+))?(\?[!-~]*)? HTTP/1\.1\r\n")


def _ask_again(said: bytes) -> bytes | None:
    """A redirection to itself, if it asks for a page, or for one of its files: nothing else makes a browser wait.

    A module that was refused is not asked for again, and the page stays blank. Browsers follow 20 redirections. The
    address is relative: behind which folder a proxy has mounted the server is not known here.
    """
    asked = _PAGE.match(said)
    if asked is None:
        return None
    address = (asked[1] or b"./") + (asked[2] or b"")
    return last_answer(307, {"Location": address.decode("ascii"), "Cache-Control": "no-store"}, b"")


class StandIn:
    """Of one place. It accepts from the worker's own sockets between `start` and `stop`, which may be called twice."""

    __slots__ = ("_listeners", "_loop", "_number", "_standing", "_timer", "_turned_away")

    def __init__(self, number: int, listeners: Listeners) -> None:
        self._loop = asyncio.get_running_loop()
        self._number = number
        self._listeners = listeners
        self._standing = False
        self._timer: asyncio.TimerHandle | None = None
        self._turned_away = TurnedAway(self._loop, _ask_again)

    def start(self, delay: float) -> None:
        """Begin in `delay` seconds, if it is still wanted then."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay, self._begin)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._standing:
            self._standing = False
            for listener in self._listeners:
                self._loop.remove_reader(listener)

    def close(self) -> None:
        self.stop()
        self._turned_away.close()

    def _begin(self) -> None:
        self._timer = None
        if self._standing:
            return
        self._standing = True
        logger.info("newcomers are told to come back worker=%d", self._number)
        for listener in self._listeners:
            self._loop.add_reader(listener, self._refuse, listener)

    def _refuse(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # Of files or memory there is none left. The socket stays readable: the loop would do nothing else.
                logger.error("newcomers are not answered worker=%d reason=%s", self._number, error.strerror)
                self.stop()
                self.start(1.0)
                return
            self._turned_away.add(sock, _REFUSAL)
