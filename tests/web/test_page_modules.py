"""The page's modules by themselves: rooms, outbox, waits, links, streams, who holds requests open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.support.chromium import Person
from tests.support.servers import Server

pytest_plugins = ["tests.support.chromium_fixtures"]


def run(page: Page, url: str, script: str) -> Any:
    """Run a script with the page's own modules at hand, as `m`."""
    engine = ["room", "outbox", "retry", "engine", "sse", "holders", "commands", "network"]
    names = [f"client/{name}" for name in engine] + ["format", "composer"]
    return page.evaluate(
        f"""async () => {{
          const m = {{}};
          for (const name of {names}) Object.assign(m, await import(`{url}/static/${{name}}.js`));
          {script}
        }}"""
    )


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    anna = Person(browser, server.url, "")
    yield anna.page
    anna.leave()


ROOM = """
  const room = new m.Room("lobby");
  const message = (seq, text, more) => (
    { type: "message", room: "lobby", seq, user: "u", name: "U", text, ts: seq, ...more }
  );
  const texts = () => room.messages.map(({ text }) => text).join();
"""


def test_a_room_takes_each_event_once(page: Page, server: Server) -> None:
    got = run(
        page,
        server.url,
        ROOM
        + """
        const asked = room.joinFrom;
        room.joined({ head: 12, cursor: 10, read: 0, epoch: "a" }, asked);
        const took = [11, 12, 12, 11, 14, 13, 14].map((seq) => room.event(message(seq, `t${seq}`)));
        return [asked, took, texts(), room.joinFrom, room.more, room.oldest];
        """,
    )
    assert got == [
        {"last": 60},
        ["new", "new", "known", "known", "missing", "new", "new"],
        "t11,t12,t13,t14",
        {"after": 14},
        True,
        11,
    ]


def test_an_event_of_a_later_kind_counts_and_is_not_shown(page: Page, server: Server) -> None:
    got = run(
        page,
        server.url,
        ROOM
        + """
        let on;
        const chat = new m.Engine({
          store: { get: (key, fallback) => fallback, set: () => true },
          connect: (callbacks) => { on = callbacks; return { live: false, send: () => {} }; },
          on: { changed: () => {}, notice: () => {} },
        });
        const lobby = chat.enter("lobby");
        lobby.joined({ head: 3, cursor: 0, read: 0, epoch: "a" }, lobby.joinFrom);
        lobby.member = true;
        on.frame(message(1, "t1"));
        on.frame({ type: "glanced", room: "lobby", user: "u", name: "U", seq: 9 });
        on.frame({ type: "pinned", room: "lobby", seq: 2, user: "u", ts: 2, target: 1 });
        on.frame(message(3, "t3"));
        return [lobby.cursor, lobby.messages.map(({ text }) => text), lobby.messages[0].reactions.size];
        """,
    )
    assert got == [3, ["t1", "t3"], 0]


def test_a_room_of_another_epoch_is_forgotten(page: Page, server: Server) -> None:
    got = run(
        page,
        server.url,
        ROOM
        + """
        const held = (cursor, frame) => {
          room.joined({ head: 5, cursor: 0, read: 3, epoch: "a" }, { last: 60 });
          for (let seq = 1; seq <= 5; seq++) room.event(message(seq, `t${seq}`));
          const kept = room.joined({ read: 3, ...frame }, room.joinFrom);
          const result = [kept, texts(), room.joinFrom];
          room.cursor = null;
          return result;
        };
        return [
          held(5, { head: 9, cursor: 5, epoch: "a" }),
          held(5, { head: 9, cursor: 5, epoch: "b" }),
          held(5, { head: 2, cursor: 2, epoch: "a" }),
          held(5, { head: 9999, cursor: 5, epoch: "a" }),
        ];
        """,
    )
    everything, nothing = "t1,t2,t3,t4,t5", ""
    assert got == [
        [True, everything, {"after": 5}],
        [False, nothing, {"last": 60}],
        [False, nothing, {"last": 60}],  # the cursor was above the head: a log that lost its end
        [False, nothing, {"last": 60}],  # too much to have been missed: begin with the newest
    ]


