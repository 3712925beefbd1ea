"""The load generator of `python -m bench` in Python, for a machine without a C compiler.

It takes the commands of load.c and checks as much: each marker on each connection is the next one. It finds markers
without parsing the frames around them, which is what lets it take some 300,000 deliveries a second. It imports nothing
of the project: it is run as a program.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import select
import socket
import struct
import sys
import time
from collections import Counter
from typing import Any

MARKER = re.compile(rb"~(\d{12})\.(\d{16})")
MARKER_BYTES = 30
CLOSE_FRAME = re.compile(rb"\x88[\x02-\x7d]([\x03\x04\x0f][\x00-\xff][ -~]*)\Z", re.DOTALL)
ADDRESS_SHARE = 20_000  # connections from one address: it has 28,000 ports
KEY = b"\x37\xfa\x21\x3d"
BIND_ADDRESS_NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)  # linux/in.h


def masked(opcode: int, payload: bytes) -> bytes:
    """A frame of a client: FIN, masked (RFC 6455 section 5.2)."""
    n = len(payload)
    head = struct.pack("!BB", 0x80 | opcode, 0x80 | n) if n < 126 else struct.pack("!BBH", 0x80 | opcode, 0xFE, n)
    key = int.from_bytes((KEY * (n // 4 + 1))[:n], "big")
    return head + KEY + (int.from_bytes(payload, "big") ^ key).to_bytes(n, "big")


class Client:
    __slots__ = ("address", "again", "cuts", "index", "next", "out", "place", "room", "sock", "state", "tail")

    def __init__(self, index: int, place: int, room: int) -> None:
        self.index = index
        self.place = place  # in Generator.clients
        self.room = room
        self.address = ""
        self.next = 0  # the number of the message that it should see next
        self.cuts = 0  # times that the server ended it
        self.again = 0.0  # when it comes back; 0: it does not
        self.state = "closed"
        self.tail = b""
        self.out = b""
        self.sock = socket.socket()


class Generator:
    def __init__(self) -> None:
        self.poll = select.epoll()
        self.poll.register(0, select.EPOLLIN)
        self.buffer = bytearray(1 << 18)
        self.view = memoryview(self.buffer)
        self.clients: list[Client] = []
        self.by_fd: dict[int, Client] = {}
        self.returning: set[Client] = set()
        self.waiting: list[Client] = []  # to be connected
        self.pending = self.ready = 0
        self.connecting: tuple[float, float] | None = None  # when it began and when it fails
        self.options: dict[str, str] = {}
        self.publish: dict[str, str] = {}
        self.sent: list[int] = []
        self.window = self.limit = 0
        self.witnesses = 1
        self.rate = self.began = 0.0
        self.reading = True
        self.returns = False
        self.addresses: list[str] = []
        self.failure = ""
        self.latency: Counter[int] = Counter()
        self.total = self.delivered = self.bytes = self.lost = self.doubled = self.pings = 0
        self.cuts = self.refused = 0

    def run(self) -> None:
        while True:
            timeout = 0.1 if self.connecting else 0.02 if self.returning else -1.0
            if self.rate:
                timeout = max(0.0, self.began + self.total / self.rate - time.monotonic())
            for fd, events in self.poll.poll(timeout, 1024):
                if fd == 0:
                    if not self.on_stdin():
                        return
                    continue
                client = self.by_fd.get(fd)
                if client is None:
                    continue
                if client.state == "connecting":
                    self.request(client)
                    continue
                if events & select.EPOLLOUT:
                    self.on_writable(client)
                if events & ~select.EPOLLOUT:
                    self.on_readable(client)
            if self.rate:
                self.publish_due()
            if self.returning:
                self.look_for_returns()
            if self.connecting:
                self.end_connect(*self.connecting)

    # Commands

    def on_stdin(self) -> bool:
        line = sys.stdin.readline()
        if not line:
            return False
        name, *fields = line.rstrip("\n").split("\t")
        commands = {"connect": self.start_connect, "publish": self.start_publish, "stats": self.print_stats}
        commands |= {"stop": self.stop, "pause": self.pause, "resume": self.resume, "cut": self.cut}
        if name in commands:
            commands[name](dict(field.split("=", 1) for field in fields))
        else:
            self.say({"error": f"unknown command {name}"})
        return True

    def say(self, answer: dict[str, Any]) -> None:
        print(json.dumps(answer), flush=True)

    def start_connect(self, fields: dict[str, str]) -> None:
        self.options = fields
        if not self.clients:  # a later `connect` brings back those that were cut, with their numbers
            count, rooms, first = int(fields["count"]), int(fields["rooms"]), int(fields.get("first", 0))
            self.clients = [Client(first + i, i, (first + i) % rooms) for i in range(count)]
            self.sent = [0] * rooms
        self.returns = fields.get("returns") == "1"
        self.addresses = fields["to"].split(",")
        for client in self.clients:  # the members of a room go to the addresses in turns, and so do the rooms
            client.address = self.addresses[sum(divmod(client.place, len(self.sent))) % len(self.addresses)]
        self.waiting = [client for client in reversed(self.clients) if client.state == "closed"]
        self.pending = 0
        began = time.monotonic()
        self.connecting = (began, began + float(fields.get("timeout", 60)))
        self.begin_more()

    def end_connect(self, began: float, deadline: float) -> None:
        if self.failure:
            self.say({"error": self.failure})
        elif self.ready == len(self.clients):
            self.say({"seconds": time.monotonic() - began})
        elif time.monotonic() > deadline:
            self.say({"error": f"{self.ready} of {len(self.clients)} connections were ready in time"})
        else:
            return
        self.connecting = None

    def start_publish(self, fields: dict[str, str]) -> None:
        self.publish = fields
        self.window, self.limit = int(fields.get("window", 0)), int(fields.get("count", 0))
        self.witnesses = int(fields.get("witnesses", 1))
        self.rate = float(fields.get("rate", 0))
        self.began = time.monotonic() - (self.total / self.rate if self.rate else 0)
        if self.window:
            for client in self.publishers():
                self.refill(client)
        self.say({})

    def stop(self, _: dict[str, str]) -> None:
        self.window, self.rate = 0, 0.0
        self.say({})

    def pause(self, _: dict[str, str]) -> None:
        self.read_or_not(False)

    def resume(self, _: dict[str, str]) -> None:
        self.read_or_not(True)

    def read_or_not(self, reading: bool) -> None:
        self.reading = reading
        for client in self.clients:
            if client.state == "ready":
                self.watch(client)
        self.say({})

    def cut(self, _: dict[str, str]) -> None:
        self.returning.clear()
        for client in self.clients:
            self.shut(client)
        self.say({})

    def print_stats(self, _: dict[str, str]) -> None:
        if self.failure:
            self.say({"error": self.failure})
            return
        behind = [self.sent[client.room] - client.next for client in self.clients]
        keys = ("delivered", "bytes", "lost", "doubled", "pings", "cuts", "refused")
        counts = {key: getattr(self, key) for key in keys}
        counts["most_cuts"] = max(client.cuts for client in self.clients)
        counts |= {"outstanding": sum(n for n in behind if n > 0), "least": min(client.next for client in self.clients)}
        self.say({"time": time.monotonic(), "sent": self.total, **counts, "latency": sorted(self.latency.items())})
        self.latency.clear()

    # Connections

    def begin_more(self) -> None:
        while self.waiting and not self.failure and self.pending < int(self.options.get("inflight", 100)):
            self.begin(self.waiting.pop())

    def begin(self, client: Client) -> None:
        where: Any = client.address
        if where.startswith("/"):
            sock = client.sock = socket.socket(socket.AF_UNIX)
        else:
            sock = client.sock = socket.socket()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
            sock.bind((f"127.0.0.{int(self.options.get('source', 2)) + client.index // ADDRESS_SHARE}", 0))
            host, _, port = where.partition(":")
            where = host, int(port)
        sock.setblocking(False)
        if int(self.options.get("rcvbuf", 0)):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, int(self.options["rcvbuf"]))
        code = sock.connect_ex(where)
        if code not in (0, errno.EINPROGRESS):
            self.failure = f"connect: {os.strerror(code)}"
        client.state, client.tail, client.out = "connecting", b"", b""
        self.pending += 1
        self.by_fd[sock.fileno()] = client
        self.poll.register(sock, select.EPOLLOUT)

    def look_for_returns(self) -> None:
        """Bring back those whose time has come."""
        now, inflight = time.monotonic(), int(self.options.get("inflight", 100))
        for client in [client for client in self.returning if client.again <= now][: max(0, inflight - self.pending)]:
            self.returning.remove(client)
            self.begin(client)

    def ended(self, client: Client, after: float | None) -> None:
        """The server ended the connection or refused it; `after`: when to come back, seconds, if it said so."""
        if client.state in ("joining", "ready"):
            client.cuts += 1
            self.cuts += 1
        elif client.state != "closing":
            self.refused += 1
        if client.state != "closing":
            client.again = time.monotonic() + (random.random() if after is None else after)
        self.shut(client)
        self.returning.add(client)

    def on_close_frame(self, client: Client, body: bytes) -> None:
        code, reason = int.from_bytes(body[:2], "big"), body[2:].decode("ascii", "replace")
        if not (self.returns and code in (1012, 1013)):
            self.failure = self.failure or f"the server closed connection {client.index} with {code} {reason}"
            return
        self.transmit(client, masked(8, body[:2]))
        client.cuts += 1
        self.cuts += 1
        _, said, wait = reason.partition("retry_after_ms=")
        client.again = time.monotonic() + (int(wait) / 1000 if said else random.random())
        self.left(client)
        client.state = "closing"  # until the server closes the socket

    def request(self, client: Client) -> None:
        code = client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code and self.returns:
            self.ended(client, None)
            return
        if code:
            self.failure = f"connect: {os.strerror(code)}"
            return
        path = self.options["path"].replace("{room}", str(client.room)).replace("{index}", str(client.index))
        path = path.replace("{number}", str(client.next))
        host = "localhost" if client.address.startswith("/") else client.address
        # fmt: off
        lines = [
            f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket",
            "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13",
        ]
        # fmt: on
        if int(self.options.get("deflate", 0)):
            lines.append("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
        client.state = "upgrading"
        self.watch(client)
        self.transmit(client, "\r\n".join([*lines, "", ""]).encode())

    def watch(self, client: Client) -> None:
        events = select.EPOLLIN if self.reading or client.state != "ready" else 0
        self.poll.modify(client.sock, events | (select.EPOLLOUT if client.out else 0))

    def became_ready(self, client: Client) -> None:
        client.state = "ready"
        self.ready += 1
        self.pending -= 1
        if self.returns and client.place >= len(self.clients) - len(self.sent):
            self.send_again(client)
        self.begin_more()

    def left(self, client: Client) -> None:
        if client.state == "ready":
            self.ready -= 1
        elif client.state != "closing":
            self.pending -= 1

    def shut(self, client: Client) -> None:
        if client.state == "closed":
            return
        self.left(client)
        client.state = "closed"
        del self.by_fd[client.sock.fileno()]
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST: no TIME_WAIT
        client.sock.close()

    def transmit(self, client: Client, data: bytes) -> None:
        if client.out:
            client.out += data
            return
        try:
            taken = client.sock.send(data)
        except BlockingIOError:
            taken = 0
        except OSError:
            return  # a dead socket shows when it is read
        if taken < len(data):
            client.out = data[taken:]
            self.watch(client)

    def on_writable(self, client: Client) -> None:
        data, client.out = client.out, b""
        self.transmit(client, data)
        if not client.out:
            self.watch(client)

    def on_readable(self, client: Client) -> None:
        try:
            got = client.sock.recv_into(self.buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            got, why = 0, f": {error.strerror}"
        else:
            why = ""
        if not got and self.returns:
            self.ended(client, None)
            return
        if not got:
            self.failure = self.failure or f"the server cut connection {client.index}{why}"
            self.shut(client)
            return
        if client.state == "closing":
            return
        data = client.tail + self.view[:got]
        self.bytes += got
        if client.state != "ready":
            data = self.handshake(client, data)
        elif data[0] == 0x89 and 2 + data[1] <= len(data):  # a ping: comes alone, to who was silent
            self.pings += 1
            self.transmit(client, masked(10, data[2 : 2 + data[1]]))
        found = MARKER.findall(data)
        if found:
            self.count(client, [int(number) for number, _ in found], [int(sent) for _, sent in found])
        elif b'"type":"error"' in data:
            self.failure = self.failure or data.decode("ascii", "replace")
        close = CLOSE_FRAME.search(data)  # the last of all; before it may be others
        if close and client.state in ("joining", "ready"):
            self.on_close_frame(client, close[1])
        if client.state == "ready":
            last = data.rfind(b"~", max(0, len(data) - MARKER_BYTES + 1))
            client.tail = data[last:] if last >= 0 else b""  # a marker may be cut in two; the frames are not looked at

    def handshake(self, client: Client, data: bytes) -> bytes:
        if client.state == "upgrading":
            head, blank, rest = data.partition(b"\r\n\r\n")
            if blank and self.returns and head.startswith(b"HTTP/1.1 503"):
                wait = re.search(rb"\r\nRetry-After: *(\d+)", head)
                self.ended(client, float(wait[1]) if wait else None)
                return b""
            if blank and not head.startswith(b"HTTP/1.1 101"):
                self.failure = self.failure or f"the handshake was answered with {data[:300].decode('latin-1')}"
            if blank and int(self.options.get("deflate", 0)) and b"permessage-deflate" not in head:
                self.failure = self.failure or "no permessage-deflate was agreed"
            if blank:
                client.state, data = "joining", rest
        if client.state == "joining" and self.options["ready"].encode() in data:
            self.became_ready(client)
            client.tail = b""
            return data
        client.tail = data
        return b""

    def count(self, client: Client, numbers: list[int], times: list[int]) -> None:
        now = int(time.monotonic() * 1_000_000)
        self.delivered += len(numbers)
        for sent in times:
            passed = max(0, now - sent)
            shift = max(0, passed.bit_length() - 7)  # 64 buckets to each power of two
            self.latency[passed >> shift << shift] += 1
        if numbers == list(range(client.next, client.next + len(numbers))):
            client.next += len(numbers)
        else:
            for number in numbers:
                if number < client.next:
                    self.doubled += 1
                else:
                    self.lost += number - client.next
                    client.next = number + 1
        if self.window:
            self.refill_room_of(client)

    # Publishing

    def publishers(self) -> list[Client]:
        return self.clients[len(self.clients) - len(self.sent) :]

    def compose(self, client: Client, number: int, when: float) -> bytes:
        marker = f"~{number:012d}.{int(when * 1_000_000):016d}"
        payload = self.publish["message"].replace("{room}", str(client.room)).replace("{index}", str(client.index))
        payload = payload.replace("{number}", str(number)).replace("{marker}", marker)
        return masked(1, payload.replace("{text}", marker.ljust(int(self.publish["text"]), "x")).encode())

    def seen_by_all(self, client: Client) -> int:
        """The smallest `next` of the witnesses: the publisher and those of its room that connected just before it."""
        places = range(client.place, -1, -len(self.sent))[: self.witnesses]
        return min(self.clients[place].next for place in places)

    def refill(self, client: Client) -> None:
        """Closed loop: keep `window` messages of this publisher in flight."""
        now, frames, seen = time.monotonic(), [], self.seen_by_all(client)
        while client.state == "ready" and self.sent[client.room] - seen < self.window:
            if self.limit and self.sent[client.room] >= self.limit:
                break
            frames.append(self.compose(client, self.sent[client.room], now))
            self.sent[client.room] += 1
            self.total += 1
        if frames:
            self.transmit(client, b"".join(frames))

    def refill_room_of(self, client: Client) -> None:
        """A member saw something new: if its room's publisher waits for it, that may go on."""
        rooms, count = len(self.sent), len(self.clients)
        if client.place >= count - rooms * self.witnesses:
            self.refill(self.clients[client.place + (count - 1 - client.place) // rooms * rooms])

    def send_again(self, client: Client) -> None:
        """A publisher is back: what it has not seen may have been lost on the way to the log."""
        place = client.place - (len(self.clients) - len(self.sent))
        for number in range(client.next, self.sent[client.room]):
            due = self.began + (number * len(self.sent) + place) / self.rate if self.rate else time.monotonic()
            self.transmit(client, self.compose(client, number, due))
        if self.window:
            self.refill(client)

    def publish_due(self) -> None:
        publishers = self.publishers()
        while self.rate and self.began + self.total / self.rate <= time.monotonic():
            if self.limit and self.total >= self.limit * len(self.sent):
                self.rate = 0.0
                return
            client = publishers[self.total % len(publishers)]
            number, due = self.sent[client.room], self.began + self.total / self.rate
            self.sent[client.room] += 1
            self.total += 1
            if client.state == "ready":
                self.transmit(client, self.compose(client, number, due))
            elif not self.returns:
                self.failure = self.failure or "a publisher is not connected"
                return


if __name__ == "__main__":
    Generator().run()
