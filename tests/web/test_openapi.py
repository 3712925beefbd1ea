"""What /v1/openapi.json says is what the server does, and what the page of requests shows."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import orjson
import pytest
from playwright.sync_api import Browser, expect

from tests.support import ROOT
from tests.support.servers import UNLIMITED, Server
from tornado_chat.auth import mint

pytest_plugins = ["tests.support.chromium_fixtures"]

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
HELD = "/events$|/poll$"
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


def _references(part: Any) -> list[str]:
    if isinstance(part, dict):
        found = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return found + [reference for value in part.values() for reference in _references(value)]
    if isinstance(part, list):
        return [reference for item in part for reference in _references(item)]
    return []


def test_the_page_shows_every_request_and_its_examples_work(browser: Browser, tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        methods = sum(map(len, description(server)["paths"].values()))
        context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark")
        page = context.new_page()
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(f"{server.url}/v1/docs")
        expect(page.locator("#requests section")).to_have_count(methods)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing is wider than a telephone"
        token = mint(server.secret, "alice", ttl=3600)
        environment = {**os.environ, "TOKEN": token, "NO_PROXY": "127.0.0.1"}
        for name, status in (
            ("postRoomsRoomMessages", "201"),
            ("getRoomsRoomMessages", "200"),
            ("postCommands", "200"),
        ):
            example = (
                page.locator(f"#{name} pre").inner_text().replace("curl ", "curl -so /dev/null -w '%{http_code}' ")
            )
            told = subprocess.run(
                ["sh", "-c", example], env=environment, stdout=subprocess.PIPE, text=True, timeout=30, check=True
            )
            assert told.stdout.endswith(status), example
            assert '"error"' not in told.stdout, told.stdout
        assert not errors
        context.close()
