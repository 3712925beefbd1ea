"""docs/bridges.md against the code: addresses, events, numbers; and its sample."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import orjson

from tests.support import ROOT
from tests.support.servers import UNLIMITED, Server
from tornado_chat.bridges.asking import ASKS, SIGN_SECONDS, USER_ASKS, Askings
from tornado_chat.bridges.callers import WHOLE_SECONDS
from tornado_chat.bridges.endpoints import bridges
from tornado_chat.bridges.openai_form import BODY_BYTES, MESSAGES
from tornado_chat.bridges.simple import Replied
from tornado_chat.conversations import DIGITS, KEY_CHARS

DOC = (ROOT / "docs" / "bridges.md").read_text(encoding="utf-8")


def test_each_address_is_told() -> None:
    told = set(re.findall(r"`(GET|POST) (/[\w./{}]+)", DOC))
    found = {(endpoint.method, endpoint.path) for endpoint in bridges(object.__new__(Askings))}
    assert told == found | {("POST", "/v1/session")}


def test_the_events_and_the_fields_are_the_codes() -> None:
    source = (ROOT / "tornado_chat" / "bridges" / "simple.py").read_text()
    said = set(re.findall(r'(?:telling|self)\.event\("(\w+)"', source))
    table = DOC[DOC.index("| event | data |") :]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)[:7]) == said
    for field in Replied.__struct_fields__:
        assert f'"{field}"' in DOC


def test_the_numbers_are_the_codes() -> None:
    bounds = DOC[DOC.index("## What bounds it") :]
    assert f"| {SIGN_SECONDS:g} s |" in bounds
    assert f"| {WHOLE_SECONDS:g} s |" in bounds
    assert f"| {USER_ASKS}; {ASKS:,} |" in bounds
    assert f"| {MESSAGES}; {BODY_BYTES // 1024} KiB |" in bounds
    assert f"1 to {KEY_CHARS} characters" in DOC
    assert f"and {DIGITS} characters" in DOC


def test_the_sample_works(tmp_path: Path) -> None:
    (sample,) = re.findall(r"```sh\nexport .*?\n(curl .*?)```", DOC, re.DOTALL)
    with Server(tmp_path, *UNLIMITED, "--agent", "demo") as server:
        environment = {**os.environ, "CHAT": server.url, "CHAT_TOKEN": server.token("ann"), "NO_PROXY": "127.0.0.1"}
        answer = subprocess.run(
            ["sh", "-c", sample.replace("What can you do?", "/list").replace("curl ", "curl -s ")],
            env=environment,
            stdout=subprocess.PIPE,
            timeout=60,
            check=True,
        )
        told = orjson.loads(answer.stdout)
    assert (told["agent"], told["reason"]) == ("demo", "done")
    assert "clever" in told["reply"]