def test_a_history_that_is_older_than_the_events_after_it(page: Page, server: Server) -> None:
    """An edit that came between the question and the answer must not be undone by the answer."""
    got = run(
        page,
        server.url,
        ROOM
        + """
        room.joined({ head: 3, cursor: 3, read: 0, epoch: "a" }, { last: 60 });
        room.awaits();
        room.event({ type: "edited", seq: 4, target: 1, user: "u", text: "new", ts: 40 });
        room.event({ type: "reacted", seq: 5, target: 2, user: "v", emoji: "x", on: false, ts: 50 });
        room.event({ type: "deleted", seq: 6, target: 3, user: "u", ts: 60 });
        const reactions = { x: ["v", "w"], y: ["v"] };
        const page = [message(1, "old"), message(2, "t2", { reactions }), message(3, "t3")];
        room.history({ messages: page, more: true }, { before: 4 });
        room.awaits();
        room.history({ messages: [message(1, "stale")], more: true }, { before: 4 }); // no longer what stands above
        const [, two] = room.messages;
        const left = [...two.reactions].map(([emoji, users]) => [emoji, ...users]);
        return [texts(), room.messages[0].edited, left, room.messages[2].deleted];
        """,
    )
    assert got == ["new,t2,", 40, [["x", "w"], ["y", "v"]], True]


def test_the_outbox_sends_as_one_user_and_in_order(page: Page, server: Server) -> None:
    got = run(
        page,
        server.url,
        """
        const kept = {};
        const set = (key, value) => { kept[key] = structuredClone(value); return true; };
        const store = { get: (key, other) => kept[key] ?? other, set };
        let box = new m.Outbox(store);
        box.add({ type: "send", text: "a" });
        box.add({ type: "send", text: "b" });
        const first = box.next("ann");
        box = new m.Outbox(store); // a reload
        const again = box.next("ann");
        const other = box.next("bob"); // the first may have arrived as ann's: only a person may send it again
        const unsure = box.unsure(box.items[0], "bob");
        box.refuse(other, "no");
        const same = [again, box.next("ann")].map(({ id }) => id === first.id);
        return [same, other.command.text, unsure, box.next("bob"), new Set(Array.from({ length: 99 }, m.newId)).size];
        """,
    )
    assert got == [[True, True], "b", True, None, 99]


def test_waits_names_and_limits(page: Page, server: Server) -> None:
    got = run(
        page,
        server.url,
        """
        return {
          waits: [0, 1, 3, 20].map((attempt) => m.backoff(attempt, () => 1)),
          none: m.backoff(9, () => 0),
          closes: ["retry_after_ms=1500", "going: retry_after_ms=20", "", "retry_after_ms=x"].map(m.closeAsks),
          headers: [["2"], ["0"], ["Wed, 21 Oct 2026 07:28:00 GMT"], []].map((said) => (
            m.headerAsks(new Headers(said.map((value) => ["Retry-After", value])))
          )),
          errors: [{ retry_after: 2 }, { retry_after: 0 }, {}].map((error) => m.errorAsks(error, () => 1)),
          blank: ["", " \\u3000", "\\u2800", "\\u3164\\u0301", "\\u{e0041}", "a", "\\u2800.", "😀"].map(m.isBlank),
          called: [["guest-1", "A".repeat(64)], ["ann", "Ann"], ["ann", "\\u2800"]].map(([user, name]) => (
            m.called({ user, name })
          )),
          rooms: ["Lobby", "#a b", "a".repeat(65), "-a", "ü", ""].map(m.roomName),
          clean: m.cleaned(" a\\0b\\ud800 "),
          long: ["ab", "😀😀", "abc"].map((text) => m.tooLong(text, { text_chars: 2, frame_bytes: 65536 }) === null),
        };
        """,
    )
    assert got == {
        "waits": [500, 1000, 4000, 30000],
        "none": 0,
        "closes": [1500, 20, None, None],
        "headers": [2000, None, None, None],
        "errors": [2500, 0, None],
        "blank": [True, True, True, True, True, False, False, False],
        "called": ["A" * 23 + "… (guest)", "Ann", "ann"],
        "rooms": ["lobby", "a-b", None, None, None, None],
        "clean": "ab\ufffd",
        "long": [True, True, False],
    }


def test_server_sent_events_in_every_cut(page: Page, server: Server) -> None:
    got = run(
        page,
        server.url,
        """
        const text = [
          "retry: 9\\ndata: one\\n\\n", ": a comment\\n", "event: ping\\ndata: {}\\n\\n", "id: e.1\\ndata:two\\n\\n",
          "data: a\\r\\ndata:  b\\r\\n\\r\\n", "data\\rdata: c\\r\\r", "event: none\\n\\n", "id: e.2\\n\\n",
          "data: ö😀\\n\\n", "data: cut off\\n",
        ].join("");
        const read = (size) => {
          const events = new m.EventStream();
          const found = [];
          for (let at = 0; at < text.length; at += size) found.push(...events.feed(text.slice(at, at + size)));
          return JSON.stringify(found.map(({ type, data }) => [type, data]));
        };
        const all = new Set(Array.from({ length: text.length }, (_, size) => read(size + 1)));
        return [all.size, JSON.parse([...all][0])];
        """,
    )
    words = ["one", "two", "a\n b", "\nc", "ö😀"]
    events = [["message", word] for word in words]
    assert got == [1, [events[0], ["ping", "{}"], *events[1:]]]


