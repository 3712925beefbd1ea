"""`tornado-chat verify` must fail where a promise is broken, and name the room and the seq."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import tampering
from tests.support.servers import UNLIMITED, Server
from tornado_chat.verify.options import Options
from tornado_chat.verify.run import verify

HARMLESS = Options(
    url=None,
    token=None,
    secret=None,
    workers=1,
    database="sqlite",
    redis=False,
    directory=None,
    seconds=2.0,
    clients=6,
    rooms=2,
    rate=100.0,
    faults=(),
    patience=3.0,
    max_late=None,
    seed=1,
    json=True,
)


def options(url: str) -> Options:
    values = {name: getattr(HARMLESS, name) for name in HARMLESS.__dataclass_fields__}
    return Options(**(values | {"url": url}))


@pytest.mark.parametrize(
    ("tamper", "kinds"),
    [
        (tampering.drop, {"hole"}),
        (tampering.double, {"double"}),
        (tampering.swap, {"hole", "disorder"}),
        (tampering.alter, {"content"}),
        (tampering.forge, {"double", "content", "ack"}),
        (tampering.renumber_ack, {"ack", "content"}),
        (tampering.lose_event, {"lost"}),
        (tampering.refuse, {"foreign"}),
        (tampering.stop_delivery, {"stuck"}),
    ],
)
async def test_a_broken_promise_is_found(
    tamper: tampering.Tamper, kinds: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with tampering.Tampering(server.port, tamper) as proxy:
            code = await verify(options(f"http://127.0.0.1:{proxy.port}"))
    report = json.loads(capsys.readouterr().out)
    assert (code, report["ok"]) == (1, False)
    assert proxy.at is not None, "nothing was tampered with"
    found = [violation for violation in report["violations"] if violation["room"] == proxy.at["room"]]
    named = {violation["kind"] for violation in found if violation["seq"] == proxy.at["seq"]}
    assert named & kinds, report["violations"]
    assert all(violation["client"] for violation in found)


async def test_another_epoch_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with tampering.Tampering(server.port, tampering.change_epoch, begin_after=1) as proxy:
            assert await verify(options(f"http://127.0.0.1:{proxy.port}")) == 1
    report = json.loads(capsys.readouterr().out)
    assert "epoch" in {violation["kind"] for violation in report["violations"]}


async def test_the_proxy_itself_breaks_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with tampering.Tampering(server.port, lambda proxy, message: None) as proxy:
            assert await verify(options(f"http://127.0.0.1:{proxy.port}")) == 0
    assert json.loads(capsys.readouterr().out)["violations"] == []
