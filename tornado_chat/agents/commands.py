"""The commands of an agent, and the room in which it tells what they are, so that clients can complete them.

An ordinary message says it, whose `meta` has them: it outlives the agent's process and the client's page, and asks
nothing new of the server. The newest one of the agent's user counts, whatever others say there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import orjson

from tornado_chat.agents.handlers import Handler
from tornado_chat.agents.steps import short
from tornado_chat.client import Client
from tornado_chat.conversations import called
from tornado_chat.errors import ChatError
from tornado_chat.wire.commands import META_BYTES
from tornado_chat.wire.events import Data

logger = logging.getLogger(__name__)

PREFIX = "commands."

DESCRIPTION_CHARS, CHOICE_CHARS, CHOICES = 100, 40, 20
"""Of one command: what it does, each of what it may be given, and how many of those are told."""

TEXT_CHARS = 4000
"""Of the message, for people who come to read it."""

PAGE = 50
"""So many messages of the room are looked through for the newest of the agent's own."""


class Command(NamedTuple):
    """`choices`: what may stand behind the command, where that is one of a few words."""

    handler: Handler
    description: str
    choices: tuple[str, ...]


def room_of(user: str) -> str:
    """Where the agent with that user id tells its commands."""
    return PREFIX + called(user)


def meta_of(commands: Mapping[str, Command]) -> Data:
    """The `meta` that tells of them: without descriptions, and then without the last ones, if it is too large."""
    kept = [_told(name, command) for name, command in sorted(commands.items())]
    if not _fits(kept):
        kept = [{key: value for key, value in one.items() if key != "description"} for one in kept]
    while not _fits(kept):
        kept.pop()
    return {"commands": kept}


def _told(name: str, command: Command) -> Data:
    one: Data = {"name": name}
    if command.description:
        one["description"] = short(command.description, DESCRIPTION_CHARS)
    if command.choices:
        one["choices"] = [choice for choice in command.choices if len(choice) <= CHOICE_CHARS][:CHOICES]
    return one


def _fits(kept: Sequence[Data]) -> bool:
    return len(orjson.dumps({"commands": kept})) <= META_BYTES


def _text(kept: Sequence[Data]) -> str:
    lines = [f"- `/{one['name']}` {one.get('description', '')}".rstrip() for one in kept]
    return short("\n".join(["My commands:", *lines]) if lines else "I have no commands.", TEXT_CHARS)


async def tell(client: Client, user: str, commands: Mapping[str, Command]) -> None:
    """Say them, unless that is what was said last. Replicas that start together say it once: the id is the same."""
    room, meta = room_of(user), meta_of(commands)
    try:
        page = await client.history(room, limit=PAGE)
        messages = page["messages"]
        before = next((one for one in reversed(messages) if _is_told(one, user)), None)
        known = before["meta"]["commands"] if before is not None else []
        # Others may have said so much since that it is not found: then it is told behind that, under another id.
        after = (before or messages[-1])["seq"] if messages else 0
        if known != meta["commands"]:
            await client.send(room, _text(meta["commands"]), meta=meta, mark=False, id=f"commands:{after}")
    except ChatError as error:
        logger.info("commands not told room=%s reason=%s", room, error)


def _is_told(message: Data, user: str) -> bool:
    return message["user"] == user and isinstance(message.get("meta"), dict) and "commands" in message["meta"]
