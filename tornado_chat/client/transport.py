"""A transport: one of the ways to the server that `Link` chooses from."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

from tornado_chat.errors import ChatError
from tornado_chat.wire.codec import JSON, Codec
from tornado_chat.wire.events import Data

TransportKind = Literal["websocket", "stream", "poll"]

KINDS: tuple[TransportKind, ...] = ("websocket", "stream", "poll")
"""From the one that costs least to the one that passes everywhere."""

Choice = Literal["auto", "websocket", "stream", "poll"]

CHOICES: tuple[Choice, ...] = ("auto", *KINDS)
"""`auto`: the client finds out which it is to be."""

Listener = Callable[[Data], Awaitable[None]]
"""Takes one message; the next is not read before it has returned. It may be cancelled, and has then not taken it."""

MAX_MESSAGE_BYTES = 16 << 20  # the largest, a page of history, is about 1 MiB


class Transport(Protocol):
    """One connection, or what stands for one, from `open` to `close`. Nothing is left of it after `close`."""

    kind: TransportKind
    heard: float
    """The loop's time when the server last gave a sign of life."""

    @property
    def unwritten(self) -> int:
        """Commands that have not gone out yet."""

    async def open(self, joins: Sequence[Data]) -> Data:
        """`welcome`; raises Lost or Refused.

        `joins` are the joins without an `id` that will come after it, for transports that ask for rooms as they open.
        """

    async def run(self, listener: Listener) -> None:
        """Pass on what the server says after `welcome` until the connection ends; then raises Lost or Refused.

        Another `welcome` may come, with a fresh token. Cancelled, it has ended when nothing is passed on any more.
        """

    def write(self, *payloads: bytes) -> None:
        """Send commands, encoded with the codec; they may be lost with the connection. Order is kept.

        Those of one call go in one request, where there are requests.
        """

    async def written(self) -> None:
        """Wait until all has gone out that was written, or the connection has ended."""

    def join(self, join: Data) -> None:
        """`join` has `room`, `id` and `after`, `last` or neither. `joined` or `error` is passed on with the `id`."""

    def leave(self, room: str) -> None: ...

    async def close(self) -> None:
        """Within a second or so; after it, or instead of it, nothing but this may be called."""


@dataclass(frozen=True, slots=True)
class Target:
    """The server, who comes to it, and how long one waits for it (in seconds)."""

    url: SplitResult
    """http or https; without `/ws` and `/` at its end; its query is kept."""
    tls: ssl.SSLContext | None
    """None: it is spoken to in the clear."""
    token: str | None
    name: str | None
    codec: Codec
    connect_timeout: float
    ping_interval: float
    longest_pause: float

    @property
    def where(self) -> str:
        """The server's host and port, as people read them."""
        return self.url.netloc.rpartition("@")[2]

    def websocket_url(self) -> str:
        scheme = "ws" if self.tls is None else "wss"
        return urlunsplit((scheme, self.url.netloc, self.url.path + "/ws", self._query(guest=True), ""))

    def path(self, path: str, query: str = "", *, guest: bool = False) -> str:
        """What a request line has for `path`, which begins with `/v1`; a guest gives the name, too."""
        query = "&".join(filter(None, (self._query(guest=guest), query)))
        return urlunsplit(("", "", self.url.path + path, query, ""))

    def _query(self, *, guest: bool) -> str:
        name = [("name", self.name)] if guest and self.name is not None else []
        return urlencode(parse_qsl(self.url.query) + name)


def split(url: str) -> SplitResult:
    """`url` for a Target; ValueError if it cannot be a server's."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "ws", "wss") or not parts.hostname:
        raise ValueError(f"{url!r} is not the address of a server, such as http://127.0.0.1:8080")
    secure = parts.scheme in ("https", "wss")
    return parts._replace(
        scheme="https" if secure else "http", path=parts.path.rstrip("/").removesuffix("/ws"), fragment=""
    )


def decode(payload: bytes, codec: Codec = JSON) -> Data:
    """A message of the server; ValueError says what else it is."""
    try:
        message = codec.decode(payload)
    except ChatError as error:
        raise ValueError(error.message) from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ValueError("not an object with a type")
    return message
