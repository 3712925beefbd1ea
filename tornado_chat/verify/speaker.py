"""Who speaks and asks, as its commands and its questions see it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from tornado_chat.verify.codecs import Data
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.ledger import Ledger
from tornado_chat.verify.own_log import OwnLog
from tornado_chat.verify.witness import Witness

Done = Callable[[bool], None]


class Speaker(Protocol):
    """A device, without its connection."""

    name: str
    user: str
    agent: bool
    """Its token says so."""
    ledger: Ledger
    dice: random.Random
    rooms: dict[str, Witness]
    last: bool
    """It reads after everything else has happened."""
    resumed: float
    """When it read again after it had stopped, by time.monotonic(); infinite where what it hears may always be late."""

    @property
    def one_worker(self) -> bool:
        """It is answered by the process that it hears from, and so must be among those who are there."""

    @property
    def connected(self) -> bool: ...

    @property
    def own(self) -> OwnLog:
        """That of its user."""

    @property
    def watched(self) -> bool:
        """It sees at once when its connection ends."""

    def send(self, command: Data) -> None:
        """Write `command` to the connection, if there is one."""

    def send_together(self, commands: list[Data], done: Done | None) -> None:
        """The same, over HTTP by one request; then `done` is told whether no answer was an error."""

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Unless the connection is another by then."""

    def violation(self, finding: Finding, room: str = "", seq: int = 0) -> None: ...
