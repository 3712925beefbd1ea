"""The signals of one room that wait for its flush, and who types there. All of them may be lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from time import monotonic

from tornado_chat.live.line import Line
from tornado_chat.live.shared import Shared
from tornado_chat.wire.codec import Codec
from tornado_chat.wire.replies import Orphaned, Presence, Signal, Typing

PENDING_SIGNALS = 256
"""Signals beyond this many in one flush are dropped."""

TYPING_SECONDS = 6.0
"""A `typing` that is not repeated lapses after this time."""

REPEAT_SECONDS = 1.0
"""A `typing` that is repeated sooner is not told again."""

Told = list[tuple[bytes, str | None]]
"""Serialised signals, with the user whom each is not for."""


class RoomSignals:
    """`tell` is to tell a signal to all processes, but for one user."""

    __slots__ = ("_lapse", "_shared", "_tell", "typing", "waiting")

    def __init__(self, shared: Shared, tell: Callable[[Signal, str], None]) -> None:
        self._shared = shared
        self._tell = tell
        # The newest of each kind of each user, with the user whom it is not for.
        self.waiting: dict[object, tuple[Signal, str | None]] = {}
        self.typing: dict[str, tuple[str, Line | None, float]] = {}  # by user: the name, on which line, when it lapses
        self._lapse: asyncio.TimerHandle | None = None

    def shut(self) -> None:
        """The room is forgotten, and told nothing any more: else the two would keep each other."""
        self._tell = _tell_nobody
        self.typing.clear()
        if self._lapse is not None:
            self._lapse.cancel()
            self._lapse = None

    def add(self, signal: Signal, not_for: str | None, members: int) -> bool:
        """Let `signal` wait for the flush to so many members; False if it is dropped.

        Of one user's `read` or `typing` the newest counts.
        """
        key: object = id(signal) if isinstance(signal, Presence | Orphaned) else (signal.__class__, signal.user)
        if key not in self.waiting and (
            len(self.waiting) >= PENDING_SIGNALS or self._shared.signals.take(monotonic(), members)
        ):
            self._shared.metrics.signals_dropped += 1
            return False
        self.waiting[key] = signal, not_for
        return True

    def take(self, codecs: Collection[Codec]) -> dict[Codec, Told]:
        """What waits, serialised once for each codec."""
        waiting, self.waiting = self.waiting, {}
        return {codec: [(codec.encode(signal), not_for) for signal, not_for in waiting.values()] for codec in codecs}

    # Typing

    def set_typing(self, room: str, user: str, name: str, line: Line | None, *, on: bool) -> None:
        """Note and tell that a user types or stopped; a repetition within a second is not told again.

        `line` is None where a request said so.
        """
        now = monotonic()
        before = self.typing.get(user)
        if on:
            if before and before[2] - now > TYPING_SECONDS - REPEAT_SECONDS:
                return
            self.typing[user] = name, line, now + TYPING_SECONDS
            if self._lapse is None:
                self._lapse = self._shared.loop.call_later(TYPING_SECONDS, self._lapse_typing, room)
        elif self.typing.pop(user, None) is None:
            return
        self._tell(Typing(room=room, user=user, name=name, on=on), user)

    def stop_typing(self, room: str, user: str, line: Line) -> None:
        """What was typed on `line` is not typed any more."""
        found = self.typing.get(user)
        if found is not None and found[1] is line:
            self.set_typing(room, user, found[0], line, on=False)

    def take_over(self, room: str, signals: RoomSignals) -> None:
        """Whoever types by `signals`, which are shut, types here."""
        self.typing.update(signals.typing)
        signals.shut()
        self._lapse_typing(room)

    def heard_elsewhere(self, user: str) -> None:
        """Another process tells that the user types or stopped: that it lapses is that process's to tell."""
        self.typing.pop(user, None)

    def _lapse_typing(self, room: str) -> None:
        self._lapse = None
        now = monotonic()
        for user, (name, line, lapses) in list(self.typing.items()):
            if lapses <= now:
                self.set_typing(room, user, name, line, on=False)
        if self.typing:
            wait = min(lapses for _, _, lapses in self.typing.values()) - now
            self._lapse = self._shared.loop.call_later(wait, self._lapse_typing, room)


def _tell_nobody(signal: Signal, not_for: str) -> None:
    """There is no room any more."""
