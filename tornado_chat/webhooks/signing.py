"""Secrets and signatures of Standard Webhooks (specification 1.0.0): HMAC-SHA256 over id, time and body."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

PREFIX = "whsec_"
SECRET_BYTES = 32
"""Between the 24 and 64 that the specification asks for."""


def new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signed(id: str, timestamp: int, body: bytes, keys: Sequence[str]) -> dict[str, str]:
    """The headers for a `body` that is sent at `timestamp` (Unix seconds), signed with each of the secrets `keys`."""
    content = b"%b.%d.%b" % (id.encode(), timestamp, body)
    return {
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(_signature(key, content) for key in keys),
    }


def _signature(key: str, content: bytes) -> str:
    secret = base64.b64decode(key.removeprefix(PREFIX))
    return "v1," + base64.b64encode(hmac.digest(secret, content, hashlib.sha256)).decode()
