"""The peer "uWebSockets", through socketify: its publish and subscribe, which coalesces what one loop turn published.

python socketify_server.py PORT      # /ws broadcasts any text to all of one room, /echo answers
"""

# socketify is installed in bench/.venv only, where mypy does not look:
# mypy: disable-error-code="import-not-found,no-any-unimported"

from __future__ import annotations

import sys

from socketify import App, AppListenOptions, OpCode, WebSocket

OPTIONS = {
    "idle_timeout": 0,  # s; or members that say nothing would be closed
    "max_backpressure": 16 << 20,  # bytes; beyond it a message would be dropped
}


def open_chat(socket: WebSocket) -> None:
    socket.subscribe("room")


def serve(port: int) -> None:
    app = App()

    def chat(socket: WebSocket, text: str, opcode: OpCode) -> None:
        app.publish("room", text, OpCode.TEXT)

    def echo(socket: WebSocket, text: str, opcode: OpCode) -> None:
        socket.send(text, OpCode.TEXT)

    app.ws("/ws", {**OPTIONS, "open": open_chat, "message": chat})
    app.ws("/echo", {**OPTIONS, "message": echo})
    app.listen(AppListenOptions(port=port, host="127.0.0.1"), lambda _: None)
    # Not app.run(): that polls this loop without rest, from one of asyncio's that nothing here needs.
    app.loop.uv_loop.run()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
