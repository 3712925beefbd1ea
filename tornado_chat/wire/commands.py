"""What a client may say: one Struct for each command of the protocol, and the checks of every field. No I/O."""

from __future__ import annotations

import unicodedata
from math import isfinite
from typing import Annotated, Any, Literal, TypeGuard, TypeVar, get_args

import orjson
from msgspec import Meta, Raw, Struct, ValidationError, convert, defstruct, field
from msgspec.structs import astuple, fields

from tornado_chat.errors import ChatError, ErrorCode, Reason
from tornado_chat.wire.codec import JSON, MSGPACK, Codec, MapWithOtherKeys, fault, without_lone_surrogates

SEQ_MAX = 2**63 - 1
ID_CHARS = 64
NAME_CHARS = 64
MENTIONS_MAX = 50
EMOJI_CHARS = 32
LAST_MAX = 500
HISTORY_MAX = 200
HISTORY_DEFAULT = 50
COMMANDS_MAX = 64
"""Commands of one request."""
ESCAPES_MAX = 8192
"""Backslashes of a body in which halves of surrogate pairs are looked for: 1 us each, and a MiB may have 170,000."""
STATUS_CHARS = 200
STEP_CHARS = 1000
META_BYTES = 2048
META_DEPTH = 64
"""Levels of `meta`: the encoders of clients and of this server stop at some depth (orjson: 254)."""

ROOM_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}\Z"
ANY_ROOM_PATTERN = r"^(?:~|[a-z0-9][a-z0-9._-]{0,63})\Z"

# The descriptions are what the client reads in the error.
RoomName = Annotated[
    str,
    Meta(
        pattern=ROOM_PATTERN,
        description="1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit",
        examples=["lobby"],
    ),
]
AnyRoom = Annotated[
    str,
    Meta(
        pattern=ANY_ROOM_PATTERN,
        description="1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit; or ~, the log of one's own",
        examples=["lobby"],
    ),
]
Id = Annotated[str, Meta(min_length=1, max_length=ID_CHARS, description=f"a string of 1 to {ID_CHARS} characters")]
Text = Annotated[str, Meta(min_length=1, description="a string of 1 to {text_chars:,} characters", examples=["hello"])]
Emoji = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=EMOJI_CHARS,
        description=f"a string of 1 to {EMOJI_CHARS} characters",
        examples=["\N{THUMBS UP SIGN}"],
    ),
]
Seq = Annotated[int, Meta(ge=1, le=SEQ_MAX, description="a seq, an integer from 1", examples=[1])]
Cursor = Annotated[int, Meta(ge=0, le=SEQ_MAX, description="a seq, an integer from 0")]
Last = Annotated[int, Meta(ge=0, le=LAST_MAX, description=f"an integer from 0 to {LAST_MAX}")]
Limit = Annotated[int, Meta(ge=1, le=HISTORY_MAX, description=f"an integer from 1 to {HISTORY_MAX}")]
WhyEnded = Annotated[Reason, Meta(description="done, stopped, error or interrupted", examples=["done"])]
Flag = Annotated[bool, Meta(description="true or false")]
Part = Annotated[str, Meta(min_length=1, description="a string of at least 1 character", examples=["hel"])]
Count = Annotated[int, Meta(ge=0, le=SEQ_MAX, description="a number of characters, an integer from 0")]
Gen = Annotated[int, Meta(ge=1, le=SEQ_MAX, description="an integer from 1")]
GuestName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=NAME_CHARS,
        description=f"a string of 1 to {NAME_CHARS} printable characters",
        examples=["Ada"],
    ),
]
MetaObject = Annotated[
    dict[Any, Any],
    Meta(
        description=f"an object of at most {META_BYTES:,} bytes as JSON and {META_DEPTH} levels, "
        "with string keys and finite numbers of at most 64 bits"
    ),
]


UserId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=NAME_CHARS,
        description=f"a user id, a string of 1 to {NAME_CHARS} printable characters",
    ),
]
Mentions = Annotated[
    list[UserId], Meta(max_length=MENTIONS_MAX, description=f"an array of at most {MENTIONS_MAX} user ids")
]
Level = Annotated[
    Literal["everything", "mentions", "nothing"], Meta(description="one of everything, mentions, nothing")
]


class Actor(Struct, kw_only=True, frozen=True, gc=False):
    """The user for whom a backend publishes; without `name` they are called by their id."""

    user: str
    name: str | None = None


As = Annotated[
    Actor,
    Meta(
        description=f"an object with `user`, a user id of 1 to {NAME_CHARS} printable characters, and perhaps `name`, "
        "of as many"
    ),
]


