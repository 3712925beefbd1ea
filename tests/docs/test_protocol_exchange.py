"""The exchange without a WebSocket in docs/protocol.md, carried out as it stands there."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from tests.docs.test_protocol_doc import DOC
from tests.support.servers import Server

_, _, SECTION = DOC.partition("\n## An exchange without a WebSocket\n")
SPEAK_AND_LOOK, READ_ON = re.findall(r"```sh\n(.*?)```", SECTION.partition("\n## ")[0], re.DOTALL)
ANSWERS = [json.loads(line) for line in re.findall(r"```json\n(.*?)```", SECTION, re.DOTALL)[0].splitlines()]


def shell(script: str) -> list[str]:
    ended = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, timeout=60, check=True)
    return ended.stdout.splitlines()


def test_it_goes_as_it_stands_there(tmp_path: Path) -> None:
    with Server(tmp_path, "--guests") as server:
        follow(server)


def follow(server: Server) -> None:
    begin = SPEAK_AND_LOOK.replace("https://chat.example.org", server.url)
    assert begin != SPEAK_AND_LOOK
    said, page = (json.loads(line) for line in shell(begin.replace("\ncurl", "\necho; curl -s")) if line)
    assert said.keys() == ANSWERS[0].keys()
    assert page.keys() == ANSWERS[1].keys()
    (message,), (shown,) = page["events"], ANSWERS[1]["events"]
    assert message.keys() == shown.keys()
    assert (said["seq"], message["seq"], message["text"], message["id"]) == (1, 1, shown["text"], shown["id"])
    assert len(message["user"]) == len(shown["user"])

    stream, poll = READ_ON.replace("after=42", "after=0").splitlines()
    again = "\n".join(begin.splitlines()[:3])
    streamed = shell(f"{again}\ntimeout 2 {stream} -s || true")
    assert any(line.startswith("id: ") for line in streamed)
    assert [line for line in streamed if '"At noon."' in line]
    (polled,) = shell(f"{again}\n{poll} -s")
    assert json.loads(polled)["events"] == page["events"]
    (nothing,) = shell(f"{again}\n{poll.replace('after=0', 'after=1').replace('wait=25', 'wait=1')} -s")
    assert json.loads(nothing)["events"] == []
