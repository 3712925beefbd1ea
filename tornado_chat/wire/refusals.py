"""An HTTP answer that refuses: its body, and the whole of it for a socket that no HTTP server has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus

import orjson

from tornado_chat.errors import ErrorCode

CONTENT_TYPE = "application/json"


class RequestError(Exception):
    """The request is refused with HTTP `status` and `headers`; `message` says what it should have been."""

    def __init__(self, message: str, *, status: int = 400, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = ErrorCode.BAD_REQUEST
        self.message = message
        self.headers = dict(headers or {})


def refusal_body(code: str, message: str, retry_after: float | None = None) -> bytes:
    """The JSON object that says why: `code` is an ErrorCode, `retry_after` is in seconds."""
    error: dict[str, object] = {"code": code, "message": message}
    if retry_after is not None:
        error["retry_after"] = retry_after
    return orjson.dumps({"error": error})


def refusal(status: int, code: str, message: str, retry_after: float | None = None) -> bytes:
    """The whole answer, after which the connection is closed."""
    headers = {"Content-Type": CONTENT_TYPE}
    if retry_after is not None:
        headers["Retry-After"] = str(math.ceil(retry_after))
    return last_answer(status, headers, refusal_body(code, message, retry_after))


def last_answer(status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    """An answer with these headers and those that end a connection."""
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        *(f"{name}: {value}" for name, value in headers.items()),
        "Connection: close",
        f"Content-Length: {len(body)}",
    ]
    return "".join(line + "\r\n" for line in (*lines, "")).encode() + body
