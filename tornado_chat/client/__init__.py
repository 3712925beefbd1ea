"""A client for asyncio: `from tornado_chat.client import Client`."""

from __future__ import annotations

from tornado_chat.client.answers import Answer, Failed
from tornado_chat.client.client import Ack, Client
from tornado_chat.client.ends import Closed, Refused
from tornado_chat.client.replies import Held, Reply, Stopped
from tornado_chat.client.transport import CHOICES, Choice

__all__ = [
    "CHOICES",
    "Ack",
    "Answer",
    "Choice",
    "Client",
    "Closed",
    "Failed",
    "Held",
    "Refused",
    "Reply",
    "Stopped",
]
