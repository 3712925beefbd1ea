"""Messages that grow: the entries that begin and finish one, and what a log tells of one meanwhile. No I/O.

A message that grows is an event `message` without text, and a row beside it for as long as it grows: who writes it, in
which process, and until when that is believed without a sign. Its text is kept in parts, a checkpoint at a time. The
commit of `finished`, which has the whole text, takes the row and the parts away.
"""

from __future__ import annotations

from tornado_chat.errors import ChatError, Conflict, ErrorCode, Reason
from tornado_chat.log.kinds import AGENT, Entry

LEASE_SECONDS, RENEW_SECONDS = 15.0, 2.0
"""How long an author may stay away before its message is finished, and how often its process gives a sign of it."""

LAPSE_SECONDS = LEASE_SECONDS + RENEW_SECONDS
"""How long after the last sign anybody may finish a message: its author may have been there until the next one."""

SILENT_SECONDS = RENEW_SECONDS + 5.0
"""How long after the last sign another replica may take it over: its author's process has died, whoever saw that."""

SILENT_MS = int((LAPSE_SECONDS - SILENT_SECONDS) * 1000)
"""So long before it lapses, in ms, that is the case."""

STOP_SECONDS = 2.0
"""How long an author has to finish by itself what somebody stopped."""

HAND_OVER_SECONDS = 4.0
"""How long a message that has moved waits, before it is finished for its author, for what the process knows of it that
had it before. That finds out by its next look at the log, or has died."""

STOPPED_SECONDS = 6.0
"""When anybody may finish what was stopped: the process that has it had its time, and is not there."""

LAPSED = 16
"""Messages that one call of `Log.lapsed` tells, each with its whole text."""

GROWING = 10_000
"""Messages that one call of `Log.growing` tells."""


class Begin(Entry):
    """An entry that makes a message grow, or goes on with the one of its key: it moves to the process `home`.

    `replica` names the one of several authors with the same user that holds it; None: whoever it is may go on.
    """

    __slots__ = ("home", "replica", "take_over")

    def __init__(
        self,
        room: str,
        user: str,
        name: str,
        *,
        id: str,
        home: str,
        replica: str | None = None,
        take_over: bool = False,
        reply_to: int | None = None,
        meta: bytes | None = None,
        agent: bool = False,
    ) -> None:
        super().__init__("begin", room, user, name, key=id, id=id, text="", reply_to=reply_to, meta=meta, on=True)
        if agent:
            self.emoji = AGENT
        self.home = home
        self.replica = replica
        self.take_over = take_over


class Finish(Entry):
    """An entry that ends the message `target` with its whole `text`, if `home` still has it with this `gen`.

    `lapsed`: and if neither its author nor that process has given a sign in time. `stream` is the id of its `begin`.
    Where `target` is 0, the message is not known; then it is refused, with how the message stands.
    """

    __slots__ = ("gen", "home", "lapsed", "reason", "stream")

    def __init__(
        self,
        room: str,
        user: str,
        name: str,
        *,
        key: str,
        id: str | None = None,
        target: int,
        text: str,
        reason: Reason,
        gen: int,
        home: str,
        lapsed: bool = False,
        stream: str = "",
        meta: bytes | None = None,
    ) -> None:
        super().__init__(
            "finished", room, user, name, key=key, id=id, text=text, target=target, emoji=reason, meta=meta
        )
        self.reply_to = len(text)
        self.reason = reason
        self.gen = gen
        self.home = home
        self.lapsed = lapsed
        self.stream = stream


class Claim:
    """What a `Begin` is answered besides its seq.

    `text` is what the checkpoints hold and the author goes on from. `held`: another replica has it, and nothing was
    changed. `reason`: it has ended, with `length` code points, and `gen` is 0; an ordinary message counts as `done`.
    `before` is the process that had it until now, "" for none.
    """

    __slots__ = ("before", "gen", "held", "length", "reason", "text")

    def __init__(
        self,
        gen: int,
        length: int = 0,
        text: str = "",
        *,
        held: bool = False,
        reason: Reason | None = None,
        before: str = "",
    ) -> None:
        self.before = before
        self.gen = gen
        self.length = length
        self.text = text
        self.held = held
        self.reason = reason


