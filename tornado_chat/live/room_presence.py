"""The users of one room, over all processes and devices; presence.py keeps it true."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class Elsewhere:
    """What one other process has in a room. When it has left, its version stays: older changes are known by that."""

    __slots__ = ("heard", "missed", "users", "version")

    def __init__(self, version: int, users: dict[str, str], heard: float) -> None:
        self.version = version
        self.users = users  # names by user id
        self.heard = heard  # the loop's time
        self.missed = 0.0  # since when its record is missing; 0.0: it is not


class RoomPresence:
    """The users of one room that is open here."""

    __slots__ = (
        "arrived",
        "came",
        "compared",
        "departed",
        "elsewhere",
        "names",
        "published",
        "told",
        "version",
        "was_told",
        "went",
    )

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # of the users here, by id
        self.elsewhere: dict[str, Elsewhere] = {}  # by the uid of their process
        self.came: dict[str, str] = {}
        self.went: dict[str, str] = {}
        self.arrived: dict[str, str] = {}  # what the other processes were not told yet
        self.departed: set[str] = set()
        self.version = 0  # of the record of this process; 0: there is none, or it is to be written anew
        self.was_told = False  # the others have been told of somebody here
        self.compared = False  # the records of the others have been read once
        self.published = 0.0  # when the other processes were told last, by the loop's time
        self.told = 0.0  # when the members here were told last, by the loop's time

    def is_elsewhere(self, user: str) -> bool:
        return any(user in other.users for other in self.elsewhere.values())

    def users(self) -> Iterator[tuple[str, str]]:
        """(id, name) of everybody, each once; whoever is here first."""
        yield from self.names.items()
        if self.elsewhere:
            seen = set(self.names)
            for other in self.elsewhere.values():
                for user, name in other.users.items():
                    if user not in seen:
                        seen.add(user)
                        yield user, name

    def count(self) -> int:
        if not self.elsewhere:
            return len(self.names)
        return len(set(self.names).union(*(other.users for other in self.elsewhere.values())))

    def note(self, came: Iterable[tuple[str, str]], went: Iterable[tuple[str, str]]) -> None:
        """For the members: who came back within a second never went."""
        for user, name in came:
            if self.went.pop(user, None) is None:
                self.came[user] = name
        for user, name in went:
            if self.came.pop(user, None) is None:
                self.went[user] = name
