"""The durable record: what a log promises, whichever database keeps it.

Each room has one sequence of events, numbered 1, 2, 3 ... without holes. What `append` has answered is on the disk.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from tornado_chat.errors import ChatError
from tornado_chat.log.growing import Checkpoint, Claim, Grown, Held, Open, Orphan, Part
from tornado_chat.log.kinds import Entry, event_of
from tornado_chat.wire.events import Data, Event

__all__ = ["Along", "Appended", "Entry", "Log", "Revocation", "State", "event_of"]


Along = tuple[Entry, int, int]
"""An event in a log of one's own, its seq and ts."""


class Appended:
    """The outcome of an entry: its `seq` and `ts` (ms since 1970), the first one's if `duplicate`.

    Of a new message: `n`, which message of its room it is; of anything else that is 0. Of a `read`: `seq` is the mark
    as it stands now, `changed` says whether this entry moved it. A `followed` or `unfollowed` that changed nothing is
    no event: its `seq` is 0. Of a `Begin`: `claim`.

    `along` are the events in logs of one's own that this entry made: a `marked`, or the `mentioned`.
    """

    __slots__ = ("along", "changed", "claim", "duplicate", "n", "seq", "ts")

    def __init__(
        self,
        seq: int,
        ts: int,
        n: int = 0,
        *,
        duplicate: bool = False,
        changed: bool = True,
        along: Sequence[Along] = (),
    ) -> None:
        self.seq = seq
        self.ts = ts
        self.n = n
        self.duplicate = duplicate
        self.changed = changed
        self.along = along
        self.claim: Claim | None = None


class State:
    """One's own log at its `head`, of which the events after `floor` are there, and the `rooms` that one follows.

    These are as clients get them: `room`, `level`, `head`, `messages`, `read`, `unread`, `mentions`.
    """

    __slots__ = ("floor", "head", "rooms")

    def __init__(self, head: int, floor: int, rooms: list[Data]) -> None:
        self.head = head
        self.floor = floor
        self.rooms = rooms


class Revocation:
    """A session that may not come in any more; `id` ascends."""

    __slots__ = ("id", "jti")

    def __init__(self, id: int, jti: str) -> None:
        self.id = id
        self.jti = jti


class Deliveries:
    """The endpoints of webhooks: how many there are, how many take nothing for now, how many were given up.

    The last are those that were, and those of which a room was.
    """

    __slots__ = ("endpoints", "failing", "given_up")

    def __init__(self, endpoints: int, failing: int, given_up: int) -> None:
        self.endpoints = endpoints
        self.failing = failing
        self.given_up = given_up


REVOCATIONS = 10_000
"""Those that one call of `Log.revocations` answers with at most."""

Delays = dict[str, float]
"""Lane -> seconds for which its oldest call has been under way: `writer`, `lookups`, `pages`, `histories`."""