StatusText = Annotated[
    str, Meta(max_length=STATUS_CHARS, description=f"a string of 0 to {STATUS_CHARS} characters", examples=["thinking"])
]
StepText = Annotated[str, Meta(max_length=STEP_CHARS, description=f"a string of 0 to {STEP_CHARS:,} characters")]


StepState = Literal["running", "done", "error"]


class ToolRun(Struct, kw_only=True, frozen=True, gc=False, omit_defaults=True):
    """What an agent does for a message: the run of a tool called `name`, told anew, under the same `id`, as it goes."""

    id: Id
    name: Id
    state: StepState
    input: StepText | None = None
    output: StepText | None = None


OneStep = Annotated[
    ToolRun,
    Meta(
        description=f"an object with `id` and `name`, strings of 1 to {ID_CHARS} characters, `state`, one of running, "
        f"done, error, and perhaps `input` and `output`, strings of at most {STEP_CHARS:,}"
    ),
]


class _Base(Struct, kw_only=True, frozen=True, gc=False, tag_field="type", tag=str.lower):
    id: Id | None = None


class _Acting(_Base, kw_only=True, frozen=True):
    """What a token with the claim `acts_as` may publish for another user."""

    as_: As | None = field(name="as", default=None)


class Join(_Base, frozen=True):
    room: AnyRoom
    after: Cursor | None = None
    last: Last | None = None


class Leave(_Base, frozen=True):
    room: AnyRoom


class Send(_Acting, frozen=True):
    room: RoomName
    text: Text
    reply_to: Seq | None = None
    meta: MetaObject | None = None
    mentions: Mentions | None = None
    mark: Flag = True


class Edit(_Acting, frozen=True):
    room: RoomName
    seq: Seq
    text: Text


class Delete(_Acting, frozen=True):
    room: RoomName
    seq: Seq


class React(_Acting, frozen=True):
    room: RoomName
    seq: Seq
    emoji: Emoji
    on: Flag


class History(_Base, frozen=True):
    room: AnyRoom
    before: Seq | None = None
    limit: Limit = HISTORY_DEFAULT


class Read(_Acting, frozen=True):
    room: RoomName
    seq: Cursor


class Follow(_Acting, frozen=True):
    room: RoomName
    level: Level


class Unfollow(_Acting, frozen=True):
    room: RoomName


class Invite(_Acting, frozen=True):
    room: RoomName
    user: UserId


class Typing(_Base, frozen=True):
    room: RoomName
    on: Flag


class Status(_Acting, frozen=True):
    """What one does; about the message `seq`, if there is one. No text: nothing any more."""

    room: RoomName
    text: StatusText
    seq: Seq | None = None


class Step(_Acting, frozen=True):
    """A step towards one's own message `seq`."""

    room: RoomName
    seq: Seq
    step: OneStep


class Presence(_Base, frozen=True):
    room: RoomName


class Ping(_Base, frozen=True):
    pass


class Begin(_Acting, kw_only=True, frozen=True):
    """A message that grows. `replica` names the process of several that share a user."""

    id: Id
    room: RoomName
    reply_to: Seq | None = None
    meta: MetaObject | None = None
    replica: Id | None = None
    take_over: Flag | None = None


class Append(_Acting, frozen=True):
    """`stream` is the id of the `begin`; `offset` is where `text` begins, in code points."""

    room: RoomName
    stream: Id
    offset: Count
    text: Part
    gen: Gen | None = None


class Finish(_Acting, frozen=True):
    room: RoomName
    stream: Id
    length: Count
    reason: WhyEnded
    meta: MetaObject | None = None


class Stop(_Acting, frozen=True):
    room: RoomName
    seq: Seq | None = None


class Fetch(_Base, frozen=True):
    room: RoomName
    seq: Seq
    offset: Count = 0


Growth = Begin | Append | Finish
"""What the author of a message that grows says."""

_GROWING = (Begin, Append, Finish, Stop, Fetch)

Signalling = Typing | Status | Step
"""What is told to a room, and not kept."""

Command = (
    Join
    | Leave
    | Send
    | Edit
    | Delete
    | React
    | History
    | Read
    | Follow
    | Unfollow
    | Invite
    | Signalling
    | Presence
    | Ping
    | Growth
    | Stop
    | Fetch
)

S = TypeVar("S", bound=Struct)

COMMANDS: dict[str, type[Command]] = {struct.__name__.lower(): struct for struct in get_args(Command)}
"""The Struct of each `type`."""

_TYPES = f"one of {', '.join(COMMANDS)}"


