from __future__ import annotations

import argparse
import os
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from tornado_chat import config
from tornado_chat.config import Settings, load
from tornado_chat.errors import ConfigError

# For each setting: a value that is right, what becomes of it, and values that are wrong.
CASES: dict[str, tuple[str, Any, list[str]]] = {
    "host": ("localhost", "localhost", ["", "*", "[::1]", "a b", "http://x", "x" * 64]),
    "port": ("0", 0, ["", "x", "-1", "65536", "8080.0", "1_000", "٣", "9" * 5000, " 80"]),
    "unix_socket": ("/run/chat.sock", "/run/chat.sock", ["", "x" * 108, "a\nb"]),
    "workers": ("3", 3, ["0", "-1", "x", "513"]),
    "database": (
        "sqlite:////var/chat.db",
        "sqlite:////var/chat.db",
        [
            "",
            "chat.db",
            "sqlite://",
            "sqlite:///",
            "sqlite:////",
            "sqlite:///data/",
            "sqlite:///:memory:",
            "mysql://x/y",
            "postgresql://db",
            "postgresql:///chat",
            "postgresql://db:x/chat",
        ],
    ),
    "redis": (
        "redis://a:6379, rediss://u:p@b/1,rediss+sentinel://redis-a:1,redis-b:2/chat/3,redis+cluster://redis.e:3,redis:4",
        (
            "redis://a:6379",
            "rediss://u:p@b/1",
            "rediss+sentinel://redis-a:1,redis-b:2/chat/3",
            "redis+cluster://redis.e:3,redis:4",
        ),
        [
            "localhost:6379",
            "http://a",
            "redis://",
            "redis://a:x",
            "redis://a/x",
            "redis+sentinel://c:1",
            "redis+sentinel://c:1/s/x",
            "redis://a,b",
        ],
    ),
    "agent": (
        "demo, my.agents:helper",
        ("demo", "my.agents:helper"),
        ["demos", "my.agents", ":agent", "my agents:agent", "a:b:c", "a:b,,"],
    ),
    "default_agent": ("The Helper", "The Helper", ["", "a\nb", "x" * 65]),
    "secret_file": ("key", "key", ["", "a\nb"]),
    "guests": ("yes", True, ["", "2", "maybe"]),
    "allowed_origins": (
        "https://A.example, http://[::1]:8080,https://b.example:443",
        ("https://a.example", "http://[::1]:8080", "https://b.example"),
        ["*", "example.org", "https://x/", "https://x/y", "https://x:99999", "https://", "https://u@x", "https://x,,"],
    ),
    "trusted_proxies": (
        "10.0.0.0/8, ::1",
        (ip_network("10.0.0.0/8"), ip_network("::1/128")),
        ["localhost", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.1,,"],
    ),
    "send_rate": ("0", 0, ["-1", "x", "1.5"]),
    "send_burst": ("7", 7, ["-1", "x"]),
    "address_users": ("7", 7, ["-1", "x"]),
    "join_rate": ("7", 7, ["-1", "x"]),
    "connections_per_address": ("7", 7, ["-1", "x"]),
    "max_connections": ("7", 7, ["-1", "x"]),
    "rooms_per_address": ("7", 7, ["-1", "x"]),
    "max_rooms": ("7", 7, ["-1", "x"]),
    "max_frame_bytes": ("1024", 1024, ["1023", "64k"]),
    "text_chars": ("1", 1, ["0", "x"]),
    "high_water_mark": ("4096", 4096, ["0", "x"]),
    "ring_bytes": ("65536", 65536, ["0", "x"]),
    "ping_interval": ("0", 0.0, ["-1", "x", "5 m", "inf", "nan", "2d", "1e3"]),
    "ping_timeout": ("500ms", 0.5, ["0", "x", "25S"]),
    "stream_lifetime": ("0", 0.0, ["-1", "x", "31d"]),
    "write_timeout": ("1.5m", 90.0, ["0", "x", "1w"]),
    "log_format": ("json", "json", ["", "xml", "JSON"]),
    "log_level": ("debug", "debug", ["", "loud"]),
}
WRONG = [(name, value) for name, (_, _, wrong) in CASES.items() for value in wrong]


def flags(*argv: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    config.add_flags(parser)
    return vars(parser.parse_args(argv))


def flag(name: str, value: str) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}"]


def refused(flags: dict[str, Any], environ: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        load(flags, environ)
    text = str(caught.value)
    assert text.isprintable(), "the user sees one line"
    assert len(text) < 400
    return text


def test_every_setting_has_a_case() -> None:
    assert tuple(CASES) == config.ALL


def test_defaults() -> None:
    settings = load({}, {})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.guests) == ("127.0.0.1", 8080, False)
    assert config.sqlite_path(settings.database) == "data/chat.db"
    assert settings.trusted_proxies == (ip_network("127.0.0.0/8"), ip_network("::1"))
    assert settings.allowed_origins == ()
    assert settings.ping_interval == 25.0


@pytest.mark.parametrize("name", [name for name in CASES if name != "guests"])
def test_a_right_value_from_each_source(name: str, tmp_path: Path) -> None:
    text, value, _ = CASES[name]
    file = tmp_path / "chat.toml"
    file.write_text(f'{name} = "{text}"\n')
    assert getattr(load(flags(*flag(name, text)), {}), name) == value
    assert getattr(load({}, {"TORNADO_CHAT_" + name.upper(): text}), name) == value
    assert getattr(load({"config": str(file)}, {}), name) == value


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_value_names_the_setting_and_its_source(name: str, value: str, tmp_path: Path) -> None:
    variable = "TORNADO_CHAT_" + name.upper()
    assert refused({}, {variable: value}).startswith(f"{variable}: ")
    if name != "guests":
        given = flag(name, value)
        assert refused(flags(*given), {}).startswith(given[0].split("=")[0] + ": ")
    file = tmp_path / "chat.toml"
    file.write_text(f"{name} = '''{value}'''\n")
    assert refused({"config": str(file)}, {}).startswith(f"{file}: {name}: ")


@pytest.mark.parametrize("literal", ["true", "[1]", "{a = 1}", "1979-05-27", "nan", "-1", "[[]]", "['\\u0000']"])
@pytest.mark.parametrize("name", config.ALL)
def test_a_toml_value_of_a_wrong_type(name: str, literal: str, tmp_path: Path) -> None:
    file = tmp_path / "chat.toml"
    file.write_text(f"{name} = {literal}\n")
    if (name, literal) == ("guests", "true"):
        assert load({"config": str(file)}, {}).guests
    else:
        assert refused({"config": str(file)}, {}).startswith(f"{file}: {name}: ")


def test_toml_values_of_their_own_types(tmp_path: Path) -> None:
    file = tmp_path / "chat.toml"
    file.write_text(
        'port = 9000\nguests = true\nping-interval = 2.5\nping_timeout = 7\nlog-format = "json"\n'
        'allowed-origins = ["https://a.example", "https://b.example"]\ntrusted_proxies = []\n'
    )
    settings = load({"config": str(file)}, {})
    assert settings == Settings(
        port=9000,
        guests=True,
        ping_interval=2.5,
        ping_timeout=7.0,
        log_format="json",
        allowed_origins=("https://a.example", "https://b.example"),
        trusted_proxies=(),
    )


def test_flags_win_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = tmp_path / "chat.toml"
    file.write_text("port = 1\nsend-rate = 1\njoin-rate = 1\n")
    environ = {"TORNADO_CHAT_PORT": "2", "TORNADO_CHAT_SEND_RATE": "2", "TORNADO_CHAT_CONFIG": str(file)}
    settings = load(flags("--port", "3"), environ)
    assert (settings.port, settings.send_rate, settings.join_rate, settings.send_burst) == (3, 2, 1, 100)


def test_the_flag_names_the_file_that_counts(tmp_path: Path) -> None:
    file = tmp_path / "chat.toml"
    file.write_text("port = 1\n")
    assert load(flags("--config", str(file)), {"TORNADO_CHAT_CONFIG": "/nowhere"}).port == 1


def test_guests_and_no_guests() -> None:
    assert load(flags("--guests"), {}).guests
    assert not load(flags("--no-guests"), {"TORNADO_CHAT_GUESTS": "1"}).guests
    assert not load(flags(), {"TORNADO_CHAT_GUESTS": "off"}).guests


def test_a_list_is_repeated_or_has_commas() -> None:
    given = flags("--allowed-origins", "https://a.example", "--allowed-origins", "https://b.example,https://c.example")
    assert load(given, {}).allowed_origins == ("https://a.example", "https://b.example", "https://c.example")
    assert load({}, {"TORNADO_CHAT_TRUSTED_PROXIES": ""}).trusted_proxies == ()


def test_unknown_variable() -> None:
    assert refused({}, {"TORNADO_CHAT_PROT": "1"}) == (
        "TORNADO_CHAT_PROT: no such setting in the environment; did you mean TORNADO_CHAT_PORT?"
    )
    load({}, {"TORNADO_CHAT_TOKEN": "x", "TORNADO_CHAT_URL": "x", "OTHER": "x"})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"prot = 1\n", "'prot': no such setting in a file; did you mean port?"),
        (b"[serve]\nport = 1\n", "'serve': no such setting"),
        (b'"a\\nb" = 1\n', "no such setting"),
        (b"max-frame-bytes = 2048\nmax_frame_bytes = 4096\n", "max_frame_bytes: stands there twice"),
        (b"port = \n", "is not TOML: Invalid value (at line 1, column 8)"),
        (b"\xff", "is not TOML"),
    ],
)
def test_a_file_that_is_wrong(text: bytes, why: str, tmp_path: Path) -> None:
    file = tmp_path / "chat.toml"
    file.write_bytes(text)
    message = refused({"config": str(file)}, {})
    assert str(file)[:60] in message  # what is longer is cut
    assert why in message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "No such file" in refused({"config": str(tmp_path / "none")}, {})
    assert "directory" in refused({"config": str(tmp_path)}, {})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "chat.example.org", "::ffff:127.0.0.1", "0", "127.1"])
