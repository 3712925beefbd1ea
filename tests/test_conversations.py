"""tornado_chat/conversations.py."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from tornado_chat.conversations import conversation_room
from tornado_chat.wire.commands import ROOM_PATTERN

TEXTS = st.text(max_size=64)


@given(TEXTS, TEXTS, TEXTS)
def test_whatever_they_are_called_the_room_may_be_called_so(user: str, agent: str, key: str) -> None:
    assert re.match(ROOM_PATTERN, conversation_room(b"secret", user, agent, key))


def test_the_name_tells_the_agent_and_is_one_for_each_secret_user_agent_and_key() -> None:
    name = conversation_room(b"secret", "ann", "The Helper", "k")
    assert re.fullmatch(r"the-helper-[a-z2-7]{26}", name)
    others = [
        conversation_room(b"secre", "ann", "The Helper", "k"),
        conversation_room(b"secret", "bob", "The Helper", "k"),
        conversation_room(b"secret", "ann", "the-helper", "k"),
        conversation_room(b"secret", "ann", "The Helper", "l"),
        conversation_room(b"secret", "ann\0The Helper", "", "k"),
    ]
    assert len({name, *others}) == 6
    assert name == conversation_room(b"secret", "ann", "The Helper", "k")
