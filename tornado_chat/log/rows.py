"""What a log makes of its database's rows, whichever database that is. No I/O.

`read` and `history` are generators: they yield what they ask of the database, and are sent its rows.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Literal

import orjson

from tornado_chat.errors import ChatError, Conflict, ErrorCode
from tornado_chat.log import own
from tornado_chat.log.kinds import KINDS, Entry, event_of
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.events import Data, Event

BEYOND = 2**63 - 1
"""Greater than every seq; what a database can hold."""

# Rows of one query: at most so many are read in vain when the limit of bytes is reached.
EVENTS = 128
MESSAGES = 64
REACTIONS = 1000

Row = Sequence[Any]
Rows = Sequence[Row]
Asked = tuple[Literal["messages", "reactions"], tuple[Any, ...]]


def within(seq: int) -> int:
    """`seq`, or the nearest number that a database can hold."""
    return min(max(seq, 0), BEYOND)


def refusal(entry: Entry, target: tuple[str, str, bool] | None) -> ChatError | None:
    """Why `entry` cannot be done to its target; None if it can.

    `target` is the target's type and user, and whether its text was erased; None if there is none. Where the entry has
    to wait until the message has ended, the type is `growing`.
    """
    room, seq = entry.room, entry.target
    if target is not None and target[0] == "growing" and target[1] == entry.user:
        return Conflict(f"message {seq} of room {room} still grows; stop it first, or wait until it has ended")
    if target is None or target[0] not in ("message", "growing"):
        what = "no event" if target is None else f"not a message but `{target[0]}`"
        return ChatError(ErrorCode.NOT_FOUND, f"seq {seq} of room {room} is {what}; `seq` must be that of a message")
    _, user, erased = target
    if KINDS[entry.type].own and user != entry.user:
        return ChatError(
            ErrorCode.FORBIDDEN, f"message {seq} of room {room} is another user's; only one's own can be changed"
        )
    if erased:
        return ChatError(
            ErrorCode.NOT_FOUND, f"message {seq} of room {room} was deleted; it cannot be changed any more"
        )
    return None


def more_of(entry: Entry) -> str | None:
    """What few events have, as JSON: the users that a message names, the room and the level of a `followed` ..."""
    if entry.mentions:
        return orjson.dumps({"mentions": entry.mentions}).decode()
    if entry.about:
        return orjson.dumps({"about": entry.about} | ({"level": entry.level} if entry.level else {})).decode()
    return None


def _take_more(entry: Entry, more: str) -> None:
    found = orjson.loads(more)
    entry.mentions = tuple(found.get("mentions", ()))
    entry.about = found.get("about", "")
    entry.level = found.get("level")


def followed_rooms(rows: Rows) -> list[Data]:
    """From room, level, inviter, head, how many messages it has, the user's mark, how many of them are up to that, how
    many mentions are behind it.
    """
    found: list[Data] = []
    for room, level, inviter, head, messages, mark, read, mentions in rows:
        data = {"room": room, "level": level, "head": head, "messages": messages, "read": mark}
        data |= {"unread": messages - read, "mentions": mentions}
        if inviter is not None:
            data["by"] = inviter
        found.append(data)
    return found


def unwanted(entry: Entry, following: int, invited: int) -> ChatError | None:
    """Why a new `followed` cannot be: how many rooms the user follows, and how many of these by invitation."""
    if entry.room == own.room_of(entry.user):
        if following >= own.FOLLOWS:
            return ChatError(ErrorCode.TOO_LARGE, f"you follow {own.FOLLOWS:,} rooms: unfollow one first")
    elif invited >= own.INVITATIONS or following >= own.FOLLOWS:
        return ChatError(ErrorCode.TOO_LARGE, "so many have invited this user already that nobody else can for now")
    return None


def event_of_row(room: str, row: Row, n: int) -> Event:
    """From seq, type, user, name, key, hidden, text, reply_to, meta, target, emoji, on, ts, more, and what follows."""
    seq, type, user, name, key, hidden, text, reply_to, meta, target, emoji, on, ts, more, *_ = row
    entry = Entry(
        type,
        room,
        user,
        name,
        id=None if hidden else key,
        text=text,
        reply_to=reply_to,
        meta=None if meta is None else meta.encode(),
        target=target,
        emoji=emoji,
        on=None if on is None else on == 1,
    )
    if more is not None:
        _take_more(entry, more)
    return event_of(entry, seq, n, ts)


def message_of_row(room: str, row: Row, n: int) -> Data:
    """A message as it is now.

    From seq, user, name, key, hidden, text, reply_to, meta, emoji, ts, last edit, its ts, more, whether the message
    still grows, and what follows.
    """
    seq, user, name, key, hidden, text, reply_to, meta, emoji, ts, new_text, edited, more, grows, *_ = row
    entry = Entry(
        "message",
        room,
        user,
        name,
        id=None if hidden else key,
        text=text if new_text is None else new_text,
        reply_to=reply_to,
        meta=None if meta is None else meta.encode(),
        emoji=emoji,
        on=True if grows else None,
    )
    if more is not None:
        _take_more(entry, more)
    message = event_of(entry, seq, n, ts).data
    if edited is not None:
        message["edited"] = edited
    return message


def read(
    room: str, after: int, before: int | None, max_events: int, max_bytes: int
) -> Generator[tuple[int, int, int], Rows, list[Event]]:
    """As `Log.read` says.

    Asks for the rows, as `event_of_row` takes them, between two seqs, ascending, and how many at most; behind the ts,
    each row has how many others than messages there are up to the first of these seqs.
    """
    events: list[Event] = []
    size = 0
    after = within(after)
    end = BEYOND if before is None else within(before)
    while (wanted := min(EVENTS, max_events - len(events))) > 0:
        rows = yield after, end, wanted
        others: int = rows[0][-1] if rows else 0
        for row in rows:
            if row[1] != "message":
                others += 1
            text, meta = row[6], row[8]
            size += (len(text.encode()) if text else 0) + (len(meta) if meta else 0)
            if size > max_bytes and events:
                return events
            events.append(event_of_row(room, row, row[0] - others))
        if len(rows) < wanted:
            break
        after = rows[-1][0]
    return events


def history(
    room: str, before: int | None, limit: int, max_bytes: int
) -> Generator[Asked, Rows, tuple[list[Data], bool]]:
    """As `Log.history` says; the encoded messages together have `max_bytes` at most.

    Asks for `messages`: the rows, as `message_of_row` takes them, before a seq, the newest first, and how many at most
    (behind the last edit's ts, the first row has how many others than messages there are before it);
    for `reactions`: (target, emoji, user) below such a triple, down to the target `oldest`, in descending order, and
    how many at most. A single message that has more bytes because of its reactions loses some of them; its text is
    never cut.
    """
    messages: list[Data] = []
    size = 0
    end = BEYOND if before is None else within(before)
    while True:
        wanted = min(MESSAGES, limit + 1 - len(messages))
        rows = yield "messages", (end, wanted)
        if not rows:
            return messages[::-1], False
        end = rows[-1][0]
        n = rows[0][0] - rows[0][-1] + 1
        reactions: Rows = ()
        place = 0
        last = (rows[0][0] + 1, "", "")
        ended = False
        for row in rows:
            if len(messages) == limit:
                return messages[::-1], True
            n -= 1  # nothing but others stands between two of them
            message = message_of_row(room, row, n)
            size += len(JSON.encode(message)) + len(',"reactions":{},')
            found: dict[str, list[str]] = {}
            while True:
                if place == len(reactions) and not ended:
                    reactions = yield "reactions", (*last, end, REACTIONS)
                    place = 0
                    ended = len(reactions) < REACTIONS
                if place == len(reactions) or reactions[place][0] != row[0]:
                    break
                target, emoji, user = reactions[place]
                cost = len(orjson.dumps(user)) + len(",")
                if emoji not in found:
                    cost += len(orjson.dumps(emoji)) + len(":[],")
                if size + cost > max_bytes:
                    size = max_bytes + 1  # there are more than fit
                    break
                size += cost
                found.setdefault(emoji, []).append(user)
                last = (target, emoji, user)
                place += 1
            if size > max_bytes and messages:
                return messages[::-1], True
            if found:
                message["reactions"] = {emoji: found[emoji][::-1] for emoji in reversed(found)}
            messages.append(message)
        if len(rows) < wanted:
            return messages[::-1], False
