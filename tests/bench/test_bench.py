"""The benchmark's harness: each scenario gives its figures; a server that fails in any way gives an error instead."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from bench import over_http, processes, tools
from bench.__main__ import QUICK, all_servers, arguments, filesystem, only_ours, run, sized
from bench.bench import Bench, Size
from bench.driver import connect_all, percentile
from bench.errors import BenchError
from bench.report import ROWS, Target, table
from bench.scenarios import SCENARIOS, closed_loop, fan_out
from bench.servers import OURS_ECHO, SECRET, Dialect, ServerProcess, fill, on_one_port, ours, peers, pure, stream_peers
from bench.tools import HERE, MODULES, VENV, compiled, environment, find_tools, why_not
from tests.support import ROOT
from tornado_chat.auth import mint
from tornado_chat.verify.processes import is_alive


@contextmanager
def broken(tmp_path: Path, on_message: str) -> Iterator[Dialect]:
    """The Tornado peer with another body of `on_message`, which sees `self.members` and `message`."""
    source = (ROOT / "bench/peers/tornado_server.py").read_text()
    body = "        for member in self.members:\n            member.write_message(message)\n"
    assert body in source
    script = tmp_path / "broken.py"
    script.write_text(source.replace(body, "".join(f"        {line}\n" for line in on_message.splitlines())))
    yield Dialect("broken", (sys.executable, str(script), "{port}"), "/ws")


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_scenario_measures_our_server(bench: Bench, name: str) -> None:
    scenario = SCENARIOS[name]
    for service in scenario.needs:
        if service in bench.tools.missing:
            pytest.skip(bench.tools.missing[service])
    figures = scenario.run(bench, scenario.dialects(bench.tools)["ours"])
    wanted = {row.figure for row in ROWS if row.scenario == name}
    assert wanted <= set(figures)
    assert figures.get("delivered", 1) > 0


@pytest.mark.parametrize("peer", ["socketify", "picows", "fastapi", "tornado", "bare"])
@pytest.mark.parametrize("name", ["fan-out", "echo", "connects", "memory"])
def test_each_scenario_measures_the_peers(bench: Bench, peer: str, name: str) -> None:
    scenario = SCENARIOS[name]
    if peer in MODULES and peer not in bench.tools.peers:
        pytest.skip(f"it is not in {VENV}, which `python -m bench` makes")
    if (peer, name) == ("bare", "memory"):
        pytest.skip("the bare C peer is not asked for its memory")
    figures = scenario.run(bench, scenario.dialects(bench.tools)[peer])
    assert figures.get("delivered", 1) > 0
    if name != "memory":  # that has one way only
        assert {row.figure for row in ROWS if row.scenario == name} <= set(figures)


@pytest.mark.parametrize("name", ["streams", "streams-memory"])
@pytest.mark.parametrize("peer", ["fastapi", "nchan"])
def test_streams_of_the_peers_are_measured(bench: Bench, peer: str, name: str) -> None:
    dialects = SCENARIOS[name].dialects(bench.tools)
    if peer not in dialects:
        pytest.skip(f"it is not in {VENV}, which `python -m bench` makes, or nginx has no module Nchan here")
    figures = SCENARIOS[name].run(bench, dialects[peer])
    own = {"websocket_cpu_us", "ratio"}
    assert {row.figure for row in ROWS if row.scenario == name} - own <= set(figures)


@pytest.mark.parametrize("name", ["posts", "polls"])
def test_the_handler_that_only_answers_is_measured(bench: Bench, name: str) -> None:
    figures = SCENARIOS[name].run(bench, SCENARIOS[name].dialects(bench.tools)["tornado"])
    assert figures["cpu_us"] > 0


def test_the_peers_broadcast_what_our_server_makes_of_a_send(bench: Bench) -> None:
    """The same fields in the same order, and values of the same lengths."""
    dialect = ours()
    with bench.server(dialect) as server:
        path = dialect.path.replace("{room}", "0").replace("{index}", "19")
        with connect(f"ws://{server.addresses[0]}{path}") as client:
            while '"synced"' not in client.recv(5):
                pass
            fields = {"{room}": "0", "{index}": "19", "{number}": "1", "{text}": "x" * 128}
            client.send(fill(dialect.message, fields))
            while '"type":"message"' not in (event := str(client.recv(5))):
                pass
    sent = fill(peers("/ws", bench.tools)["bare"].message, fields)
    assert [(key, len(str(value))) for key, value in json.loads(sent).items()] == [
        (key, len(str(value))) for key, value in json.loads(event).items()
    ]
    assert len(sent) == len(event)


def test_a_server_without_the_extension_is_told_so(tmp_path: Path) -> None:
    code = "import os; print(os.environ['TORNADO_CHAT_PURE'], 'PATH' in os.environ); exit(3)"
    with pytest.raises(BenchError, match="the server ended with 3: 1 True"):
        ServerProcess(pure(Dialect("ours", (sys.executable, "-c", code), "/ws")), tmp_path, 0)


def test_what_is_the_same_without_the_extension_is_not_measured_twice(bench: Bench) -> None:
    for built in (True, False):
        tools = replace(bench.tools, extension=built)
        for name in ("fan-out", "echo", "connects", "storm", "fairness", "paced", "streams"):
            assert ("pure" in SCENARIOS[name].dialects(tools)) is built


def test_other_windows_than_the_scenarios_own(bench: Bench, tmp_path: Path) -> None:
    """The peer notes what came and answers nothing, so the first window stays open for ever."""
    came = tmp_path / "came"
    with broken(tmp_path, f"open({str(came)!r}, 'a').write('x')") as dialect:
        for window, size in ((3, 0), (3, 5)):
            came.write_text("")
            with pytest.raises(BenchError, match="nothing was delivered"):
                fan_out(replace(bench, size=replace(bench.size, window=size)), dialect, 2, window)
            assert len(came.read_text()) == (size or window)


def test_the_options_give_members_and_window() -> None:
    assert sized(arguments(["fan-out", "--members", "100", "--window", "16"])) == Size(small=100, window=16)
    assert sized(arguments(["fan-out"])) == Size()
    assert sized(arguments(["--quick", "--window", "2"])) == replace(QUICK, window=2)


@pytest.mark.parametrize("option", ["--rounds", "--loads", "--members", "--window"])
def test_none_of_something_is_refused(capsys: pytest.CaptureFixture[str], option: str) -> None:
    with pytest.raises(SystemExit):
        arguments([option, "0"])
    assert f"{option} begins at 1" in capsys.readouterr().err


def test_private_memory_is_what_a_process_shares_with_nobody() -> None:
    before = processes.private(os.getpid())
    assert 0 < before < processes.resident(os.getpid())  # not the pages of Python's own file
    own = bytearray(b"x") * (32 << 20)
    assert processes.private(os.getpid()) - before > len(own) // 2


def test_a_peer_that_cannot_be_installed_leaves_the_others_in(tmp_path: Path) -> None:
    venv, requirements = tmp_path / "venv", tmp_path / "requirements.txt"
    requirements.write_text("# both\n./no-such-folder\npip\n")
    (note,) = environment(venv, requirements)
    assert note.startswith("./no-such-folder could not be installed: ")
    assert why_not(venv, "pip") is None
    assert why_not(venv, "json, socketify") == "ModuleNotFoundError: No module named 'socketify'"
    assert environment(venv, requirements) == [note]  # it is tried again
    requirements.write_text("pip\n")
    assert environment(venv, requirements) == []
    requirements.write_text("# both\n./no-such-folder\npip\n")
    assert environment(venv, requirements) == [note]  # they have changed
    requirements.write_text("pip\n")
    (venv / "bin/python").unlink()
    assert environment(venv, requirements) == []  # it is there, and nothing is started
    assert why_not(venv, "pip") == f"there is no {venv}"


def test_without_its_module_nchan_is_left_out_and_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "requirements.txt").touch()
    for name, path in (("NCHAN", "none.so"), ("VENV", "venv"), ("REQUIREMENTS", "requirements.txt")):
        monkeypatch.setattr(tools, name, tmp_path / path)
    found = find_tools()
    assert "The peer nchan is left out: nginx has no module Nchan (on Debian: apt-get install libnginx-mod-nchan)" in (
        found.notes
    )
    assert stream_peers(found) == {}


@pytest.mark.parametrize("name", ["fan-out", "echo", "ack", "connects"])
def test_the_load_may_be_several_processes(bench: Bench, name: str) -> None:
    scenario = SCENARIOS[name]
    figures = scenario.run(replace(bench, loads=2), scenario.dialects(bench.tools)["ours"])
    assert {row.figure for row in ROWS if row.scenario == name} <= set(figures)
    assert figures.get("load_share", 0) < 1.1  # of the cores that they have


def test_several_processes_share_the_clients_out(bench: Bench) -> None:
    """13 clients, 0 to 6 and 7 to 12, of whom three have a number of two digits and send as many more bytes."""
    with bench.server(OURS_ECHO) as server, bench.several_loads(2) as loads:
        connect_all(loads, server, 13, rooms=0)
        shaken = [load.stats().bytes for load in loads]
        for load in loads:
            load.publish(server, window=1, count=2, message="{index}{text}")
        stats = [load.drain(least=2) for load in loads]
    assert [each.delivered for each in stats] == [7 * 2, 6 * 2]
    frame = (stats[0].bytes - shaken[0]) // 14
    assert stats[1].bytes - shaken[1] == 12 * frame + 3 * 2


def test_a_lost_delivery_is_an_error(bench: Bench, tmp_path: Path) -> None:
    body = """
