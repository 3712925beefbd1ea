"""What all sessions of a server share."""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from typing import Protocol

from tornado_chat.config import Settings
from tornado_chat.live.growing import STREAM_CHARS, Hearer
from tornado_chat.live.growing_messages import GrowingMessages
from tornado_chat.live.hub import Hub
from tornado_chat.live.limits import Limits
from tornado_chat.live.polls import Polls
from tornado_chat.live.publisher import Publisher
from tornado_chat.live.revocations import Revocations
from tornado_chat.live.socket_line import Lines
from tornado_chat.live.stopping import Stopping
from tornado_chat.logs import Repeated
from tornado_chat.wire import replies
from tornado_chat.wire.event_stream import StreamEncodings


class Pouring(Hearer, Protocol):
    """A request whose body is a message that grows: nothing but its answer tells its author anything."""

    def leave(self) -> None:
        """This process ends: the author is told so, also of what has not begun to grow."""


class Context:
    """Made once by the server, given to each session."""

    __slots__ = (
        "_hidden_keys",
        "_hidden_prefix",
        "bodies",
        "draining",
        "growing",
        "hub",
        "limits",
        "lines",
        "log_warning",
        "polls",
        "publisher",
        "requests",
        "revocations",
        "settings",
        "stopping",
        "streams",
        "welcome_limits",
    )

    def __init__(self, hub: Hub, publisher: Publisher, limits: Limits, lines: Lines, settings: Settings) -> None:
        self.hub = hub
        self.publisher = publisher
        self.limits = limits
        self.lines = lines
        self.polls = Polls(hub, limits)
        self.revocations = Revocations(hub.log, lines, self.polls.end_sessions)
        self.log_warning = Repeated(logging.getLogger("tornado_chat.live.session"))
        self.settings = settings
        self.streams = StreamEncodings(hub.log.epoch)
        self.bodies: set[Pouring] = set()
        self.requests = 0  # whose commands are under way
        self.draining = False  # nothing more is read; what was read is finished
        self.welcome_limits = replies.Limits(
            settings.max_frame_bytes, settings.text_chars, settings.send_rate, settings.send_burst, STREAM_CHARS
        )
        self._hidden_keys = itertools.count()
        self._hidden_prefix = f"\x01{time.time_ns():x}{secrets.token_hex(16)}-"
        self.growing = GrowingMessages(hub, publisher, hub.presence.uid, self.hidden_key)
        self.stopping = Stopping(hub, self.growing, publisher)

    def hidden_key(self) -> str:
        """A key that no client knows or can guess; ascending, since that costs an index least."""
        return f"{self._hidden_prefix}{next(self._hidden_keys):012x}"
