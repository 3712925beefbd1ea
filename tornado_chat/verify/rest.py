"""Commands that have an address of their own: the request, and its answer as a WebSocket would have said it. No I/O."""

from __future__ import annotations

from urllib.parse import quote

from tornado_chat.verify.codecs import JSON, Data
from tornado_chat.verify.endings import Broken, Refused
from tornado_chat.verify.http_connection import Request
from tornado_chat.verify.responses import Answer, refusal


def request_of(command: Data, *, id_in_header: bool) -> Request | None:
    """Without a credential. The id of what makes an event is in the body, or the header Idempotency-Key; a DELETE has
    no body. None for a command that has no address.
    """
    kind, message = command["type"], f"/rooms/{command['room']}/messages/{command.get('seq')}"
    if kind == "history":
        query = "&".join(f"{name}={command[name]}" for name in ("before", "limit") if name in command)
        return Request("GET", f"/rooms/{command['room']}/messages?{query}")
    if kind == "presence":
        return Request("GET", f"/rooms/{command['room']}/presence")
    if kind == "delete" or (kind == "react" and not command["on"]):
        path = message if kind == "delete" else f"{message}/reactions/{quote(command['emoji'], safe='')}"
        return Request("DELETE", path, {"Idempotency-Key": command["id"]})
    if kind == "unfollow":
        return Request("DELETE", f"/me/rooms/{command['room']}", {"Idempotency-Key": command["id"]})
    told = {
        "send": ("POST", f"/rooms/{command['room']}/messages", ("text", "reply_to", "meta", "mentions", "mark")),
        "edit": ("PATCH", message, ("text",)),
        "react": ("PUT", f"{message}/reactions/{quote(command.get('emoji', ''), safe='')}", ()),
        "read": ("PUT", f"/rooms/{command['room']}/read", ("seq",)),
        "follow": ("PUT", f"/me/rooms/{command['room']}", ("level",)),
        "invite": ("POST", "/me/invitations", ("room", "user")),
    }.get(kind)
    if told is None:
        return None
    method, path, names = told
    fields = {name: command[name] for name in names if name in command}
    headers = {"Content-Type": JSON.media_type}
    if id_in_header and "id" in command:
        headers["Idempotency-Key"] = command["id"]
    elif "id" in command:
        fields["id"] = command["id"]
    return Request(method, path, headers, JSON.encode(fields))


def said_by(command: Data, answer: Answer) -> Data | None:
    """What `answer` says to `command`; None if that needs no answer. Refused for what is no error of a command."""
    status = answer.head.status
    if status not in (200, 201) or (status == 201 and command["type"] != "send"):
        return _error(command, refusal(answer))
    said = answer.json()
    if not isinstance(said, dict) or said.get("room") != command["room"]:
        raise Broken(f"the answer to a {command['type']} in {command['room']} is {str(said)[:200]}")
    if command["type"] in ("history", "presence"):
        if said.get("type") != command["type"]:
            raise Broken(f"the answer to a {command['type']} is of the type {said.get('type')!r}")
        return said | {"id": command["id"]}  # it was not told to the server
    if said.get("id") != command.get("id"):
        raise Broken(f"the answer to {command.get('id')} of {command['type']} is {str(said)[:200]}")
    if command["type"] in ("read", "follow", "unfollow", "invite"):
        return said | {"type": "ack"} if "id" in command else None
    # 201: it was made by this request; 200: it was there, or nothing is said of that.
    return said | {"type": "ack"} | ({"duplicate": True} if status == 200 else {})


def _error(command: Data, error: Refused) -> Data | None:
    if not error.code:
        raise error
    found: Data = {"type": "error", "code": error.code, "message": error.message}
    found |= {name: command[name] for name in ("id",) if name in command}
    return found if error.retry_after is None else found | {"retry_after": error.retry_after}
