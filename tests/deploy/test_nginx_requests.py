"""What is under /v1, through the real nginx: kept-alive workers, requests that are tried again, limits, refusals."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from typing import Any

import pytest

from tests.support.chat import eventually
from tests.support.nginx_site import PATIENCE, Answer, Site, ask, hear
from tests.support.servers import UNLIMITED

UNBUFFERED = (" buffer=64k flush=5s", "")
"""A change: the access log is written at once."""

STREAM = {"Accept": "text/event-stream"}

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class StandIn:
    """In a worker's place: `answer` makes of each request what is written back; nothing: it hangs up."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self.answer = answer
        self.connections = 0
        self.heads: list[bytes] = []

    @asynccontextmanager
    async def listening(self, site: Site, *numbers: int) -> AsyncIterator[StandIn]:
        """As the workers of these numbers, for the time of a `with`."""
        async with AsyncExitStack() as stack:
            for number in numbers:
                path = site.folder / f"run/{number}.sock"
                await stack.enter_async_context(await asyncio.start_unix_server(self._serve, path))
                path.chmod(0o666)
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with closing(writer):
            while head := await reader.read(65536):
                self.heads.append(head)
                answer = self.answer(head)
                writer.write(answer)
                if not answer or b"Connection: close" in head:
                    return


async def asked(site: Site, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> Answer:
    """One request, in a thread: the stand-ins are in this one's loop."""

    def request() -> Answer:
        with site.http() as connection:
            connection.request(method, path, body, headers)
            return Answer(connection.getresponse())

    return await asyncio.to_thread(request)


def workers_asked(site: Site, path: str) -> list[str]:
    """For each request of `path` the worker that answered it, as the access log has it."""
    log = (site.folder / "logs/access.log").read_text()
    return re.findall(rf'path="{re.escape(path)}" .*worker="(?:.*, )?unix:run/(\d)\.sock"', log)


def keys(heads: list[bytes]) -> list[bytes]:
    """The Idempotency-Key of each request."""
    return [found[1] for head in heads if (found := re.search(rb"Idempotency-Key: (\S+)\r\n", head))]


# Workers


async def test_connections_to_a_worker_are_kept_for_the_next_request() -> None:
    stand_in = StandIn(lambda head: OK)
    with Site(*UNLIMITED, count=1, changes=[("worker_processes auto;", "worker_processes 1;")]) as site:
        async with stand_in.listening(site, 2, 3):
            answers = [await asked(site, "GET", "/v1/x", {"Authorization": f"Bearer {n}"}) for n in range(60)]
    assert {answer.status for answer in answers} == {200, 404}
    assert len(stand_in.heads) > 10
    assert stand_in.connections == 2


async def test_a_credential_leads_to_the_same_worker_each_time() -> None:
    with Site(*UNLIMITED, changes=[UNBUFFERED]) as site:
        ways: list[Callable[[str], tuple[str, dict[str, str]]]] = [
            lambda token: ("", {"Authorization": f"Bearer {token}"}),
            lambda token: ("", {"Cookie": f"other=1; chat_session={token}"}),
            lambda token: (f"?token={token}", {}),
            lambda token: ("", {}),
        ]
        used: list[list[set[str]]] = []
        for number, way in enumerate(ways):
            used.append([])
            for user in range(8):
                path = f"/v1/{number}/{user}"
                for _ in range(8):
                    query, headers = way(f"user-{user}")
                    await asked(site, "GET", path + query, headers)
                await eventually(partial(lambda path: len(workers_asked(site, path)) == 8, path))
                used[number].append(set(workers_asked(site, path)))
        for sets in used[:3]:
            assert all(len(workers) == 1 for workers in sets)
            assert len(set.union(*sets)) == 2, "all users at one worker"
        assert {"1", "2"} in used[3], "who brings nothing goes anywhere"


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "PUT", "DELETE"])
async def test_a_request_whose_worker_goes_is_taken_by_another(method: str) -> None:
    gone = StandIn(lambda head: b"")
    with Site(*UNLIMITED, count=1) as site:
        async with gone.listening(site, 2, 3):
            for number in range(8):
                answer = await asked(site, method, "/v1/x", {"Authorization": f"Bearer {number}"}, b"{}")
                assert answer.status == 404  # of the real worker
        assert gone.heads


