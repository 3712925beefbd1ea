"""What a log does in small slices between the commits that clients wait for: how much at once, and which marks stay.

Measured on SQLite: the edits of one message, 36,000 of 8,000 characters, are 318 MB to overwrite. Erased in the commit
that deletes the message they kept everybody waiting for 2.4 s, with four bytes a character for 8.7 s.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from tornado_chat.log import own

EDITS = 64
"""Edits of deleted messages whose texts are erased in one transaction; of 8,000 characters: 2 MB at most."""

MARKS = 500
"""Marks that have lapsed and are deleted in one transaction."""

MARK_SECONDS = 31 * 86400
"""How long a guest's mark stays after it was last moved or asked for: a day longer than a guest's token is good for."""

RENEWAL_SECONDS = 86400
"""A mark that was renewed is not renewed again for so long."""

RENEWALS = 10_000
"""Marks that wait to be renewed; another one waits until it is asked for again."""

OWN_LOGS, OWN_CUT = 500, 16
"""Logs of one's own that are looked at in one transaction; those of them that are cut: 1,000 events each at most."""

OWN_SECONDS = 3600
"""All of them are looked at once in so long."""

Mark = tuple[str, str]
"""The room and the user."""


class Renewals:
    """Marks that lapse and were asked for: their guests are still about."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: set[Mark] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def seqs(self, found: Iterable[Sequence[Any]]) -> dict[Mark, int]:
        """The seq of each mark in `found`, rows of room, user, seq, lapses; notes those that are to be renewed."""
        soon = time.time() + MARK_SECONDS - RENEWAL_SECONDS
        seqs: dict[Mark, int] = {}
        for room, user, seq, lapses in found:
            seqs[room, user] = seq
            if lapses is not None and lapses < soon and len(self._waiting) < RENEWALS:
                self._waiting.add((room, user))
        return seqs

    def take(self) -> list[Mark]:
        waiting, self._waiting = self._waiting, set()
        return list(waiting)


class OwnLogs:
    """Which logs of one's own are looked at next: all, in the order of their names, and then not again for a while."""

    __slots__ = ("_after", "_due")

    def __init__(self) -> None:
        self._after = own.NAME
        self._due = 0.0

    def after(self) -> str | None:
        """The name behind which to go on; None: nothing is to be done for now."""
        return self._after if time.time() >= self._due else None

    def looked_at(self, found: Sequence[Sequence[Any]]) -> list[int]:
        """The ids of those to be cut, of the next OWN_LOGS: name, id, whether some of it is to go."""
        cut = [(name, id) for name, id, stale in found if stale][:OWN_CUT]
        if len(cut) == OWN_CUT:
            self._after = cut[-1][0]
        elif len(found) == OWN_LOGS:
            self._after = found[-1][0]
        else:
            self._after, self._due = own.NAME, time.time() + OWN_SECONDS
        return [id for _, id in cut]


def own_horizons() -> tuple[int, int]:
    """In ms since 1970: which events of logs of one's own go, and in which logs all that a guest follows."""
    now = time.time()
    return int((now - own.KEPT_SECONDS) * 1000), int((now - own.GUEST_SECONDS) * 1000)


def lapse() -> int:
    """When a guest's mark lapses that is moved or renewed now, in Unix seconds."""
    return int(time.time()) + MARK_SECONDS
