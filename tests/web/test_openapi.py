"""What /v1/openapi.json says is what the server does, and what the page of requests shows."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
import orjson
import pytest
from msgspec.structs import fields
from playwright.sync_api import Browser, expect

from tests.support import ROOT
from tests.support.servers import UNLIMITED, Server
from tornado_chat.auth import mint
from tornado_chat.log import Entry, event_of
from tornado_chat.log.kinds import AGENT, KINDS
from tornado_chat.web.event_schemas import AnEvent, History, MessageNow, OnStream
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.commands import COMMANDS
from tornado_chat.wire.replies import REPLIES

pytest_plugins = ["tests.support.chromium_fixtures"]

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
HELD = "/events$|/fragments$|/poll$"
"""Addresses whose answers may wait, or have no end."""


def description(server: Server) -> Any:
    with urllib.request.urlopen(f"{server.url}/v1/openapi.json", timeout=10) as answer:
        assert answer.headers["Content-Type"] == "application/json"
        return orjson.loads(answer.read())


@pytest.mark.timeout(300)
def test_schemathesis_finds_no_answer_outside_of_its_schema(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        token = mint(server.secret, "alice", ttl=3600, acts_as=["*"])  # without `jti`: it cannot be revoked in a test
        run = subprocess.run(
            [
                *(Path(sys.executable).with_name("schemathesis"), "run", f"{server.url}/v1/openapi.json"),
                *("--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--max-examples", "10"),
                *("--exclude-path-regex", HELD, "--header", f"Authorization: Bearer {token}"),
                *("--generation-database", "none", "--no-color", "--continue-on-failure"),
            ],
            cwd=tmp_path,
            env={
                **os.environ,
                "NO_PROXY": "127.0.0.1",
                "PYTHONPATH": str(ROOT),
                "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        assert run.returncode == 0, run.stdout


def test_every_answer_is_described_and_every_reference_leads_somewhere(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        found = description(server)
    assert found["openapi"].startswith("3.1")
    names = set()
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (method, path)
            names.add(operation["operationId"])
            assert {"4XX", "5XX"} < operation["responses"].keys()
            in_path = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"}
            assert in_path == {part.strip("{}") for part in path.split("/") if part.startswith("{")}
    assert len(names) == sum(map(len, found["paths"].values()))
    for reference in _references(found):
        part = found
        for step in reference.removeprefix("#/").split("/"):
            part = part[step]


def test_no_two_schemas_have_one_title(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        schemas = description(server)["components"]["schemas"]
    assert {name: schema["title"] for name, schema in schemas.items()} == {name: name for name in schemas}


@pytest.mark.parametrize("type", list(KINDS))
def test_an_event_is_described_as_it_is_made(type: Any) -> None:
    (struct,) = (struct for struct in get_args(AnEvent) if struct.__struct_config__.tag == type)
    least: dict[str, Any] = {"target": 1, "emoji": "e", "on": True, "about": "r", "level": "nothing"}
    everything = {"key": "k", "id": "i", **least}
    if type == "message":
        everything |= {"reply_to": 1, "meta": b'{"a":1}', "mentions": ("x",), "emoji": AGENT}
    elif type == "finished":
        everything |= {"emoji": "done", "reply_to": 1, "meta": b'{"a":1}'}
        least |= {"emoji": "done", "reply_to": 1}
    rooms = (("r", everything), ("~u", least))
    ons = (None, True) if type == "message" else (True,)
    entries = [
        Entry(type, room, "u", "n", text=text, **more | {"on": on})
        for text in ("t", None)
        for room, more in rooms
        for on in ons
    ]
    made = [event_of(entry, 2, 1, 1).data for entry in entries]
    for data in made:
        msgspec.json.decode(JSON.encode(data), type=struct)  # the values have their types
    keys = [set(data) - {"type"} for data in made]
    assert {field.name: field.required for field in fields(struct)} == {
        key: all(key in some for some in keys) for key in set().union(*keys)
    }


def test_a_stream_is_described_with_all_that_may_come_on_it() -> None:
    described = {struct.__struct_config__.tag for struct in get_args(OnStream)}
    assert described == {*KINDS, *REPLIES} - {"left", "ack", "history", "pong"}


def test_the_commands_of_a_request_are_described_as_they_are_taken(tmp_path: Path) -> None:
    """And those that need a token are refused without one, like the requests of which that is told."""
    with Server(tmp_path, *UNLIMITED) as server:
        found = description(server)
        token = mint(server.secret, "alice", ttl=3600)
        schemas = found["components"]["schemas"]
        offered = {
            schema["properties"]["type"]["enum"][0]: schema
            for name, schema in schemas.items()
            if name.endswith("Command")
        }
        for type in COMMANDS:
            command = {"type": type, "room": "lobby", "text": "hello", "seq": 1, "emoji": "e", "on": True}
            command |= {"level": "nothing", "user": "bob"}
            command |= {"stream": "s", "offset": 0, "length": 0, "reason": "done"}
            command |= {"step": {"id": "s", "name": "search", "state": "running"}}
            (answer,) = ask(server, "POST", "/v1/commands", command, token)[1]
            refused = answer is not None and answer.get("code") == "bad_request"
            assert refused == (type not in offered or "id" in offered[type]["required"]), type
        for path, methods in found["paths"].items():
            for method, operation in methods.items():
                needed = {} not in operation.get("security", found["security"])
                address = path.format(room="lobby", seq=1, emoji="e")
                if "text/event-stream" not in operation["responses"].get("200", {}).get("content", {}):
                    body: dict[str, Any] = {"text": "hello", "seq": 1, "rooms": {"lobby": 0}, "type": "ping"}
                    body |= {"level": "nothing", "room": "lobby", "user": "bob"}
                    status = ask(server, method.upper(), address, None if method == "get" else body)[0]
                    assert (status == 401) == needed, (method, path, status)


def test_a_message_as_it_is_now_is_described_as_it_is_told(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        token = mint(server.secret, "alice", ttl=3600, agent=True)
        messages = "/v1/rooms/lobby/messages"
        for method, path, body in (
            ("POST", messages, {"text": "hello", "id": "1"}),
            ("POST", messages, {"text": "hi", "id": "2", "reply_to": 1, "meta": {"a": 1}, "mentions": ["bob"]}),
            ("PATCH", f"{messages}/2", {"text": "hi!"}),
            ("PUT", f"{messages}/2/reactions/e", {}),
            ("DELETE", f"{messages}/1", {}),
        ):
            assert ask(server, method, path, body, token)[0] in (200, 201)
        told = [ask(server, "GET", f"{messages}/{seq}", None, token)[1] for seq in (1, 2)]
        page = ask(server, "GET", messages, None, token)[1]
    assert page["messages"] == told
    for each in told:
        assert each == JSON.decode(JSON.encode(msgspec.convert(each, MessageNow)))
    names = {field.name for field in fields(MessageNow)} - {"streaming"} | {"type"}
    assert set().union(*told) == names
    assert page == JSON.decode(JSON.encode(msgspec.convert(page, History)))


def ask(server: Server, method: str, path: str, body: object = None, token: str | None = None) -> tuple[int, Any]:
    """The status and the body of the answer."""
    request = urllib.request.Request(
        server.url + path,
        method=method,
        data=None if body is None else orjson.dumps(body),
        headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {}),
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, orjson.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, orjson.loads(error.read())


def _references(part: Any) -> list[str]:
    if isinstance(part, dict):
        found = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return found + [reference for value in part.values() for reference in _references(value)]
    if isinstance(part, list):
        return [reference for item in part for reference in _references(item)]
    return []


def test_the_page_shows_every_request_and_its_samples_work(browser: Browser, tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        found = description(server)
        context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark")
        page = context.new_page()
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(f"{server.url}/v1/docs")
        expect(page.locator("#requests section")).to_have_count(sum(map(len, found["paths"].values())))
        expect(page.locator("#types section")).to_have_count(len(found["components"]["schemas"]))
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing is wider than a telephone"
        clipped = "[...document.querySelectorAll('pre')].filter((pre) => pre.scrollWidth > pre.clientWidth).length"
        assert page.evaluate(clipped) == 0, "no sample is cut off"
        astray = (
            "[...document.querySelectorAll('a[href^=\"#\"]')].filter((a) => !document.querySelector(a.hash)).length"
        )
        assert page.evaluate(astray) == 0
        assert "`" not in page.locator("body").inner_text()
        offered = page.locator("#postCommands dl").first.locator("dt").all_inner_texts()
        assert offered == [type for type in COMMANDS if type not in ("join", "leave")]
        environment = {**os.environ, "TOKEN": "", "NO_PROXY": "127.0.0.1"}
        environment["TOKEN"] = shell(page.locator("#about pre").inner_text() + '; echo "$TOKEN"', environment).strip()
        samples = page.locator("#requests pre").all_inner_texts()
        # What ends the message, or the session, comes last.
        for sample in sorted(
            samples, key=lambda text: ("DELETE" in text and "/reactions" not in text, "/session" in text)
        ):
            reading = "-sNm 1" if "-N" in sample else "-s"
            wanted = "curl " + reading + " -o /dev/null -w '%{http_code}' "
            assert shell(sample.replace("curl ", wanted), environment) in ("200", "201", "204"), sample
        assert sum("curl -N" in sample for sample in samples) == 4
        assert not errors
        context.close()


def shell(script: str, environment: Mapping[str, str]) -> str:
    """What it prints; its exit status is not looked at: a stream has no end."""
    run = subprocess.run(
        ["sh", "-c", script], env=environment, stdout=subprocess.PIPE, text=True, timeout=30, check=False
    )
    return run.stdout
