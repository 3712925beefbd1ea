"""What a client may say and what it gets, over real sockets: the tables of docs/protocol.md, line by line."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat import SECRET, Client, Running, eventually, running
from tests.support.hubs import turns
from tornado_chat.auth import mint
from tornado_chat.errors import LogUnavailable
from tornado_chat.live import flood, questions
from tornado_chat.live import session as session_module
from tornado_chat.live.session import HELD_BYTES, UNCHARGED_BYTES, Session
from tornado_chat.live.socket_line import SocketLine
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.commands import Join
from tornado_chat.wire.encodings import websocket


def bearer(user: str, **claims: Any) -> dict[str, str]:
    return {"Authorization": "Bearer " + mint(SECRET, user, ttl=claims.pop("ttl", 60), **claims)}


def sessions(here: Running, user: str) -> list[Session]:
    """Those of the user that are connected."""
    listeners = [line.listener for line in here.server.lines.open]
    return [listener for listener in listeners if isinstance(listener, Session) and listener.user == user]


async def test_welcome_tells_all_that_a_client_needs(tmp_path: Path) -> None:
    async with running(tmp_path, send_rate=7, send_burst=9, ping_interval=11.0, text_chars=50) as here:
        client = await here.connect("/ws?name=Ada")
        welcome = client.welcome
        assert welcome["type"] == "welcome"
        assert welcome["user"].startswith("guest-")
        assert welcome["name"] == "Ada"
        assert welcome["device"]
        assert welcome["epoch"] == here.server.log.epoch
        assert abs(welcome["server_time"] / 1000 - time.time()) < 60
        assert welcome["limits"] == {
            "frame_bytes": 65536,
            "text_chars": 50,
            "send_rate": 7,
            "send_burst": 9,
            "stream_chars": 262_144,
        }
        assert welcome["ping_interval"] == 11.0
        again = await here.connect(f"/ws?token={welcome['token']}")
        assert again.welcome["user"] == welcome["user"]
        assert again.welcome["name"] == "Ada"
        assert again.welcome["token"]
        signed = await here.connect(headers=bearer("alice", name="Alice", device="phone"))
        assert {key: signed.welcome[key] for key in ("user", "name", "device")} == {
            "user": "alice",
            "name": "Alice",
            "device": "phone",
        }
        assert "token" not in signed.welcome


async def test_join_send_ack_and_message(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        client = await here.join("lobby")
        assert client.joined == {
            "type": "joined",
            "id": "ask 0",
            "room": "lobby",
            "head": 0,
            "cursor": 0,
            "read": 0,
            "epoch": here.server.log.epoch,
        }
        await client.send(type="send", room="lobby", text="hi", id="a", reply_to=9, meta={"x": [1, None]})
        got = [await client.receive(), await client.receive()]
        ack = next(data for data in got if data["type"] == "ack")
        message = next(data for data in got if data["type"] == "message")
        assert ack == {"type": "ack", "id": "a", "room": "lobby", "seq": 1, "ts": message["ts"]}
        assert message == {
            "type": "message",
            "room": "lobby",
            "seq": 1,
            "n": 1,
            "user": client.welcome["user"],
            "name": client.welcome["name"],
            "text": "hi",
            "ts": ack["ts"],
            "id": "a",
            "reply_to": 9,
            "meta": {"x": [1, None]},
        }
        await client.send(type="send", room="lobby", text="without an id")
        second = await client.receive()
        assert second["type"] == "message"
        assert second["seq"] == 2
        assert "id" not in second


async def test_histories_beyond_the_memory_for_outboxes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as here:
        client = await here.connect()
        for _ in range(3):
            await client.ask(type="send", room="r", text="x" * 8000)
        monkeypatch.setattr(questions, "UNREAD_BYTES", 20_000)
        refused = await client.ask(type="history", room="r")
        assert (refused["code"], refused["retry_after"]) == ("overloaded", 5.0)
        assert len((await client.ask(type="history", room="r", limit=2))["messages"]) == 2
        with monkeypatch.context() as full:
            full.setattr(here.server.lines, "outbox_bytes", 20_001)
            full.setattr(here.server.log, "history", None)
            assert (await client.ask(type="history", room="r", limit=1))["code"] == "overloaded"
        assert (await client.ask(type="history", room="r", limit=1))["type"] == "history"


async def test_devices_of_a_user_that_wait_as_told_stay(tmp_path: Path) -> None:
    """They share one limit: each is refused about as often as it is let in, and more often than a flood may be."""
    async with running(tmp_path, send_rate=100, send_burst=20) as here:
        devices = [await here.connect(headers=bearer("alice")) for _ in range(5)]

        async def send(device: Client, count: int) -> int:
            refusals = 0
            while count:
                answer = await device.ask(type="send", room="r", text="x")
                if answer["type"] == "ack":
                    count -= 1
                else:
                    refusals += 1
                    await asyncio.sleep(answer["retry_after"])
            return refusals

        refusals = await asyncio.gather(*(send(device, 100) for device in devices))
        assert max(refusals) <= 200


async def test_a_sender_need_not_have_joined(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        client = await here.connect()
        assert (await client.ask(type="send", room="lobby", text="hi"))["seq"] == 1
        assert not here.server.hub.rooms


async def test_a_resend_gets_the_first_seq_and_is_not_delivered(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        watcher = await here.join("lobby")
        client = await here.connect()
        first = await client.ask(type="send", room="lobby", text="once", id="x")
        again = await client.ask(type="send", room="lobby", text="other words", id="x")
        assert again == first | {"duplicate": True}
        for kind in ({"type": "edit", "seq": 999, "text": "y"}, {"type": "delete", "seq": 999}):
            assert (await client.ask(room="lobby", id="x", **kind))["seq"] == first["seq"]
        for _ in range(50):
            await client.send(type="send", room="lobby", text="twin", id="twin")
        acks = [await client.until("ack") for _ in range(50)]
        assert {ack["seq"] for ack in acks} == {2}
        assert sum("duplicate" not in ack for ack in acks) == 1
        other = await here.connect()
        assert (await other.ask(type="send", room="lobby", text="mine", id="x"))["seq"] == 3
        assert [event["text"] for event in await watcher.collect(3)] == ["once", "twin", "mine"]


async def test_edit_delete_react_and_history(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        alice = await here.connect(headers=bearer("alice"))
        bob = await here.join("r")
        await alice.ask(type="send", room="r", text="first", meta={"k": 1})
        await alice.ask(type="send", room="r", text="second", id="s")
        edited = await alice.ask(type="edit", room="r", seq=1, text="first, mended", id="e")
        assert edited["type"] == "ack"
        assert edited["seq"] == 3
        assert (await bob.ask(type="react", room="r", seq=1, emoji="👍", on=True, id="r1"))["seq"] == 4
        assert (await bob.ask(type="react", room="r", seq=1, emoji="👍", on=True, id="r2"))["seq"] == 5
        for command in ({"type": "edit", "text": "x"}, {"type": "delete"}):
            assert (await bob.ask(room="r", seq=1, **command))["code"] == "forbidden"
            assert (await alice.ask(room="r", seq=3, **command))["code"] == "not_found"
            assert (await alice.ask(room="r", seq=77, **command))["code"] == "not_found"
        assert (await bob.ask(type="react", room="r", seq=77, emoji="x", on=True))["code"] == "not_found"
        history = await bob.ask(type="history", room="r")
        assert history["more"] is False
        first, second = history["messages"]
        assert first["text"] == "first, mended"
        assert first["edited"] == edited["ts"]
        assert first["reactions"] == {"👍": [bob.welcome["user"]]}
        sent = {"type": "message", "room": "r", "seq": 2, "n": 2, "user": "alice", "name": "alice", "text": "second"}
        assert second == sent | {"ts": second["ts"], "id": "s"}
        assert (await bob.ask(type="react", room="r", seq=1, emoji="👍", on=False, id="r3"))["type"] == "ack"
        assert (await alice.ask(type="delete", room="r", seq=1, id="d"))["seq"] == 7
        gone: tuple[dict[str, Any], ...] = (
            {"type": "edit", "text": "x"},
            {"type": "delete"},
            {"type": "react", "emoji": "x", "on": True},
        )
        for command in gone:
            assert (await alice.ask(room="r", seq=1, **command))["code"] == "not_found"
        first = (await bob.ask(type="history", room="r", before=2))["messages"][0]
        assert first["deleted"] is True
        assert "text" not in first
        page = await bob.ask(type="history", room="r", limit=1)
        assert [message["seq"] for message in page["messages"]] == [2]
        assert page["more"] is True
        late = await here.join("r", after=0)
        replayed = await (await here.connect("/ws/r?after=0")).collect(7)
        assert [event["type"] for event in replayed] == [
            "message", "message", "edited", "reacted", "reacted", "reacted", "deleted",
        ]  # fmt: skip
        assert replayed[0]["deleted"] is True
        assert "text" not in replayed[0]
        assert "meta" not in replayed[0]
        assert replayed[2]["deleted"] is True
        assert "text" not in replayed[2]
        assert late.joined["head"] == 7


@pytest.mark.parametrize(
    ("asked", "cursor", "seqs", "at_six"),
    [
        ({}, 5, [], 6),
        ({"after": 0}, 0, [1, 2, 3, 4, 5], 0),
        ({"after": 3}, 3, [4, 5], 3),
        ({"after": 5}, 5, [], 5),
        ({"after": 99}, 5, [], 6),
        ({"last": 0}, 5, [], 6),
        ({"last": 2}, 3, [4, 5], 4),
        ({"last": 500}, 0, [1, 2, 3, 4, 5], 0),
    ],
)
async def test_cursors(tmp_path: Path, asked: dict[str, int], cursor: int, seqs: list[int], at_six: int) -> None:
    """By `join`, and by the address: one event later, when the cursor is `at_six`."""
    async with running(tmp_path) as here:
        client = await here.connect()
        for number in range(1, 6):
            await client.ask(type="send", room="r", text=str(number))
        joined = await client.ask(type="join", room="r", **asked)
        assert joined["cursor"] == cursor
        assert joined["head"] == 5
        got = []
        while (data := await client.receive())["type"] != "synced":
            got.append(data["seq"])
        assert got == seqs
        assert data == {"type": "synced", "room": "r", "seq": 5}
        await client.send(type="send", room="r", text="live")
        assert (await client.receive())["seq"] == 6
        query = "&".join(f"{key}={value}" for key, value in asked.items())
        direct = await here.connect(f"/ws/r?{query}")
        assert (await direct.until("joined"))["cursor"] == at_six


async def test_joining_again_starts_over_from_the_new_cursor(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        client = await here.join("r")
        for number in range(1, 4):
            await client.ask(type="send", room="r", text=str(number))
        await client.ask(type="join", room="r", after=1)
        assert [event["seq"] for event in await client.collect(3)] == [2, 3]
        await client.until("synced")
        await client.send(type="send", room="r", text="4")
        assert [event["seq"] for event in await client.collect(4)] == [4]
        assert here.server.hub.rooms["r"].size() == 1


async def test_commands_take_effect_in_the_order_sent(tmp_path: Path) -> None:
    """A send after a join is delivered to the joiner; a join after a send counts it; left comes after the acks."""
    async with running(tmp_path) as here:
        for _ in range(20):
            client = await here.connect()
            await client.send(type="join", room="r", id="j")
            await client.send(type="send", room="r", text="x", id="s")
            await client.send(type="history", room="r", id="h", limit=1)
            await client.send(type="leave", room="r", id="l")
            await client.send(type="join", room="r", id="j2", last=1)
            got: list[Any] = []
            while not got or got[-1]["type"] != "synced" or len([g for g in got if g["type"] == "synced"]) < 2:
                got.append(await client.receive())
            kinds = [data.get("id") or data["type"] for data in got]
            seq = next(data["seq"] for data in got if data["type"] == "ack")
            left = kinds.index("l")
            assert kinds.index("j") < kinds.index("s") < kinds.index("h") < left < kinds.index("j2")
            assert [data["seq"] for data in got[:left] if data["type"] == "message"] == [seq]
            assert next(data for data in got if data.get("id") == "h")["messages"][0]["seq"] == seq
            assert next(data for data in got if data.get("id") == "j2")["head"] == seq
            assert [data["seq"] for data in got[left:] if data["type"] == "message"] == [seq]


async def test_many_commands_at_once_are_all_answered_in_order(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        client = await here.join("r")
        total = 3000
        for number in range(total):
            await client.send(type="send", room="r", text="x", id=str(number))
        acks: list[Any] = []
        seqs: list[int] = []
        while len(acks) < total or len(seqs) < total:
            data = await client.receive()
            assert data["type"] in ("ack", "message"), data
            (acks if data["type"] == "ack" else seqs).append(data["id"] if data["type"] == "ack" else data["seq"])
        assert acks == [str(number) for number in range(total)]
        assert seqs == list(range(1, total + 1))


async def test_read_marks(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        alice = await here.connect(headers=bearer("alice", name="Alice"))
        bob = await here.join("r")
        for number in range(3):
            await alice.ask(type="send", room="r", text=str(number), mark=False)
        await bob.collect(3)
        await alice.send(type="read", room="r", seq=2)
        assert await bob.receive() == {"type": "read", "room": "r", "user": "alice", "name": "Alice", "seq": 2}
        ack = await alice.ask(type="read", room="r", seq=1)
        assert ack["type"] == "ack"
        assert "seq" not in ack
        assert (await alice.ask(type="join", room="r"))["read"] == 2
        await alice.ask(type="read", room="r", seq=999)
        assert (await bob.until("read"))["seq"] == 3
        assert (await alice.ask(type="join", room="r"))["read"] == 3
        assert (await bob.ask(type="join", room="r"))["read"] == 0


@pytest.mark.logs("log unavailable")
async def test_only_a_guest_that_was_just_made_joins_without_a_look_at_its_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(wanted: object) -> dict[tuple[str, str], int]:
        raise LogUnavailable("of the test")

    async with running(tmp_path) as here:
        guest = await here.join("r")
        for number in range(3):
            await guest.ask(type="send", room="r", text=str(number), mark=False)
        await guest.ask(type="read", room="r", seq=2)
        back = await here.connect(f"/ws/r?token={guest.welcome['token']}")
        assert (await back.until("joined"))["read"] == 2
        monkeypatch.setattr(here.server.hub.marks, "query", unavailable)
        new = await here.connect("/ws/r?last=2")
        joined = await new.receive()
        assert (joined["type"], joined["head"], joined["cursor"], joined["read"]) == ("joined", 3, 1, 0)
        assert [(await new.receive())["seq"] for _ in range(2)] == [2, 3]
        assert await new.receive() == {"type": "synced", "room": "r", "seq": 3}
        for known in (f"token={guest.welcome['token']}", f"token={mint(SECRET, 'alice', ttl=60)}"):
            assert (await (await here.connect(f"/ws/r?{known}")).receive())["code"] == "unavailable"
        assert (await new.ask(type="join", room="r"))["code"] == "unavailable", "another line of it may have moved it"
        assert here.server.hub.rooms["r"].size() == 3


@pytest.mark.parametrize("others", [True, False], ids=["open room", "new room"])
async def test_a_connection_that_ends_at_any_turn_of_a_join_leaves_nothing(tmp_path: Path, others: bool) -> None:
    async with running(tmp_path) as here:
        hub, ended = here.server.hub, set()
        if others:
            host = await here.join("r")
            await host.ask(type="send", room="r", text="one")
        for count in range(25):
            client = await here.connect(headers=bearer("alice"))
            (session,) = sessions(here, "alice")
            session.take(Join(room="r", after=0), 20)
            await turns(count)
            ended.add(bool(session.members))
            assert isinstance(session.line, SocketLine)
            session.line.abort(1006)
            await client.receive()
            await eventually(lambda: hub.rooms.keys() == ({"r"} if others else set()))
            await eventually(lambda: not hub.rooms or not hub.rooms["r"].holds)
            await turns(10)
            assert not session.members
            assert not session.unfinished
            assert session.address.rooms == ({"r": 1} if others else {})
        if others:
            room = hub.rooms["r"]
            assert (room.size(), room.holds, len(room.users)) == (1, 0, 1)
        assert False in ended


async def test_what_comes_after_a_join_waits_for_the_look_at_its_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as here:
        alice = await here.connect(headers=bearer("alice"))
        await alice.ask(type="join", room="r")
        await alice.until("synced")
        marks, query = here.server.hub.marks, here.server.hub.marks.query
        asked = asyncio.Event()
        gate = asyncio.Event()

        async def later(wanted: Any) -> dict[tuple[str, str], int]:
            asked.set()
            await gate.wait()
            return await query(wanted)

        monkeypatch.setattr(marks, "query", later)
        await alice.send(type="send", room="r", text="one", id="1")
        await alice.send(type="join", room="r", after=0, id="2")
        await alice.send(type="send", room="r", text="two", id="3")
        await alice.send(type="ping", id="4")
        await asked.wait()
        assert [(await alice.receive())["type"] for _ in range(2)] == ["ack", "message"]
        gate.set()
        found = [await alice.receive() for _ in range(6)]
        assert [one["type"] for one in found[:3]] == ["joined", "message", "synced"]
        assert found[0]["head"] == 1
        assert sorted(one["type"] for one in found[3:]) == ["ack", "message", "pong"]


@pytest.mark.logs("command failed")
async def test_a_join_that_fails_in_the_handshake_closes_with_1011_and_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as here:
        await here.join("r")
        monkeypatch.setattr(here.server.hub, "admit_at_once", None)
        client = await here.connect("/ws/r")
        assert await client.receive() is None
        assert client.socket.close_code == 1011


async def test_typing_is_told_to_the_others_and_lapses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tornado_chat.live.room_signals.LASTING_SECONDS", 1.2)
    async with running(tmp_path) as here:
        alice = await here.join("r", f"/ws?token={mint(SECRET, 'alice', name='Alice', ttl=60)}")
        bob = await here.join("r")
        await alice.send(type="typing", room="r", on=True)
        signal = {"type": "typing", "room": "r", "user": "alice", "name": "Alice"}
        assert await bob.receive() == signal | {"on": True}
        assert await bob.receive() == signal | {"on": False}
        await alice.send(type="typing", room="r", on=True)
        assert await bob.receive() == signal | {"on": True}
        await alice.send(type="typing", room="r", on=False)
        assert await bob.receive() == signal | {"on": False}
        await alice.send(type="typing", room="r", on=True)
        assert await bob.receive() == signal | {"on": True}
        assert (await alice.ask(type="ping", id="p")) == {"type": "pong", "id": "p"}, "no typing of one's own before it"
        await alice.close()
        assert await bob.receive() == signal | {"on": False}
        await eventually(lambda: not here.server.hub.rooms["r"].signals.lasting)


async def test_leave_ping_and_presence(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        alice = await here.join("r", f"/ws?token={mint(SECRET, 'alice', name='Alice', ttl=60)}")
        await here.join("r", f"/ws?token={mint(SECRET, 'alice', name='Alice', ttl=60)}")
        bob = await here.join("r", "/ws?name=Bob")
        present = await bob.ask(type="presence", room="r")
        assert present["count"] == 2
        assert {"user": "alice", "name": "Alice"} in present["users"]
        assert await alice.ask(type="leave", room="r", id="l") == {"type": "left", "id": "l", "room": "r"}
        assert await alice.ask(type="leave", room="r", id="l") == {"type": "left", "id": "l", "room": "r"}
        await bob.ask(type="send", room="r", text="after")
        assert await alice.ask(type="ping", id="p") == {"type": "pong", "id": "p"}
        await alice.send(type="ping")
        assert await alice.receive() == {"type": "pong"}


async def test_rooms_of_a_token_are_the_only_ones_to_enter(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        client = await here.connect(headers=bearer("alice", rooms=["team-*", "lobby"]))
        for command in (
            {"type": "join"},
            {"type": "send", "text": "x"},
            {"type": "edit", "seq": 1, "text": "x"},
            {"type": "delete", "seq": 1},
            {"type": "react", "seq": 1, "emoji": "x", "on": True},
            {"type": "history"},
            {"type": "read", "seq": 1},
            {"type": "typing", "on": True},
            {"type": "status", "text": "x"},
            {"type": "step", "seq": 1, "step": {"id": "s", "name": "x", "state": "done"}},
            {"type": "presence"},
        ):
            await client.send(room="secret", **command)
            assert (await client.until("error"))["code"] == "forbidden", command
        assert (await client.ask(type="join", room="team-1"))["type"] == "joined"
        assert (await client.ask(type="join", room="lobby"))["type"] == "joined"
        direct = await here.connect("/ws/secret", headers=bearer("alice", rooms=["team-*"]))
        assert (await direct.receive())["code"] == "forbidden"


async def test_send_rate_is_a_users_over_all_connections(tmp_path: Path) -> None:
    async with running(tmp_path, send_rate=5, send_burst=3) as here:
        one = await here.connect(headers=bearer("alice"))
        two = await here.connect(headers=bearer("alice"))
        other = await here.connect(headers=bearer("bob"))
        answers = [
            await client.ask(type="send", room="r", text="x", id=key)
            for key, client in zip("abcd", (one, two) * 2, strict=True)
        ]
        assert [answer["type"] for answer in answers] == ["ack", "ack", "ack", "error"]
        assert answers[3]["code"] == "rate_limited"
        assert 0 < answers[3]["retry_after"] <= 0.2
        assert (await other.ask(type="send", room="r", text="x"))["type"] == "ack"
        await asyncio.sleep(answers[3]["retry_after"])  # what the server asked for
        assert (await one.ask(type="send", room="r", text="x", id="later"))["type"] == "ack"


async def test_who_keeps_flooding_is_cut_off(tmp_path: Path) -> None:
    async with running(tmp_path, send_rate=1, send_burst=1) as here:
        client = await here.connect()
        for number in range(flood.UNHEARD + int(flood.BURST) + 50):
            await client.send(type="send", room="r", text="x", id=str(number))
        while await client.receive() is not None:
            pass
        assert client.socket.close_code == 1008


async def test_join_rate(tmp_path: Path) -> None:
    async with running(tmp_path, join_rate=2) as here:
        client = await here.connect()
        answers = [await client.ask(type="join", room=f"r{number}", id=f"j{number}") for number in range(5)]
        assert [answer["type"] for answer in answers] == ["joined"] * 4 + ["error"]
        assert answers[4]["code"] == "rate_limited"
        assert answers[4]["retry_after"] > 0


async def test_rooms_of_a_connection_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "ROOMS", 3)
    async with running(tmp_path) as here:
        client = await here.connect()
        for number in range(3):
            assert (await client.ask(type="join", room=f"r{number}"))["type"] == "joined"
        assert (await client.ask(type="join", room="r3"))["code"] == "too_large"
        assert (await client.ask(type="join", room="r0"))["type"] == "joined"
        await client.ask(type="leave", room="r1")
        assert (await client.ask(type="join", room="r3"))["type"] == "joined"


async def test_msgpack(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        packed = await here.connect(protocols=["unknown", "chat.v1.msgpack", "chat.v1.json"])
        assert packed.codec == "chat.v1.msgpack"
        await packed.ask(type="join", room="r")
        await packed.until("synced")
        plain = await here.join("r")
        await plain.ask(type="send", room="r", text="für alle", id="x")
        message = await packed.until("message")
        assert message["text"] == "für alle"
        assert message == await (await here.connect("/ws/r?last=1")).until("message")


@pytest.mark.parametrize("protocol", ["chat.v1.json", "chat.v1.msgpack"])
async def test_the_wrong_frame_type_closes_with_1003(tmp_path: Path, protocol: str) -> None:
    async with running(tmp_path) as here:
        client = await here.connect(protocols=[protocol])
        await client.socket.write_message("{}", binary=protocol == "chat.v1.json")
        assert await client.receive() is None
        assert client.socket.close_code == 1003


async def test_an_expired_token_closes_with_4001(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        client = await here.connect(headers=bearer("alice", ttl=1.0))
        assert await client.receive() is None
        assert client.socket.close_code == 4001


async def test_compressed_and_plain_members_get_the_same(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        deflated = await here.connect(compression_options={})
        await deflated.ask(type="join", room="r")
        plain = await here.join("r")
        text = "a long text, " * 100
        await plain.send(type="send", room="r", text=text)
        assert await deflated.until("message") == await plain.until("message")
        assert set(here.server.hub.rooms["r"].groups) == {websocket(JSON), websocket(JSON, 15)}


async def test_one_room_for_many_users_shrinks_to_nothing(tmp_path: Path) -> None:
    """`running` checks at its end that no room, ring, connection or task is left."""
    async with running(tmp_path, send_rate=1000) as here:
        clients: list[Client] = [await here.join(f"r{number % 5}") for number in range(30)]
        for number, client in enumerate(clients):
            await client.ask(type="send", room=f"r{number % 5}", text="x")
        assert len(here.server.limits.users.accounts) == 30
        for client in clients:
            await client.close()
        await eventually(lambda: not here.server.limits.users.accounts)
        await eventually(lambda: not here.server.limits.addresses.accounts)


@pytest.mark.logs("command failed")
async def test_a_failing_command_closes_with_1011_and_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("of the test")

    async with running(tmp_path) as here:
        client = await here.connect()
        monkeypatch.setattr(here.server.log, "history", broken)
        await client.send(type="history", room="r")
        assert await client.receive() is None
        assert client.socket.close_code == 1011


async def test_pipelined_histories_do_not_pass_the_high_water_mark(tmp_path: Path) -> None:
    """Answers wait until the client has read those before: one answer beyond the mark, not 64."""
    async with running(tmp_path, high_water_mark=65536) as here:
        client = await here.connect()
        for number in range(40):
            await client.ask(type="send", room="r", text=f"{number:08000d}")
        for number in range(60):
            await client.send(type="history", room="r", id=f"h{number}", limit=200)
        connection = next(iter(here.server.lines.open))
        await eventually(lambda: connection.outbox_bytes > 65536)
        other = await here.connect()
        for _ in range(60):  # as many as the first client's would take
            await other.ask(type="history", room="r", limit=200)
        assert connection.outbox_bytes < 65536 + 2 * 40 * 8300
        for number in range(60):
            answer = await client.until("history")
            assert answer["id"] == f"h{number}"
            assert len(answer["messages"]) == 40


async def test_a_client_is_read_again_when_half_of_what_it_has_waiting_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after each command: a few large ones are as much to hold as many small ones."""
    answers = asyncio.Semaphore(0)
    async with running(tmp_path) as here:
        history = here.server.log.history

        async def slow(*args: Any, **options: Any) -> Any:
            await answers.acquire()
            return await history(*args, **options)

        monkeypatch.setattr(here.server.log, "history", slow)
        client = await here.connect()
        line = next(iter(here.server.lines.open))
        session = line.listener
        assert isinstance(session, Session)
        for _ in range(9):  # one is asked, and the others wait for it
            await client.send(type="history", room="r", padding="x" * (HELD_BYTES // 8))
        await client.send(type="ping", id="last")
        await eventually(lambda: session.held_bytes > HELD_BYTES)
        waiting = []
        while line.reading_paused:
            waiting.append(session.held_bytes)
            answers.release()
            await client.until("history")
        assert len(waiting) > 1
        assert min(waiting) > HELD_BYTES // 2 >= session.held_bytes
        for _ in range(9):
            answers.release()
        await client.until("pong", id="last")
        assert session.held_bytes == 0


async def test_what_came_is_charged_at_the_close_at_the_latest(tmp_path: Path) -> None:
    """Else whoever comes back again and again sends for nothing."""
    size = UNCHARGED_BYTES - 1024
    async with running(tmp_path, send_rate=1) as here:
        client = await here.connect(headers=bearer("alice"))
        user = here.server.limits.users.accounts["alice"]
        (address,) = here.server.limits.addresses.accounts.values()
        await client.ask(type="ping", padding="x" * size)
        assert (user.bytes, address.bytes) == (None, None), "too little to be charged while it is open"
        await client.close()
        await eventually(lambda: not here.server.lines.open)
        for account in (user, address):
            assert size < account.byte_count <= UNCHARGED_BYTES
            assert account.bytes is not None
            assert account.bytes.tokens == account.bytes.burst - account.byte_count
