"""Two browsers and `curl` see the same text of messages that grow, whatever is killed.

Everything is real: workers, Redis, PostgreSQL, Chromium, and those who write: `curl`, `tornado-chat send --stream`.
Who dies for ever is waited for during 15 s, which no setting shortens: so all who die do so in one test.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pytest
from playwright.sync_api import Browser, expect

from tests.support import ROOT
from tests.support.chromium import SERVER_AWAY, Person
from tests.support.middlebox import Middlebox
from tests.support.servers import UNLIMITED, Server
from tests.support.supervised import DIED, PATIENCE, wait_for, wait_for_new_worker, worker_of
from tornado_chat.log.growing import LEASE_SECONDS
from tornado_chat.verify.postgres_server import PostgresServer
from tornado_chat.verify.redis_server import RedisServer

pytest_plugins = ["tests.support.chromium_fixtures", "tests.support.postgres_servers"]

LONG = LEASE_SECONDS + PATIENCE

TWO = (*UNLIMITED, "--workers", "2")
ROOM = "/v1/rooms/lobby"
LASTING = ("/ws", "/v1/events", f"{ROOM}/events", f"{ROOM}/messages")
"""What is asked for here by requests that last."""

KEPT = "".join(f"kept {number} \U0001f600,\n" + "\n" * (number % 20 == 0) for number in range(400))[:5000]
"""So much is in a checkpoint at once."""
LATE = "".join(f"late {number} \U0001f600,\n" + "\n" * (number % 20 == 0) for number in range(60))
"""This is not, when somebody dies."""
REST = "and the rest."

ASKED = "Who answers?"
ENDS = {"done": "", "interrupted": "(interrupted)"}
"""What the page says of them."""

SEEN = """() => [...document.querySelectorAll("li.message .text")].map((text) => {
  const words = text.cloneNode(true);
  words.querySelector(".edited")?.remove();
  const blocks = [...words.children].map(({ textContent }) => textContent);
  return [blocks.join(" "), text.querySelector(".edited")?.textContent.trim() ?? ""];
})"""


class Author:
    """A process, and a message that grows by what is written to its standard input."""

    def __init__(self, user: str, *command: str) -> None:
        self.user = user
        self.text = ""  # what was said
        self._command = command
        self._start()

    def _start(self) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, cwd=ROOT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def say(self, text: str) -> None:
        self.text += text
        self._write(text)

    def _write(self, text: str) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it was cut off, and has seen it
            self.process.stdin.write(text.encode())

    def close(self) -> None:
        """That was all."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.stdin = None

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)

    def end_badly(self) -> None:
        """It was cut off, and notices that when its input ends."""
        self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode != 0

    def come_back(self) -> None:
        """The same request again, with all of the text."""
        self._start()
        self._write(self.text)

    def end(self) -> None:
        """That was all, and the process ends well."""
        _, said = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, said.decode()


