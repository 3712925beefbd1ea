"""How a connection to a server ends, of whatever kind it is."""

from __future__ import annotations

NORMAL, ABNORMAL = 1000, 1006
"""Close codes: ours, and the one that stands for an end without a farewell."""


class Broken(Exception):
    """The server broke a standard that it speaks by, or the protocol's form of a message; the text says how."""


class Ended(Exception):
    """The connection is over; `code` is that of the farewell, 1006 where there was none."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class Refused(Exception):
    """The request was answered with the HTTP `status` in place of what it asked for; `retry_after` is in seconds.

    `code` is that of the protocol; "" if the answer is a proxy's.
    """

    def __init__(self, status: int, message: str, retry_after: float | None, code: str = "") -> None:
        super().__init__(f"HTTP {status}: {code}: {message}" if code else f"HTTP {status}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after
