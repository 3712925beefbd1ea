"""One sweep over all lines finds the dead, the stuck and the expired; no line has a timer of its own.

Time is counted in sweeps, so that a machine that slept, or a loop that stood still, does not find everyone dead.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator

from tornado_chat.live.socket_line import Lines, Patience, SocketLine

_SLICE = 250  # lines looked at before the loop gets a turn: 0.1 ms
_FRACTION = 4  # sweeps in the shortest of the limits; a limit is kept to within one sweep


class Keepalive:
    """Asks each line to sweep itself. Limits are in seconds; a `ping_interval` of 0 switches pings off.

    A stream has rules of its own (event_stream.py), and ends after `stream_lifetime`, a fifth more or less; 0: never.
    Of a WebSocket:

    - Nothing came for `ping_interval`: a ping. Nothing for `ping_timeout` after it: closed with 1011. This counts only
      while the ping is not behind something older: our outbox is empty, and the kernel's queue is empty or stands
      still. It does not count while we do not read ourselves.
    - Something waits in the outbox, and the socket took no byte of it for `write_timeout`: aborted with 4003. So is a
      line on which answers waited for so long, of which less than 1 KiB a second was taken.
    - `expires_at` is past: closed with 4001.
    """

    def __init__(
        self,
        lines: Lines,
        *,
        ping_interval: float,
        ping_timeout: float,
        write_timeout: float,
        stream_lifetime: float = 0.0,
    ) -> None:
        shortest = min(ping_timeout, write_timeout, ping_interval or math.inf)
        self._period = min(1.0, shortest / _FRACTION)
        ping_after = self._sweeps(ping_interval) if ping_interval else math.inf
        self._patience = Patience(
            ping_after=ping_after,
            dead_after=ping_after + self._sweeps(ping_timeout),
            stuck_after=self._sweeps(write_timeout),
            lifetime=self._sweeps(stream_lifetime) if stream_lifetime else math.inf,
            seconds=write_timeout,
        )
        self._lines = lines
        self._next: asyncio.Handle | None = None

    def _sweeps(self, seconds: float) -> int:
        return max(1, math.ceil(seconds / self._period))

    def start(self) -> None:
        self._next = self._lines.loop.call_later(self._period, self._sweep)

    def stop(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _sweep(self) -> None:
        self._sweep_slice(iter(list(self._lines.open)))

    def _sweep_slice(self, rest: Iterator[SocketLine]) -> None:
        now = time.time()
        for _ in range(_SLICE):
            line = next(rest, None)
            if line is None:
                self.start()
                return
            line.sweep(now, self._patience)
        self._next = self._lines.loop.call_soon(self._sweep_slice, rest)