class Reading:
    """`curl -N`, which comes back by itself, and what a client makes of what it prints."""

    def __init__(self, folder: Path, url: str) -> None:
        folder.mkdir()
        (folder / "id").touch()
        self.texts: dict[int, str] = {}  # by seq
        self.reasons: dict[int, str] = {}
        self._cursor = 0
        self._rest = b""
        script, events = f"{ROOT}/tests/judges/read_with_curl.sh", f"{url}{ROOM}/events?after=0"
        with (folder / "printed").open("wb") as printed:
            self._process = subprocess.Popen(["sh", script, events, f"{folder}/id"], stdout=printed, process_group=0)
        self._printed = (folder / "printed").open("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._printed.close()

    def read(self) -> None:
        """Take what it has printed."""
        *lines, self._rest = (self._rest + self._printed.read()).split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def _take(self, got: Any) -> None:
        kind = got["type"]
        if "ts" in got:
            assert got["seq"] == self._cursor + 1
            self._cursor = got["seq"]
        if kind == "message":
            self.texts[got["seq"]] = got["text"]
        elif kind == "appended":
            for seq, gen, offset, text in got["chunks"]:
                self._put(seq, gen, offset, text)
        elif kind == "stream":
            self._put(got["seq"], got["gen"], got["offset"], got["text"])
        elif kind == "finished":
            text = got.get("text", self.texts[got["target"]][: got["length"]])
            assert (len(text), zlib.crc32(text.encode())) == (got["length"], got["crc"]), "it was not told something"
            self.texts[got["target"]] = text
            self.reasons[got["target"]] = got["reason"]

    def _put(self, seq: int, gen: int, offset: int, text: str) -> None:
        before = self.texts[seq]
        assert gen == 1, "nobody takes over"
        assert offset <= len(before), "no stream has a hole"
        self.texts[seq] = before[:offset] + text + before[offset + len(text) :]


class Seat(NamedTuple):
    """A browser and a `curl` that read, both connected to one worker, or to who comes in its place."""

    worker: int
    box: Middlebox
    person: Person
    reading: Reading

    def lacks(self, *authors: Author) -> list[str]:
        """What of all that these have said is not seen here."""
        self.reading.read()
        read, shown = set(self.reading.texts.values()), {text for text, _ in self.shown()}
        lacking = [f"curl lacks the text by {author.user}" for author in authors if author.text not in read]
        page = f"the page of {self.person.name}"
        return lacking + [
            f"{page} lacks that by {author.user}" for author in authors if words(author.text) not in shown
        ]

    def has_ends(self, count: int) -> bool:
        """Whether so many messages have ended here, and none grows."""
        self.reading.read()
        return len(self.reading.reasons) == count and not self.person.page.locator(".growing").count()

    def check_ends(self, ends: dict[int, Any]) -> None:
        """The events `finished`, by the seq of their messages, are what is seen here, and nobody is to be stopped."""
        shown = [(ASKED, "")]
        shown += [(words(end["text"]), ENDS[end["reason"]]) for end in ends.values()]
        with suppress(AssertionError):
            wait_for(lambda: self.shown() == shown)
        assert self.shown() == shown
        expect(self.person.page.get_by_role("button", name="Stop")).to_have_count(0)
        assert self.reading.texts == {1: ASKED} | {seq: end["text"] for seq, end in ends.items()}
        assert self.reading.reasons == {seq: end["reason"] for seq, end in ends.items()}

    def shown(self) -> list[tuple[str, str]]:
        """Each message of the page: its words, and what is said of how it ended."""
        return [(words(text), end) for text, end in self.person.page.evaluate(SEEN)]


def words(text: str) -> str:
    """What is the same in `text` and in what the page makes of it: paragraphs."""
    return " ".join(text.split())


class House:
    """An installation of two workers, and who is there. `seats`: one by WebSocket, the other one by stream."""

    def __init__(self, server: Server, browser: Browser, folder: Path) -> None:
        self.server = server
        self.authors: list[Author] = []
        self.seats: list[Seat] = []
        self._browser = browser
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            one, two = self.server.workers()
            self.seats += self._seat(0, one, two), self._seat(1, two, one)
            self._stack = stack.pop_all()
        self.seats[0].person.say(ASKED)
        for seat in self.seats:
            seat.person.shows(ASKED)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _seat(self, number: int, worker: int, other: int) -> Seat:
        box = self._stack.enter_context(Middlebox(self.server.port))
        box.fits = lambda path, port: path not in LASTING or self._worker(port) not in (None, other)
        if number:
            box.websockets = "refused"
        person = Person(self._browser, box.url, ("Anna", "Bob")[number])
        self._stack.callback(person.context.close)
        return Seat(worker, box, person, self._stack.enter_context(Reading(self._folder / f"curl-{number}", box.url)))

    def _worker(self, port: int) -> int | None:
        """Who has accepted the connection from our port; None if nobody does, as long as a worker is away."""
        for _ in range(20):
            found = worker_of(self.server, port)
            if found is not None:
                return found
            time.sleep(0.01)
        return None

    def curl(self, name: str, seat: Seat) -> Author:
        """Its message answers Anna."""
        return self._author(
            name,
            *("curl", "-sS", "-f", "-N", "-X", "POST", "-T", "-", "-H", "Content-Type: text/plain; charset=utf-8"),
            *("-H", f"Authorization: Bearer {self.server.token(name)}"),
            f"{seat.box.url}{ROOM}/messages?id=of-{name}&reply_to=1",
        )

    def client(self, name: str, seat: Seat) -> Author:
        return self._author(
            name,
            *(sys.executable, "-m", "tornado_chat", "send", "--stream", "lobby"),
            *("--url", seat.box.url, "--token", self.server.token(name)),
        )

    def _author(self, name: str, *command: str) -> Author:
        author = self._stack.enter_context(Author(name, *command))
        self.authors.append(author)
        author.say(f"By {name}:\n\n{KEPT}")
        return author

    def wait_until_seen(self, *authors: Author, seats: Sequence[Seat] = ()) -> None:
        """What these have said, by all or at these seats."""
        deadline = time.monotonic() + LONG
        while lacking := [lack for seat in seats or self.seats for lack in seat.lacks(*authors)]:
            assert time.monotonic() < deadline, lacking
            time.sleep(0.05)

    def check_growing(self, answers: int) -> None:
        """All messages grow, and Anna may stop those that answer her."""
        for seat, buttons in zip(self.seats, (answers, 0), strict=True):
            expect(seat.person.page.locator(".growing")).to_have_count(len(self.authors))
            expect(seat.person.page.locator(".growing button")).to_have_count(buttons)

    def check_ends(self, reasons: dict[str, str]) -> dict[str, str]:
        """All have ended so, with the same text for all; the texts, by author."""
        wait_for(lambda: all(seat.has_ends(len(reasons)) for seat in self.seats), "the end of all", LONG)
        page = self._get("events?after=0&limit=500")
        assert page["cursor"] == page["head"]
        names = {event["seq"]: event["user"] for event in page["events"] if event["type"] == "message"}
        ends = {event["target"]: event for event in page["events"] if event["type"] == "finished"}
        ends = dict(sorted(ends.items()))
        assert {names[seq]: end["reason"] for seq, end in ends.items()} == reasons
        history = self._get("messages?limit=100")["messages"]
        assert not any("streaming" in message for message in history)
        assert {message["seq"]: message["text"] for message in history[1:]} == {
            seq: end["text"] for seq, end in ends.items()
        }
        for seat in self.seats:
            seat.check_ends(ends)
        return {names[seq]: end["text"] for seq, end in ends.items()}

    def _get(self, path: str) -> Any:
        command = ["curl", "-sSf", f"{self.server.url}{ROOM}/{path}"]
        return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE).stdout)

    def leave(self) -> None:
        for seat in self.seats:
            seat.person.leave(SERVER_AWAY)