_DECODERS = {codec: codec.decoder(Command) for codec in (JSON, MSGPACK)}


class Unparsed(ChatError):
    """What a client sent is no command; `id` is the one that the error can carry, None if it has none that is valid.

    So are `room` and `stream`, of what would be a command of a message that grows.
    """

    def __init__(self, error: ChatError, id: str | None, room: str | None = None, stream: str | None = None) -> None:
        super().__init__(error.code, error.message)
        self.id = id
        self.room = room
        self.stream = stream


def decode(codec: Codec, payload: bytes, text_chars: int) -> Command:
    """The command that `payload` is; Unparsed (bad_request) names the field that is wrong.

    A sound command is decoded in one step, which skips what it does not know: 0.9 us instead of 2.6 for decoding all of
    it and then looking for the fields.
    """
    command: Command | None = None
    obj: object = None
    try:
        command = _decoded(codec, payload)
        if command is not None:
            return _checked(command, text_chars)
        obj = codec.decode(payload)
        return parse(obj, text_chars)
    except ChatError as error:
        found = {} if type(obj) is not dict else obj
        id = found.get("id") if command is None else command.id
        room, stream = _subject_of(found) if command is None else subject(command)
        raise Unparsed(error, id if _is_id(id) else None, room, stream if _is_id(stream) else None) from None


def subject(command: Command) -> tuple[str | None, str | None]:
    """The room, and the `stream`, that an error about `command` has.

    A `join` says which room it was: who reads a stream of several has nothing else to know it. So do the commands of
    messages that grow: an `append` has no id.
    """
    if isinstance(command, Append | Finish):
        return command.room, command.stream
    return (command.room if isinstance(command, Join | Begin | Stop | Fetch) else None), None


def _subject_of(obj: dict[str, Any]) -> tuple[str | None, str | None]:
    """As `subject`, of a message that is no command, as far as it is sound."""
    name = obj.get("type")
    struct = COMMANDS.get(name) if type(name) is str else None
    if struct not in _GROWING:
        return None, None
    try:
        room = room_name(obj.get("room"))
    except ChatError:
        return None, None
    stream = obj.get("stream") if struct in (Append, Finish) else None
    return room, stream if _is_id(stream) else None


def _decoded(codec: Codec, payload: bytes) -> Command | None:
    """The command in one step; None if that cannot be done."""
    if codec is MSGPACK and b"meta" in payload:
        return None  # maps in it may have keys that are no strings, and hashes that collide: see MapWithOtherKeys
    try:
        command: Command = _DECODERS[codec](payload)
    except (ValueError, RecursionError):
        return None
    return command


def commands_of(codec: Codec, body: bytes) -> list[bytes]:
    """The commands in `body`, one or an array of them, each as it came; ChatError (bad_request, too_large).

    None of them is looked at.
    """
    try:
        found = _parts(codec, body)
    except ValidationError:  # it has too many
        raise _bad(f"body: must be an array of at most {COMMANDS_MAX} commands") from None
    except (ValueError, RecursionError) as error:
        sound = _without_lone_surrogates(body) if codec is JSON and isinstance(error, ValueError) else None
        if sound is not None:
            return commands_of(codec, sound)
        raise _bad(f"body: must be a command or an array of them in {codec.name}: {fault(error)}") from None
    return [bytes(raw) for raw in found]


def _parts(codec: Codec, body: bytes) -> list[Raw]:
    first = body.lstrip(b" \t\r\n")[:1] if codec is JSON else body[:1]
    if first in _ARRAY_BEGINS[codec]:
        return [raw for raw in astuple(_ARRAYS[codec](body)) if raw is not _NOTHING]
    if first and first not in _OBJECT_BEGINS[codec]:
        raise ValueError("it is neither an object nor an array")
    return [_ONES[codec](body)]


_NOTHING = Raw()

_Array = defstruct(
    "_Array",
    [(f"_{place}", Raw, _NOTHING) for place in range(COMMANDS_MAX)],
    array_like=True,
    forbid_unknown_fields=True,
)
"""Up to COMMANDS_MAX commands. A list would first be made of all that a body of 1 MiB can hold, which takes 100 ms."""

_ARRAYS: dict[Codec, Any] = {codec: codec.decoder(_Array) for codec in (JSON, MSGPACK)}
_ONES: dict[Codec, Any] = {codec: codec.decoder(Raw) for codec in (JSON, MSGPACK)}
_ARRAY_BEGINS = {JSON: {b"["}, MSGPACK: {bytes([first]) for first in (*range(0x90, 0xA0), 0xDC, 0xDD)}}
_OBJECT_BEGINS = {JSON: {b"{"}, MSGPACK: {bytes([first]) for first in (*range(0x80, 0x90), 0xDE, 0xDF)}}
"""The first bytes of an array, and of an object."""


