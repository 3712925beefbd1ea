"""The live members of a room that have one encoding, at places that stand still while a flush runs over them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from tornado_chat.live.member import Member


class Group:
    """Members and the keys of their lines (see fanout.py), at the same places.

    While `flushing` nobody moves: who leaves leaves a hole (None, 0), who comes stands behind all. Otherwise the last
    member takes the place of one who leaves.
    """

    __slots__ = ("_holes", "flushing", "keys", "members")

    def __init__(self) -> None:
        self.members: list[Member | None] = []
        self.keys = array("Q")
        self.flushing = False
        self._holes: list[int] = []  # places of those who left during the flush

    def __len__(self) -> int:
        return len(self.members) - len(self._holes)

    def __iter__(self) -> Iterator[Member]:
        return (member for member in self.members if member is not None)

    def add(self, member: Member) -> None:
        member.place = len(self.members)
        self.members.append(member)
        self.keys.append(member.line.key)

    def remove(self, member: Member) -> None:
        if self.flushing:
            self.members[member.place] = None
            self.keys[member.place] = 0
            self._holes.append(member.place)
        else:
            self._fill(member.place)

    def flushed(self) -> None:
        """No flush runs any more: fill the holes."""
        self.flushing = False
        holes, self._holes = self._holes, []
        for place in sorted(holes, reverse=True):  # so that the last is never a hole itself, unless it is this one
            self._fill(place)

    def _fill(self, place: int) -> None:
        last, key = self.members.pop(), self.keys.pop()
        if place < len(self.members):
            assert last is not None
            self.members[place] = last
            self.keys[place] = key
            last.place = place