def test_an_address_that_others_reach_needs_a_secret_file(host: str) -> None:
    message = refused(flags("--host", host), {})
    assert message.startswith("--host: ")
    assert "--secret-file" in message
    with pytest.raises(ConfigError):
        Settings(host=host)
    load(flags("--host", host, "--secret-file", "key"), {})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    assert load(flags("--host", host), {}).secret_file is None


def test_a_unix_socket_counts_as_loopback() -> None:
    assert load(flags("--host", "0.0.0.0", "--unix-socket", "chat.sock"), {}).unix_socket == "chat.sock"


def test_only_the_settings_asked_for() -> None:
    environ = {"TORNADO_CHAT_HOST": "0.0.0.0", "TORNADO_CHAT_DATABASE": "sqlite:///other.db"}
    assert load({}, environ, ("database",)) == Settings(database="sqlite:///other.db")


def test_the_password_of_a_refused_database_or_redis_is_not_repeated() -> None:
    for url in ("postgresql://me:hunter2@db", "mysql://me:hunter2@db/chat", "postgresql://me:hunter2@db:x/chat"):
        assert "hunter2" not in refused({}, {"TORNADO_CHAT_DATABASE": url})
    for url in ("redis://me:hunter2@", "redis+sentinel://me:hunter2@db:1", "rdis://me:hunter2@db"):
        assert "hunter2" not in refused({}, {"TORNADO_CHAT_REDIS": url})


