"""The durable record: what a log promises, whichever database keeps it.

Each room has one sequence of events, numbered 1, 2, 3 ... without holes. What `append` has answered is on the disk.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal, Protocol

from tornado_chat.errors import ChatError
from tornado_chat.wire.events import Data, Event

EntryType = Literal["message", "edited", "deleted", "reacted", "read"]


class Entry:
    """One thing to be written: an event to be, or (`read`) a user's read mark.

    `key` names the event of (room, user) for ever: the client's `id`, or a hidden one that no client can guess.
    `id` is what readers of the event see; None for a hidden key. `seq` (of a `read`) is the mark that is asked for,
    `lapses` says that it is a guest's, which goes when it was neither moved nor asked for during 31 days.
    """

    __slots__ = (
        "emoji",
        "id",
        "key",
        "lapses",
        "meta",
        "name",
        "on",
        "reply_to",
        "room",
        "seq",
        "target",
        "text",
        "type",
        "user",
    )

    def __init__(
        self,
        type: EntryType,
        room: str,
        user: str,
        name: str,
        *,
        key: str = "",
        id: str | None = None,
        text: str | None = None,
        reply_to: int | None = None,
        meta: dict[str, Any] | None = None,
        target: int | None = None,
        emoji: str | None = None,
        on: bool | None = None,
        seq: int | None = None,
        lapses: bool = False,
    ) -> None:
        self.type = type
        self.room = room
        self.user = user
        self.name = name
        self.key = key
        self.id = id
        self.text = text
        self.reply_to = reply_to
        self.meta = meta
        self.target = target
        self.emoji = emoji
        self.on = on
        self.seq = seq
        self.lapses = lapses


def event_of(entry: Entry, seq: int, ts: int) -> Event:
    """The event that clients see, with the fields and the order of PROTOCOL's table.

    A `message` or `edited` whose text is None was erased by a `deleted`.
    """
    data: Data = {"type": entry.type, "room": entry.room, "seq": seq}
    if entry.type != "message":
        data["target"] = entry.target
    data["user"] = entry.user
    if entry.type == "message":
        data["name"] = entry.name
    if entry.type == "reacted":
        data["emoji"] = entry.emoji
        data["on"] = entry.on
    elif entry.type != "deleted":
        if entry.text is None:
            data["deleted"] = True
        else:
            data["text"] = entry.text
    data["ts"] = ts
    if entry.id is not None and entry.type == "message":
        data["id"] = entry.id
    if entry.reply_to is not None:
        data["reply_to"] = entry.reply_to
    if entry.meta is not None:
        data["meta"] = entry.meta
    return Event(seq, data)


class Appended:
    """The outcome of an entry: its `seq` and `ts` (ms since 1970), the first one's if `duplicate`.

    Of a `read`: `seq` is the mark as it stands now, `changed` says whether this entry moved it.
    """

    __slots__ = ("changed", "duplicate", "seq", "ts")

    def __init__(self, seq: int, ts: int, *, duplicate: bool = False, changed: bool = True) -> None:
        self.seq = seq
        self.ts = ts
        self.duplicate = duplicate
        self.changed = changed


class Revocation:
    """A session that may not come in any more; `id` ascends."""

    __slots__ = ("id", "jti")

    def __init__(self, id: int, jti: str) -> None:
        self.id = id
        self.jti = jti


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

    async def append(self, batch: Sequence[Entry]) -> list[Appended | ChatError]:
        """Commit `batch` in one transaction, in its order; the outcomes stand in the same order.

        A duplicate of (room, user, key), in the log or inside the batch, is answered with the first one's seq before
        anything else about it is looked at. `edited` and `deleted` of another's message: `forbidden`; of what is no
        message or was deleted, and `reacted` likewise: `not_found` (deleting a deleted message too).
        An entry that the database refuses for its data fails alone, with `bad_request`.
        """
        ...

    async def read(
        self, room: str, after: int, *, before: int | None = None, max_events: int, max_bytes: int
    ) -> list[Event]:
        """The events with after < seq (< before), ascending, without holes; at least one if there is one.

        `max_bytes` bounds the sum of their texts' and metas' sizes, nearly.
        """
        ...

    async def heads(self, rooms: Collection[str]) -> dict[str, int]:
        """The last seq of each of `rooms`; 0 for one that has no event."""
        ...

    async def marks(self, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """The read marks of (room, user) pairs in one query; a pair without a mark is absent.

        A guest's mark is kept for longer by being asked for, from the next `sweep` on.
        """
        ...

    async def history(self, room: str, *, before: int | None, limit: int, max_bytes: int) -> tuple[list[Data], bool]:
        """The last `limit` messages before `before`, ascending, as they are now, and whether older ones exist."""
        ...

    async def revoke(self, jti: str) -> None:
        """Keep `jti` out for ever, whatever its token says and whatever the clock; again is no mistake."""
        ...

    async def revocations(self, after: int) -> list[Revocation]:
        """The first REVOCATIONS with id > `after`, in ascending id; one that was made later has a greater id."""
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
