"""One byte string to the sockets of many lines: in C, without the GIL, or else in Python.

A line has a *key*, its descriptor and a serial number that no line had before it. It is *direct* while its socket is
open and has taken everything: then its key stands in `Direct.keys`, at the place of its descriptor, and who has the
key may send to the descriptor. So a key that was kept for too long leads nowhere: once the socket is closed the place
is empty, and once the kernel gives the descriptor to another socket, another key stands there.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from time import monotonic

from tornado_chat.config import PURE

_DESCRIPTOR = 0xFFFF_FFFF  # the bits of a key that are the descriptor; those above are the serial number
_SERIALS = 0xFFFF_FFFF

NO_KEY = 0
"""The key of a line without a socket of its own: it is never direct."""

UNTRIED, FAILED = -1, -2
"""In place of the bytes that a socket took: its line is not direct; the socket failed."""

_SENDS_A_LOOK = 8  # at the clock


class Direct:
    """The keys of the direct lines of a server, each at the place of its descriptor; 0 elsewhere.

    As long as the greatest descriptor that a line had: the limit of open files bounds it.
    """

    __slots__ = ("_serial", "keys")

    def __init__(self) -> None:
        self.keys = array("Q")
        self._serial = 0

    def new_key(self, descriptor: int) -> int:
        """The key of a new line, which is direct."""
        missing = descriptor + 1 - len(self.keys)
        if missing > 0:
            self.keys.extend([0] * missing)
        self._serial = self._serial % _SERIALS + 1
        key = self._serial << 32 | descriptor
        self.keys[descriptor] = key
        return key


def send_all_in_python(
    data: bytes, keys: array[int], direct: array[int], begin: int, end: int, seconds: float, /
) -> tuple[int, list[tuple[int, int]]]:
    """Send `data` to the lines with `keys[begin:end]`, as far as they are `direct` (`Direct.keys`).

    It stops before `end` after `seconds`, but not before 8 sends. Returns the place before which all is done, and
    (place, bytes that the socket took) of those that did not take all of it: UNTRIED, FAILED, or 0 and more.
    """
    odd: list[tuple[int, int]] = []
    until = monotonic() + seconds
    size, known, write = len(data), len(direct), os.write
    for place in range(begin, end):
        if place > begin and not (place - begin) % _SENDS_A_LOOK and monotonic() > until:
            return place, odd
        key = keys[place]
        descriptor = key & _DESCRIPTOR
        if not key or descriptor >= known or direct[descriptor] != key:
            odd.append((place, UNTRIED))
            continue
        try:
            taken = write(descriptor, data)
        except BlockingIOError:
            taken = 0
        except OSError:
            taken = FAILED
        if taken != size:
            odd.append((place, taken))
    return end, odd


SendAll = Callable[[bytes, "array[int]", "array[int]", int, int, float], tuple[int, list[tuple[int, int]]]]


def _choose() -> tuple[SendAll, str]:
    if os.environ.get(PURE):
        return send_all_in_python, f"not used: {PURE} is set"
    try:
        from tornado_chat.live._fanout import send_all as send_all_in_c
    except ImportError as error:
        return send_all_in_python, f"not there, the server is slower without it: {error}"
    return send_all_in_c, "used"


send_all, EXTENSION = _choose()
"""As `send_all_in_python` says; and whether that is the C extension's, in words."""
