"""The client for JavaScript as an app elsewhere has it: from its tarball, in Node, beside a real server."""

from __future__ import annotations

import asyncio
import configparser
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.middlebox import Middlebox
from tests.support.node_app import CLIENT, App, AppError, app
from tests.support.servers import UNLIMITED, Server
from tests.support.supervised import DIED
from tornado_chat.client import Client

pytest_plugins = ["tests.support.node_fixtures"]

KINDS = ["websocket", "stream", "poll"]
WATCHED = 'app.room = app.chat.join("r", { last: 0 }); app.seen = app.watch(app.room); await app.room.ready;'
DOC = (ROOT / "docs" / "javascript-client.md").read_text(encoding="utf-8")
TYPES = (CLIENT / "index.d.ts").read_text(encoding="utf-8")
MODULES = sorted(CLIENT.glob("*.js"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path, *UNLIMITED) as running:
        yield running


# What it is made of.


@pytest.mark.parametrize("path", MODULES, ids=[path.stem for path in MODULES])
def test_it_is_a_tree_of_its_own(path: Path) -> None:
    """It imports nothing from outside, and knows of no page."""
    source = path.read_text(encoding="utf-8")
    imported = re.findall(r'^(?:import|export) .*from "(.*)";|\bimport\("(\./.*?)"\)', source, re.MULTILINE)
    assert {(CLIENT / (one or other)).resolve().parent for one, other in imported} <= {CLIENT}
    code = re.sub(r"//.*", "", re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL))
    assert re.findall(r"\b(?:localStorage|sessionStorage|BroadcastChannel|window|location|navigator)\b", code) == []


def test_the_package_is_whole(project: Path) -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    package = json.loads((CLIENT / "package.json").read_text(encoding="utf-8"))
    assert package["version"] == setup["metadata"]["version"]
    installed = project / "node_modules" / "tornado-chat-client"
    assert {path.name for path in installed.iterdir()} == {path.name for path in CLIENT.iterdir()}


APP = """
import { Chat, ChatError, type Message, type Wire } from "tornado-chat-client";

const chat = new Chat({ url: "http://127.0.0.1", token: "t", WebSocket });
const room = chat.join("lobby", { last: 20 });
room.on("message", ({ text, name }: Message) => text.concat(name));
room.on("event", (event: Wire.RoomEvent) => event.type === "finished" && event.reason);
const off: () => void = chat.on("state", (state) => state.name === "open" && state.kind);
const seq: number = await room.send("hello", { replyTo: 3 });
for await (const piece of chat.ask("helper", "why?")) piece.length;
if (new ChatError("failed", "no").code === "failed") off();
// @ts-expect-error there is no such event
room.on("massage", () => {});
// @ts-expect-error what is held is changed by what comes
room.messages[0].text = "mine";
// @ts-expect-error a seq is a number
room.edit("1", "text");
export { seq };
"""


def told(of: str) -> set[str]:
    """What index.d.ts lists: the events of an interface, or the names of the states."""
    if of == "State":
        return set(re.findall(r'"([\w-]+)"', " ".join(re.findall(r"\{ name: (.*?)[;}]", TYPES))))
    (body,) = re.findall(rf"interface {of} {{(.*?)^}}", TYPES, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"^  (\w+): \[", body, re.MULTILINE))


def test_the_documentation_names_all_that_is_told() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|", DOC, re.MULTILINE)
    assert set(rows) == told("RoomEvents") | told("State")
    assert told("ChatEvents") == {"state", "changed", "own", "notice"}


