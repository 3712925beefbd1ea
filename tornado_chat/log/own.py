"""The log of one's own: a room that is one user's, whose name no client can say, and that does not grow with age.

To clients it is `~`. Its events tell what happened to the user in rooms; what they lead to stands in tables (`marks`,
`follows`, `mentions`), so that the oldest events can go: whoever comes with a cursor below what is left gets the state.
"""

from __future__ import annotations

from tornado_chat.wire.events import OWN_LOG

NAME = OWN_LOG
"""What clients call it. Names of rooms begin with a letter or a digit, so none of them is another's log."""

KEPT = 1000
"""Events that it keeps; the ones before them go, each with the commit that brings a new one."""

KEPT_SECONDS = 31 * 86400
"""After so long an event goes, too, but for the newest, which tells where the log stands."""

GUEST_SECONDS = 93 * 86400
"""After so long without an event, what a guest followed and was named in is forgotten."""

MENTIONS = 1000
"""Mentions of one user that are counted as unread; the oldest of more are not."""

MENTIONS_LOOK = 64
"""So many events of an own log come between two looks at whether it has more mentions than that."""

FOLLOWS = 1000
"""Rooms that one user follows."""

INVITATIONS = 100
"""Of these, rooms to which others have invited the user, who has not said anything about them."""

SETTLED = 512
"""So many events of a room come between two times that the messages since the last one move their senders' marks in
`marks`. Until then whoever asks for a mark looks at these events too."""


def room_of(user: str) -> str:
    return NAME + user


def is_own(room: str) -> bool:
    return room.startswith(NAME)


def shown(room: str) -> str:
    """What clients call `room`."""
    return NAME if room.startswith(NAME) else room
