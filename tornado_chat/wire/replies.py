"""What the server says besides events: one Struct for each type of docs/protocol.md, with its fields in their order.

A field that has its default (None, False) is left out. The codecs encode a Struct as the object with its `type`.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args

from msgspec import Meta, Struct

from tornado_chat.errors import ChatError, Conflict, ErrorCode, Reason
from tornado_chat.wire.commands import ToolRun

Data = dict[str, Any]
Code = Annotated[str, Meta(extra_json_schema={"enum": [code.value for code in ErrorCode]})]


class _Reply(Struct, tag_field="type", tag=str.lower, omit_defaults=True, gc=False):
    """The tag is the name in lower case."""


class Limits(Struct, gc=False):
    """What a client may send: bytes of a frame, characters of a text, and events a second and at once (0: no limit).

    `stream_chars`: characters of a message that grows.
    """

    frame_bytes: int
    text_chars: int
    send_rate: int
    send_burst: int
    stream_chars: int


class Welcome(_Reply, kw_only=True):
    """The first of every connection; `server_time` is in ms since 1970, `ping_interval` in seconds."""

    user: str
    name: str
    device: str
    token: str | None = None
    epoch: str
    server_time: int
    limits: Limits
    ping_interval: float


class FollowedRoom(Struct, omit_defaults=True, gc=False):
    """A room that one follows: its `messages` are so many, `unread` of them are behind `read`, one's mark, and
    `mentions` of these name one. `by`: who has invited one, while one has not said anything about it.
    """

    room: str
    level: str
    head: int
    messages: int
    read: int
    unread: int
    mentions: int
    by: str | None = None


class OwnState(Struct, gc=False):
    """What one's own log leads to, as of the `cursor` that it comes with."""

    rooms: list[FollowedRoom]


class Joined(_Reply, kw_only=True):
    id: str | None = None
    room: str
    head: int
    cursor: int
    read: int
    epoch: str
    state: OwnState | None = None


class Synced(_Reply, kw_only=True):
    room: str
    seq: int


class Behind(_Reply, kw_only=True):
    room: str
    seq: int
    head: int


class Left(_Reply, kw_only=True):
    id: str | None = None
    room: str


class Ack(_Reply, kw_only=True):
    id: str
    room: str
    seq: int | None = None
    ts: int | None = None
    duplicate: bool = False
    gen: int | None = None
    length: int | None = None
    held: bool = False
    reason: Reason | None = None


class History(_Reply, kw_only=True):
    id: str | None = None
    room: str
    messages: list[Data]
    more: bool


class Pong(_Reply, kw_only=True):
    id: str | None = None


class Closing(_Reply, kw_only=True):
    """The last of a stream: `code` is what a WebSocket would be closed with."""

    code: int
    reason: str | None = None
    retry_after_ms: int | None = None


class Error(_Reply, kw_only=True):
    """`retry_after` is in seconds; `room` is that of a `join`, or of a message that grows, like the fields after it."""

    id: str | None = None
    room: str | None = None
    code: Code
    message: str
    retry_after: float | None = None
    stream: str | None = None
    gen: int | None = None
    length: int | None = None
    reason: Reason | None = None


class Stream(_Reply, kw_only=True):
    """The text of a message that grows, from the code point `offset` on; the answer to `fetch`, or a notice."""

    id: str | None = None
    room: str
    seq: int
    gen: int
    offset: int
    text: str
    done: bool


class User(Struct, gc=False):
    user: str
    name: str


class Presence(_Reply, kw_only=True):
    """The answer to `presence` (`users`), or the signal that somebody came or went."""

    id: str | None = None
    room: str
    count: int
    users: list[User] | None = None
    joined: list[User] | None = None
    left: list[User] | None = None


class Typing(_Reply, kw_only=True):
    """A signal."""

    room: str
    user: str
    name: str
    on: bool


class Status(_Reply, kw_only=True):
    """A signal: what the user does, perhaps about the message `seq`; no text: nothing any more."""

    room: str
    user: str
    name: str
    text: str
    seq: int | None = None


class Step(_Reply, kw_only=True):
    """A signal: a step towards the message `seq`, which counts if that is the user's."""

    room: str
    user: str
    seq: int
    step: ToolRun


class Read(_Reply, kw_only=True):
    """A signal: the user's mark has moved to `seq`."""

    room: str
    user: str
    name: str
    seq: int


class Orphaned(_Reply, kw_only=True):
    """A signal in the log of one's own: the link of the author of the message, called so by its `begin`, died."""

    room: str
    seq: int
    id: str


Chunk = tuple[int, int, int, str]
"""Of a message that grows: its seq and gen, and what begins at the code point."""


class Appended(_Reply, kw_only=True):
    """A signal: of messages that grow the seq, gen, the code point at which `text` begins, and that text."""

    room: str
    chunks: list[Chunk]


class Stop(_Reply, kw_only=True):
    """A signal to the author's user: `by` wants the message to end."""

    room: str
    seq: int
    by: str


Reply = Welcome | Joined | Synced | Behind | Left | Ack | History | Pong | Error | Closing | Stream
Signal = Presence | Typing | Status | Step | Read | Orphaned
Growth = Appended | Stop
"""Signals of messages that grow."""

REPLIES: dict[str, type[Reply | Signal | Growth]] = {
    struct.__name__.lower(): struct for struct in get_args(Reply | Signal | Growth)
}
"""The Struct of each `type`."""


def error(error: ChatError, id: str | None = None, room: str | None = None, stream: str | None = None) -> Error:
    """`error` as a client gets it."""
    told = Error(id=id, room=room, code=error.code, message=error.message, retry_after=error.retry_after, stream=stream)
    if isinstance(error, Conflict):
        told.stream, told.gen, told.length, told.reason = error.stream or stream, error.gen, error.length, error.reason
    return told
