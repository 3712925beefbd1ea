"""What goes wrong is tried again while nothing has been said, is one exception then, and shows the key to nobody."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import time
import traceback

import pytest

from tests.support.scripted_http import STREAM_HEAD, answer, chunk
from tests.support.scripted_provider import (
    ANTHROPIC,
    ASK,
    CUT,
    EVER,
    KEY,
    OPENAI,
    Dialect,
    Piece,
    Script,
    ScriptedProvider,
    data,
    drip,
    gather,
    refusal,
    stream,
    typed,
)
from tornado_chat.agents.providers import Anthropic, Limits, OpenAI, ProviderError
from tornado_chat.agents.providers.limits import ANSWER_BYTES, EVENT_BYTES

both = pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC], ids=lambda dialect: dialect.name)

OVERLOADED = {"type": "overloaded_error", "message": "Overloaded"}


async def failure(dialect: Dialect, *scripts: Script, limits: Limits | None = None, asked: int = 1) -> ProviderError:
    """The error that ends the stream, after so many requests."""
    async with ScriptedProvider(*scripts) as fake, dialect.provider(fake.url, limits) as provider:
        with pytest.raises(ProviderError) as caught:
            await gather(provider.stream(ASK))
        assert len(fake.asked) == asked
        return caught.value


async def after(dialect: Dialect, *scripts: Script) -> None:
    """What comes is tried again, and the last of `scripts` answers."""
    async with ScriptedProvider(*scripts, dialect.reply("Now")) as fake, dialect.provider(fake.url) as provider:
        assert await gather(provider.stream(ASK)) == ["Now"]
        assert len(fake.asked) == len(scripts) + 1
        assert fake.asked[0].body == fake.asked[-1].body


def error_event(dialect: Dialect, error: object) -> bytes:
    return typed("error", error=error) if dialect is ANTHROPIC else data({"error": error})


@both
@pytest.mark.parametrize("status", [429, 529, 503])
async def test_a_refusal_is_tried_again_when_it_may_be(dialect: Dialect, status: int) -> None:
    began = time.monotonic()
    await after(dialect, refusal(status, {"type": "some_error", "message": "Wait"}, "Retry-After: 0.3"))
    assert time.monotonic() - began >= 0.3


@both
async def test_an_error_after_the_status_200_is_tried_again_before_the_first_word(dialect: Dialect) -> None:
    await after(dialect, stream(dialect.opening, error_event(dialect, OVERLOADED)), stream(dialect.opening))


@both
async def test_a_connection_that_is_cut_is_tried_again_before_the_first_word(dialect: Dialect) -> None:
    await after(dialect, [CUT], [STREAM_HEAD, chunk(dialect.opening), CUT])


@both
async def test_no_more_attempts_than_allowed(dialect: Dialect) -> None:
    error = await failure(dialect, refusal(529, OVERLOADED, "Retry-After: 0"), limits=Limits(attempts=2), asked=2)
    assert error.kind == "overloaded"


@both
@pytest.mark.parametrize(
    "header",
    [
        "Retry-After: 400",
        "retry-after-ms: 400000",
        "Retry-After: {date}",
    ],
)
async def test_who_has_to_wait_too_long_is_told_at_once(dialect: Dialect, header: str) -> None:
    header = header.format(date=email.utils.formatdate(time.time() + 401, usegmt=True))
    error = await failure(dialect, refusal(429, {"type": "rate_limit_error", "message": "x"}, header))
    assert (error.kind, error.sentence) == (
        "busy",
        "The model's provider is asked too often. It may be asked again in 7 minutes.",
    )


@both
@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (401, {"type": "authentication_error", "message": f"Incorrect API key provided: {KEY}"}, "key"),
        (402, {"type": "billing_error", "message": "x"}, "funds"),
        (429, {"type": "insufficient_quota", "code": "insufficient_quota", "message": "x"}, "funds"),
        (404, {"type": "not_found_error", "message": "model: x"}, "model"),
        (400, {"type": "invalid_request_error", "message": "x"}, "request"),
        (400, {"type": "invalid_request_error", "code": "context_length_exceeded", "message": "x"}, "long"),
        (400, {"type": "invalid_request_error", "message": "prompt is too long: 9 tokens > 8 maximum"}, "long"),
        (413, {"type": "request_too_large", "message": "x"}, "long"),
        (418, "a teapot", "request"),
    ],
)
async def test_refusals_that_are_not_tried_again(dialect: Dialect, status: int, error: object, kind: str) -> None:
    assert (await failure(dialect, refusal(status, error))).kind == kind


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "API key not valid. Please pass a valid API key.", "key"),
        (400, "This exceeds the maximum context length", "long"),
        (400, "Function call is missing a thought_signature", "request"),
        (404, "models/x is not found", "model"),
    ],
)
async def test_googles_errors_stand_in_a_list(status: int, message: str, kind: str) -> None:
    error = {"code": status, "message": message, "status": "INVALID_ARGUMENT"}
    found = await failure(OPENAI, [answer(status, [{"error": error}])])
    assert found.kind == kind
    assert message in found.details


@both
async def test_an_error_after_the_first_word_is_told(dialect: Dialect) -> None:
    script = stream(dialect.opening, dialect.text("Half a"), error_event(dialect, OVERLOADED), dialect.ending("done"))
    async with ScriptedProvider(script) as fake, dialect.provider(fake.url) as provider:
        deltas = provider.stream(ASK)
        assert await anext(deltas) == "Half a"
        with pytest.raises(ProviderError) as caught:
            await anext(deltas)
        assert len(fake.asked) == 1
        assert caught.value.kind == "overloaded"
        assert caught.value.sentence == "The model's provider is overloaded or has a failure."
        assert "Overloaded" in caught.value.details


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (data({"error": {"message": "slow down", "code": 429}}), "busy"),
        (data({"error": {"message": "no", "code": "content_filter"}}), "declined"),
        (data({"error": "the model crashed"}), "overloaded"),  # Ollama
        (data({"object": "error", "message": "maximum context length is 8", "code": 400}), "long"),  # vLLM
    ],
)
async def test_errors_in_the_stream_of_whoever_speaks_openais_protocol(event: bytes, kind: str) -> None:
    script = stream(OPENAI.opening, OPENAI.text("Half a"), event)
    assert (await failure(OPENAI, script)).kind == kind


@both
async def test_a_connection_that_is_cut_in_the_middle(dialect: Dialect) -> None:
    error = await failure(dialect, [STREAM_HEAD, chunk(dialect.opening), chunk(dialect.text("Half a")), 0.05, CUT])
    assert (error.kind, error.sentence) == ("cut", "The reply broke off before its end.")


@both
async def test_a_connection_that_is_cut_in_the_middle_of_an_event(dialect: Dialect) -> None:
    half = dialect.text("more")[:-20]
    error = await failure(dialect, stream(dialect.opening, dialect.text("Half a"), half))
    assert error.kind == "cut"


@both
async def test_nobody_is_there(dialect: Dialect) -> None:
    async with ScriptedProvider() as fake:
        url = fake.url
    async with dialect.provider(url, Limits(attempts=1)) as provider:
        with pytest.raises(ProviderError) as caught:
            await gather(provider.stream(ASK))
        assert caught.value.kind == "unreachable"


@both
@pytest.mark.parametrize(
    ("event", "kind"), [(b"data: {\n\n", "malformed"), (b'data: {"choices":7,"type":7}\n\n', "malformed")]
)
async def test_events_that_are_none(dialect: Dialect, event: bytes, kind: str) -> None:
    assert (await failure(dialect, stream(dialect.opening, event, dialect.ending("done")))).kind == kind


@both
async def test_an_answer_that_is_no_stream(dialect: Dialect) -> None:
    error = await failure(dialect, [answer(200, {"hello": "there"})])
    assert error.kind == "malformed"
    assert "application/json" in error.details


@both
async def test_an_event_has_a_bound(dialect: Dialect) -> None:
    error = await failure(dialect, stream(dialect.opening, b"data: " + b"x" * (EVENT_BYTES + 1)))
    assert error.kind == "malformed"


@both
async def test_an_answer_has_a_bound(dialect: Dialect) -> None:
    comments = (b":" + b"x" * 65_535 + b"\n") * 16
    error = await failure(dialect, stream(dialect.opening, *[comments] * (ANSWER_BYTES // len(comments)), comments))
    assert error.kind == "malformed"


@both
async def test_an_error_has_a_bound(dialect: Dialect) -> None:
    head = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    part = chunk(b"x" * 65_536)
    async with ScriptedProvider([head, *[part] * 1000]) as fake, dialect.provider(fake.url) as provider:
        with pytest.raises(ProviderError) as caught:
            await gather(provider.stream(ASK))
        assert caught.value.kind == "request"
        assert fake.sent < 500, "the rest was read as well"


@both
@pytest.mark.parametrize(
    ("script", "limits", "which"),
    [
        ([EVER], Limits(first=0.3), "first"),
        ([STREAM_HEAD, EVER], Limits(first=0.3), "first"),
        (None, Limits(silent=0.3), "silent"),
        ([EVER], Limits(whole=0.3), "whole"),
    ],
)
async def test_a_model_that_hangs(dialect: Dialect, script: Script | None, limits: Limits, which: str) -> None:
    error = await failure(
        dialect, script or [STREAM_HEAD, chunk(dialect.opening), chunk(dialect.text("Half a")), EVER], limits=limits
    )
    assert (error.kind, error.sentence) == ("silent", "The model took too long.")
    assert which in error.details


@both
async def test_a_reply_without_an_end(dialect: Dialect) -> None:
    # And one that only says that it is alive.
    ping: list[Piece] = [chunk(b": ping\n\n"), 0.05]
    alive = [STREAM_HEAD, *ping * 100]
    for script in (drip(dialect), alive):
        error = await failure(dialect, script, limits=Limits(whole=0.4, silent=0.3))
        assert error.kind == "silent"
        assert "whole" in error.details


@both
async def test_the_connection_of_what_failed_is_closed(dialect: Dialect) -> None:
    script: list[Piece] = [STREAM_HEAD, chunk(dialect.opening), chunk(b"data: no event\n\n"), EVER]
    async with ScriptedProvider(script) as fake, dialect.provider(fake.url) as provider:
        with pytest.raises(ProviderError) as caught:
            await gather(provider.stream(ASK))
        await asyncio.wait_for(fake.gone.wait(), 2)
        # Its traceback holds all that was open: what is not closed is not collected either.
        assert caught.value.__traceback__


@both
async def test_the_key_is_shown_to_nobody(dialect: Dialect, caplog: pytest.LogCaptureFixture) -> None:
    told = {"type": "authentication_error", "message": f"Incorrect API key provided: {KEY}"}
    scripts: list[tuple[int, Script]] = [
        (logging.DEBUG, refusal(401, told)),
        (logging.DEBUG, stream(dialect.opening, dialect.text("x"), error_event(dialect, told))),
        (logging.DEBUG, [answer(403, f"{KEY} is not allowed")]),
        # The HTTP library's own DEBUG lines show what heads a server answers with.
        (logging.INFO, refusal(500, told, f"Retry-After: 0, {KEY}")),
        (logging.INFO, [b"HTTP/1.1 200 OK\r\n" + KEY.encode() + b"\r\n\r\n"]),
    ]
    for level, script in scripts:
        caplog.set_level(level)
        async with ScriptedProvider(script) as fake, dialect.provider(fake.url, Limits(attempts=1)) as provider:
            with pytest.raises(ProviderError) as caught:
                await gather(provider.stream(ASK))
            assert fake.asked[0].headers.get("authorization", fake.asked[0].headers.get("x-api-key", "")).endswith(KEY)
        shown = [str(caught.value), repr(caught.value), caught.value.sentence, caught.value.details, repr(provider)]
        shown += traceback.format_exception(caught.value)
        assert not [text for text in shown if KEY in text]
    assert caplog.records
    assert KEY not in caplog.text


@both
async def test_the_key_does_not_go_to_another_server(dialect: Dialect) -> None:
    async with ScriptedProvider(dialect.reply("x")) as other:
        script = [answer(307, {}, f"Location: {other.url}{dialect.path}")]
        error = await failure(dialect, script)
        assert error.kind == "request"
        assert "307" in error.details
        assert not other.asked


@pytest.mark.parametrize("provider", [OpenAI, Anthropic])
@pytest.mark.parametrize("key", [f"{KEY}\r\nX: y", f"{KEY} x", f"{KEY}ü"])
def test_a_key_that_is_none_is_refused_and_not_shown(provider: type[OpenAI | Anthropic], key: str) -> None:
    with pytest.raises(ValueError, match="characters that no key has") as caught:
        provider("m", api_key=key)
    assert KEY not in str(caught.value)


@both
async def test_the_key_of_the_environment_is_for_the_provider_itself(
    dialect: Dialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable, name = f"{dialect.name.upper()}_API_KEY", f"{dialect.name.upper()}_BASE_URL"
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv(name, raising=False)
    make = OpenAI if dialect is OPENAI else Anthropic
    with pytest.raises(ValueError, match=f"set {variable}"):
        make("m")
    async with ScriptedProvider(dialect.reply("x")) as fake:
        base = fake.url + "/v1" if dialect is OPENAI else fake.url

        async def sent(provider: OpenAI | Anthropic) -> str:
            async with provider:
                await gather(provider.stream(ASK))
            headers = fake.asked[-1].headers
            return headers.get("x-api-key") or headers["authorization"].removeprefix("Bearer ")

        monkeypatch.setenv(variable, f"{KEY}\n")
        assert await sent(make("m", base_url=base)) == "none"
        assert await sent(make("m", base_url=base, api_key="another")) == "another"
        monkeypatch.setenv(name, base)
        assert await sent(make("m")) == KEY
        monkeypatch.delenv(variable)
        assert await sent(make("m")) == "none"
