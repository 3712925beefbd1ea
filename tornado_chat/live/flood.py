"""Clients that go on although they are refused each time."""

from __future__ import annotations

from tornado_chat.live.limits import TokenBucket

RATE, BURST = 10.0, 100.0
"""Refusals that a client may collect, a second and at once, before it is cut off with 1008; besides, one for each
command that was taken: so many at most has who waits as told, and shares a limit with others."""

UNHEARD_SECONDS, UNHEARD = 1.0, 1000
"""So many refusals in the first second do not count: the client may not have heard the first one yet."""


class Flood:
    """The refusals of one client."""

    __slots__ = ("_bucket", "_unheard")

    def __init__(self) -> None:
        self._bucket: TokenBucket | None = None
        self._unheard = UNHEARD

    def goes_on(self, now: float) -> bool:
        """Count one more: whether the client goes on although it must have heard that it is refused."""
        bucket = self._bucket
        if bucket is None or (bucket.full(now) and now - bucket.filled > 2 * UNHEARD_SECONDS):
            bucket = self._bucket = TokenBucket(RATE, BURST, now + UNHEARD_SECONDS)
            self._unheard = UNHEARD
        if now < bucket.filled and self._unheard:
            self._unheard -= 1
            return False
        return bucket.take(max(now, bucket.filled)) > 0

    def forgive(self) -> None:
        """A command was taken: one refusal does not count."""
        if self._bucket is not None:
            self._bucket.tokens = min(BURST, self._bucket.tokens + 1)
