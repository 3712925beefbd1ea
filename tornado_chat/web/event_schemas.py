"""What clients see of each kind of event, for openapi.json: Structs that describe, and make nothing.

`log/kinds.py` makes the events; a test holds these to what it makes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, defstruct

from tornado_chat.errors import Reason
from tornado_chat.wire import replies
from tornado_chat.wire.commands import Level

Time = Annotated[int, Meta(description="ms since 1970")]
Target = Annotated[int, Meta(description="the seq of the message that it is about")]
MetaObject = Annotated[dict[str, Any], Meta(description="as its sender gave it")]
Reactions = Annotated[dict[str, list[str]], Meta(description="of each emoji the ids of the users who gave it")]


class _Event(Struct, kw_only=True, tag_field="type", tag=str.lower, omit_defaults=True):
    room: str
    seq: int
    user: str


class _Own(_Event, kw_only=True):
    about: Annotated[str, Meta(description="the room that it is about")]


class Message(_Event, kw_only=True):
    """A message: it has `text`, or `deleted` if it was deleted before one came by."""

    n: Annotated[int, Meta(description="which message of its room it is: 1, 2, 3 ...")]
    name: str
    agent: Annotated[Literal[True] | None, Meta(description="an agent said it")] = None
    streaming: Annotated[Literal[True] | None, Meta(description="its text comes as it grows, or with `finished`")] = (
        None
    )
    text: str | None = None
    deleted: Literal[True] | None = None
    ts: Time
    id: str | None = None
    reply_to: int | None = None
    meta: MetaObject | None = None
    mentions: Annotated[list[str], Meta(description="ids of the users that it names")] | None = None


class Edited(_Event, kw_only=True):
    """The message has this text now; or `deleted`, if it was deleted before one came by."""

    target: Target
    text: str | None = None
    deleted: Literal[True] | None = None
    ts: Time


class Deleted(_Event, kw_only=True):
    """The message is gone."""

    target: Target
    ts: Time


class Reacted(_Event, kw_only=True):
    """A user gave the message a reaction, or took it back."""

    target: Target
    emoji: str
    on: bool
    ts: Time


class Finished(_Event, kw_only=True):
    """A message that grew has ended; whoever was there while it grew has the text."""

    target: Target
    ts: Time
    reason: Reason
    length: Annotated[int, Meta(description="of the text, in code points")]
    deleted: Literal[True] | None = None
    crc: Annotated[int | None, Meta(description="CRC-32 of the text in UTF-8")] = None
    text: str | None = None
    meta: MetaObject | None = None


class Followed(_Own, kw_only=True):
    """One follows the room, in one of one's own words, or because another user (`by`) has invited one."""

    level: Level
    by: str | None = None
    ts: Time


class Unfollowed(_Own, kw_only=True):
    """One follows the room no more."""

    ts: Time


class Marked(_Own, kw_only=True):
    """One has read the room up to `read`."""

    read: int
    ts: Time


class Mentioned(_Own, kw_only=True):
    """A message of a user names one."""

    target: Target
    name: str
    ts: Time


AnEvent = Message | Edited | Deleted | Reacted | Finished | Followed | Unfollowed | Marked | Mentioned


class MessageNow(Message, kw_only=True, tag="message"):
    """A message as it is now. `edited` is when it last was; a deleted one has no text, no meta and no reactions."""

    edited: Time | None = None
    reactions: Reactions | None = None


History: Any = defstruct(
    "History", [("messages", list[MessageNow])], bases=(replies.History,), tag="history", kw_only=True
)
"""The answer, whose messages are told."""

OnStream = (
    replies.Welcome
    | replies.Joined
    | AnEvent
    | replies.Synced
    | replies.Signal
    | replies.Growth
    | replies.Stream
    | replies.Behind
    | replies.Error
) | replies.Closing
"""What a stream may bring."""
