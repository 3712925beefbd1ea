"""What an agent is: its handlers, and how much it does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, overload

from tornado_chat.agents.commands import Command
from tornado_chat.agents.handlers import Handler
from tornado_chat.agents.message import Message
from tornado_chat.agents.question import DoubleTexting
from tornado_chat.client import Choice

H = TypeVar("H", bound=Handler)
When = Callable[[Message], bool]
Token = str | Callable[[], Awaitable[str]]


class Declaration:
    """See Agent."""

    def __init__(
        self,
        name: str,
        *,
        url: str | None = None,
        token: Token | None = None,
        transport: Choice = "auto",
        rooms: Sequence[str] = (),
        double_texting: DoubleTexting = "enqueue",
        max_age: float = 3600.0,
        answer_agents: bool = False,
        replies_a_minute: int = 20,
        max_open: int = 64,
    ) -> None:
        if replies_a_minute < 1 or max_open < 1:
            raise ValueError("replies_a_minute and max_open: must be 1 at least")
        if double_texting not in ("enqueue", "reject", "interrupt", "rollback", "concurrent"):
            raise ValueError(
                f"double_texting: must be enqueue, reject, interrupt, rollback or concurrent; got {double_texting!r}"
            )
        self.name = name
        self.url = url
        self.token = token
        self.transport = transport
        self.rooms = tuple(rooms)
        self.double_texting = double_texting
        self.max_age = max_age
        self.answer_agents = answer_agents
        self.replies_a_minute = replies_a_minute
        self.max_open = max_open
        self.mention: Handler | None = None
        self.commands: dict[str, Command] = {}
        self.messages: list[tuple[When, Handler]] = []
        self.reaction: Handler | None = None
        self.start: Handler | None = None
        self.stop: Handler | None = None
        self.resume: Handler | None = None
        self.error: Handler | None = None

    # What it answers

    def on_mention(self, handler: H) -> H:
        """For messages that name the agent, or answer one of its own: `handler(ctx, message)`."""
        self.mention = handler
        return handler

    def on_command(self, name: str, *, description: str = "", choices: Sequence[str] = ()) -> Callable[[H], H]:
        """For messages that begin with `/name`, perhaps behind the agent's name; `message.arguments` has the rest.

        `description` and `choices` (words, one of which it is meant to be given) help who writes it: pages complete it.
        """

        def keep(handler: H) -> H:
            self.commands[name.removeprefix("/").lower()] = Command(handler, description, tuple(choices))
            return handler

        return keep

    @overload
    def on_message(self, handler: H) -> H: ...

    @overload
    def on_message(self, *, when: When) -> Callable[[H], H]: ...

    def on_message(self, handler: H | None = None, *, when: When = lambda _: True) -> H | Callable[[H], H]:
        """For all messages of the rooms that it follows, but for what the handlers above are there for.

        `when`: only for those of which it is true. It is asked by every replica, before one of them answers: it looks
        at the message, and at nothing else. Where it fails the message is left alone.
        """

        def keep(handler: H) -> H:
            self.messages.append((when, handler))
            return handler

        return keep if handler is None else keep(handler)

    def on_reaction(self, handler: H) -> H:
        """For reactions in the rooms that it follows, as they happen: `handler(ctx, reaction)`, in each replica.

        What it says is one message, said once.
        """
        self.reaction = handler
        return handler

    def on_resume(self, handler: H) -> H:
        """In the place of the others, for a reply that was cut off: `handler(ctx, message)`."""
        self.resume = handler
        return handler

    def on_error(self, handler: H) -> H:
        """A handler has failed: `handler(ctx, message, error)` gives the sentence that the room is told."""
        self.error = handler
        return handler

    def on_start(self, handler: H) -> H:
        """When it is connected, and before it answers: `handler(client)`, which may say something.

        What comes is read already, so it does not iterate.
        """
        self.start = handler
        return handler

    def on_stop(self, handler: H) -> H:
        """When its process ends in good order: `handler(client)`."""
        self.stop = handler
        return handler

    def handler_for(self, message: Message, *, addressed: bool, everything: bool) -> Handler | None:
        """Who answers `message`, which names the agent if it is `addressed`.

        `everything`: the agent hears all of the room, not only where it is named.
        """
        if not addressed and not everything:
            return None
        # Whom a message mentions and does not name in its text is whose command it is: so say clients that complete it.
        if message.command in self.commands and (addressed or not message.mentions or "@" in message.text):
            return self.commands[message.command].handler
        if addressed and self.mention is not None:
            return self.mention
        return next((handler for when, handler in self.messages if when(message)), None)