for i, member in enumerate(self.members):
    if i != 3 or not message.startswith('~000000000005'):
        member.write_message(message)"""
    with broken(tmp_path, body) as dialect, pytest.raises(BenchError, match=r"^1 deliveries lost, 0 doubled"):
        fan_out(bench, dialect, 20, 2)


def test_a_doubled_delivery_is_an_error(bench: Bench, tmp_path: Path) -> None:
    body = """
for i, member in enumerate(self.members):
    member.write_message(message)
    if i == 3 and message.startswith('~000000000005'):
        member.write_message(message)"""
    with broken(tmp_path, body) as dialect, pytest.raises(BenchError, match=r"^0 deliveries lost, 1 doubled"):
        fan_out(bench, dialect, 20, 2)


def test_a_missing_tail_is_an_error(bench: Bench, tmp_path: Path) -> None:
    """One member gets nothing from the sixth message on: no gap shows, only the end is missing."""
    body = """
for i, member in enumerate(self.members):
    if i != 3 or message < '~000000000005':
        member.write_message(message)"""
    with broken(tmp_path, body) as dialect, bench.server(dialect) as server, bench.load() as load:
        load.connect(server, 20)
        load.publish(server, window=2, count=10)
        with pytest.raises(BenchError, match="5 messages did not come within 0 s"):
            load.drain(0.3, least=10)


def test_a_server_that_cuts_its_clients_is_an_error(bench: Bench, tmp_path: Path) -> None:
    with (
        broken(tmp_path, "self.close(1011)") as dialect,
        pytest.raises(BenchError, match=r"the server (closed|cut) connection 19"),
    ):
        fan_out(bench, dialect, 20, 2)


def test_a_refused_handshake_is_an_error(bench: Bench, tmp_path: Path) -> None:
    with (
        broken(tmp_path, "pass") as dialect,
        pytest.raises(BenchError, match=r"the handshake was answered with HTTP/1\.1 404"),
    ):
        closed_loop(bench, dialect, path="/nowhere")


def test_deflate_that_is_declined_is_an_error(bench: Bench, tmp_path: Path) -> None:
    with (
        broken(tmp_path, "pass") as dialect,
        bench.server(dialect) as server,
        bench.load() as load,
        pytest.raises(BenchError, match="no permessage-deflate was agreed"),
    ):
        load.connect(server, 1, deflate=1)


def test_a_server_that_never_gets_ready_is_an_error(bench: Bench, tmp_path: Path) -> None:
    with (
        broken(tmp_path, "pass") as dialect,
        bench.server(dialect) as server,
        bench.load() as load,
        pytest.raises(BenchError, match="0 of 3 connections were ready in time"),
    ):
        load.connect(server, 3, ready="synced", timeout=0.3)


def test_a_server_that_does_not_start_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="the server ended with 3: no such flag"):
        ServerProcess(Dialect("broken", (sys.executable, "-c", "print('no such flag'); exit(3)"), "/ws"), tmp_path, 0)


def test_clients_come_with_tokens_of_their_own(bench: Bench, tmp_path: Path) -> None:
    """Each of which opens one room only."""

    def written(numbers: Iterable[int]) -> Path:
        file = tmp_path / "tokens.txt"
        tokens = [mint(SECRET.encode(), "user", rooms=[f"room-{number}"], ttl=60) for number in numbers]
        file.write_text("\n".join(tokens))
        return file

    with bench.server(ours()) as server, bench.load() as load:
        path = "/ws/room-{index}?token={token}"
        load.connect(server, 4, first=2, path=path, tokens=written(range(6)))
        load.ask("cut")
        load.connect(server, 4, first=2, path=path, tokens=written(range(6)))
        load.ask("cut")
        with pytest.raises(BenchError, match=r"does not let you into room-[2-5]:"):
            load.connect(server, 4, first=2, path=path, tokens=written(range(1, 7)))
    with bench.load() as load, pytest.raises(BenchError, match="No such file"):
        load.connect(server, 1, path=path, tokens=tmp_path / "none.txt")


def test_each_of_the_tokens_is_for_a_user_of_its_own(bench: Bench) -> None:
    with over_http.tokens(bench, 20) as file:
        assert len(set(file.read_text().splitlines())) == 20
    assert not file.exists()


def test_cut_clients_come_back_with_their_numbers(bench: Bench, tmp_path: Path) -> None:
    """What the members missed is seen as lost, since the peer does not recover: so `storm` would notice it."""
    body = "for member in self.members:\n    member.write_message(message)"
    with (
        broken(tmp_path, body) as dialect,
        bench.server(dialect) as server,
        bench.load() as load,
        bench.load() as other,
    ):
        load.connect(server, 5)
        other.connect(server, 1, first=5)
        other.publish(server, window=1, count=3)
        load.drain(least=3)
        load.ask("cut")
        other.publish(server, window=1, count=6)
        other.drain(least=6)
        load.connect(server, 5)
        other.publish(server, window=1, count=7)
        with pytest.raises(BenchError, match=r"^.*\b([3-9]|1[0-5]) deliveries lost, 0 doubled"):
            load.drain(least=7)


def test_a_publisher_that_was_cut_off_comes_back_when_told_and_sends_again(bench: Bench, tmp_path: Path) -> None:
    """The server drops the third message with the connection; what follows is what the load says."""
    body = """
