"""Every way a command or a connection can fail: the two tables of docs/protocol.md, and what carries them."""

from __future__ import annotations

import re
from enum import IntEnum, StrEnum
from typing import Literal

Reason = Literal["done", "stopped", "error", "interrupted"]
"""Why a message does not grow any more."""


class ErrorCode(StrEnum):
    """The `code` of an `error`, and of a refused handshake's JSON body. An error never closes the connection."""

    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"


class CloseCode(IntEnum):
    """The codes this server closes a WebSocket with (RFC 6455 section 7.4; 4000 to 4999 are the protocol's own)."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    TOKEN_EXPIRED = 4001
    SESSION_REVOKED = 4002
    WRITE_TIMEOUT = 4003


TRANSIENT_ERRORS = frozenset({ErrorCode.RATE_LIMITED, ErrorCode.UNAVAILABLE, ErrorCode.OVERLOADED})
"""Errors after which the same command, sent again, may fare better."""

TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses of a refusal, a proxy's too, after which the same request may fare better."""

FINAL_CLOSES = frozenset(
    {CloseCode.PROTOCOL_ERROR, CloseCode.UNSUPPORTED_DATA, CloseCode.INVALID_DATA, CloseCode.MESSAGE_TOO_BIG}
)
"""Closes that blame the client: the same again would end the same way."""


def retry_reason(milliseconds: int) -> str:
    """The reason of a close that tells when to come back."""
    return f"retry_after_ms={milliseconds}"


def retry_after(reason: str) -> float | None:
    """The seconds that a close's reason tells to wait; None if it tells nothing."""
    asked = re.search("retry_after_ms=([0-9]{1,9})", reason)
    return int(asked[1]) / 1000 if asked else None


class ChatError(Exception):
    """A command that cannot be carried out; becomes one `error` to the client that sent it.

    `message` says what is wrong and what would be right; `retry_after` is in seconds.
    """

    def __init__(self, code: ErrorCode, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after


class Conflict(ChatError):
    """A message that grows is not as the command takes it to be: its `gen` and `length`, or why it ended (`reason`).

    `stream` is the id of its `begin`.
    """

    def __init__(
        self,
        message: str,
        *,
        stream: str | None = None,
        gen: int | None = None,
        length: int | None = None,
        reason: Reason | None = None,
    ) -> None:
        super().__init__(ErrorCode.CONFLICT, message)
        self.stream = stream
        self.gen = gen
        self.length = length
        self.reason = reason


class ConfigError(Exception):
    """A setting or a file that keeps the server from starting; its text is the one line that the user sees."""


class LogReplaced(Exception):
    """Another log has taken the place of the one that this process knows, or it went back; its text says which."""


class LogUnavailable(Exception):
    """The log did not answer, or could not write: whether a batch was kept is not known. Its text is the reason."""
