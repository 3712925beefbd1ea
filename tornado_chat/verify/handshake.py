"""Connecting to a server as RFC 6455 section 4.1 tells a client to, and holding its answer to it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from dataclasses import dataclass

from tornado_chat.verify.address import CONNECT_SECONDS, ServerAddress, open_connection
from tornado_chat.verify.codecs import Codec
from tornado_chat.verify.endings import Broken
from tornado_chat.verify.responses import Answer, Head, read_head, refusal
from tornado_chat.verify.websocket import WebSocket

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_WINDOW_MIN, _WINDOW_MAX = 8, 15


@dataclass(frozen=True, slots=True)
class Offer:
    """How a device connects. `window_bits`: the server's deflate is to use so many at most (None: it is not offered);
    `small`: with `address.SMALL_BUFFER`. Over HTTP only `codec` and `small` count.
    """

    codec: Codec
    window_bits: int | None = None
    small: bool = False

    @property
    def extension(self) -> str:
        bits = self.window_bits
        return "permessage-deflate" + (f"; server_max_window_bits={bits}" if bits != _WINDOW_MAX else "")


async def connect(address: ServerAddress, token: str | None, offer: Offer) -> WebSocket:
    """Connect and shake hands; Refused, OSError (TimeoutError is one) or Broken."""
    async with asyncio.timeout(CONNECT_SECONDS):
        reader, writer = await open_connection(address, small=offer.small)
        try:
            return await _shake_hands(reader, writer, address, token, offer)
        except BaseException:
            writer.transport.abort()
            raise


async def _shake_hands(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    address: ServerAddress,
    token: str | None,
    offer: Offer,
) -> WebSocket:
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {address.target} HTTP/1.1",
        f"Host: {address.authority}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Protocol: {offer.codec.name}",
        *([f"Sec-WebSocket-Extensions: {offer.extension}"] if offer.window_bits is not None else []),
        *([f"Authorization: Bearer {token}"] if token else []),
    ]
    writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1"))
    try:
        head = read_head(await reader.readuntil(b"\r\n\r\n"))
    except asyncio.IncompleteReadError:
        raise ConnectionResetError("hung up during the handshake") from None
    except asyncio.LimitOverrunError:
        raise Broken("an endless answer to the handshake") from None
    if head.status != 101:
        raise refusal(Answer(head, await _body(head, reader)))
    return WebSocket(reader, writer, offer.codec, agreed(head.headers, key, offer))


async def _body(head: Head, reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readexactly(head.length or 0)
    except asyncio.IncompleteReadError:
        raise ConnectionResetError("hung up in the middle of a refusal") from None


def agreed(headers: dict[str, str], key: str, offer: Offer) -> int | None:
    """Hold the 101 with these `headers` to RFC 6455 section 4.1: the window of the server's deflate; None without."""
    accept = base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()
    if headers.get("sec-websocket-accept") != accept:
        raise Broken("a handshake with a wrong Sec-WebSocket-Accept")
    if headers.get("upgrade", "").lower() != "websocket":
        raise Broken("a handshake without Upgrade: websocket")
    if "upgrade" not in [token.strip() for token in headers.get("connection", "").lower().split(",")]:
        raise Broken("a handshake without Connection: Upgrade")
    if headers.get("sec-websocket-protocol") != offer.codec.name:
        raise Broken(f"a handshake for {headers.get('sec-websocket-protocol')} in place of {offer.codec.name}")
    extensions = headers.get("sec-websocket-extensions")
    return None if extensions is None else _agreed_window(extensions, offer)


def _agreed_window(extensions: str, offer: Offer) -> int:
    """RFC 7692 section 7.1, and both no_context_takeover, which the protocol promises."""
    if offer.window_bits is None:
        raise Broken(f"a handshake with an extension that was not offered: {extensions}")
    name, *parameters = (part.strip() for part in extensions.split(";"))
    given = dict(parameter.replace(" ", "").partition("=")[::2] for parameter in parameters)
    bits = given.get("server_max_window_bits", "")
    if name != "permessage-deflate" or len(given) < len(parameters):
        raise Broken(f"a handshake with extensions that answer no offer: {extensions}")
    for must in ("server_no_context_takeover", "client_no_context_takeover"):
        if given.pop(must, None) != "":
            raise Broken(f"a handshake without {must}: {extensions}")
    if given.keys() - {"server_max_window_bits"}:
        raise Broken(f"a handshake with parameters that were not offered: {extensions}")
    if not given and offer.window_bits == _WINDOW_MAX:
        return _WINDOW_MAX
    if not bits.isdigit() or not _WINDOW_MIN <= int(bits) <= offer.window_bits:
        raise Broken(f"a handshake whose server_max_window_bits is not as offered ({offer.window_bits}): {extensions}")
    return int(bits)
