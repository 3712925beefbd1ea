"""The signals of one room that wait for its flush, and those that last: who types there, who has a status.

All of them may be lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Hashable
from time import monotonic

from tornado_chat.live.line import Line
from tornado_chat.live.shared import Shared
from tornado_chat.wire.codec import Codec
from tornado_chat.wire.replies import Read, Signal, Status, Step, Typing

PENDING_SIGNALS = 256
"""Signals beyond this many in one flush are dropped."""

LASTING_SECONDS = 6.0
"""A `typing` or `status` that is not repeated lapses after this time."""

REPEAT_SECONDS = 1.0
"""One that is repeated sooner is not told again."""

LASTING_EACH = 128
"""Those of one user in one room, a status for each message that the user may have open; further ones are dropped."""

Told = list[tuple[bytes, str | None]]
"""Serialised signals, with the user whom each is not for."""


class Lasting:
    """What was told last, on which line, and when it lapses."""

    __slots__ = ("lapses", "line", "signal")

    def __init__(self, signal: Typing | Status, line: Line | None, lapses: float) -> None:
        self.signal = signal
        self.line = line
        self.lapses = lapses


class RoomSignals:
    """`tell` is to tell a signal to all processes, but for one user."""

    __slots__ = ("_lapse", "_shared", "_tell", "lasting", "waiting")

    def __init__(self, shared: Shared, tell: Callable[[Signal, str], None]) -> None:
        self._shared = shared
        self._tell = tell
        # The newest of each kind of each user, with the user whom it is not for.
        self.waiting: dict[Hashable, tuple[Signal, str | None]] = {}
        self.lasting: dict[str, dict[Hashable, Lasting]] = {}  # by user, and by `_name`
        self._lapse: asyncio.TimerHandle | None = None

    def shut(self) -> None:
        """The room is forgotten, and told nothing any more: else the two would keep each other."""
        self._tell = _tell_nobody
        self.lasting.clear()
        if self._lapse is not None:
            self._lapse.cancel()
            self._lapse = None

    def add(self, signal: Signal, not_for: str | None, members: int) -> bool:
        """Let `signal` wait for the flush to so many members; False if it is dropped.

        Of one user's `read` or `typing`, `status` about a message, or of one step the newest counts.
        """
        name = _name(signal)
        if name not in self.waiting and (
            len(self.waiting) >= PENDING_SIGNALS or self._shared.signals.take(monotonic(), members)
        ):
            self._shared.metrics.signals_dropped += 1
            return False
        self.waiting[name] = signal, not_for
        return True

    def take(self, codecs: Collection[Codec]) -> dict[Codec, Told]:
        """What waits, serialised once for each codec."""
        waiting, self.waiting = self.waiting, {}
        return {codec: [(codec.encode(signal), not_for) for signal, not_for in waiting.values()] for codec in codecs}

    # Those that last

    def set(self, signal: Typing | Status, line: Line | None) -> None:
        """Note and tell what a user does now, or not any more; a repetition within a second is not told again.

        `line` is None where a request said so.
        """
        now = monotonic()
        user, name = signal.user, _name(signal)
        theirs = self.lasting.get(user, {})
        before = theirs.get(name)
        if _is_on(signal):
            if before is None:
                if len(theirs) >= LASTING_EACH:
                    self._shared.metrics.signals_dropped += 1
                    return
            elif before.signal == signal and before.lapses - now > LASTING_SECONDS - REPEAT_SECONDS:
                return
            theirs[name] = Lasting(signal, line, now + LASTING_SECONDS)
            self.lasting[user] = theirs
            if self._lapse is None:
                self._lapse = self._shared.loop.call_later(LASTING_SECONDS, self._lapse_some)
        elif before is None:
            return
        else:
            self._remove(user, name)
        self._tell(signal, user)

    def end(self, user: str, line: Line) -> None:
        """What was said on `line` does not last any more."""
        theirs = self.lasting.get(user)
        if theirs is not None:
            for one in [one for one in theirs.values() if one.line is line]:
                self.set(_over(one.signal), line)

    def take_over(self, signals: RoomSignals) -> None:
        """What lasts by `signals`, which are shut, lasts here."""
        self.lasting.update(signals.lasting)
        signals.shut()
        self._lapse_some()

    def heard_elsewhere(self, signal: Typing | Status) -> None:
        """Another process tells what the user does, or not any more: that it lapses is that process's to tell."""
        self._remove(signal.user, _name(signal))

    def _remove(self, user: str, name: Hashable) -> None:
        theirs = self.lasting.get(user)
        if theirs is not None:
            theirs.pop(name, None)
            if not theirs:
                del self.lasting[user]

    def _lapse_some(self) -> None:
        self._lapse = None
        now = monotonic()
        every = [one for theirs in self.lasting.values() for one in theirs.values()]
        for one in every:
            if one.lapses <= now:
                self.set(_over(one.signal), one.line)
        left = [one.lapses for one in every if one.lapses > now]
        if left:
            self._lapse = self._shared.loop.call_later(min(left) - now, self._lapse_some)


def _name(signal: Signal) -> Hashable:
    """What of several with the same only the newest need be told of."""
    match signal:
        case Typing() | Read():
            return signal.__class__, signal.user
        case Status():
            return Status, signal.user, signal.seq
        case Step():
            return Step, signal.user, signal.seq, signal.step.id
    return id(signal)


def _is_on(signal: Typing | Status) -> bool:
    return signal.on if isinstance(signal, Typing) else bool(signal.text)


def _over(signal: Typing | Status) -> Typing | Status:
    """What tells that it does not last any more."""
    if isinstance(signal, Typing):
        return Typing(room=signal.room, user=signal.user, name=signal.name, on=False)
    return Status(room=signal.room, user=signal.user, name=signal.name, text="", seq=signal.seq)


def _tell_nobody(signal: Signal, not_for: str) -> None:
    """There is no room any more."""
