"""`GET /v1/openapi.json` (OpenAPI 3.1): what the endpoints declare, and so what their requests are checked by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import FieldInfo, fields

from tornado_chat.web.endpoint import EVENTS_TYPE, JSON_TYPE, MSGPACK_TYPE, TEXT_TYPE, Endpoint, Token
from tornado_chat.web.gate import COOKIE
from tornado_chat.wire.commands import Id
from tornado_chat.wire.replies import Code

Schema = dict[str, Any]

_ABOUT = """\
The chat protocol, version 1, over plain HTTP.

A token says who you are. Your operator makes one with `tornado-chat token --user USER`; your backend signs one as the \
protocol tells; and where guests are let in, `POST /v1/session` without a token gives you a guest's. Then one may read \
without a token, too.

What is refused has a status of 400 or more and the body `Refused`, whose `message` says what was wrong and what would \
be right. Ask again where there is `retry_after` (seconds), with the same `id`: what is there already is not done twice.

An optional field that is `null` in what you send counts as absent; in answers such a field is left out. Fields, and \
types of events, may be added: ignore what you do not know."""

_SECURITY: dict[Token, list[dict[str, list[str]]]] = {
    "needed": [{"bearer": []}, {"cookie": []}, {"query": []}],
    "welcome": [{"bearer": []}, {"cookie": []}, {"query": []}, {}],
    "given": [{}, {"bearer": []}, {"cookie": []}, {"query": []}],
}

_STREAM = (
    "Server-sent events, without end. The `data` of each is one JSON object of this schema; but `event: ping` with "
    "`{}` is a heartbeat, and a block that has only an `id` tells cursors"
)

_FRAGMENTS = "Server-sent events, without end. The `data` of each is a fragment of HTML, for HTMX to swap out of band"

_TEXT = (
    "The text of a message that grows: what has come is shown, and the answer comes after the end. In UTF-8; a chunked "
    "body may take as long as it likes. Not with the cookie"
)

_REF = "#/components/schemas/{name}"


class Refusal(Struct, omit_defaults=True):
    """Why: `message` is a sentence for people, `retry_after` is in seconds."""

    code: Code
    message: str
    retry_after: float | None = None


class Refused(Struct):
    """The body of every refusal."""

    error: Refusal


def document(endpoints: Sequence[Endpoint], text_chars: int) -> Schema:
    """The description of all `endpoints`; `text_chars` is the setting."""
    names = _Schemas(endpoints, text_chars)
    paths: dict[str, dict[str, Schema]] = {}
    for endpoint in endpoints:
        operation = _operation(endpoint, names)
        methods = paths.setdefault(endpoint.path, {})
        known = methods.setdefault(endpoint.method.lower(), operation)
        if known is not operation:  # two ways of answering, chosen by Accept
            _join(known, operation, endpoint.gives == EVENTS_TYPE)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tornado_chat",
            "version": "1",
            "description": _ABOUT,
        },
        "security": _SECURITY["welcome"],
        "paths": paths,
        "components": {
            "schemas": names.used(paths),
            "responses": {
                "Refused": {
                    "description": "Why it was not done; with Retry-After (seconds) where it may be tried again",
                    "headers": {"Retry-After": {"schema": {"type": "integer"}}},
                    "content": {
                        "application/json": {"schema": names.of(Refused)},
                        "text/html": {"schema": {"type": "string"}},
                    },
                }
            },
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "`Authorization: Bearer TOKEN`, for programs",
                },
                "cookie": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": COOKIE,
                    "description": "as `POST /v1/session` sets it, for pages of this server: with it, a request that "
                    "is not a GET must have an allowed `Origin`",
                },
                "query": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "token",
                    "description": "for who can set no header; addresses end up in other programs' logs",
                },
            },
        },
    }


class _Schemas:
    """The schemas of all types that endpoints name.

    What is asked at an address is told in its parameters and its body, so its own name may be that of another type.
    """

    def __init__(self, endpoints: Sequence[Endpoint], text_chars: int) -> None:
        self._text_chars = text_chars
        self._components: dict[str, Schema] = {}
        self._schemas: list[tuple[Any, Schema]] = []
        self._structs: dict[Any, Schema] = {}
        given = [type_ for endpoint in endpoints for type_ in endpoint.answers.values() if type_ is not None]
        self._add([Refused, *given], answered=True)
        self._add([Id, *(endpoint.body for endpoint in endpoints if endpoint.body is not None)])
        for asks in dict.fromkeys(endpoint.asks for endpoint in endpoints if endpoint.asks is not None):
            components = self._add([field.type for field in fields(asks)], whole=asks)
            self._structs[asks] = components.pop(asks.__name__)

    def _add(self, types: list[Any], *, answered: bool = False, whole: Any = None) -> dict[str, Schema]:
        """Tell `types`, and what they refer to; and the components of `whole`, if there is one, which stays unnamed."""
        asked = [] if whole is None else [whole]
        schemas, made = msgspec.json.schema_components([*types, *asked], ref_template=_REF)
        components = {name: self._told(schema, answered) for name, schema in made.items()}
        self._schemas += [(type_, self._told(schema, answered)) for type_, schema in zip(types, schemas, strict=False)]
        self._components |= {
            name: schema for name, schema in components.items() if whole is None or name != whole.__name__
        }
        return components

    def of(self, type_: Any) -> Schema:
        return next(schema for known, schema in self._schemas if known == type_)

    def fields_of(self, struct: Any) -> Schema:
        """The object that a Struct which is asked is, in full."""
        return self._structs[struct]

    def used(self, where: Any) -> dict[str, Schema]:
        """The components that `where` refers to, and those that they do."""
        found: dict[str, Schema] = {}
        waiting = [where, self.of(Refused)]
        while waiting:
            for name in _refs(waiting.pop()):
                if name not in found:
                    found[name] = self._components[name]
                    waiting.append(found[name])
        return dict(sorted(found.items()))

    def _told(self, part: Any, answered: bool) -> Any:
        """`part` of a schema in the words of JSON Schema, with the settings in it."""
        if isinstance(part, list):
            return [self._told(item, answered) for item in part]
        if not isinstance(part, dict):
            return part
        told = {key: self._told(value, answered) for key, value in part.items()}
        if answered and "anyOf" in told and told.get("default", told) is None:  # what is absent is left out, never null
            told = _some(told) | {key: value for key, value in told.items() if key not in ("anyOf", "default")}
        description, pattern = told.get("description"), told.get("pattern")
        if isinstance(description, str) and "{text_chars" in description:
            told["description"] = description.format(text_chars=self._text_chars)
            told["maxLength"] = self._text_chars
        if isinstance(pattern, str):
            told["pattern"] = pattern.replace(r"\Z", "$")
        return told


def _some(schema: Schema) -> Schema:
    """`schema` without the null that stands for what is absent."""
    some: Schema = next((part for part in schema.get("anyOf", ()) if part.get("type") != "null"), schema)
    return some


def _refs(part: Any) -> Iterable[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "$ref":
                if value.startswith(_REF.format(name="")):
                    yield value.rpartition("/")[2]
            else:
                yield from _refs(value)
    elif isinstance(part, list):
        for item in part:
            yield from _refs(item)
    elif isinstance(part, str) and part.startswith(_REF.format(name="")):  # of a discriminator
        yield part.rpartition("/")[2]


def _operation(endpoint: Endpoint, names: _Schemas) -> Schema:
    said = {field.encode_name: field for field in fields(endpoint.asks)} if endpoint.asks else {}
    parameters = [
        _parameter(name, "path" if name in endpoint.in_path else "query", said[name], names)
        for name in (*endpoint.in_path, *endpoint.in_query)
    ]
    operation: Schema = {
        "summary": endpoint.summary,
        "operationId": _name(endpoint),
        "parameters": parameters,
        "responses": {
            str(int(status)): _answer(HTTPStatus(status), type_, endpoint, names)
            for status, type_ in endpoint.answers.items()
        }
        | {range_: {"$ref": "#/components/responses/Refused"} for range_ in ("4XX", "5XX")},
    }
    if endpoint.token != "welcome":
        operation["security"] = _SECURITY[endpoint.token]
    if endpoint.gives == EVENTS_TYPE:
        parameters.append(
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "the last `id` that a stream brought; it goes on behind it, whatever `after` says",
                "schema": {"type": "string"},
            }
        )
    if endpoint.method != "GET":
        if "id" in said:
            parameters.append(
                {
                    "name": "Idempotency-Key",
                    "in": "header",
                    "description": "The id, where the body has none; without either the server makes one",
                    "schema": names.of(Id),
                }
            )
        body = _body(endpoint, names)
        if body is not None and endpoint.reads_text is not None:
            body["content"][TEXT_TYPE] = {"schema": {"type": "string", "description": _TEXT}}
            parameters += [
                _of_text(_parameter(name, "query", said[name], names)) for name in ("id", "reply_to") if name in said
            ]
        if body is not None:
            operation["requestBody"] = body
    return operation


def _parameter(name: str, where: str, field: FieldInfo, names: _Schemas) -> Schema:
    schema = _some(names.of(field.type))  # what an address does not hold is absent, and never null
    parameter: Schema = {"name": name, "in": where, "required": where == "path" or field.required, "schema": schema}
    if field.default is not None and field.default is not msgspec.NODEFAULT:
        parameter["schema"] = schema | {"default": field.default}
    if "description" in schema:
        parameter["description"] = schema["description"]
    return parameter


def _of_text(parameter: Schema) -> Schema:
    description = parameter.get("description", "")
    return parameter | {"description": f"{description} (with `Content-Type: {TEXT_TYPE}`)".strip()}


def _body(endpoint: Endpoint, names: _Schemas) -> Schema | None:
    if endpoint.body is not None:
        return {"required": True, "content": {media: {"schema": names.of(endpoint.body)} for media in endpoint.takes}}
    if endpoint.asks is None:
        return None
    whole = names.fields_of(endpoint.asks)
    left_out = {"type", *endpoint.in_path, *endpoint.fixed}
    properties = {name: schema for name, schema in whole["properties"].items() if name not in left_out}
    if not properties:
        return None
    required = [name for name in whole["required"] if name not in left_out]
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return {"required": bool(required), "content": {media: {"schema": schema} for media in endpoint.takes}}


def _answer(status: HTTPStatus, type_: Any, endpoint: Endpoint, names: _Schemas) -> Schema:
    stream = _FRAGMENTS if type_ is str else _STREAM
    answer: Schema = {"description": stream if endpoint.gives == EVENTS_TYPE else status.phrase}
    if type_ is not None:
        # Who asks in MessagePack is answered in it.
        media = endpoint.takes if MSGPACK_TYPE in endpoint.takes else (endpoint.gives,)
        answer["content"] = {name: {"schema": names.of(type_)} for name in media}
    return answer


def _join(known: Schema, other: Schema, streams: bool) -> None:
    """Let an operation tell of another way of answering; a parameter of only one of them tells of which.

    One of the two gives a stream: `streams` says that it is the other.
    """
    named = [{parameter["name"] for parameter in operation["parameters"]} for operation in (known, other)]
    medias = (JSON_TYPE, EVENTS_TYPE) if streams else (EVENTS_TYPE, JSON_TYPE)
    for operation, media in zip((known, other), medias, strict=True):
        for parameter in operation["parameters"]:
            if parameter["name"] not in named[0] & named[1]:
                parameter["description"] += f" (with `Accept: {media}`)"
    known["parameters"] += [parameter for parameter in other["parameters"] if parameter["name"] not in named[0]]
    known["summary"] += "; or " + other["summary"][0].lower() + other["summary"][1:]
    for status, answer in other["responses"].items():
        mine = known["responses"].setdefault(status, answer)
        if "content" in answer:
            mine.setdefault("content", {}).update(answer["content"])


def _name(endpoint: Endpoint) -> str:
    """Such as `postRoomMessages`, for those who make clients out of this."""
    parts = [part.strip("{}") for part in endpoint.path.split("/")[2:]]
    words = [part.removesuffix(".json") for part in parts]
    return endpoint.method.lower() + "".join(word.capitalize() for word in words)
