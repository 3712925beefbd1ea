"""What an endpoint is told of an event: its id, and the body of the request."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from datetime import UTC, datetime

import orjson

from tornado_chat.log.webhooks import EVENTS, Webhook
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.events import Data

TYPES = {type: f"message.{'created' if type == 'message' else type}" for type in EVENTS}
"""What the body calls each type of event."""


def id_of(epoch: str, webhook: Webhook, room: str, seq: int) -> str:
    """The same for each attempt, and for no other event or endpoint; without a point, which the signature parts by.

    After a restore from a backup (another epoch) a seq stands for another event.
    """
    name = f"{epoch}/{webhook.id}/{room}/{seq}"
    return f"msg_{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def is_told(data: Data, types: Collection[str]) -> bool:
    """Whether an endpoint that wants these types is told of the event; of a message that grows, its `finished` is."""
    return data["type"] in types and not data.get("streaming")


def body_of(data: Data, message: Data | None = None) -> bytes:
    """The body for an event; `message` is the one that a `finished` ends, of which the text is in that."""
    if message is not None:
        data = data | {"message": {key: value for key, value in message.items() if key not in ("streaming", "text")}}
    ts = datetime.fromtimestamp(data["ts"] / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = orjson.dumps({"type": TYPES[data["type"]], "timestamp": ts})
    return b'%b,"data":%b}' % (head[:-1], JSON.encode(data))