def test_an_app_in_typescript_has_types(project: Path) -> None:
    compiler = ROOT / "tests" / "web" / "javascript" / "node_modules" / ".bin" / "tsc"
    if not compiler.exists():
        pytest.skip("there is no TypeScript here: tests/web/javascript/check.sh installs it")
    (project / "app.ts").write_text(APP)
    given = "import { Chat, type ChatRoom } from 'tornado-chat-client'; declare const chat: Chat, room: ChatRoom;\n"
    for number, block in enumerate(re.findall(r"^```js\n(.*?)^```", DOC, re.MULTILINE | re.DOTALL)):
        whole = block if block.startswith("import") else f"{given}{block}export {{}};\n"
        (project / f"told_{number}.ts").write_text(whole, encoding="utf-8")
    flags = "--noEmit", "--strict", "--target", "es2023", "--module", "nodenext", "--lib", "es2023,dom"
    files = sorted(path.name for path in project.glob("*.ts"))
    assert len(files) > 5
    done = subprocess.run([compiler, *flags, *files], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# What it does.


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_said_is_there_once_and_whole(project: Path, server: Server, kind: str) -> None:
    url, token = server.url, server.token("ann")
    async with app(project, url=url, token=token, transports=[kind]) as one, Client(url, name="Bob") as bob:
        await one.run(WATCHED)
        await bob.join("r")
        said = [f"{number} ä😀" for number in range(20)]
        seqs = await one.run(
            "return Promise.all(argument.map((text) => app.room.send(text, { meta: { a: 1 } })))", said
        )
        assert seqs == list(range(1, 21))
        await bob.send("r", "from Bob", reply_to=3)
        await one.until("app.seen.seqs.length === 21")
        assert (await one.run("return app.seen"))["texts"] == [*said, "from Bob"]
        state = await one.run(
            "return [app.chat.state.kind, app.chat.me.user, app.room.message(21).reply_to, app.room.pending]"
        )
        assert state == [kind, "ann", 3, []]
        await one.run('await app.room.edit(2, "other"); await app.room.react(21, "👍"); await app.room.delete(1);')
        await one.until("app.seen.seqs.length === 24")
        assert await one.run("return app.room.messages.slice(0, 2).map(({ text, deleted }) => [text, deleted])") == [
            ["", True],
            ["other", False],
        ]
        assert await one.run('return [...app.room.message(21).reactions.get("👍")]') == ["ann"]


async def test_what_is_refused_says_why(project: Path, server: Server) -> None:
    token = server.token("ann", rooms=["r", "s*"])
    async with app(project, url=server.url, token=token) as one:
        await one.run(WATCHED)
        with pytest.raises(AppError, match=r"^bad_request: text"):
            await one.run('await app.room.send("a".repeat(9000));')
        with pytest.raises(AppError, match=r"^not_found: "):
            await one.run('await app.room.edit(7, "x");')
        with pytest.raises(AppError, match=r"^forbidden: #other cannot be joined: "):
            await one.run('await app.chat.join("other").ready;')
        assert await one.run("return [app.room.pending, await app.room.send('ok')]") == [[], 1]
        await one.run('app.waits = app.chat.join("r").ask("nobody", "are you there?", { silence: 100 }).whole();')
        with pytest.raises(AppError, match=r"^silent: no sign of nobody in #r within 0\.1 s, to answer message 2"):
            await one.run("await app.waits")
    async with app(project, url=server.url, token="no.such.token\n") as one:
        with pytest.raises(AppError, match=r"^unauthorized: the token does not check"):
            await one.run(WATCHED)
        assert await one.run("return app.chat.state.name") == "signed-out"
        await one.run("app.chat.signIn(argument); await app.chat.join('r').send('in');", token)


async def test_a_token_that_expires_loses_nothing(project: Path, server: Server) -> None:
    async with app(project, url=server.url, token=server.token("ann", ttl=3.0)) as one:
        await one.run(WATCHED)
        await one.until('app.chat.state.name === "signed-out"')
        await one.run('app.said = app.room.send("later");')
        assert len(await one.run("return app.room.pending")) == 1
        assert await one.run("app.chat.signIn(argument); return app.said;", server.token("ann")) == 1


async def test_workers_are_killed_and_nothing_is_lost_or_doubled(project: Path, tmp_path: Path) -> None:
    said = [f"{kind} {number}" for kind in (*KINDS, "bob") for number in range(20)]
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Server(tmp_path, *UNLIMITED, "--workers", "2", expected=[DIED]))
        bob = await stack.enter_async_context(Client(server.url, token=server.token("bob"), backoff=(0.01, 0.1)))
        apps = []
        for kind in KINDS:
            options = {"url": server.url, "token": server.token(kind), "transports": [kind]}
            apps.append(await stack.enter_async_context(app(project, **options)))
            await apps[-1].run(WATCHED)
        for one, kind in zip(apps, KINDS, strict=True):
            code = "app.said = Promise.all(argument.map((text) => app.room.send(text)));"
            await one.run(code, [f"{kind} {number}" for number in range(20)])
        for number in range(20):
            await bob.send("r", f"bob {number}")
            if number == 9:
                for pid in server.workers():
                    os.kill(pid, signal.SIGKILL)
        for one in apps:
            await one.run("await app.said")
        for one in apps:
            await one.until(f"app.seen.seqs.length >= {len(said)}")
            seen = await one.run("return app.seen")
            assert seen["seqs"] == list(range(1, len(said) + 1))
            assert sorted(seen["texts"]) == sorted(said)
            assert seen["resets"] == 0


