"""The room of a conversation with an agent that a client addresses by a key of its own, such as the id of a session.

Its name is made of who asks whom and the key, so nothing is stored and every process makes the same one. Without the
server's key nobody can guess it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

KEY_CHARS = 256
"""Of the client's key."""

DIGITS = 26
"""Base32 digits at the end of the name: 130 bits."""

_AGENT_CHARS = 64 - 1 - DIGITS
_OTHERS = re.compile("[^a-z0-9._-]+")


def conversation_room(secret: bytes, user: str, agent: str, key: str) -> str:
    """`AGENT-` and 26 digits: the room in which `user` talks with `agent` under `key`.

    AGENT is the agent's user id in the characters of a room's name; in the digits it counts as it is.
    """
    told = "\0".join((user, agent, key)).encode("utf-8", "surrogatepass")
    digits = base64.b32encode(hmac.digest(secret, b"conversation\0" + told, hashlib.sha256))[:DIGITS].decode().lower()
    return f"{called(agent)}-{digits}"


def called(agent: str) -> str:
    """How the names of an agent's rooms begin, before the hyphen and the digits."""
    return _OTHERS.sub("-", agent.lower()).lstrip("._-")[:_AGENT_CHARS] or "agent"
