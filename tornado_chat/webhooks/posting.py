"""One attempt to tell an endpoint: a POST, and what its answer means."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from tornado.httpclient import HTTPError, HTTPRequest
from tornado.iostream import UnsatisfiableReadError
from tornado.simple_httpclient import SimpleAsyncHTTPClient

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 15.0
"""For all of an attempt."""

ANSWER_BYTES = 64 << 10
"""Of an answer's body, which nobody reads."""
HEADER_BYTES = 16 << 10

ERROR_CHARS = 200
"""Of what is told of a refusal."""


class Outcome:
    """What came of an attempt. `error`: why it was no success; `gone`: no further one is wanted (410);
    `retry_after`: the next one is wanted in so many seconds."""

    __slots__ = ("error", "gone", "retry_after")

    def __init__(self, error: str | None = None, *, gone: bool = False, retry_after: float = 0.0) -> None:
        self.error = error
        self.gone = gone
        self.retry_after = retry_after


class Poster:
    """The HTTP client, for `connections` at a time; the caller makes no more."""

    def __init__(self, connections: int) -> None:
        self._client = SimpleAsyncHTTPClient(
            force_instance=True,
            max_clients=connections,
            max_body_size=ANSWER_BYTES,
            max_header_size=HEADER_BYTES,
        )

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Of 2xx: a success, whatever is said behind that. Redirections are not followed."""
        status, retry_after = 0, ""

        def heard(line: str) -> None:
            nonlocal status, retry_after
            if status < 200 and line.startswith("HTTP/"):  # 1xx come before the answer (RFC 9110 section 15.2)
                status = int(line.split()[1])
            elif status >= 200 and line[:12].lower() == "retry-after:":
                retry_after = line[12:].strip()

        request = HTTPRequest(
            url,
            "POST",
            {"Content-Type": "application/json", **headers},
            body,
            connect_timeout=CONNECT_SECONDS,
            request_timeout=ANSWER_SECONDS,
            follow_redirects=False,
            decompress_response=False,
            user_agent="tornado-chat",
            header_callback=heard,
        )
        why = ""
        try:
            await self._client.fetch(request, raise_error=False)
        except (HTTPError, OSError, ssl.SSLError, ValueError, UnsatisfiableReadError) as error:
            why = (str(error) or type(error).__name__).partition("\n")[0]
        if status < 200:
            return Outcome(why[:ERROR_CHARS] or "no answer")
        if status < 300:
            return Outcome()
        return Outcome(f"HTTP {status}", gone=status == 410, retry_after=_seconds(retry_after))

    def close(self) -> None:
        self._client.close()


def _seconds(retry_after: str) -> float:
    """From now, of either form of a `Retry-After` (RFC 9110 section 10.2.3); 0: it says nothing, or nothing that can be
    read."""
    try:
        if retry_after.isascii() and retry_after.isdecimal():
            return float(retry_after)
        at = parsedate_to_datetime(retry_after)
        at = at.replace(tzinfo=at.tzinfo or UTC)  # the form without a zone is of UTC, too (section 5.6.7)
        return max(0.0, at.timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
