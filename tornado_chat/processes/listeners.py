"""The sockets that a server listens on: bound before its workers start, and the same ones for those that follow."""

from __future__ import annotations

import contextlib
import os
import socket
import stat

from tornado_chat.config import Settings
from tornado_chat.errors import ConfigError

BACKLOG = 4096

Listeners = list[socket.socket]
"""Of one worker: a host name may stand for several addresses."""


def listen(settings: Settings) -> list[Listeners]:
    """The listening sockets, not blocking, for each of `settings.workers`; ConfigError if they cannot be had."""
    made: list[Listeners] = []
    try:
        if settings.unix_socket is not None:
            for number in range(1, settings.workers + 1):
                made.append([_listen_unix(settings.unix_socket.replace("{worker}", str(number)))])
        else:
            _listen_tcp(settings, made)
    except BaseException:
        close(made)
        raise
    return made


def address(listeners: Listeners) -> str:
    """`http://HOST:PORT` or `http://unix:PATH`."""
    name = listeners[0].getsockname()
    if listeners[0].family == socket.AF_UNIX:
        return f"http://unix:{name}"
    host, port = name[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def close(made: list[Listeners]) -> None:
    """Listen no more, and leave no socket file behind."""
    for listeners in made:
        for listener in listeners:
            if listener.family == socket.AF_UNIX and listener.fileno() >= 0:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(listener.getsockname())
            listener.close()


def _listen_unix(path: str) -> socket.socket:
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise ConfigError(f"cannot listen on {path}: there is no directory {folder}; make it, or give another path")
    if _is_listened_on(path):
        raise ConfigError(f"cannot listen on {path}: another server listens there; stop it, or give another path")
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.setblocking(False)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)  # what a killed server left
        listener.bind(path)
        # Any local user may connect, as on loopback: nginx's workers are not this user.
        os.chmod(path, 0o666)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {path}: {error.strerror or error}; give another path") from None
    return listener


def _is_listened_on(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except BlockingIOError:
            return True  # its queue is full
        except OSError:
            return False  # nobody, or no path at all, which binding will tell
        return True


def _listen_tcp(settings: Settings, made: list[Listeners]) -> None:
    """One set of sockets for each worker on one port: the kernel shares the connections out among them."""
    host, port, shared = settings.host, settings.port, settings.workers > 1
    try:
        if shared and port:
            # With SO_REUSEPORT alone we would share the port with another server of this user, and never know.
            close([_bind(host, port, shared=False)])
        for _ in range(settings.workers):
            made.append(_bind(host, port, shared=shared))
            port = made[0][0].getsockname()[1]
    except OSError as error:
        where = f"{host}:{settings.port}"
        raise ConfigError(f"cannot listen on {where}: {error.strerror}; give another address or port") from None


def _bind(host: str, port: int, *, shared: bool) -> Listeners:
    """A listening socket for each address of `host`, all on one port."""
    bound: Listeners = []
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, _, _, _, (numeric, _, *scope) in sorted(set(found)):
            if family == socket.AF_INET6 and host == "localhost" and not _has_loopback_6():
                continue  # the name has this address on machines without IPv6, too
            listener = socket.socket(family)
            bound.append(listener)
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((numeric, port, *scope))
            listener.listen(BACKLOG)
            port = listener.getsockname()[1]
    except BaseException:
        close([bound])
        raise
    return bound


def _has_loopback_6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True