async def test_a_request_without_an_id_has_the_same_one_each_time_that_it_is_tried() -> None:
    gone, there = StandIn(lambda head: b""), StandIn(lambda head: OK)
    with Site(*UNLIMITED, count=1) as site:
        real = site.folder / "run/1.sock"
        real.rename(site.folder / "run/real")
        async with gone.listening(site, 1, 2), there.listening(site, 3, 4):
            for _ in range(8):
                await asked(site, "POST", "/v1/x", {}, b"{}")
            await asked(site, "POST", "/v1/x", {"Idempotency-Key": "mine"}, b"{}")
        (site.folder / "run/real").rename(real)
    tried, done = keys(gone.heads), keys(there.heads)
    assert len(done) == len(set(done)) == 9
    assert done[-1] == b"mine"
    assert tried
    assert set(tried) <= set(done)


async def test_a_message_whose_worker_dies_with_the_answer_is_there_once() -> None:
    with Site(*UNLIMITED, count=1) as site:

        def commit_and_die(request: bytes) -> bytes:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(PATIENCE)
                sock.connect(str(site.folder / "run/1.sock"))
                sock.sendall(request)
                assert sock.recv(65536).startswith((b"HTTP/1.1 201 ", b"HTTP/1.1 200 "))  # a second one may die, too
            return b""

        dying = StandIn(commit_and_die)
        statuses = []
        async with dying.listening(site, 2, 3):
            for number in range(8):
                headers = {"Authorization": f"Bearer {site.server.token(f'user-{number}')}"}
                body = json.dumps({"text": f"{number}"}).encode()
                answer = await asked(site, "POST", "/v1/rooms/r/messages", headers, body)
                statuses.append(answer.status)
        history = json.loads(site.get("/v1/rooms/r/messages?limit=100", headers).body)
        assert [message["text"] for message in history["messages"]] == [f"{number}" for number in range(8)]
        lost = len(set(keys(dying.heads)))
        assert lost > 0
        assert sorted(statuses) == [200] * lost + [201] * (8 - lost), "200 and not 201: it was there"


# Streams


