"""One sweep over all connections finds the dead, the stuck and the expired; no connection has a timer of its own.

Time is counted in sweeps, so that a machine that slept, or a loop that stood still, does not find everyone dead.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator

from tornado_chat.errors import CloseCode
from tornado_chat.live.connection import Connection, Transport
from tornado_chat.wire.frames import PING, frame

_PING = frame(PING, b"")
_SLICE = 1000  # connections looked at before the loop gets a turn: 0.2 ms
_FRACTION = 4  # sweeps in the shortest of the limits; a limit is kept to within one sweep


class Keepalive:
    """Pings the silent and closes the dead. Limits are in seconds; a `ping_interval` of 0 switches pings off.

    - Nothing came for `ping_interval`: a ping. Nothing for `ping_timeout` after it: closed with 1011. This counts only
      while the ping is not behind something older: our outbox is empty, and the kernel's queue is empty or stands
      still. It does not count while we do not read ourselves.
    - Something waits in the outbox, and the socket took no byte of it for `write_timeout`: aborted with 4003.
    - `Connection.expires_at` is past: closed with 4001.
    """

    def __init__(
        self, transport: Transport, *, ping_interval: float, ping_timeout: float, write_timeout: float
    ) -> None:
        shortest = min(ping_timeout, write_timeout, ping_interval or math.inf)
        self._period = min(1.0, shortest / _FRACTION)
        self._ping_after = self._sweeps(ping_interval) if ping_interval else math.inf
        self._dead_after = self._ping_after + self._sweeps(ping_timeout)
        self._stuck_after = self._sweeps(write_timeout)
        self._transport = transport
        self._next: asyncio.Handle | None = None

    def _sweeps(self, seconds: float) -> int:
        return max(1, math.ceil(seconds / self._period))

    def start(self) -> None:
        self._next = self._transport.loop.call_later(self._period, self._sweep)

    def stop(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _sweep(self) -> None:
        self._sweep_slice(iter(list(self._transport.connections)))

    def _sweep_slice(self, rest: Iterator[Connection]) -> None:
        now = time.time()
        for _ in range(_SLICE):
            connection = next(rest, None)
            if connection is None:
                self.start()
                return
            if not connection.closing:
                self._check(connection, now)
        self._next = self._transport.loop.call_soon(self._sweep_slice, rest)

    def _check(self, connection: Connection, now: float) -> None:
        connection.idle += 1
        if now >= connection.expires_at:
            connection.close(CloseCode.TOKEN_EXPIRED, "token expired")
        elif connection.outbox_bytes:
            connection.stuck += 1
            if connection.stuck == 1:
                connection.still_taking()  # the kernel's queue hides for long that the peer takes something
            elif connection.stuck > self._stuck_after and connection.still_taking():
                connection.stuck = 0
            if connection.stuck > self._stuck_after:
                connection.abort(CloseCode.WRITE_TIMEOUT, "write timeout")
            elif connection.idle >= self._ping_after:
                connection.idle = int(self._ping_after) - 1  # a ping would wait behind the outbox
        elif connection.reading_paused:
            connection.idle = 0
        elif connection.idle == 1:
            connection.read_ready()  # it has just fallen silent: did it end unnoticed?
        elif connection.idle == self._ping_after:
            connection.still_taking()
            connection.write(_PING)
        elif connection.idle > self._ping_after:
            if connection.still_taking():
                connection.idle = int(self._ping_after)  # the ping is on its way, behind something older
            elif connection.idle > self._dead_after:
                connection.close(CloseCode.INTERNAL_ERROR, "ping timeout")
