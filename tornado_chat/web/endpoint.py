"""One method of one address under `/v1`, declared once: what finds it, checks its requests, and describes it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Protocol, Union, get_args, get_origin
from urllib.parse import unquote

from msgspec import Raw, Struct, defstruct
from msgspec.structs import astuple, fields

from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.web.gate import Arguments
from tornado_chat.wire import event_stream
from tornado_chat.wire.codec import JSON, fault
from tornado_chat.wire.commands import read

JSON_TYPE = "application/json"
MSGPACK_TYPE = "application/msgpack"
TEXT_TYPE = "text/plain"
FORM_TYPE = "application/x-www-form-urlencoded"
EVENTS_TYPE = event_stream.CONTENT_TYPE

WHOLE_BYTES = 64 * 1024
"""Of a body that is decoded whole, and of the fields that count in a longer one: a message of a WebSocket has as many.
A mebibyte of empty arrays took 200 ms, for which everybody else waited."""

Token = Literal["needed", "welcome", "given"]
"""Whether a request needs a token; or is asked with or without; or gives one to who has none."""

MAX_DIGITS = 20
"""Of a number in an address; a longer one is not made a number."""


class BodyReader(Protocol):
    """What takes a body as it comes, and answers its exchange. More is read when the last call has returned.

    What they raise is answered; `end` follows each answer.
    """

    async def take(self, chunk: bytes) -> None: ...

    async def finish(self) -> None:
        """All of it was here."""

    def end(self) -> None:
        """The request is answered, or the client has gone. It may be called again."""


class Endpoint:
    """`path` has names in braces, each for one segment, as in `/v1/rooms/{room}/events`.

    `asks` is the Struct of what a client says: fields that `path` names come from there, all others from the query of a
    GET or from the JSON object that is the body of any other method. A field whose type is a list comes once for each
    `name=` of the query. Each field's type has a description. `fixed`: fields that every request here has alike.
    `call` gets the Exchange and that Struct (None without one), when all of the request is here. It carries the request
    out at once, or in the Task that is made of what it returns; it answers the exchange once, or raises ChatError or
    RequestError.
    `answers`: of each status of success the type of its body (None: it has none); refusals are the same everywhere.
    `gives`: the media type of the answer. Of two endpoints with one address and method, that of EVENTS_TYPE is for
    those whose Accept names it.
    `in_body` reads the fields of a long body alone.
    `body`: of one that reads its body by itself, what it may be; `takes`: its media types.
    `reads_text`: what reads a body of TEXT_TYPE, for an Exchange whose head is here. It raises as `call` does.
    `token` only describes: `call` asks for it.
    """

    __slots__ = (
        "_outline",
        "answers",
        "asks",
        "body",
        "call",
        "fixed",
        "gives",
        "in_body",
        "in_path",
        "in_query",
        "kinds",
        "method",
        "path",
        "reads_text",
        "segments",
        "summary",
        "takes",
        "token",
    )

    def __init__(
        self,
        method: str,
        path: str,
        call: Callable[[Any, Any], Coroutine[Any, Any, None] | None],
        *,
        summary: str,
        answers: Mapping[int, Any],
        asks: type[Struct] | None = None,
        fixed: Mapping[str, object] | None = None,
        body: Any = None,
        takes: tuple[str, ...] = (JSON_TYPE,),
        gives: str = JSON_TYPE,
        reads_text: Callable[[Any], BodyReader] | None = None,
        token: Token = "welcome",
    ) -> None:
        self.method = method
        self.path = path
        self.segments = path.split("/")
        self.call = call
        self.summary = summary
        self.answers = answers
        self.asks = asks
        self.fixed = fixed or {}
        self.body = body
        self.takes = takes
        self.gives = gives
        self.reads_text = reads_text
        self.token = token
        self.in_path = [segment[1:-1] for segment in self.segments if segment[:1] == "{"]
        self.kinds = {field.encode_name: _kind(field.type) for field in fields(asks)} if asks else {}
        self.in_query = [name for name in self.kinds if name not in self.in_path] if method == "GET" else []
        self.in_body = _picker(tuple(self.kinds))

    def match(self, segments: list[str]) -> dict[str, str] | None:
        """What stands in a path of these segments for the names in braces; None if it is another address."""
        found = {}
        for name, segment in zip(self.segments, segments, strict=True):
            if name[:1] == "{":
                found[name[1:-1]] = segment
            elif name != segment:
                return None
        return found

    def read(
        self, path: Mapping[str, str], arguments: Arguments, headers: Mapping[str, str], body: bytes, text_chars: int
    ) -> Struct | None:
        """What the client asks for; ChatError (bad_request) names the field that is wrong."""
        if self.asks is None:
            return None
        asked: dict[str, Any] = {}
        if self.method == "GET":
            for name in self.in_query:
                values = arguments.all(name)
                if values:
                    kind = self.kinds[name]
                    asked[name] = list(values) if kind is list else value_of(kind, values[-1])
        else:
            try:
                asked = self._form(body) if FORM_TYPE in self.takes and is_form(headers) else self._object(body)
            except ChatError as error:
                raise renamed(error, "body") from None
            if "id" in self.kinds and asked.get("id") is None:
                key = key_of(headers)
                if key is not None:
                    asked["id"] = key
        for name, segment in path.items():
            try:
                asked[name] = value_of(self.kinds[name], unquote(segment, errors="strict"))
            except UnicodeDecodeError:
                raise ChatError(ErrorCode.BAD_REQUEST, f"{name}: must be UTF-8 behind its percent signs") from None
        asked.update(self.fixed)
        asked.pop("type", None)
        return read(asked, self.asks, text_chars)

    def _form(self, body: bytes) -> dict[str, Any]:
        """The fields of a form; one that was left empty is absent."""
        if len(body) > WHOLE_BYTES:
            raise ChatError(ErrorCode.TOO_LARGE, f"body: a form has {WHOLE_BYTES:,} bytes at most")
        try:
            sent = Arguments(body.decode("ascii"))
        except UnicodeDecodeError:
            raise ChatError(
                ErrorCode.BAD_REQUEST, "body: a form must have percent signs for what is not ASCII"
            ) from None
        found: dict[str, Any] = {}
        for name, kind in self.kinds.items():
            # Browsers send a line break of a form as two characters (HTML standard, section 4.10.21.8).
            values = [value.replace("\r\n", "\n") for value in sent.all(name) if value]
            if values:
                found[name] = values if kind is list else value_of(kind, values[-1])
        return found

    def _object(self, body: bytes) -> dict[str, Any]:
        if len(body) > WHOLE_BYTES:
            return self._long_object(body)
        try:
            found = JSON.decode(body) if body else {}
        except ChatError as error:
            raise renamed(error, "body") from None
        if type(found) is not dict:
            raise ChatError(ErrorCode.BAD_REQUEST, "body: must be a JSON object")
        return found

    def _long_object(self, body: bytes) -> dict[str, Any]:
        """The fields that count; what else there is has been passed over."""
        try:
            picked = astuple(self.in_body(body))
        except (ValueError, RecursionError) as error:
            raise ChatError(ErrorCode.BAD_REQUEST, f"body: must be a JSON object: {fault(error)}") from None
        found = {name: bytes(value) for name, value in zip(self.kinds, picked, strict=True)}
        size = sum(map(len, found.values()))
        if size > WHOLE_BYTES:
            raise ChatError(
                ErrorCode.TOO_LARGE, f"body: {', '.join(found)} have {size:,} bytes; at most {WHOLE_BYTES:,} are taken"
            )
        return {name: JSON.decode(value) for name, value in found.items() if value}


def is_form(headers: Mapping[str, str]) -> bool:
    """Whether the body is a form's, as browsers send it."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == FORM_TYPE