def _without_lone_surrogates(body: bytes) -> bytes | None:
    return without_lone_surrogates(body) if body.count(b"\\") <= ESCAPES_MAX else None


def parse(obj: object, text_chars: int) -> Command:
    """The command that `obj` (decoded by a codec) is; ChatError(bad_request) names the field that is wrong.

    An optional field that is null counts as absent. Unknown fields are ignored.
    """
    if type(obj) is not dict:
        raise _bad(f"message: must be an object with a type, {_TYPES}; got {_kind(obj)}")
    name = obj.get("type")
    struct = COMMANDS.get(name) if type(name) is str else None
    if struct is None:
        got = ascii(name[:32]) if type(name) is str else "none" if name is None else _kind(name)
        raise _bad(f"type: must be {_TYPES}; got {got}")
    return read(obj, struct, text_chars)


def read(obj: dict[str, Any], struct: type[S], text_chars: int) -> S:
    """The `struct` (a command, or what else a client may ask for) that `obj` is; ChatError as `parse` raises it.

    Each field's type has a description.
    """
    try:
        found = convert(obj, struct)
    except (ValueError, RecursionError):
        given = {key: value for key, value in obj.items() if value is not None}
        if len(given) < len(obj):
            return read(given, struct, text_chars)
        raise _explain(obj, struct, text_chars) from None
    return _checked(found, text_chars) if isinstance(found, _Base) else found


C = TypeVar("C", bound=_Base)


def _checked(command: C, text_chars: int) -> C:
    """`command` if it is sound in what its types do not say."""
    if command.id is not None:
        _check_string("id", command.id)
    if isinstance(command, (Send, Edit)):
        text = command.text
        if len(text) > text_chars:
            raise _bad(f"text: must be {describe(Text, text_chars)}; got {_kind(text)}")
        _check_string("text", text)
        if isinstance(command, Send):
            if command.meta is not None:
                _check_meta(command.meta)
            if command.mentions is not None:
                for user in command.mentions:
                    check_printable("mentions", user)
    elif isinstance(command, (Append, Begin, Finish)):
        _check_growth(command)
    elif isinstance(command, Join):
        if command.after is not None and command.last is not None:
            raise _bad("after, last: give one of the two, or neither")
    elif isinstance(command, React):
        _check_string("emoji", command.emoji)
    elif isinstance(command, Invite):
        check_printable("user", command.user)
    elif isinstance(command, Status):
        _check_string("text", command.text)
    elif isinstance(command, Step):
        step = command.step
        for text in (step.id, step.name, step.input or "", step.output or ""):
            _check_string("step", text)
    if isinstance(command, _Acting) and command.as_ is not None:
        check_printable("as.user", command.as_.user)
        if command.as_.name is not None:
            check_name(command.as_.name, "as.name")
    return command


def _check_growth(command: Growth) -> None:
    if isinstance(command, Append):
        _check_string("text", command.text)
        _check_string("stream", command.stream)
    elif command.meta is not None:
        _check_meta(command.meta)
    if isinstance(command, Finish):
        _check_string("stream", command.stream)
    elif isinstance(command, Begin) and command.replica is not None:
        _check_string("replica", command.replica)


def _is_id(value: object) -> TypeGuard[str]:
    return type(value) is str and 1 <= len(value) <= ID_CHARS and _is_sound(value)


def room_name(value: object) -> str:
    """`value` if it names a room; ChatError(bad_request) if not."""
    try:
        return convert(value, RoomName)
    except ValueError:
        raise _bad(f"room: must be {describe(RoomName)}; got {_kind(value)}") from None


def check_user_id(value: object) -> str:
    """`value` if it is a user id, 1 to 64 printable characters; ChatError(bad_request) if not."""
    return check_printable("user id", value)


def check_name(value: object, field: str = "name") -> str:
    """`value` if it is a user's name, 1 to 64 printable characters that show; ChatError(bad_request) if not."""
    name = check_printable(field, value)
    if is_blank(name):
        raise _bad(f"{field}: must have a character that can be seen")
    return name


def is_blank(text: str) -> bool:
    """Whether a reader sees nothing of `text`."""
    return not any(map(_is_visible, text))


