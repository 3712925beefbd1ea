"""An HTTP answer that refuses: its body, and the whole of it for a socket that no HTTP server has."""

from __future__ import annotations

import math
from http import HTTPStatus

import orjson

CONTENT_TYPE = "application/json"


def refusal_body(code: str, message: str, retry_after: float | None = None) -> bytes:
    """The JSON object that says why: `code` is an ErrorCode, `retry_after` is in seconds."""
    error: dict[str, object] = {"code": code, "message": message}
    if retry_after is not None:
        error["retry_after"] = retry_after
    return orjson.dumps({"error": error})


def refusal(status: int, code: str, message: str, retry_after: float | None = None) -> bytes:
    """The whole answer, after which the connection is closed."""
    body = refusal_body(code, message, retry_after)
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Connection: close",
        f"Content-Type: {CONTENT_TYPE}",
        f"Content-Length: {len(body)}",
    ]
    if retry_after is not None:
        lines.append(f"Retry-After: {math.ceil(retry_after)}")
    return "".join(line + "\r\n" for line in (*lines, "")).encode() + body
