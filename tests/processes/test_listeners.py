"""The sockets to listen on: for one worker and for several, and what is said when they cannot be had."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

import pytest

from tornado_chat.config import Settings
from tornado_chat.errors import ConfigError
from tornado_chat.processes import listeners


def test_one_port_for_all() -> None:
    made = listeners.listen(Settings(host="localhost", port=0, workers=3))
    try:
        assert len(made) == 3
        assert len({listeners.address(some) for some in made}) == 1
        ports = {listener.getsockname()[1] for some in made for listener in some}
        assert len(ports) == 1
        assert all(not listener.getblocking() for some in made for listener in some)
    finally:
        listeners.close(made)
    again = listeners.listen(Settings(port=ports.pop(), workers=2))
    listeners.close(again)


@pytest.mark.parametrize(("mine", "other"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_a_port_that_is_taken(mine: int, other: int) -> None:
    theirs = listeners.listen(Settings(port=0, workers=other))
    port = theirs[0][0].getsockname()[1]
    try:
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            listeners.listen(Settings(port=port, workers=mine))
    finally:
        listeners.close(theirs)


def test_unix_sockets(tmp_path: Path) -> None:
    settings = Settings(unix_socket=f"{tmp_path}/{{worker}}.sock", workers=2)
    made = listeners.listen(settings)
    paths = [tmp_path / "1.sock", tmp_path / "2.sock"]
    assert [listeners.address(some) for some in made] == [f"http://unix:{path}" for path in paths]
    assert all(path.stat().st_mode & 0o777 == 0o666 for path in paths)
    listeners.close(made)
    assert not any(path.exists() for path in paths)
    listeners.close(made)


def test_a_single_process_is_worker_1(tmp_path: Path) -> None:
    made = listeners.listen(Settings(unix_socket=f"{tmp_path}/{{worker}}.sock"))
    assert listeners.address(made[0]) == f"http://unix:{tmp_path}/1.sock"
    listeners.close(made)


def test_a_unix_socket_that_was_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "chat.sock"
    with closing(socket.socket(socket.AF_UNIX)) as left:
        left.bind(str(path))
    made = listeners.listen(Settings(unix_socket=str(path)))
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.connect(str(path))
    listeners.close(made)


def test_one_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    """The first of two was made already, and is gone again."""
    with closing(socket.socket(socket.AF_UNIX)) as other:
        other.bind(str(tmp_path / "2.sock"))
        other.listen(0)
        with pytest.raises(ConfigError, match=r"2\.sock: another server listens there; stop it, or give another path"):
            listeners.listen(Settings(unix_socket=f"{tmp_path}/{{worker}}.sock", workers=2))
        assert (tmp_path / "2.sock").exists()
        assert not (tmp_path / "1.sock").exists()


def test_a_server_whose_queue_is_full_is_one(tmp_path: Path) -> None:
    path = str(tmp_path / "chat.sock")
    with (
        closing(socket.socket(socket.AF_UNIX)) as other,
        closing(socket.socket(socket.AF_UNIX)) as first,
    ):
        other.bind(path)
        other.listen(0)
        first.connect(path)
        with pytest.raises(ConfigError, match="another server listens there"):
            listeners.listen(Settings(unix_socket=path))


def test_what_is_no_socket_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(ConfigError, match=r"notes\.txt: .*give another path"):
        listeners.listen(Settings(unix_socket=str(path)))
    assert path.read_text() == "mine"


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "run" / "chat.sock"
    with pytest.raises(ConfigError, match=f"there is no directory {tmp_path}/run; make it, or give another path"):
        listeners.listen(Settings(unix_socket=str(path)))


def test_a_path_that_becomes_too_long(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    with pytest.raises(ConfigError, match=r"cannot listen on .*: AF_UNIX path too long; give another path"):
        listeners.listen(Settings(unix_socket=f"{long}/{{worker}}.sock"))