async def test_it_changes_its_transport_and_nothing_is_lost_or_doubled(project: Path, server: Server) -> None:
    with Middlebox(server.port) as box:
        async with app(project, url=box.url, name="Ann") as one, Client(server.url, name="Bob") as bob:
            await one.run(WATCHED)

            async def goes_by(kind: str) -> None:
                await one.until(f'app.chat.state.kind === "{kind}"')
                await bob.send("r", f"by {kind}")
                await one.run("await app.room.send(argument);", f"on {kind}")

            await goes_by("websocket")
            box.websockets = "refused"
            box.cut()
            await goes_by("stream")
            box.buffers = True
            box.cut()
            await goes_by("poll")
            box.websockets, box.buffers = "passed", False
            await one.run("app.chat.hasten(true);")
            await goes_by("websocket")
            await one.until("app.seen.seqs.length >= 8")
            seen = await one.run("return app.seen")
            assert seen["seqs"] == list(range(1, 9))
            kinds = ["websocket", "stream", "poll", "websocket"]
            assert seen["texts"] == [f"{how} {kind}" for kind in kinds for how in ("by", "on")]


async def test_what_is_said_offline_is_sent_later_and_once(project: Path, server: Server) -> None:
    """Also after a reload, which ends the app's objects and not its storage."""
    async with app(project, url=server.url, token=server.token("ann")) as one:
        await one.run(WATCHED)
        assert await one.run('return app.room.send("before");') == 1
        cursor = await one.run("return app.room.cursor")
        server.kill()
        await one.until('app.chat.state.name === "waiting"')
        code = """
          const other = new app.Chat(argument), room = other.join("r");
          const said = Array.from({ length: 1001 }, () => room.send("x").catch(({ code }) => code));
          const last = await said.at(-1);
          other.close();
          return [last, await said[0]];
        """
        assert await one.run(code, {"url": server.url}) == ["overloaded", "closed"]
        await one.run(
            'app.room.send("a").catch((error) => { app.refused = error.code; }); app.room.send("b").catch(() => {});'
        )
        assert [item["text"] for item in await one.run("return app.room.pending")] == ["a", "b"]
        await one.run(
            "app.chat.close(); app.chat = new app.Chat({ ...argument, storage: app.storage });", {"url": server.url}
        )
        assert await one.run("return app.refused") == "closed"
        server.start()
        await one.run('app.room = app.chat.join("r", { after: argument }); app.seen = app.watch(app.room);', cursor)
        await one.until("app.seen.seqs.length === 2 && app.room.pending.length === 0")
        assert await one.run("return [app.chat.me.user, app.seen.texts]") == ["ann", ["a", "b"]]


async def test_who_missed_too_much_begins_with_the_newest(project: Path, server: Server) -> None:
    async with app(project, url=server.url, name="Ann") as one, Client(server.url, name="Bob") as bob:
        for number in range(12):
            await bob.send("r", str(number))
        code = "return [app.seen.seqs, app.seen.resets, app.room.more, app.room.messages.length];"
        from_start = "{ last: 2, after: { seq: 0, epoch: argument }, gap: %s }"
        joins = 'app.room = app.chat.join("r", %s); app.seen = app.watch(app.room); await app.room.ready;'
        epoch = await one.run(
            'const room = app.chat.join("r"); await room.ready; room.leave(); return room.cursor.epoch;'
        )
        await one.run(joins % (from_start % "Infinity"), epoch)
        assert await one.run(code) == [list(range(1, 13)), 0, False, 12]
        await one.run("app.room.leave();")
        await one.run(joins % (from_start % 10), epoch)
        assert await one.run(code) == [[11, 12], 1, True, 2]
        assert await one.run("return [await app.room.older(), app.room.messages.length, app.room.more]") == [
            True,
            12,
            False,
        ]


async def test_devices_are_one_person(project: Path, server: Server) -> None:
    url, token = server.url, server.token("ann")
    async with (
        app(project, url=url, token=token) as one,
        app(project, url=url, token=token) as other,
        Client(url) as bob,
    ):
        await one.run('await app.chat.follow("r"); await app.chat.invite("r", "cid");')
        await bob.send("r", "one")
        await bob.send("r", "two", mentions=["ann"])
        await other.run(
            'app.told = []; app.chat.on("own", ({ type }) => app.told.push(type)); app.room = app.chat.join("r");'
        )
        await other.until("app.chat.rooms[0]?.unread.count === 2 && app.chat.rooms[0].mentions === 1")
        await one.run('app.room = app.chat.join("r"); await app.room.ready; app.room.seen();')
        await other.until("app.chat.rooms[0].unread.count === 0 && app.room.read === 2")
        await other.run('await app.chat.unfollow("r");')
        await one.until("app.chat.rooms.length === 0")


# Messages that grow, and agents.


