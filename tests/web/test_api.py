"""What stands under /v1: the addresses, and how a request that is none of them is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import Struct

from tests.support.chat import running
from tests.support.plain_http import HTTP, get
from tornado_chat.config import Settings
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.web.api import Api
from tornado_chat.web.endpoint import Endpoint
from tornado_chat.web.gate import Gate
from tornado_chat.wire.commands import RoomName
from tornado_chat.wire.refusals import RequestError


class InRoom(Struct):
    room: RoomName


GATE = cast(Gate, SimpleNamespace(settings=Settings()))


def _api(*endpoints: tuple[str, str]) -> Api:
    made = [
        Endpoint(method, path, cast(Any, None), summary="x", answers={}, asks=InRoom if "{room}" in path else None)
        for method, path in endpoints
    ]
    return Api(GATE, made)


def test_an_endpoint_is_found_by_method_and_path() -> None:
    api = _api(("GET", "/v1/rooms/{room}/events"), ("POST", "/v1/rooms/{room}/events"), ("GET", "/v1/events"))
    endpoint, path = api.find("POST", "/v1/rooms/a%20b/events")
    assert (endpoint.method, path) == ("POST", {"room": "a%20b"})
    assert api.find("HEAD", "/v1/events")[0].method == "GET"
    with pytest.raises(ChatError) as nothing:
        api.find("GET", "/v1/rooms/a")
    assert nothing.value.code is ErrorCode.NOT_FOUND
    with pytest.raises(RequestError) as other:
        api.find("DELETE", "/v1/rooms/a/events")
    assert (other.value.status, other.value.headers) == (405, {"Allow": "GET, POST, HEAD"})


def test_a_stream_is_for_those_who_ask_for_it() -> None:
    page, stream = (
        Endpoint("GET", "/v1/events", cast(Any, None), summary="x", answers={}, gives=gives)
        for gives in ("application/json", "text/event-stream")
    )
    for api in (Api(GATE, [page, stream]), Api(GATE, [stream, page])):
        assert api.find("GET", "/v1/events", "text/event-stream")[0] is stream
        assert api.find("GET", "/v1/events", "application/json")[0] is page
        assert api.find("GET", "/v1/events", "*/*")[0] is page


async def test_an_address_that_is_none_is_told_so_and_the_connection_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path) as here, HTTP(here) as http:
        for _ in range(2):
            answer = await http.ask("/v1/nothing", {"Host": "localhost"})
            assert (answer.status, answer.error["code"]) == (404, "not_found")


async def test_a_page_of_another_origin_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, allowed_origins=("https://ours.example",)) as here:
        answer = await get(here, "/v1/nothing", Origin="https://evil.example")
        assert (answer.status, answer.error["code"]) == (403, "forbidden")
        assert "access-control-allow-origin" not in answer.headers
        answer = await get(here, "/v1/nothing", Origin="https://ours.example")
        assert answer.status == 404
        assert answer.headers["access-control-allow-origin"] == "https://ours.example"
