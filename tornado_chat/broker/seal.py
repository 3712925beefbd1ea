"""What makes a text of this installation one: nobody without its secret can write it."""

from __future__ import annotations

import hmac
from hashlib import blake2b

MAC_BYTES = 16


class Seal:
    """A MAC before each text, keyed from the server's secret: keyed BLAKE2b (RFC 7693), 0.7 us for a short text.

    `place` says where the text stands (a channel, a key in Redis). Moved to another place it is not authentic.
    """

    __slots__ = ("_keyed",)

    def __init__(self, secret: bytes) -> None:
        # The secret signs tokens: this use has a key of its own.
        key = hmac.digest(secret, b"tornado_chat broker", "sha256")
        self._keyed = blake2b(key=key, digest_size=MAC_BYTES)

    def close(self, place: bytes, text: bytes) -> bytes:
        """`text` with its MAC. It has to begin with a byte that ends no `place`, so that the two are kept apart."""
        return self._mac(place, text) + text

    def open(self, place: bytes, sealed: bytes) -> bytes:
        """The text; ValueError if it is not authentic."""
        text = sealed[MAC_BYTES:]
        if not hmac.compare_digest(self._mac(place, text), sealed[:MAC_BYTES]):
            raise ValueError("it is not sealed with this server's secret")
        return text

    def _mac(self, place: bytes, text: bytes) -> bytes:
        mac = self._keyed.copy()  # 0.4 us less than a new one: the key is in it already
        mac.update(place)
        mac.update(text)
        return mac.digest()
