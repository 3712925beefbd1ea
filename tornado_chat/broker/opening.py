"""Which broker carries the news: Redis, or none."""

from __future__ import annotations

from tornado_chat.broker import Broker
from tornado_chat.broker.local import LocalBroker
from tornado_chat.config import Settings


def open_broker(settings: Settings, epoch: str, secret: bytes) -> Broker:
    """The broker that `settings` name, for the log with this epoch; `secret` is the server's. Not connected yet."""
    if not settings.redis:
        return LocalBroker(alone=settings.alone)
    from tornado_chat.broker.redis import RedisBroker  # 60 ms of imports, which a small installation need not pay

    return RedisBroker(settings.redis, epoch, secret)
