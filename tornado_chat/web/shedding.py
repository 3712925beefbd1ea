"""What a process does that has more to begin than it has time for: whoever comes now is told to come back later.

So those who wait already get their turn before they give up.
"""

from __future__ import annotations

import random

from tornado_chat.errors import ErrorCode
from tornado_chat.wire.refusals import Unread

WAIT_SECONDS = 2.0
"""While somebody has waited so long for a turn, newcomers are turned away: clients give up after some 10 s, and 5,000
of them or more are let in and join in a second."""

RETRY_SECONDS = 2, 10
"""`Retry-After` is one of these or between them, so that those turned away do not all come back at once."""


def _overloaded(retry_after: int) -> Unread:
    message = f"too many ask at this moment: try again in {retry_after} s"
    return Unread(503, ErrorCode.OVERLOADED, message, retry_after)


_ANSWERS = [_overloaded(seconds) for seconds in range(RETRY_SECONDS[0], RETRY_SECONDS[1] + 1)]


def overloaded() -> Unread:
    """What one of them is told."""
    return random.choice(_ANSWERS)
