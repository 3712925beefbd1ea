"""Ports for what is started."""

from __future__ import annotations

import random
import socket

PORTS = range(20_000, 32_000)
"""Below those that the kernel gives to clients, one of which might else sit on the port of a server that restarts."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on just now."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as attempt:
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
