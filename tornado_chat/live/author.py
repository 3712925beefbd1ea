"""What one user may publish and how often, with or without a session."""

from __future__ import annotations

from tornado_chat.auth import Identity
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.live.context import Context
from tornado_chat.live.limits import AddressAccount, rate_limited
from tornado_chat.live.line import Line, Sender
from tornado_chat.log import own
from tornado_chat.log.kinds import AGENT, Entry, Publishing, entry_of
from tornado_chat.wire import replies
from tornado_chat.wire.commands import Actor, Read, Send, Signalling, Status, Step, Unfollow


class Author:
    """A user at an address. It counts as a connection of both until `end`."""

    __slots__ = ("account", "address", "context", "identity", "user")

    def __init__(self, context: Context, identity: Identity, address: AddressAccount) -> None:
        """`address` is the account that the connection was entered into."""
        self.context = context
        self.identity = identity
        self.user = identity.user
        self.address = address
        self.account = context.limits.users.enter(identity.user)

    def end(self) -> None:
        self.account.connections -= 1
        self.address.connections -= 1

    def check_room(self, room: str) -> None:
        """Raise `forbidden` if the token does not cover the room; one's own log needs no claim."""
        if room != own.NAME:
            self.identity.check_room(room)

    def inner(self, room: str) -> str:
        """The room that this user calls so."""
        return own.room_of(self.user) if room == own.NAME else room

    def check_actor(self, actor: Actor) -> None:
        """Raise `forbidden` if the token does not let its bearer publish for this user."""
        if not self.identity.may_act_as(actor.user):
            raise ChatError(
                ErrorCode.FORBIDDEN,
                f"your token does not let you act as {actor.user!a}: its claim acts_as has to cover that user id, "
                "which may not be a guest's",
            )

    def charge(self, along: int = 0) -> None:
        """Charge one of the user's events, or what costs a room as much; ChatError (rate_limited) if none is left.

        `along` so many more, which are owed if they are not there.
        """
        limits = self.context.limits
        self.account.event_count += 1
        self.address.event_count += 1
        wait = limits.users.take_event(self.account)
        if wait:
            settings = self.context.settings
            raise rate_limited(f"at most {settings.send_rate} a second, {settings.send_burst} at once", wait)
        if self.identity.guest:  # who can come as a new guest each time shares the bucket of the address
            wait = limits.addresses.take_event(self.address)
            if wait:
                raise rate_limited("the guests of your address send too much together", wait)
        if along:
            limits.users.owe_events(self.account, along)
            if self.identity.guest:
                limits.addresses.owe_events(self.address, along)

    def owe_bytes(self, count: int) -> float:
        """Charge bytes that came, whatever they say: the seconds for which nothing more is to be read."""
        limits = self.context.limits
        return max(limits.users.owe_bytes(self.account, count), limits.addresses.owe_bytes(self.address, count))

    def publish(self, command: Publishing | Read, sender: Sender) -> bool:
        """Submit `command` to the log for `sender`, which is told what becomes of it.

        False if the queue is full: `sender` is resumed later. ChatError if the user may not, or not yet.
        """
        if not isinstance(command, Unfollow):  # who may not enter any more need not follow for ever
            self.check_room(command.room)
        if command.as_ is not None:
            self.check_actor(command.as_)
        publisher = self.context.publisher
        waiting = publisher.congestion(command.room)
        if waiting is not None:
            waiting[sender] = None
            return False
        entry = self._entry(command)
        self.charge(len(entry.mentions))
        publisher.submit(sender, entry)
        return True

    def _entry(self, command: Publishing | Read) -> Entry:
        key = command.id or self.context.hidden_key()
        identity, actor = self.identity, command.as_
        user, name = (self.user, identity.name) if actor is None else (actor.user, actor.name or actor.user)
        if isinstance(command, Read):
            entry = Entry("read", command.room, user, name, key=key, id=command.id)
            entry.seq, entry.lapses = command.seq, identity.guest and actor is None
            return entry
        entry = entry_of(command, user, name, key)
        if identity.agent and isinstance(command, Send):
            entry.emoji = AGENT
        return entry

    def signal(self, command: Signalling, line: Line | None) -> None:
        """Tell the others in the room. ChatError.

        What lasts for a while ends with the user's leaving the room on that `line`; None: a request said it.
        """
        self.check_room(command.room)
        user, name = self.user, self.identity.name
        if isinstance(command, Status | Step) and command.as_ is not None:
            self.check_actor(command.as_)
            user, name = command.as_.user, command.as_.name or command.as_.user
        self.charge()
        hub, room = self.context.hub, command.room
        match command:
            case Step():
                hub.signal(room, replies.Step(room=room, user=user, seq=command.seq, step=command.step), user)
            case Status():
                told = replies.Status(room=room, user=user, name=name, text=command.text, seq=command.seq)
                hub.set_signal(told, line)
            case _:
                hub.set_signal(replies.Typing(room=room, user=user, name=name, on=command.on), line)
