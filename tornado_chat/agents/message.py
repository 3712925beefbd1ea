"""What a handler is given: a message, or a reaction to one, as plain values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tornado_chat.wire.events import Data


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the room. `ts` is in ms since 1970; `agent`: an agent said it."""

    room: str
    seq: int
    user: str
    name: str
    text: str
    ts: int
    reply_to: int | None = None
    meta: Data = field(default_factory=dict)
    mentions: tuple[str, ...] = ()
    agent: bool = False
    prompt: str = ""
    """The text without the name of the agent at its beginning."""
    command: str = ""
    """`weather`, if the prompt is `/weather Paris`."""
    arguments: str = ""
    """`Paris`, in that case."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """That `user` has given (`on`), or taken back, `emoji` to the message `target`."""

    room: str
    seq: int
    user: str
    target: int
    emoji: str
    on: bool
    ts: int


def message_of(event: Data, names: Names) -> Message:
    """`event` is a `message` with a text, or such as a history tells it."""
    text: str = event["text"]
    meta = event.get("meta")
    prompt = names.without(text)
    command, arguments = command_of(prompt)
    return Message(
        room=event["room"],
        seq=event["seq"],
        user=event["user"],
        name=event["name"],
        text=text,
        ts=event["ts"],
        reply_to=event.get("reply_to"),
        meta=meta if isinstance(meta, dict) else {},
        mentions=tuple(event.get("mentions", ())),
        agent=bool(event.get("agent")),
        prompt=prompt,
        command=command,
        arguments=arguments,
    )


def reaction_of(event: Data) -> Reaction:
    return Reaction(
        room=event["room"],
        seq=event["seq"],
        user=event["user"],
        target=event["target"],
        emoji=event["emoji"],
        on=event["on"],
        ts=event["ts"],
    )


def command_of(prompt: str) -> tuple[str, str]:
    """The name and the arguments of a slash command; two empty strings if it is none."""
    found = re.match(r"/([\w-]{1,64})(?:\s+|$)", prompt)
    return ("", "") if found is None else (found[1].lower(), prompt[found.end() :].strip())


class Names:
    """What an agent is called in a text: @ and its user id, or its name."""

    __slots__ = ("_anywhere", "_at_the_start", "_user")

    def __init__(self, user: str, name: str) -> None:
        called = "|".join(re.escape(one) for one in sorted({user, name}, key=len, reverse=True))
        self._user = user
        self._anywhere = re.compile(rf"(?<![\w@])@(?:{called})(?![\w@])", re.IGNORECASE)
        self._at_the_start = re.compile(rf"\s*@(?:{called})(?![\w@])[\s,:]*", re.IGNORECASE)

    def addressed(self, event: Data) -> bool:
        """Whether the message names the agent, in its `mentions` or in its text, where no client has told those."""
        return self._user in event.get("mentions", ()) or self._anywhere.search(event["text"]) is not None

    def without(self, text: str) -> str:
        found = self._at_the_start.match(text)
        return text.strip() if found is None else text[found.end() :].strip()
