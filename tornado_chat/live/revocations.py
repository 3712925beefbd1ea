"""Sessions that were revoked: whoever names one in a token is refused, and whoever is connected by one is cut off."""

from __future__ import annotations

from collections.abc import Callable

from tornado_chat.errors import ChatError, CloseCode, ErrorCode
from tornado_chat.live.socket_line import Lines
from tornado_chat.log import REVOCATIONS, Log

POLL_SECONDS = 0.4
"""How often the log is asked for new ones: no connection of a revoked session may live for a second."""


class Revocations:
    """What the log has told so far. Who is connected is looked for among all lines: 20,000 take 2 ms, and seldom.

    The log alone tells of them, by being asked often: a broker may be away, and this must not wait for it.
    None is ever forgotten: a clock that went wrong for a moment, or a second token with the same `jti`, would let its
    session in again. A million of them take 145 MB.
    """

    __slots__ = ("_end_polls", "_last", "_lines", "_log", "_revoked")

    def __init__(self, log: Log, lines: Lines, end_polls: Callable[[set[str]], None]) -> None:
        """`end_polls` ends the polls of sessions that were just revoked."""
        self._end_polls = end_polls
        self._log = log
        self._lines = lines
        self._last = 0
        self._revoked: set[str] = set()

    async def poll(self) -> None:
        """Take note of the new ones and cut off their connections; LogUnavailable if the log does not tell."""
        while found := await self._log.revocations(self._last):
            new = {revocation.jti for revocation in found}
            self._last = found[-1].id
            self._revoked |= new
            for line in [line for line in self._lines.open if line.jti in new]:
                line.close(CloseCode.SESSION_REVOKED, "this session was revoked: sign in again")
            self._end_polls(new)
            if len(found) < REVOCATIONS:
                break

    def check(self, jti: str | None) -> None:
        """Raise `unauthorized` if the session was revoked."""
        if jti in self._revoked:
            raise ChatError(ErrorCode.UNAUTHORIZED, "the token does not check: its session was revoked; sign in again")
