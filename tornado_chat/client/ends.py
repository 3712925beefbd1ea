"""How a connection to the server ends, or does not come about, and what that means for the next one."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Mapping

from tornado_chat.errors import FINAL_CLOSES, TRANSIENT_STATUSES, ChatError, CloseCode, retry_after
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.events import Data

LONGEST_WAIT = 3600.0  # whatever a server asks for
SPREAD = 0.2  # s

MISUNDERSTOOD = frozenset({400, 404, 405, 415, 426})
"""Statuses of a request that this server would have understood, had it come as it was sent."""


class Closed(Exception):
    """The client is closed, by `close()` or because it gave up; its text says why."""


class Refused(Closed):
    """The server will not have this client, and asking again would not change that.

    `code` is the HTTP status of the refusal or the close code; 0 where there was neither. `suspect`: it may not be the
    server that refused, but something on the way, which another transport may pass.
    """

    def __init__(self, code: int, message: str, *, suspect: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.suspect = suspect


class Lost(Exception):
    """This connection is over, and another is to be tried; `wait` is in seconds, None: the link's own back-off.

    `suspect`: the transport itself may be why, and another may fare better. `silent`: it did not end, but nothing came.
    """

    def __init__(self, why: str, wait: float | None = None, *, suspect: bool = False, silent: bool = False) -> None:
        super().__init__(why)
        self.wait = wait
        self.suspect = suspect
        self.silent = silent


def refused(where: str, status: int, headers: Mapping[str, str], body: bytes, text: str) -> Lost | Refused:
    """Of a handshake or a request that was answered with `status`; `text` is its reason if `body` has none."""
    error = error_in(body)
    if error is not None:
        text = str(error.get("message", text))
    suspect = error is None or status in MISUNDERSTOOD
    if status not in TRANSIENT_STATUSES:
        return Refused(status, f"{where} refused the connection: {text} (HTTP {status})", suspect=suspect)
    return Lost(f"cannot connect to {where}: {text}", asked_wait(headers), suspect=suspect)


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds that `Retry-After` asks to wait, or rather more; None: it asks nothing."""
    after = headers.get("Retry-After", "")
    return spread(int(after)) if re.fullmatch("[0-9]{1,9}", after) else None


def spread(seconds: float | None) -> float | None:
    """A little more than the server asks to wait, if it does: so not all come at once."""
    return None if seconds is None else seconds + random.uniform(0, SPREAD)


def error_in(body: bytes) -> Data | None:
    """The `error` in the body of a refusal by this server; None of anybody else's."""
    with contextlib.suppress(ChatError):
        answer = JSON.decode(body)
        error = answer.get("error") if isinstance(answer, dict) else None
        return error if isinstance(error, dict) else None
    return None


def closed(where: str, code: int | None, reason: str, longest_pause: float) -> Lost | Refused:
    """Of a connection that was closed with `code`; None: that just ended."""
    if code is None:
        return Lost("connection lost", suspect=True)
    text = f"{code} {reason}".rstrip()
    if code in FINAL_CLOSES or code in (CloseCode.TOKEN_EXPIRED, CloseCode.SESSION_REVOKED):
        return Refused(code, f"{where} closed the connection: {text}")
    wait = None
    if code in (CloseCode.SERVICE_RESTART, CloseCode.TRY_AGAIN_LATER):
        wait = retry_after(reason)
    elif code == CloseCode.POLICY_VIOLATION:
        wait = longest_pause
    return Lost(f"connection closed with {text}", wait)