@pytest.mark.parametrize(("database", "victim"), [("sqlite", 1), ("postgresql + redis", 0)])
def test_whoever_dies_all_see_the_same_text(
    request: pytest.FixtureRequest, tmp_path: Path, browser: Browser, database: str, victim: int
) -> None:
    with ExitStack() as stack:
        flags: tuple[str, ...] = TWO
        if database != "sqlite":
            redis = stack.enter_context(RedisServer(tmp_path / "redis"))
            flags += "--database", request.getfixturevalue("postgres_url"), "--redis", redis.url
        server = stack.enter_context(Server(tmp_path, *flags, expected=[DIED]))
        house = stack.enter_context(House(server, browser, tmp_path))
        dying, staying = house.seats[victim], house.seats[1 - victim]
        link, gone = house.curl("link", staying), house.curl("gone", staying)
        moved, both, client = house.curl("moved", dying), house.curl("both", dying), house.client("client", dying)
        # What others have not been told yet is in the log at once: without Redis they read it there.
        house.wait_until_seen(*house.authors)
        house.check_growing(answers=4)
        staying.person.page.reload(wait_until="commit")
        for seat, authors in ((staying, (link, gone)), (dying, (moved, both, client))):
            for author in authors:
                author.say(LATE)
            house.wait_until_seen(*authors, seats=[seat])

        os.kill(dying.worker, signal.SIGKILL)
        for author in (link, gone, both):
            author.kill()
        moved.end_badly()
        for author in (link, moved):
            author.come_back()
        for author in (link, moved, client):
            author.say(REST)
        house.wait_until_seen(link, moved, client)
        for author in (link, moved, client):
            author.end()

        reasons = {author.user: "done" for author in (link, moved, client)}
        texts = house.check_ends(reasons | {"gone": "interrupted", "both": "interrupted"})
        for author in (link, moved, client, gone):
            assert texts[author.user] == author.text, "all that was received"
        assert both.text.startswith(texts["both"])
        assert len(texts["both"]) >= len(both.text) - len(LATE) - 4096
        house.leave()
        wait_for_new_worker(server, 2, dying.worker)


@pytest.mark.parametrize("kind", ["redis", "postgresql"])
def test_what_dies_behind_the_workers_all_see_the_same_text(
    tmp_path: Path, browser: Browser, own_postgres: PostgresServer, kind: str
) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        flags = (*TWO, "--database", own_postgres.create_database("chat"), "--redis", redis.url)
        expected = ["redis is away", "log unavailable", "log does not answer", "hole not filled"]
        with Server(tmp_path, *flags, expected=expected) as server, House(server, browser, tmp_path) as house:
            first, second = (house.curl(f"author-{number}", seat) for number, seat in enumerate(house.seats))
            house.wait_until_seen(first, second)
            house.check_growing(answers=2)
            dying = redis if kind == "redis" else own_postgres
            dying.kill()
            for author in (first, second):
                author.say(LATE)
            house.wait_until_seen(first, second)
            first.close()
            dying.start()
            second.say(REST)
            house.wait_until_seen(first, second)
            for author in (first, second):
                author.end()
            texts = house.check_ends({author.user: "done" for author in (first, second)})
            assert texts == {author.user: author.text for author in (first, second)}
            house.leave()