def reader(one: App) -> Any:
    return one.run("app.grown = ''; app.room.on('grown', ({ text }) => { app.grown = text; });")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_text_that_grows_is_the_same_for_all(project: Path, server: Server, kind: str) -> None:
    url = server.url
    async with app(project, url=url, name="Ann", transports=[kind]) as one, Client(url, name="Bob") as bob:
        await one.run(WATCHED)
        await reader(one)
        pieces = [f"{number} ä😀\n" for number in range(200)]
        async with bob.stream("r") as reply:
            for piece in pieces[:100]:
                await reply.write(piece)
            await one.until("app.grown.includes('99 ä')")
            await one.run(
                'app.other = new app.Chat(argument); app.late = app.other.join("r"); await app.late.ready;',
                {"url": url},
            )
            for piece in pieces[100:]:
                await reply.write(piece)
        text = "".join(pieces)
        for room in ("app.room", "app.late"):
            await one.until(f"{room}.message(1)?.reason && !{room}.message(1).end")
            assert await one.run(f"const {{ text, reason }} = {room}.message(1); return [text, reason]") == [
                text,
                "done",
            ]
        assert await one.run("return app.grown") == text
        await one.run("app.other.close();")


ASKED = """
  app.answer = app.room.ask("bot", "why?");
  app.pieces = [];
  app.read = (async () => { for await (const piece of app.answer) app.pieces.push(piece); })();
  app.read.catch(() => {});
"""


async def test_an_agent_is_asked(project: Path, server: Server) -> None:
    """Its answer comes in pieces; one that was cut off is given again, one that is stopped keeps what it said."""
    url, agent = server.url, server.token("bot", agent=True)
    async with app(project, url=url, token=server.token("ann")) as one, Client(url, token=agent) as bot:
        await bot.join("r")
        await one.run(WATCHED)
        await one.run(ASKED)
        await one.until("app.answer.question")
        asked = await one.run("return app.answer.question")
        async with bot.stream("r", id=f"re:{asked}", reply_to=asked) as reply:
            await reply.write("Because of ")
            await one.until("app.pieces.join('') === 'Because of '")
            seq = await one.run("return app.answer.message.seq")
            await bot.status("r", "thinking", seq=seq)
            await bot.step("r", seq, id="1", name="search", state="running")
            await one.until("app.room.doing[0]?.text === 'thinking' && app.answer.message.steps.has('1')")
            await reply.write("😀.")
        assert await one.run("return [await app.answer.whole(), app.answer.reason]") == ["Because of 😀.", "done"]
        await one.run("await app.read")
        assert await one.run("return app.pieces.join('')") == "Because of 😀."
        assert (
            await one.run("let all = ''; for await (const piece of app.answer) all += piece; return all")
            == "Because of 😀."
        )

        await one.run(ASKED)  # cut off, and given again in other words
        await one.until("app.answer.question")
        asked = await one.run("return app.answer.question")
        with suppress(asyncio.CancelledError):
            async with bot.stream("r", id=f"re:{asked}", reply_to=asked) as reply:
                await reply.write("So it was")
                await one.until("app.pieces.join('') === 'So it was'")
                raise asyncio.CancelledError
        async with bot.stream("r", id=f"re:{asked}:2", reply_to=asked) as reply:
            await reply.write("Once more.")
        assert await one.run("return [await app.answer.whole(), app.answer.message.id]") == [
            "Once more.",
            f"re:{asked}:2",
        ]
        await one.run("await app.read")
        assert await one.run("return app.pieces.join('')") == "So it was\n\nOnce more."

        await one.run(ASKED)  # stopped
        await one.until("app.answer.question")
        asked = await one.run("return app.answer.question")
        async with bot.stream("r", id=f"re:{asked}", reply_to=asked) as reply:
            await reply.write("And so on")
            await one.until("app.answer.text")
            await one.run("app.stopped = app.answer.stop();")
            while True:
                await reply.write(" and on")
                await asyncio.sleep(0.05)
        assert reply.reason == "stopped"
        await one.run("await app.stopped; await app.read;")
        told = await one.run("return [app.answer.reason, app.answer.text === app.pieces.join('')]")
        assert told == ["stopped", True]

        await one.run(ASKED)  # it fails
        await one.until("app.answer.question")
        asked = await one.run("return app.answer.question")
        with suppress(ZeroDivisionError):
            async with bot.stream("r", id=f"re:{asked}", reply_to=asked) as reply:
                await reply.write("Sorry")
                raise ZeroDivisionError
        with pytest.raises(AppError, match=f"^failed: bot could not answer message {asked} of #r$"):
            await one.run("await app.read")
        assert await one.run("return app.answer.text") == "Sorry"
