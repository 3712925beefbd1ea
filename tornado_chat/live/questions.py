"""What a client is answered, over a line or by a request: history, who is in a room, one's own log, acks."""

from __future__ import annotations

from itertools import islice

from tornado_chat.auth import Identity
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.live.context import Context
from tornado_chat.live.room_presence import RoomPresence
from tornado_chat.log import Appended, Entry, own
from tornado_chat.wire import replies
from tornado_chat.wire.commands import History, Presence
from tornado_chat.wire.events import OWN_TYPES

UNREAD_BYTES = 256 * 1024 * 1024
"""With more than this waiting for all clients together, no further `history` is answered."""

HISTORY_BYTES = 1024 * 1024
"""About what the answer to one `history` has at most."""

PRESENT_USERS = 200
"""Users named in the answer to one `presence`."""


def check_unread(context: Context, more: int) -> None:
    """Raise `overloaded` if too much waits for clients, with so many bytes more."""
    if context.lines.outbox_bytes + context.limits.http_bytes + more > UNREAD_BYTES:
        raise ChatError(ErrorCode.OVERLOADED, "too much waits for clients that read slowly: try again", retry_after=5.0)


async def history(context: Context, command: History, max_bytes: int = HISTORY_BYTES) -> replies.History:
    """The answer; LogUnavailable if the log does not give it."""
    if command.room == own.NAME:
        return replies.History(id=command.id, room=command.room, messages=[], more=False)  # it has no messages
    messages, more = await context.hub.log.history(
        command.room, before=command.before, limit=command.limit, max_bytes=max_bytes
    )
    for message in messages:
        if "streaming" in message:
            growing = context.hub.elsewhere.find(command.room, message["seq"])
            if growing is not None and (growing.here or growing.told >= len(message["text"])):
                message["text"] = growing.told_text()
    return replies.History(id=command.id, room=command.room, messages=messages, more=more)


async def own_log(context: Context, identity: Identity, after: int | None) -> tuple[int, replies.OwnState | None]:
    """The cursor from which the own log goes on for who comes with `after`, and the state there where that is none.

    It is none if it is not given, or if events behind it are gone. LogUnavailable if the log does not tell.
    """
    log, room = context.hub.log, own.room_of(identity.user)
    if after is not None and after >= (await log.floors((room,)))[room]:
        return after, None
    state = await log.state(identity.user)
    rooms = [replies.FollowedRoom(**data) for data in state.rooms if identity.may_enter(data["room"])]
    return state.head, replies.OwnState(rooms)


def ack(entry: Entry, id: str, outcome: Appended) -> replies.Ack:
    """That `entry`, which the client calls `id`, has been carried out; without a seq if no room has the event."""
    seq = None if entry.type == "read" or entry.type in OWN_TYPES else outcome.seq
    return replies.Ack(id=id, room=entry.about or entry.room, seq=seq, ts=outcome.ts, duplicate=outcome.duplicate)


def present(command: Presence, presence: RoomPresence) -> replies.Presence:
    """The answer that tells `presence`."""
    users = [replies.User(user, name) for user, name in islice(presence.users(), PRESENT_USERS)]
    return replies.Presence(id=command.id, room=command.room, count=presence.count(), users=users)


async def presence(context: Context, command: Presence) -> replies.Presence:
    """The answer, also for a room that is not open here."""
    room = context.hub.rooms.get(command.room)
    return present(command, room.presence if room is not None else await context.hub.presence.look_up(command.room))