if message.startswith('~000000000002') and not hasattr(type(self), 'told'):
    type(self).told = True
    self.close(1012, 'retry_after_ms=400')
else:
    for member in self.members:
        member.write_message(message)"""
    with broken(tmp_path, body) as dialect, bench.server(dialect) as server, bench.load() as load:
        load.connect(server, 1, returns=1)
        began = time.monotonic()
        load.publish(server, window=2, count=6)
        stats = load.drain(least=6)
        assert time.monotonic() - began >= 0.4
        assert (stats.cuts, stats.most_cuts, stats.delivered) == (1, 1, 6)


def test_the_closed_loop_waits_for_all_witnesses(bench: Bench, tmp_path: Path) -> None:
    """The member beside the publisher gets nothing, so the first window stays open for ever."""
    body = """
for i, member in enumerate(self.members):
    if i != 3:
        member.write_message(message)"""
    with broken(tmp_path, body) as dialect, bench.server(dialect) as server, bench.load() as load:
        load.connect(server, 5, inflight=1)  # in the order of the server's list
        load.publish(server, window=2, witnesses=2, count=10)
        deadline = time.monotonic() + 20
        while (stats := load.stats()).delivered < 8:
            assert time.monotonic() < deadline
        assert stats.sent == 2
        load.publish(server, window=2, count=10)
        while (stats := load.stats()).delivered < 40:
            assert time.monotonic() < deadline
        assert stats.sent == 10


def test_a_stopped_installation_leaves_no_worker(bench: Bench) -> None:
    if "redis" in bench.tools.missing:
        pytest.skip(bench.tools.missing["redis"])
    with bench.server(on_one_port(2)) as server:
        parent, workers = server.pid, server.workers()
        assert len(workers) == 2
        assert server.resident() > 2 * 10_000_000  # both, and the parent
        server.stop()
        assert not any(map(is_alive, (parent, *workers)))


def test_without_its_service_a_scenario_is_left_out_and_the_table_says_so(bench: Bench) -> None:
    tools = replace(bench.tools, missing={"redis": "Redis is not installed"})
    bench = replace(bench, tools=tools, notes=[])
    assert run(bench, ["workers"], 1) == ({}, True)
    assert bench.notes == ["workers: left out: Redis is not installed"]


def test_latency_is_measured_from_when_a_message_was_due(bench: Bench) -> None:
    """The load itself is held up for 0.3 s: what it sends late counts as late, although the server answers at once."""
    with (
        bench.server(SCENARIOS["fan-out"].dialects(bench.tools)["tornado"]) as server,
        bench.load() as load,
    ):
        load.connect(server, 1)
        load.publish(server, rate=200, count=120)
        load.drain(least=10)
        load.stats()
        os.kill(load.pid, signal.SIGSTOP)
        time.sleep(0.3)  # no condition to wait for: this is the hold-up
        os.kill(load.pid, signal.SIGCONT)
        latency: Counter[int] = Counter()
        deadline = time.monotonic() + 20
        while (stats := load.stats()).least < 120:
            assert time.monotonic() < deadline
            latency.update(dict(stats.latency))
        latency.update(dict(stats.latency))
        assert sum(count for microseconds, count in latency.items() if microseconds > 100_000) >= 30


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"text": 70_000}, "a message or a path of more than 65536 bytes"),
        ({"text": 10}, "text is at least its marker, 30 bytes"),
        ({"message": "x" * 9_000}, "message is longer than 8191 bytes"),
    ],
)
def test_a_message_that_does_not_fit_is_an_error(bench: Bench, fields: dict[str, Any], error: str) -> None:
    with bench.server(OURS_ECHO) as server, bench.load() as load:
        load.connect(server, 1)
        with pytest.raises(BenchError, match=error):
            load.publish(server, window=1, **fields)


def test_an_address_that_is_none_is_an_error(bench: Bench) -> None:
    with (
        bench.server(OURS_ECHO) as server,
        bench.load() as load,
        pytest.raises(BenchError, match="not addresses to connect to: nowhere"),
    ):
        load.connect(server, 1, to=["nowhere"])


def test_a_program_is_compiled_once_and_again_when_its_source_changes(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "main.c"
    source.write_text("int main(void) { return 3; }")
    first = compiled("three", tmp_path, tmp_path / "build")
    assert subprocess.run([first]).returncode == 3
    made = os.stat(first).st_mtime_ns
    assert compiled("three", tmp_path, tmp_path / "build") == first
    assert os.stat(first).st_mtime_ns == made
    source.write_text("int main(void) { return 4; }")
    assert subprocess.run([compiled("three", tmp_path, tmp_path / "build")]).returncode == 4
    assert len(list((tmp_path / "build").iterdir())) == 1
    source.write_text("int main(void) { int unused; return 4; }")
    with pytest.raises(BenchError, match=r"(?s)three was not compiled: .*unused"):
        compiled("three", tmp_path, tmp_path / "build")


def test_without_a_compiler_one_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match=r"^no C compiler: `cc` is needed for the load generator; .*$"):
        compiled("load", HERE / "load", tmp_path)


def test_percentile() -> None:
    assert percentile([(1000, 98), (5000, 1), (9000, 1)], 0.5) == 1.0
    assert percentile([(9000, 1), (5000, 1), (1000, 98)], 0.99) == 5.0
    assert percentile([(1000, 98), (5000, 1), (9000, 1)], 1.0) == 9.0
    with pytest.raises(BenchError, match="nothing was delivered"):
        percentile([], 0.5)


def test_the_table_has_medians_ratios_and_verdicts() -> None:
    results = {
        ("fan-out", "delivered", "ours"): [900.0, 100.0, 800.0],
        ("fan-out", "delivered", "fastapi"): [100.0],
        ("fan-out", "delivered", "tornado"): [80.0],
        ("ack", "p99_ms", "ours"): [25.0],
    }
    lines = table(results).splitlines()
    assert lines[0] == "| | tornado_chat | FastAPI + uvicorn | stock Tornado | target | |"
    assert lines[2].endswith(
        "| 800 | 100 | 80 | ≥ 8 x FastAPI + uvicorn; ≥ 15 x stock Tornado | 8 x, met; 10 x, **missed** |"
    )
    assert lines[3].endswith("| 25.0 |  |  | ≤ 20.0 | **missed** |")
    assert len({line.count("|") for line in lines}) == 1


def test_a_target_without_its_peer_is_not_measured() -> None:
    assert Target(1.6, peer="bare").verdict({"ours": 1.0}) == "not measured"


def test_an_unknown_scenario_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["fan-in"])
    assert "no scenario 'fan-in'; there are: fan-out," in capsys.readouterr().err


def test_without_the_peers_only_our_server_is_measured(bench: Bench) -> None:
    assert {"ours", "tornado", "bare"} <= set(all_servers(SCENARIOS["fan-out"], bench.tools))
    tools = replace(bench.tools, extension=True)
    assert list(only_ours(SCENARIOS["fan-out"], tools)) == ["ours", "pure"]


def test_the_file_system_is_named() -> None:
    assert filesystem(Path("/proc")) == "proc"


def test_the_readme_explains_every_scenario() -> None:
    text = (ROOT / "bench/README.md").read_text().partition("## How it is made")[0]
    assert re.findall(r"^\| `([a-z0-9-]+)` \|", text, re.MULTILINE) == list(SCENARIOS)