class Log(Protocol):
    """Every method raises LogUnavailable when the database cannot answer, and waits for a limited time only."""

    epoch: str
    """The identity of this log; a restore from a backup gets a new one."""
    reads: int
    """Calls of `read` that went to the database."""

    async def append(self, batch: Sequence[Entry], limit: int | None = None) -> list[Appended | ChatError]:
        """Commit `batch`, or its first `limit`, in one transaction, in its order; the outcomes stand in the same order.

        `batch` may grow at its end until this returns. What came after the call is committed with it or is not, as the
        number of outcomes tells; LogUnavailable leaves that open.

        A duplicate of (room, user, key), in the log or inside the batch, is answered with the first one's seq before
        anything else about it is looked at. `edited` and `deleted` of another's message: `forbidden`; of what is no
        message or was deleted, and `reacted` likewise: `not_found` (deleting a deleted message too).
        An entry that the database refuses for its data fails alone, with `bad_request`.

        A message moves its sender's mark, unless its `on` is False. Whom it names has a `mentioned` in the own log, and
        who has read has a `marked`, in the same transaction. A `followed` is refused (`too_large`) where there are
        `own.FOLLOWS` or, by others, `own.INVITATIONS` already.
        """
        ...

    async def read(
        self, room: str, after: int, *, before: int | None = None, max_events: int, max_bytes: int
    ) -> list[Event]:
        """The events with after < seq (< before), ascending, without holes; at least one if there is one.

        Of a log of one's own the oldest are gone: the first one may be further on.
        `max_bytes` bounds the sum of their texts' and metas' sizes, nearly.
        """
        ...

    async def heads(self, rooms: Collection[str]) -> dict[str, int]:
        """The last seq of each of `rooms`; 0 for one that has no event."""
        ...

    async def openings(self, rooms: Collection[str]) -> dict[str, tuple[int, bool]]:
        """The last seq of each of `rooms`, and whether a message grows there: both of one moment.

        One that has no event may be absent.
        """
        ...

    async def marks(self, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """The read marks of (room, user) pairs in one query; a pair without a mark is absent.

        A guest's mark is kept for longer by being asked for, from the next `sweep` on.
        """
        ...

    async def floors(self, rooms: Collection[str]) -> dict[str, int]:
        """The seq up to which the events of each of these logs of one's own are gone; 0 of one that has none."""
        ...

    async def state(self, user: str) -> State:
        """The user's own log as it is now: all of it at one moment."""
        ...

    async def history(self, room: str, *, before: int | None, limit: int, max_bytes: int) -> tuple[list[Data], bool]:
        """The last `limit` messages before `before`, ascending, as they are now, and whether older ones exist."""
        ...

    async def checkpoint(self, home: str, parts: Sequence[Checkpoint]) -> list[bool]:
        """Keep what came of messages that grow in the process `home`, and that it and their authors are there.

        All in one transaction. Of each whether it was kept: else it has ended, or another process has it, or its `gen`
        is another, or the log has more of it, which was handed over. After LogUnavailable the same `start` is to be
        given again, with all that came since.
        """
        ...

    async def hand_over(self, home: str, parts: Sequence[Checkpoint]) -> None:
        """Keep what the process `home` still had of messages that have moved to others: what of it the log has not.

        It is their `former` no more. Nothing is kept of one that has ended, whose `gen` is another, or of which the log
        has less than the `start`.
        """
        ...

    async def stop(self, room: str, seqs: Collection[int], by: str) -> None:
        """Note for whoever has these messages, if they still grow, that the user `by` wants them stopped."""
        ...

    async def held(self, home: str) -> list[Held]:
        """The messages that grow in the process `home`."""
        ...

    async def open(self, room: str, seq: int | None = None) -> list[Open]:
        """The messages of the room that grow, in ascending order and with `text` empty; or that one, if it does.

        Of the one `text` is what its checkpoints hold: those of all may be many megabytes.
        """
        ...

    async def growing(self, room: str | None = None) -> list[Grown]:
        """The first `GROWING` of the messages that grow, in one room or anywhere."""
        ...

    async def parts(self, wanted: Sequence[Part]) -> list[str]:
        """What the checkpoints hold of each from that code point on; "" if it does not grow with that gen any more."""
        ...

    async def orphan(self, home: str) -> list[Orphan]:
        """The process `home` is dead: the links of the authors there count as dead, too.

        Answers with those messages of which that was not known yet.
        """
        ...

    async def lapsed(self) -> list[Open]:
        """The first LAPSED that anybody may finish: their authors and their processes gave no sign in time."""
        ...

    async def revoke(self, jti: str) -> None:
        """Keep `jti` out for ever, whatever its token says and whatever the clock; again is no mistake."""
        ...

    async def revocations(self, after: int) -> list[Revocation]:
        """The first REVOCATIONS with id > `after`, in ascending id; one that was made later has a greater id."""
        ...

    async def deliveries(self) -> Deliveries:
        """How the endpoints of webhooks are; the process that delivers has more of them (`log/webhooks.py`)."""
        ...

    async def sweep(self) -> bool:
        """Do a slice, some milliseconds long, of what no client waits for; whether there is more to do.

        The texts of a deleted message's edits are overwritten (nobody is told them since it was deleted), guests' marks
        are renewed or, when they have lapsed, deleted.
        """
        ...

    async def new_epoch(self) -> str:
        """Give the log a new identity, as after a restore from a backup: clients then start over."""
        ...

    async def read_epoch(self) -> str:
        """The epoch as the database has it; not `epoch` any more after a restore while this process ran."""
        ...

    async def probe(self) -> None:
        """A commit that changes nothing; LogUnavailable if there is none to be had."""
        ...

    def delays(self) -> Delays:
        """Whether the log keeps up: `histories` may come late when many are asked for, the other lanes must not."""
        ...

    async def close(self) -> None:
        """Finish what was begun, then let go of every thread and file."""
        ...
