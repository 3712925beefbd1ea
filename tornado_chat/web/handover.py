"""Where a socket changes hands: from HTTP to a line, which keeps the plain kind of socket: it is smaller."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress

from tornado.iostream import IOStream, StreamClosedError


def take_over(stream: IOStream) -> tuple[socket.SocketType, bytes]:
    """The socket of a stream that was detached from HTTP, not blocking, and what the client sent after its request.

    Raises StreamClosedError if the client has gone meanwhile.
    Only Tornado's public interface is used; its stream closes its own descriptor, ours is a duplicate.
    """
    if stream.closed():
        raise StreamClosedError(stream.error)
    try:
        early = asyncio.ensure_future(stream.read_bytes(stream.max_buffer_size, partial=True))  # the same Future
        data = early.result() if early.done() else b""
        theirs = stream.socket
        sock = socket.SocketType(theirs.family, theirs.type, theirs.proto, os.dup(theirs.fileno()))
    finally:
        stream.close()
    sock.setblocking(False)
    with suppress(OSError):  # a Unix socket has no such options
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 0)  # as the system has it, not as HTTP had it
    return sock, data
