"""Where a socket changes hands: from Tornado's HTTP server to a Connection of ours."""

from __future__ import annotations

import asyncio
import socket

from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler


def take_over(handler: RequestHandler) -> tuple[socket.socket, bytes]:
    """Detach the handler's socket from Tornado: the socket, not blocking, and what the client sent after its request.

    Call it last: the handler cannot answer any more. Raises StreamClosedError if the client has gone meanwhile.
    Only Tornado's public interface is used; its stream closes its own descriptor, ours is a duplicate.
    """
    stream = handler.detach()
    if stream.closed():
        raise StreamClosedError(stream.error)
    try:
        early = asyncio.ensure_future(stream.read_bytes(stream.max_buffer_size, partial=True))  # the same Future
        data = early.result() if early.done() else b""
        sock = stream.socket.dup()
    finally:
        stream.close()
    sock.setblocking(False)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock, data
