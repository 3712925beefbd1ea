"""The checks of the opening handshake, RFC 6455 section 4.2.1."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders

from tornado_chat.errors import ErrorCode
from tornado_chat.wire.handshake import Upgrade, accept_value, check, response
from tornado_chat.wire.refusals import RequestError

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def headers(**changes: str | None) -> HTTPHeaders:
    """Sound headers, but for `changes`: names with _ for -, None to leave one out."""
    made = {
        "Host": "chat.example",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": KEY,
    }
    for name, value in changes.items():
        made.pop(name.replace("_", "-"), None)
        if value is not None:
            made[name.replace("_", "-")] = value
    return HTTPHeaders(made)


def refusal(method: str = "GET", version: str = "HTTP/1.1", **changes: str | None) -> RequestError:
    with pytest.raises(RequestError) as raised:
        check(method, version, headers(**changes))
    assert raised.value.code is ErrorCode.BAD_REQUEST
    assert raised.value.message
    return raised.value


def test_example_of_the_rfc() -> None:
    assert accept_value(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert check("GET", "HTTP/1.1", headers()) == Upgrade("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", (), "")


@pytest.mark.parametrize("upgrade", ["WebSocket", "h2c, websocket", " websocket "])
@pytest.mark.parametrize("connection", ["upgrade", "keep-alive, Upgrade", "Upgrade,keep-alive"])
def test_tokens_in_lists_and_in_any_case(upgrade: str, connection: str) -> None:
    check("GET", "HTTP/1.1", headers(Upgrade=upgrade, Connection=connection))


@pytest.mark.parametrize("upgrade", [None, "", "h2c", "websockets", "web socket"])
def test_upgrade_missing_or_another(upgrade: str | None) -> None:
    error = refusal(Upgrade=upgrade)
    assert error.status == 400
    assert "Upgrade should be websocket" in error.message


@pytest.mark.parametrize("connection", [None, "", "keep-alive", "upgraded"])
def test_connection_missing_or_another(connection: str | None) -> None:
    error = refusal(Connection=connection)
    assert error.status == 400
    assert "Connection should contain Upgrade" in error.message


@pytest.mark.parametrize("version", [None, "", "8", "12", "14", "013", "13, 13", "x"])
def test_another_version_is_told_the_right_one(version: str | None) -> None:
    error = refusal(Sec_WebSocket_Version=version)
    assert error.status == 426
    assert error.headers == {"Sec-WebSocket-Version": "13"}


@pytest.mark.parametrize(
    "key",
    [
        None,
        "",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZ===",
        base64.b64encode(b"15 bytes, not 16"[:15]).decode(),
        base64.b64encode(b"17 bytes, not 16!").decode(),
        "dGhlIHNhbXBsZSBub25jZ!==",
        "dGhl IHNhbXBsZSBub25jZQ=",
        f"{KEY}, {KEY}",
        "é" * 24,
    ],
)
def test_key_that_is_not_16_bytes_of_base64(key: str | None) -> None:
    error = refusal(Sec_WebSocket_Key=key)
    assert error.status == 400
    assert "Sec-WebSocket-Key" in error.message


def test_method_and_version_of_http() -> None:
    assert refusal(method="POST").status == 405
    assert refusal(method="POST").headers == {"Allow": "GET"}
    assert refusal(version="HTTP/1.0").status == 400


def test_subprotocols_in_the_clients_order() -> None:
    upgrade = check("GET", "HTTP/1.1", headers(Sec_WebSocket_Protocol="chat.v1.msgpack, chat.v1.json,bearer.a-b_c.d"))
    assert upgrade.subprotocols == ("chat.v1.msgpack", "chat.v1.json", "bearer.a-b_c.d")


def test_subprotocols_in_several_headers() -> None:
    several = headers()
    several.add("Sec-WebSocket-Protocol", "a")
    several.add("Sec-WebSocket-Protocol", "b")
    assert check("GET", "HTTP/1.1", several).subprotocols == ("a", "b")


@pytest.mark.parametrize("names", ["", ",", "a,", "a b", "a, a", 'a"', "a/b", "é"])
def test_subprotocols_that_are_no_tokens_or_come_twice(names: str) -> None:
    error = refusal(Sec_WebSocket_Protocol=names)
    assert error.status == 400
    assert "Sec-WebSocket-Protocol" in error.message


def test_response() -> None:
    upgrade = check("GET", "HTTP/1.1", headers(Sec_WebSocket_Extensions="permessage-deflate"))
    assert upgrade.extensions == "permessage-deflate"
    assert response(upgrade) == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )
    full = response(upgrade, subprotocol="chat.v1.json", extensions="permessage-deflate")
    assert full.endswith(
        b"Sec-WebSocket-Protocol: chat.v1.json\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    )


@given(st.dictionaries(st.sampled_from(list(headers())), st.text(max_size=40)), st.text(max_size=10))
def test_no_headers_raise_anything_else(changes: dict[str, str], method: str) -> None:
    made = {name.lower(): value for name, value in {**headers(), **changes}.items()}
    with contextlib.suppress(RequestError):
        check(method, "HTTP/1.1", made)