def check_printable(field: str, value: object) -> str:
    if (
        type(value) is str
        and 1 <= len(value) <= NAME_CHARS
        and (value.isprintable() or all(map(_is_printable, value)))  # the first is enough for most
    ):
        return value
    raise _bad(f"{field}: must be a string of 1 to {NAME_CHARS} printable characters; got {_kind(value)}")


def _is_printable(char: str) -> bool:
    """Also the joiners inside emoji, and characters newer than this Python's Unicode."""
    return char.isprintable() or char in "\u200c\u200d" or unicodedata.category(char) == "Cn"


_BLANKS = frozenset("\u115f\u1160\u2065\u2800\u3164\uffa0\U0001d159") | set(map(chr, range(0xFFF0, 0xFFF9)))
"""Letters, symbols and unassigned characters that leave no mark: fillers, the empty Braille cell, what is ignorable."""


def _is_visible(char: str) -> bool:
    """No space, and no mark or joiner, which change what stands before them."""
    category = unicodedata.category(char)
    return (category[0] in "LNPS" or (category == "Cn" and char < "\U000e0000")) and char not in _BLANKS


def _is_sound(text: str) -> bool:
    """No U+0000 (databases refuse it) and no lone surrogate (UTF-8 has none)."""
    if "\0" in text:
        return False
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return True


def _check_string(field: str, text: str) -> None:
    if not _is_sound(text):
        raise _bad(f"{field}: must not hold U+0000 or a lone surrogate")


class _NotJSON(Exception):
    """Its text is the kind of the value."""


def _refuse_value(value: object) -> object:
    raise _NotJSON(_kind(value))


def _check_meta(meta: dict[str, Any]) -> None:
    try:
        size = len(orjson.dumps(meta, default=_refuse_value))
    except TypeError as error:
        reason = f"it holds {error.__cause__}" if isinstance(error.__cause__, _NotJSON) else error
        raise _bad(f"meta: must be {describe(MetaObject)}; {reason}") from None
    if size > META_BYTES:
        raise _bad(f"meta: must be at most {META_BYTES:,} bytes as JSON; got {size:,}")
    fault = _json_fault(meta, META_DEPTH)
    if fault is not None:
        raise _bad(f"meta: must be {describe(MetaObject)}; it holds {fault}")


def _json_fault(value: object, depth: int) -> str | None:
    """What `value` holds that is not JSON as every client can read it, or None."""
    match value:
        case str():
            return None if _is_sound(value) else "a string with U+0000 or a lone surrogate"
        case float():
            return None if isfinite(value) else _kind(value)
        case int() | None:
            return None
        case dict():
            parts = [*value.keys(), *value.values()]
        case list():
            parts = value
        case _:
            return _kind(value)
    if depth == 0:
        return f"more than {META_DEPTH} levels"
    return next((fault for part in parts if (fault := _json_fault(part, depth - 1)) is not None), None)


def _explain(obj: dict[Any, Any], struct: type[Struct], text_chars: int) -> ChatError:
    """Which field of `obj` kept it from being a `struct`."""
    for part in fields(struct):
        name, wanted = part.encode_name, describe(part.type, text_chars)
        if name not in obj:
            if part.required:
                return _bad(f"{name}: is missing; must be {wanted}")
            continue
        value = obj[name]
        try:
            convert(value, part.type)
        except (ValueError, RecursionError):
            return _bad(f"{name}: must be {wanted}; got {_kind(value)}")
    return _bad("message: must be an object whose keys are strings of Unicode characters")


def describe(type_: Any, text_chars: int = 0) -> str:
    """What a field of this type must be, in words; `text_chars` is the setting, for a Text."""
    for part in (type_, *get_args(type_)):  # Annotated[...], or Annotated[...] | None
        for meta in getattr(part, "__metadata__", ()):
            return str(meta.description).format(text_chars=text_chars)
    raise TypeError(f"{type_} has no description")


def _kind(value: object) -> str:
    """What `value` is, in the words of JSON; short, whatever it holds."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value) if abs(value) <= SEQ_MAX else "an integer past 64 bits"
        case float():
            return f"the number {value}"
        case str():
            return f"a string of {len(value):,} characters"
        case dict():
            return (
                f"an object of {len(value):,} fields" if len(value) > 1 else "an object" if value else "an empty object"
            )
        case list():
            return f"an array of {len(value):,}" if len(value) > 1 else "an array" if value else "an empty array"
        case bytes() | bytearray():
            return "binary"
        case MapWithOtherKeys():
            return "a map whose keys are not all strings"
    return f"a value that JSON does not have ({type(value).__name__})"


def _bad(message: str) -> ChatError:
    return ChatError(ErrorCode.BAD_REQUEST, message)