def test_one_worker_for_each_core() -> None:
    assert load(flags("--workers", "auto"), {}).workers == len(os.sched_getaffinity(0))


def test_several_redis_from_several_flags() -> None:
    two = load(flags("--redis", "redis+sentinel://a:1,b:2/s", "--redis", "redis://c"), {}).redis
    assert two == ("redis+sentinel://a:1,b:2/s", "redis://c")


def test_each_of_several_workers_needs_its_own_unix_socket() -> None:
    assert "{worker}" in refused(flags("--workers", "2", "--unix-socket", "chat.sock"), {})
    assert load(flags("--workers", "2", "--unix-socket", "{worker}.sock"), {}).unix_socket == "{worker}.sock"


def test_an_agent_comes_by_tcp() -> None:
    assert refused(flags("--unix-socket", "run/chat.sock", "--agent", "demo"), {}).startswith(
        "--agent: 'demo' comes by"
    )


def test_the_table_and_the_help_have_every_setting() -> None:
    table = config.settings_table().splitlines()
    parser = argparse.ArgumentParser()
    config.add_flags(parser)
    help = " ".join(parser.format_help().split())
    assert len(table) == 2 + len(config.ALL)
    for line, name in zip(table[2:], config.ALL, strict=True):
        assert line.startswith(f"| `--{name.replace('_', '-')}`")
        assert line.count("|") == 5, "a bar inside would break the table"
        assert f"TORNADO_CHAT_{name.upper()}" in line
        assert f"--{name.replace('_', '-')}" in help
    assert "(default: 127.0.0.0/8,::1)" in help
