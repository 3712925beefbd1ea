"""The peer "picows" (Cython), on uvloop and the aiofastnet that it brings along.

python picows_server.py PORT      # /ws broadcasts any text to all of one room, /echo answers

It has no call that sends several frames, but says which frame is the last of what was read, and gives its transport
away: so what came in one read is framed here, and goes out in one write to each member.
"""

# picows is installed in bench/.venv only, where mypy does not look:
# mypy: disable-error-code="import-not-found,misc,no-any-unimported"

from __future__ import annotations

import sys
from collections.abc import Callable

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

Members = dict[WSTransport, Callable[[bytes], None]]
"""How to write to each; a dict, not a set: every server serves its members in the order they came."""


class Chat(WSListener):
    """One member of the room."""

    def __init__(self, members: Members) -> None:
        self.members = members
        self.batch = bytearray()  # the frames of this read

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.members[transport] = transport.underlying_transport.write

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
            return
        text = frame.get_payload_as_bytes()
        length = bytes((len(text),)) if len(text) < 126 else b"\x7e" + len(text).to_bytes(2, "big")
        self.batch += b"\x81" + length + text
        if frame.last_in_buffer:
            data = bytes(self.batch)
            self.batch.clear()
            for write in self.members.values():
                write(data)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.members.pop(transport, None)


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
            return
        transport.send(WSMsgType.TEXT, frame.get_payload_as_bytes())


async def main(port: int) -> None:
    members: Members = {}

    def listener(request: WSUpgradeRequest) -> WSListener:
        return Echo() if request.path == b"/echo" else Chat(members)

    server = await ws_create_server(listener, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
