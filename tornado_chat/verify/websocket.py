"""A WebSocket seen from the client's side that hides nothing: no resending, no joining of frames, no forgiving."""

from __future__ import annotations

import asyncio
import contextlib

from tornado_chat.verify.codecs import Codec, Data
from tornado_chat.verify.endings import ABNORMAL, NORMAL, Broken, Ended
from tornado_chat.verify.frames import CLOSE, PING, PONG, ServerFrames, client_frame, read_close

SILENCE_SECONDS = 15.0
"""After so long without a byte the server is pinged, and given up after as long again."""

READ_BYTES = 65536


class WebSocket:
    """One open connection. `read` raises what ended it: Ended or Broken. `window_bits` is None without deflate."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, codec: Codec, window_bits: int | None
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._codec = codec
        self._compress = window_bits is not None
        self._frames = ServerFrames(window_bits)
        self._said_close = False
        self._end: Ended | None = None

    async def read(self) -> list[Data]:
        """The messages that the next bytes complete, perhaps none; answers pings on the way."""
        if self._end is not None:
            raise self._end
        messages: list[Data] = []
        for opcode, payload in self._frames.feed(await self._bytes()):
            if opcode == PING:
                self._write(client_frame(PONG, payload))
            elif opcode == CLOSE:
                self.close()
                self._end = Ended(*read_close(payload))  # once what stood before it was taken
            elif opcode != PONG:
                messages.append(self._message(opcode, payload))
        return messages

    async def _bytes(self) -> bytes:
        for pinged in (False, True):
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    data = await self._reader.read(READ_BYTES)
            except TimeoutError:
                if not pinged:
                    self._write(client_frame(PING, b"verify"))
            except OSError as error:
                raise Ended(ABNORMAL, error.strerror or str(error)) from None
            else:
                if not data:
                    raise Ended(ABNORMAL)
                return data
        raise Ended(ABNORMAL, f"silent for {2 * SILENCE_SECONDS:g} s, though pinged")

    def _message(self, opcode: int, payload: bytes) -> Data:
        if opcode != self._codec.opcode:
            raise Broken(f"a frame with the opcode {opcode} on a connection that speaks {self._codec.name}")
        message = self._codec.decode(payload)
        if not isinstance(message, dict):
            raise Broken(f"a message that is not an object: {str(message)[:80]}")
        return message

    def send(self, command: Data) -> None:
        """Never waits: a client has only so many commands unanswered."""
        self._write(self._frame(command))

    def send_half(self, command: Data, part: float) -> None:
        """Only the first `part` (0 to 1) of the frame's bytes, one at least and never all; for `cut` to follow."""
        frame = self._frame(command)
        self._write(frame[: max(1, min(len(frame) - 1, int(len(frame) * part)))])

    def _frame(self, command: Data) -> bytes:
        return client_frame(self._codec.opcode, self._codec.encode(command), compress=self._compress)

    def _write(self, data: bytes) -> None:
        if not self._writer.is_closing() and not self._said_close:  # else the reader is about to be told
            self._writer.write(data)

    def close(self) -> None:
        """Say good-bye, once; `read` then ends when the server has answered."""
        if not self._said_close:
            self._write(client_frame(CLOSE, NORMAL.to_bytes(2, "big")))
            self._said_close = True

    def cut(self) -> None:
        """Be gone at once."""
        self._writer.transport.abort()

    async def hang_up(self) -> None:
        """Leave no socket behind."""
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