def test_four_tabs_hold_requests_open(page: Page, server: Server) -> None:
    got = run(
        page,
        server.url,
        """
        const kept = {};
        const get = (key, other) => structuredClone(kept[key] ?? other);
        const store = { get, set: (key, value) => { kept[key] = value; return true; } };
        const tabs = Array.from({ length: 6 }, () => new m.Holders(store, new URL(location.href)));
        const first = tabs.map((tab) => tab.take());
        const again = tabs[0].take();
        tabs[1].release();
        const free = [tabs[5].take(), tabs[4].take()];
        for (const id of Object.keys(kept.holders)) kept.holders[id] = Date.now() - 1; // tabs that crashed
        const lapsed = tabs[4].take();
        kept.holders = { far: Date.now() + 1e12 }; // written while the clock was wrong
        const clock = tabs[0].take();
        for (const tab of tabs) tab.release();
        return [first, again, free, lapsed, clock, Object.keys(kept.holders)];
        """,
    )
    assert got == [[True] * 4 + [False] * 2, True, [True, False], True, True, []]


def test_commands_that_wait_for_a_request(page: Page, server: Server) -> None:
    """In order, 64 at once; what is said again while it waits does not wait twice."""
    got = run(
        page,
        server.url,
        """
        const batches = [];
        const frames = [];
        let answer;
        const ask = (path, batch) => {
          batches.push(structuredClone(batch));
          const answers = batch.map(({ id }) => (id ? { type: "ack", id } : null));
          return new Promise((resolve) => { answer = () => resolve(answers); });
        };
        const on = { frame: ({ id }) => frames.push(id), ended: () => {} };
        const commands = new m.Commands({ requests: { ask }, on });
        commands.send({ type: "send", room: "a", id: "0" });
        for (let number = 0; number < 1000; number++) {
          commands.send({ type: "send", room: "a", id: "0" }); // on its way already
          commands.send({ type: "typing", room: "a", on: number % 2 === 0 });
          commands.send({ type: "read", room: number % 2 ? "a" : "b", seq: number });
        }
        for (let number = 1; number <= 70; number++) commands.send({ type: "history", room: "a", id: String(number) });
        while (frames.length < 71) {
          answer();
          await new Promise((resolve) => setTimeout(resolve));
        }
        const [first, second, third] = batches;
        const said = second.slice(0, 3).map(({ type, room, on, seq }) => [type, room, on ?? seq]);
        const inOrder = frames.every((id, at) => id === String(at));
        return [first.length, second.length, third.length, batches.length, said, inOrder];
        """,
    )
    assert got == [1, 64, 9, 3, [["typing", "a", False], ["read", "b", 998], ["read", "a", 999]], True]


def test_what_is_remembered_of_a_network(page: Page, server: Server) -> None:
    """Where a WebSocket worked it is tried again soon, then more and more seldom; it is given up only after that."""
    got = run(
        page,
        server.url,
        """
        const store = { kept: null, get: () => store.kept, set: (_, value) => { store.kept = value; } };
        const told = (network) => [Math.round((network.due - Date.now()) / 1000), store.kept?.kind ?? null];
        const fresh = new m.Network(store);
        fresh.took("stream");
        const unknown = told(fresh);
        store.kept = null;
        const network = new m.Network(store);
        network.worked("websocket");
        network.took("websocket");
        network.took("stream");
        const steps = [told(network)];
        for (let trial = 0; trial < 5; trial++) {
          network.stay("stream");
          steps.push(told(network));
        }
        const after = network.kinds;
        network.worked("websocket");
        network.took("websocket");
        network.away();
        network.took("poll");
        return [unknown, steps, after, told(network), network.kinds[0]];
        """,
    )
    soon = [[seconds, None] for seconds in (5, 15, 45, 135, 405)]
    assert got == [[600, "stream"], [*soon, [600, "stream"]], ["stream", "poll"], [5, None], "websocket"]