class Curl:
    """`curl -N` reads a stream; a context manager. `version` is one of its flags, such as --http2."""

    def __init__(self, site: Site, path: str, version: str) -> None:
        self.command = ["curl", "--silent", "--show-error", "--no-buffer", version, "--cacert", "tls/chat.crt"]
        self.command += ["--header", "Accept: text/event-stream", "--write-out", "%{stderr}HTTP/%{http_version}"]
        self.command += [f"https://127.0.0.1:{site.port}{path}"]
        self.folder = site.folder

    async def __aenter__(self) -> Curl:
        self.process = await asyncio.create_subprocess_exec(
            *self.command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=self.folder
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()

    async def until(self, words: str) -> str:
        """Read on to a line with these words in it."""
        assert self.process.stdout is not None
        while True:
            line = (await asyncio.wait_for(self.process.stdout.readline(), PATIENCE)).decode()
            assert line, f"curl ended before {words}"
            if words in line:
                return line

    async def end(self) -> tuple[int | None, str]:
        """Wait until it has ended: its exit status, and what it said of that."""
        _, said = await asyncio.wait_for(self.process.communicate(), PATIENCE)
        return self.process.returncode, said.decode()


@pytest.mark.parametrize(("version", "name"), [("--http1.1", "HTTP/1.1"), ("--http2", "HTTP/2")])
async def test_a_stream_comes_through_event_by_event_and_to_its_end(version: str, name: str) -> None:
    # Heartbeats are what keeps it open.
    flags = (*UNLIMITED, "--ping-interval", "300ms", "--ping-timeout", "500ms")
    with Site(*flags, count=1, changes=[("90s;", "1s;")]) as site:
        async with Curl(site, "/v1/rooms/r/events?after=0", version) as curl, site.connect() as chat:
            await curl.until('"synced"')
            for number in range(4):
                await chat.send(json.dumps({"type": "send", "room": "r", "text": f"text {number}", "id": f"{number}"}))
                await curl.until(f'"text {number}"')
            for _ in range(6):  # longer than nginx' time-outs
                await curl.until("event: ping")
            stopped = asyncio.create_task(asyncio.to_thread(site.server.stop))
            await curl.until("retry: ")
            await curl.until('"code":1012')
            assert await curl.end() == (0, name)
            await stopped


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
async def test_a_stream_whose_worker_is_killed_is_cut_off_and_not_ended(version: str) -> None:
    with Site(*UNLIMITED, count=1) as site:
        async with Curl(site, "/v1/rooms/r/events?after=0", version) as curl:
            await curl.until('"synced"')
            await asyncio.to_thread(site.server.kill)
            status, _ = await curl.end()
            assert status not in (0, None)


# Limits and refusals


def block(answer: Answer) -> Any:
    """The object of a stream that is one block; when to come back stands in it twice."""
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-store, no-transform"
    assert answer.headers["Strict-Transport-Security"]
    found = re.fullmatch(rb"retry: ([1-4])000\ndata: (.*)\n\n", answer.body)
    assert found is not None, answer.body
    obj = json.loads(found[2])
    assert obj["retry_after"] == int(found[1])
    assert obj["type"] == "error"
    return obj


def test_an_event_source_that_is_refused_for_its_address_is_told_to_come_back() -> None:
    changes = [("rate=1000r/s", "rate=1r/s"), ("burst=2000", "burst=4")]
    with Site(*UNLIMITED, changes=changes) as site, site.http() as http:
        refused = [answer for answer in (ask(http, "/v1/x", STREAM) for _ in range(9)) if answer.status != 404]
        assert refused
        assert {block(answer)["code"] for answer in refused} == {"rate_limited"}
        assert ask(http, "/v1/x").error["code"] == "rate_limited"


async def test_a_page_of_another_origin_that_is_allowed_gets_its_headers_once() -> None:
    elsewhere = "https://elsewhere.example"
    with Site(*UNLIMITED, "--allowed-origins", elsewhere, count=1) as site:
        preflight = {"Origin": elsewhere, "Access-Control-Request-Method": "POST"}
        for method, path, headers, status in (
            ("OPTIONS", "/v1/poll", preflight, 204),
            ("GET", "/v1/rooms/r/events", {"Origin": elsewhere}, 200),
            ("GET", "/v1/nothing", {"Origin": elsewhere}, 404),
        ):
            answer = await asked(site, method, path, headers)
            assert answer.status == status
            assert answer.headers.get_all("Access-Control-Allow-Origin") == [elsewhere]


async def test_a_cookie_goes_by_tls_only_and_serves_its_own_origin_only() -> None:
    with Site(*UNLIMITED) as site:
        signed_in = await asked(
            site,
            "POST",
            "/v1/session",
            {"Content-Type": "application/json", "Authorization": f"Bearer {site.server.token('ada')}"},
            b"{}",
        )
        assert signed_in.status == 200
        cookie, *terms = signed_in.headers["Set-Cookie"].split("; ")
        assert {"Secure", "HttpOnly", "SameSite=Lax"} <= set(terms)
        for origin, status in ((f"https://127.0.0.1:{site.port}", 201), (f"http://127.0.0.1:{site.port}", 403)):
            headers = {"Cookie": cookie, "Origin": origin, "Content-Type": "application/json"}
            answer = await asked(site, "POST", "/v1/rooms/r/messages", headers, b'{"text": "hello"}')
            assert answer.status == status


def test_an_event_source_that_finds_no_worker_is_told_to_come_back() -> None:
    with Site(*UNLIMITED) as site:
        site.server.stop()
        assert block(site.get("/v1/rooms/r/events", STREAM))["code"] == "unavailable"
        page = {"Origin": "https://elsewhere.example", "Accept": "text/event-stream, */*;q=0.1"}
        answer = site.get("/v1/rooms/r/events?token=x", page)
        assert block(answer)["code"] == "unavailable"
        assert answer.headers["Access-Control-Allow-Origin"] == "https://elsewhere.example"
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        other = site.get("/v1/rooms/r/events", {"Accept": "application/json"})
        assert other.status == 503
        assert other.error["code"] == "unavailable"


async def test_an_office_that_polls_is_not_refused() -> None:
    """500 people behind one address: all poll, and when one of them speaks all poll again, and do something."""
    people, waves = 500, 3

    async def work(site: Site, user: int, gathered: asyncio.Barrier) -> list[int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port, ssl=site.tls)
        token = site.server.token(f"user-{user}")
        statuses = []

        async def ask(path: str, obj: Any) -> Any:
            body = json.dumps(obj).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nAuthorization: Bearer {token}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
            statuses.append(int(answer.split()[1]))
            length = re.search(rb"Content-Length: (\d+)", answer, re.IGNORECASE)
            assert length is not None, answer
            return json.loads(await reader.readexactly(int(length[1])))

        for seq in range(waves):
            if user == 0:
                await ask("/v1/poll", {"rooms": {"r": seq}})  # nginx closes a connection on which nothing is asked
                await gathered.wait()
                await ask("/v1/rooms/r/messages", {"text": f"{seq}"})
            else:
                poll = asyncio.create_task(ask("/v1/poll", {"rooms": {"r": seq}, "wait": 55}))
                await gathered.wait()
                assert (await poll).get("cursors") == {"r": seq + 1}
                await ask("/v1/commands", {"type": "read", "room": "r", "seq": seq + 1})
        writer.close()
        return statuses

    with Site(*UNLIMITED) as site:
        gathered = asyncio.Barrier(people)
        found = await asyncio.gather(*(work(site, user, gathered) for user in range(people)))
    statuses = Counter(status for statuses in found for status in statuses)
    assert statuses == {200: (people - 1) * waves * 2 + waves, 201: waves}


# Bodies that grow


async def test_what_is_piped_in_comes_through_as_it_comes() -> None:
    """By curl, over HTTP/2 and over HTTP/1.1; what it is refused comes through, too."""
    with Site(*UNLIMITED, count=1) as site:
        for number, version in enumerate(("--http2", "--http1.1")):
            async with site.connect("/ws/r") as reader:
                await hear(reader, "synced")
                process = await asyncio.create_subprocess_exec(
                    *("curl", "-sS", version, "--cacert", site.folder / "tls/chat.crt", "-X", "POST", "-T", "-"),
                    *("-H", "Content-Type: text/plain; charset=utf-8"),
                    *("-H", f"Authorization: Bearer {site.server.token('bot')}"),
                    f"https://127.0.0.1:{site.port}/v1/rooms/r/messages",
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
                assert process.stdin is not None
                for piece in ("eins\n", "zwei\n"):
                    process.stdin.write(piece.encode())
                    (chunk,) = (await hear(reader, "appended"))["chunks"]
                    assert chunk[3] == piece
                process.stdin.close()
                out, err = await process.communicate()
                assert (json.loads(out)["seq"], err) == (2 * number + 1, b"")
                assert (await hear(reader, "finished"))["reason"] == "done"
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        refused = await asked(site, "POST", "/v1/rooms/r/messages", headers, b"text")
        assert refused.status == 401
        site.server.kill()
        away = await asked(site, "POST", "/v1/rooms/r/messages", headers, b"text")
        assert (away.status, away.error["code"]) == (503, "unavailable")
        site.server.start()
