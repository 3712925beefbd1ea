"""What systemd wants to hear of a service with `Type=notify` and `WatchdogSec=`: see sd_notify(3)."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import MutableMapping

logger = logging.getLogger(__name__)

SEND_SECONDS = 1.0


class Systemd:
    """Made once, from the environment, whose variables it takes out: they are not for the processes started later.

    Without systemd nothing is said. `watchdog`: `alive` should be called each so many seconds; None: nobody watches.
    """

    __slots__ = ("_address", "watchdog")

    def __init__(self, environ: MutableMapping[str, str], pid: int) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds, watched = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", str(pid))
        # @ stands for the zero byte of a socket that has no file.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watching = bool(address) and microseconds.isdecimal() and int(microseconds) > 0 and watched == str(pid)
        self.watchdog = int(microseconds) / 2e6 if watching else None

    def ready(self, status: str) -> None:
        self._notify("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notify("RELOADING=1", f"MONOTONIC_USEC={microseconds}", "STATUS=replacing the workers")

    def stopping(self) -> None:
        self._notify("STOPPING=1", "STATUS=draining")

    def alive(self) -> None:
        self._notify("WATCHDOG=1")

    def _notify(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(SEND_SECONDS)
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            logger.warning("systemd cannot be told message=%s reason=%s", lines[0], error)
