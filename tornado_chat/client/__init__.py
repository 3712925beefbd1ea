"""A client for asyncio: `from tornado_chat.client import Client`."""

from __future__ import annotations

from tornado_chat.client.client import Ack, Client
from tornado_chat.client.link import Closed, Refused

__all__ = ["Ack", "Client", "Closed", "Refused"]
