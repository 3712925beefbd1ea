"""What carries a device's part of the conversation for a while, and what of a device it sees."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NoReturn, Protocol

from tornado_chat.verify.address import ServerAddress
from tornado_chat.verify.codecs import Data
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.handshake import Offer
from tornado_chat.verify.ledger import Ledger
from tornado_chat.verify.witness import Witness


class Transport(Protocol):
    """A WebSocket, or what stands for one over HTTP: from its opening to its end. It is used once."""

    prompt: bool
    """What it brings comes as it happens, so that its lateness says something."""
    one_worker: bool
    """Commands are answered by the process that it hears from."""

    async def run(self) -> NoReturn:
        """Hear until the end, which is raised: Ended, Refused, Broken or OSError. Leaves no socket and no task."""

    def begin(self) -> None:
        """The device was welcomed: join its rooms, unless the request that opened it has."""

    def send(self, command: Data) -> None:
        """Never waits: a device has only so many commands unanswered."""

    def send_together(self, commands: list[Data], done: Callable[[bool], None] | None) -> None:
        """In one request, where it takes requests; then `done` is told whether no answer was an error."""

    def join_again(self, room: str, after: int | None) -> None:
        """`after` None: without one, for one's own log."""

    def leave(self, room: str) -> bool:
        """Whether it can: `left` then tells when it was done."""

    def cut(self, command: Data | None, part: float) -> bool:
        """Break it, where there is a `command` in the middle of that (at `part`, 0 to 1); whether it ends by that."""

    def close(self) -> None:
        """Go in good order: `run` ends."""


class Listener(Protocol):
    """A device, as a transport sees it."""

    name: str
    user: str
    resumed: float
    """When it read again after it had stopped, by time.monotonic(); infinite where what it hears may always be late."""
    token: str | None
    address: ServerAddress
    offer: Offer
    ledger: Ledger
    dice: random.Random
    rooms: dict[str, Witness]
    last_event_id: str
    """Of the last stream that had ids, unless another transport came since."""

    def opening(self) -> dict[str, int | None]:
        """All rooms are to be joined anew: after which seq each; None: without one."""

    def ask(self, room: str, after: int | None) -> None:
        """A join is about to be sent."""

    def known(self, room: str) -> object:
        """What the ledger knows now, for `Witness.ask`."""

    def take_state(self, cursor: int, state: Data) -> None:
        """Of one's own log, once its witness was told that it goes on there."""

    def take(self, transport: Transport, message: Data) -> None:
        """A message from `transport`; Broken if it is none of the protocol's. The first one is `welcome`."""

    def enter(self, transport: Transport, user: str, token: str | None) -> None:
        """In place of a `welcome`, where there is none."""

    def lose_answers(self) -> None:
        """What was sent and not answered never will be: it is sent again."""

    async def idle(self) -> None:
        """To be awaited between two reads: the device may have stopped reading."""

    def violation(self, finding: Finding, room: str = "", seq: int = 0) -> None: ...
