"""The memberships of one session: as a dict by room would have them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.live.test_turns import Silent
from tests.support.hubs import PLAIN
from tornado_chat.live.member import Member, Memberships

steps = st.lists(st.tuples(st.booleans(), st.sampled_from("abcd")), max_size=30)


@given(steps)
def test_memberships_are_found_by_their_room(steps: list[tuple[bool, str]]) -> None:
    """Of none, of one and of several rooms, in the order in which they came."""
    found, wanted = Memberships(), dict[str, Member]()
    for enters, room in steps:
        before = wanted.pop(room, None)
        assert found.get(room) is before
        assert found.remove(room) is before
        if enters:
            member = wanted[room] = Member(Silent(), "user", "name", PLAIN)
            member.room = room
            found.add(member)
        assert list(found) == list(wanted.values())
        assert len(found) == len(wanted)
        assert bool(found) == bool(wanted)
        for name in "abcd":
            assert found.get(name) is wanted.get(name)