def _picker(names: tuple[str, ...]) -> Callable[[bytes], Struct]:
    """What reads these fields of a JSON object, each as it came and empty where it is missing, and skips all others."""
    places = {f"field{number}": name for number, name in enumerate(names)}
    struct = defstruct("Picked", [(place, Raw, Raw()) for place in places], rename=places, gc=False)
    picker: Callable[[bytes], Struct] = JSON.decoder(struct)
    return picker


def renamed(error: ChatError, name: str) -> ChatError:
    """`error` about a message of the WebSocket protocol, about what a request has in its place."""
    what, colon, rest = error.message.partition(":")
    return ChatError(error.code, f"{name}:{rest}") if colon and what == "message" else error


def key_of(headers: Mapping[str, str]) -> str | None:
    """The Idempotency-Key, which may stand in quotes (it is a structured field: RFC 9651 section 3.3.3)."""
    value = headers.get("idempotency-key")
    if value is None:
        return None
    if not value.isascii() or not value.isprintable():
        raise ChatError(ErrorCode.BAD_REQUEST, "Idempotency-Key: must be printable characters of ASCII")
    return value[1:-1] if len(value) > 2 and value[0] == value[-1] == '"' else value


def value_of(kind: type, text: str) -> object:
    """`text` as a value of `kind`; what is none stays text, and is refused as such."""
    if kind is int:
        return int(text) if text.isascii() and text.isdigit() and len(text) < MAX_DIGITS else text
    if kind is float:
        plain = text.isascii() and len(text) < MAX_DIGITS and text.replace(".", "", 1).isdigit()
        return float(text) if plain else text
    if kind is bool:
        return {"1": True, "true": True, "0": False, "false": False}.get(text, text)
    return text


def _kind(type_: Any) -> type:
    """int, float, bool, list, dict or str: what a field of `type_`, or a missing one, is made of."""
    origin = get_origin(type_)
    if origin is Annotated:
        return _kind(get_args(type_)[0])
    if origin is Union or origin is UnionType:
        return _kind(next(part for part in get_args(type_) if part is not type(None)))
    kind: type = origin or type_
    return kind
