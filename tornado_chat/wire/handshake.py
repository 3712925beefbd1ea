"""The opening handshake of a WebSocket, the server's side (RFC 6455 section 4.2). No I/O."""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Mapping
from typing import NamedTuple

from tornado_chat.wire.refusals import RequestError

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_SHA1 = hashlib.sha1(usedforsecurity=False)  # to copy it takes a third of what OpenSSL takes to begin anew
_HOST = re.compile(r"[\[\]:A-Za-z0-9\-._~%!$&'()*+;=]*")  # RFC 3986 section 3.2.2, but for commas: they part two
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class Upgrade(NamedTuple):
    """What a sound request asks for: sub-protocols in the client's order, extensions as the header has them."""

    accept: str  # the value of Sec-WebSocket-Accept
    subprotocols: tuple[str, ...] = ()
    extensions: str = ""


def check(method: str, version: str, headers: Mapping[str, str]) -> Upgrade:
    """Check a request. `version` is like "HTTP/1.1"; a header that came several times is one value with commas.

    `headers` has names in lower case, or ignores case.
    """
    if method != "GET":
        raise RequestError(f"a WebSocket begins with GET, not {method}", status=405, headers={"Allow": "GET"})
    if version != "HTTP/1.1":
        raise RequestError(f"a WebSocket needs HTTP/1.1, not {version}")
    check_host(headers)
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        # What follows is frames to us; to a proxy in between it would be a body, and perhaps the next request.
        raise RequestError("a WebSocket begins with a request that has no body")
    if not _has_token(headers.get("upgrade", ""), "websocket"):
        raise RequestError("this address speaks WebSocket: the header Upgrade should be websocket")
    if not _has_token(headers.get("connection", ""), "upgrade"):
        raise RequestError("the header Connection should contain Upgrade")
    if headers.get("sec-websocket-version") != "13":
        raise RequestError(
            "the header Sec-WebSocket-Version should be 13", status=426, headers={"Sec-WebSocket-Version": "13"}
        )
    key = headers.get("sec-websocket-key", "")
    if not _is_key(key):
        raise RequestError("the header Sec-WebSocket-Key should be 16 bytes in base64")
    return Upgrade(
        accept_value(key),
        _subprotocols(headers.get("sec-websocket-protocol")),
        headers.get("sec-websocket-extensions", ""),
    )


def accept_value(key: str) -> str:
    """The Sec-WebSocket-Accept to a Sec-WebSocket-Key (RFC 6455 section 4.2.2)."""
    digest = _SHA1.copy()
    digest.update(key.encode() + _GUID)
    return binascii.b2a_base64(digest.digest(), newline=False).decode()


def response(upgrade: Upgrade, *, subprotocol: str | None = None, extensions: str | None = None) -> bytes:
    """The whole 101 response. Nothing in it may contain a line break."""
    lines = [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {upgrade.accept}\r\n"
    ]
    if subprotocol:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}\r\n")
    if extensions:
        lines.append(f"Sec-WebSocket-Extensions: {extensions}\r\n")
    return ("".join(lines) + "\r\n").encode("latin-1")


def check_host(headers: Mapping[str, str]) -> None:
    """Raise RequestError if a request of HTTP/1.1 does not name one host (RFC 9112 section 3.2)."""
    if not _HOST.fullmatch(headers.get("host", ",")):
        raise RequestError("the header Host should be there, once, with a name and perhaps a port")


def _has_token(value: str, token: str) -> bool:
    value = value.lower()
    return value == token or token in [part.strip(" \t") for part in value.split(",")]


def _is_key(key: str) -> bool:
    try:
        return len(key) == 24 and len(binascii.a2b_base64(key, strict_mode=True)) == 16
    except ValueError:  # also if it is not ASCII
        return False


def _subprotocols(value: str | None) -> tuple[str, ...]:
    """The names in a Sec-WebSocket-Protocol header: tokens, each only once (RFC 6455 section 4.1)."""
    if value is None:
        return ()
    names = tuple(name.strip(" \t") for name in value.split(","))
    for name in names:
        if not _TOKEN.fullmatch(name):
            raise RequestError(f"the header Sec-WebSocket-Protocol should be a list of names, but contains {name!r}")
    if len(set(names)) < len(names):
        raise RequestError("the header Sec-WebSocket-Protocol should name each sub-protocol only once")
    return names
