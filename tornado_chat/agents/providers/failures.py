"""What goes wrong with a provider, in a sentence for the room and in details for the log."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Literal

Kind = Literal[
    "key",
    "funds",
    "model",
    "request",
    "long",
    "busy",
    "overloaded",
    "unreachable",
    "silent",
    "cut",
    "malformed",
    "length",
    "declined",
    "tools",
]

_SENTENCES: dict[Kind, str] = {
    "key": "The model's provider does not accept the key of this agent.",
    "funds": "The account of this agent with the model's provider is used up.",
    "model": "The model's provider does not know the model of this agent.",
    "request": "The model's provider did not accept the request.",
    "long": "The conversation is too long for the model.",
    "busy": "The model's provider is asked too often.",
    "overloaded": "The model's provider is overloaded or has a failure.",
    "unreachable": "The model's provider cannot be reached.",
    "silent": "The model took too long.",
    "cut": "The reply broke off before its end.",
    "malformed": "The model's provider sent what cannot be understood.",
    "length": "The reply was cut off at the greatest length that the model may use.",
    "declined": "The model declined to say more.",
    "tools": "The model called its tools too often without coming to an end.",
}

PASSING: frozenset[Kind] = frozenset({"busy", "overloaded", "unreachable", "cut"})
"""What may be gone with the next attempt."""

_DETAIL_CHARS = 1000
_LONGEST_WAIT = 86_400.0  # a provider that tells more than a day tells nothing

_BY_STATUS: dict[int, Kind] = {
    401: "key",
    402: "funds",
    403: "key",
    404: "model",
    408: "overloaded",
    409: "overloaded",
    413: "long",
    429: "busy",
}

# The `type` or `code` of an error in a body or an event. A status says the same less exactly, or not at all: after 200.
_BY_NAME: dict[str, Kind] = {
    "authentication_error": "key",
    "permission_error": "key",
    "invalid_api_key": "key",
    "billing_error": "funds",
    "insufficient_quota": "funds",
    "not_found_error": "model",
    "model_not_found": "model",
    "request_too_large": "long",
    "context_length_exceeded": "long",
    "exceed_context_size_error": "long",
    "invalid_request_error": "request",
    "content_filter": "declined",
    "content_policy_violation": "declined",
    "rate_limit_error": "busy",
    "rate_limit_exceeded": "busy",
    "overloaded_error": "overloaded",
    "api_error": "overloaded",
    "server_error": "overloaded",
    "timeout_error": "overloaded",
}

_TOO_LONG = re.compile(r"prompt is too long|maximum context length|context (size|window) (is |was )?exceeded", re.I)


class ProviderError(Exception):
    """A stream ends before its end. What the model said until then has been given.

    `sentence` is fit for a room: it has nothing of what the provider said. `details` is one line for the log: never the
    key. `kind` is for who wants to say it in another way. `retry_after`: seconds, where the provider named some.
    """

    def __init__(self, kind: Kind, details: str, retry_after: float | None = None) -> None:
        super().__init__(kind, details)
        self.kind: Kind = kind
        self.details = " ".join(details.split())[:_DETAIL_CHARS]
        self.retry_after = retry_after

    @property
    def sentence(self) -> str:
        if self.retry_after is None or self.kind not in PASSING:
            return _SENTENCES[self.kind]
        seconds = math.ceil(self.retry_after)
        wait = f"{seconds} s" if seconds < 120 else f"{math.ceil(seconds / 60)} minutes"
        return f"{_SENTENCES[self.kind]} It may be asked again in {wait}."

    def __str__(self) -> str:
        return f"{self.sentence} ({self.kind}: {self.details})"

    def hide(self, secret: str) -> None:
        """Takes `secret` out of what is told: a provider may repeat a key that it does not accept."""
        self.details = self.details.replace(secret, "[key]")
        self.args = (self.kind, self.details)


def refused(status: int, body: object, headers: Mapping[str, str]) -> ProviderError:
    """An answer that is not 200. `body` is what its JSON says, or text."""
    kind = _named(_error(body)) or _BY_STATUS.get(status) or ("overloaded" if status >= 500 else "request")
    if kind == "request" and status >= 500:
        kind = "overloaded"
    return ProviderError(kind, f"status {status}: {body}", _retry_after(headers))


def told(error: object) -> ProviderError:
    """An error that comes in a stream, after 200: an object with `type`, `code` and `message`, or text."""
    code = error.get("code") if isinstance(error, dict) else None
    kind = _named(error)
    if kind is None and isinstance(code, int):
        kind = _BY_STATUS.get(code) or ("request" if 400 <= code < 500 else None)
    return ProviderError(kind or "overloaded", f"in the stream: {error}")


def _error(body: object) -> object:
    # Google's compatible endpoint puts the object into a list, of which the text and the status are looked at alone.
    # The SDK of OpenAI gives what is in `error`, that of Anthropic the whole body.
    return body.get("error", body) if isinstance(body, dict) else body


def _named(error: object) -> Kind | None:
    named: dict[str, Any] = error if isinstance(error, dict) else {"message": error}
    text = str(named.get("message"))
    if _TOO_LONG.search(text):
        return "long"
    if "API key not valid" in text:  # Google, with the status 400
        return "key"
    # The code is the more exact of the two, where there is one.
    found = (_BY_NAME.get(str(named.get(field))) for field in ("code", "type"))
    return next((kind for kind in found if kind is not None), None)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds (RFC 9110, section 10.2.3: a number or a date), or what OpenAI tells in milliseconds."""
    try:
        if "retry-after-ms" in headers:
            seconds = float(headers["retry-after-ms"]) / 1000
        else:
            seconds = float(headers.get("retry-after", "nan"))
    except ValueError:
        try:
            seconds = parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time()
        except (ValueError, KeyError):
            return None
    return min(max(seconds, 0.0), _LONGEST_WAIT) if math.isfinite(seconds) else None