class Checkpoint:
    """What came of a message since the last one: `text` from the code point `start` on, perhaps none.

    `linked`: its author's link lives. Else the lease runs out LAPSE_SECONDS after the first checkpoint that had none.
    `cut`: what the log may have behind the end of `text` is not wanted any more.
    """

    __slots__ = ("cut", "gen", "linked", "room", "seq", "start", "text")

    def __init__(
        self, room: str, seq: int, gen: int, start: int, text: str, *, linked: bool, cut: bool = False
    ) -> None:
        self.cut = cut
        self.room = room
        self.seq = seq
        self.gen = gen
        self.start = start
        self.text = text
        self.linked = linked


class Open:
    """A message that grows, as the log has it: `stopped` is who asked to stop it, `text` of its checkpoints, or "".

    `asker` is the user whom it answers, by `reply_to`; None: there is none.
    """

    __slots__ = ("asker", "gen", "home", "id", "name", "room", "seq", "stopped", "text", "user")

    def __init__(
        self,
        room: str,
        seq: int,
        user: str,
        name: str,
        id: str,
        gen: int,
        home: str,
        stopped: str | None,
        asker: str | None,
        text: str,
    ) -> None:
        self.room = room
        self.seq = seq
        self.user = user
        self.name = name
        self.id = id
        self.gen = gen
        self.home = home
        self.stopped = stopped
        self.asker = asker
        self.text = text


class Held:
    """One of those that a process has, by its own name: `stopped` is who asked to stop it.

    `length` code points are in its checkpoints, with what the process handed over that had it before; `former` is that
    one, until it has done so.
    """

    __slots__ = ("former", "gen", "length", "room", "seq", "stopped")

    def __init__(self, room: str, seq: int, gen: int, length: int, stopped: str | None, former: str | None) -> None:
        self.former = former
        self.room = room
        self.seq = seq
        self.gen = gen
        self.length = length
        self.stopped = stopped


class Grown:
    """A message that grows, as the log has it, but for its text: `length` code points are in its checkpoints.

    `linked`: its author's connection lives, as far as the log knows.
    """

    __slots__ = ("gen", "home", "id", "length", "linked", "room", "seq", "stopped", "user")

    def __init__(
        self,
        room: str,
        seq: int,
        gen: int,
        home: str,
        length: int,
        user: str,
        id: str,
        linked: bool,
        stopped: str | None,
    ) -> None:
        self.id = id
        self.linked = linked
        self.room = room
        self.seq = seq
        self.gen = gen
        self.home = home
        self.length = length
        self.user = user
        self.stopped = stopped


class Orphan:
    """A message whose author's link died with the process that had it; `id` is that of its `begin`."""

    __slots__ = ("id", "room", "seq", "user")

    def __init__(self, room: str, seq: int, user: str, id: str) -> None:
        self.room = room
        self.seq = seq
        self.user = user
        self.id = id


Part = tuple[str, int, int, int]
"""room, seq, gen and a code point: what is wanted of a message that grows."""


def taken_over_too_soon(room: str, seq: int, gen: int, length: int) -> Conflict:
    """The refusal of a `Begin` with `take_over` while the link of who holds the message lives."""
    return Conflict(
        f"message {seq} of room {room} is held by another replica, whose connection lives; it can be taken over when "
        "that has ended",
        gen=gen,
        length=length,
    )


def id_of_another(entry: Finish) -> ChatError:
    """The refusal of a `Finish` whose key is that of an event that does not end its message."""
    return ChatError(
        ErrorCode.BAD_REQUEST,
        f"id: {entry.key!r} is that of another event of yours in room {entry.room}; give a new one",
    )


def unfinished(
    entry: Finish, seq: int, found: tuple[str, int | None, int | None, str | None, bool | None, Reason | None] | None
) -> ChatError | None:
    """Why `entry` cannot end its target `seq`; None if it can.

    `found` is of the target: its user, the gen and length of its row, the row's home, whether that has lapsed, and the
    reason that it ended for; None in place of what there is not, None: there is no message that grew.
    """
    room = entry.room
    if found is None:
        return ChatError(ErrorCode.NOT_FOUND, f"seq {seq} of room {room} is no message that grows")
    user, gen, length, home, lapsed, reason = found
    if user != entry.user:
        return ChatError(ErrorCode.FORBIDDEN, f"message {seq} of room {room} is another user's")
    if gen is None:
        return Conflict(f"message {seq} of room {room} has ended ({reason})", reason=reason)
    # A process that was asked to stop may have kept more since this one has read what it wants to end with.
    behind = entry.lapsed and (not lapsed or length != len(entry.text or ""))
    if not entry.target or gen != entry.gen or home != entry.home or behind:
        return Conflict(
            f"message {seq} of room {room} is written by somebody else now; `begin` it again", gen=gen, length=length
        )
    return None
