"""The peer "stock Tornado": the chat that its documentation leads to, on uvloop.

python tornado_server.py PORT      # /ws broadcasts any text to all of one room, /echo answers, /post answers a POST
"""

from __future__ import annotations

import asyncio
import sys

import tornado.web
import tornado.websocket
import uvloop


class Chat(tornado.websocket.WebSocketHandler):
    """One member of the room; permessage-deflate is off, as it is by default."""

    def initialize(self, members: dict[Chat, None]) -> None:
        self.members = members  # a dict, not a set: every server serves its members in the order they came

    def open(self, *args: str, **kwargs: str) -> None:
        self.set_nodelay(True)  # as on all the other servers; or delayed acks and Nagle's algorithm make the figures
        self.members[self] = None

    def on_message(self, message: str | bytes) -> None:
        for member in self.members:
            member.write_message(message)

    def on_close(self) -> None:
        self.members.pop(self, None)


class EchoSocket(tornado.websocket.WebSocketHandler):
    def open(self, *args: str, **kwargs: str) -> None:
        self.set_nodelay(True)

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message)


class Post(tornado.web.RequestHandler):
    """Only answers: with what it got."""

    def post(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.write(self.request.body)


async def main(port: int) -> None:
    handlers = [("/ws", Chat, {"members": {}}), ("/echo", EchoSocket), ("/post", Post)]
    tornado.web.Application(handlers).listen(port, address="127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
