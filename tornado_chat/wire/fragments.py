"""What a page of HTMX is told: events and texts that grow as fragments of HTML, swapped by id. A codec; no I/O.

Each fragment is one line, and one element with `hx-swap-oob`, which says where it goes. A text comes into the page as
text: `&`, `<`, `>` and quotes are references, and so are line breaks, at which a block of a stream would end.

    message    appended to `#messages`, unless it is there: `<article id="m41">`, in it `<div id="m41-text">`
    the rest   that text, an element of its own, anew; of a text that grows what is new is appended to it
"""

from __future__ import annotations

from typing import Any

from tornado_chat.wire.codec import JSON, Codec
from tornado_chat.wire.replies import Appended, Closing, Joined, Stream

CLEAR = b'<div hx-swap-oob="innerHTML: #messages"></div>'
"""The list begins anew."""

_SAFE = {
    ord("&"): "&amp;",
    ord("<"): "&lt;",
    ord(">"): "&gt;",
    ord('"'): "&quot;",
    ord("'"): "&#39;",
    ord("\n"): "&#10;",
    ord("\r"): "&#13;",
}
_GUEST = "guest-"  # how a guest's id begins; a name may be anything


def fragment(obj: Any) -> bytes:
    """The fragment of an event or a reply; b"" for one that a page is not told."""
    if type(obj) is dict:
        make = _EVENTS.get(obj["type"])
        return make(obj).encode() if make is not None else b""
    if isinstance(obj, Appended):
        return "".join(_grown(seq, offset, text) for seq, _, offset, text in obj.chunks).encode()
    if isinstance(obj, Stream):
        return _grown(obj.seq, obj.offset, obj.text).encode()
    if isinstance(obj, Closing) and obj.reason is not None:  # for good: else the page comes back by itself
        return _closed(obj.reason)
    if isinstance(obj, Joined) and obj.id is not None and obj.cursor < int(obj.id):
        return _closed("the log is not the one that this page has shown: load it again")
    return b""


def _closed(reason: str) -> bytes:
    return f'<div hx-swap-oob="beforeend: #messages"><p class="closed">{_text(reason)}</p></div>'.encode()


def _text(text: str) -> str:
    return text.translate(_SAFE)


def _message(event: dict[str, Any]) -> str:
    seq = event["seq"]
    kinds = ["message"]
    if "agent" in event:
        kinds.append("agent")
    if event["user"].startswith(_GUEST):
        kinds.append("guest")
    reply_to = f' data-reply-to="{event["reply_to"]}"' if "reply_to" in event else ""
    hour, minute = divmod(event["ts"] // 60_000 % 1440, 60)
    state = "deleted" if "deleted" in event else "streaming" if "streaming" in event else "done"
    # The blank behind the colon is for htmx 4, which takes the last colon of a word for the one before the selector.
    return (
        f'<div hx-swap-oob="beforeend: #messages:not(:has(#m{seq}))">'
        f'<article id="m{seq}" class="{" ".join(kinds)}" data-user="{_text(event["user"])}" data-ts="{event["ts"]}"'
        f'{reply_to}><b class="name">{_text(event["name"])}</b> <small class="time">{hour:02}:{minute:02}</small>'
        f'<div id="m{seq}-text" class="text {state}">{_text(event.get("text", ""))}</div></article></div>'
    )


def _anew(seq: int, state: str, text: str) -> str:
    return f'<div id="m{seq}-text" class="text {state}" hx-swap-oob="true">{_text(text)}</div>'


def _edited(event: dict[str, Any]) -> str:
    return _anew(event["target"], "deleted" if "deleted" in event else "done edited", event.get("text", ""))


def _deleted(event: dict[str, Any]) -> str:
    return _anew(event["target"], "deleted", "")


def _finished(event: dict[str, Any]) -> str:
    return _anew(event["target"], "deleted" if "deleted" in event else event["reason"], event.get("text", ""))


def _grown(seq: int, offset: int, text: str) -> str:
    if not offset:  # it begins, perhaps again
        return _anew(seq, "streaming", text)
    return f'<div hx-swap-oob="beforeend: #m{seq}-text">{_text(text)}</div>'


_EVENTS = {"message": _message, "edited": _edited, "deleted": _deleted, "finished": _finished}

HTML = Codec("html", fragment, JSON.decode, JSON.decoder)
"""Who reads it says nothing on that line."""
