"""`GET /v1/openapi.json` (OpenAPI 3.1): what the endpoints declare, and so what their requests are checked by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import FieldInfo, fields

from tornado_chat.errors import ErrorCode
from tornado_chat.web.endpoint import Endpoint
from tornado_chat.wire.commands import Id

Schema = dict[str, Any]

_REF = "#/components/schemas/{name}"


class Refusal(Struct, omit_defaults=True):
    """Why: `message` is a sentence for people, `retry_after` is in seconds."""

    code: Annotated[str, Meta(extra_json_schema={"enum": [code.value for code in ErrorCode]})]
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
            _join(known, operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tornado_chat",
            "version": "1",
            "description": "The chat protocol, version 1, over plain HTTP. A token may be given in any of three ways; "
            "where guests are let in, one may read without.",
        },
        "security": [{"bearer": []}, {"cookie": []}, {"query": []}, {}],
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
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "chat_session"},
                "query": {"type": "apiKey", "in": "query", "name": "token"},
            },
        },
    }


class _Schemas:
    """The schemas of all types that endpoints name."""

    def __init__(self, endpoints: Iterable[Endpoint], text_chars: int) -> None:
        types: list[Any] = [Refused, Id]
        for endpoint in endpoints:
            types += [type_ for type_ in endpoint.answers.values() if type_ is not None]
            if endpoint.body is not None:
                types.append(endpoint.body)
            if endpoint.asks is not None:
                types += [endpoint.asks, *(field.type for field in fields(endpoint.asks))]
        schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
        short = {name: name.split(".")[-2].capitalize() + name.split(".")[-1] for name in components if "." in name}
        self._text_chars = text_chars
        self._short = {_REF.format(name=name): _REF.format(name=made) for name, made in short.items()}
        self._components = {short.get(name, name): self._told(schema) for name, schema in components.items()}
        self._schemas = [(type_, self._told(schema)) for type_, schema in zip(types, schemas, strict=True)]

    def of(self, type_: Any) -> Schema:
        return next(schema for known, schema in self._schemas if known == type_)

    def fields_of(self, struct: Any) -> Schema:
        """The object that a Struct is, in full."""
        found: Schema = self._components[self.of(struct)["$ref"].rpartition("/")[2]]
        return found

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

    def _told(self, part: Any) -> Any:
        """`part` of a schema in the words of JSON Schema, with the settings in it."""
        if isinstance(part, list):
            return [self._told(item) for item in part]
        if isinstance(part, str):
            return self._short.get(part, part)
        if not isinstance(part, dict):
            return part
        told = {key: self._told(value) for key, value in part.items()}
        description, pattern = told.get("description"), told.get("pattern")
        if isinstance(description, str) and "{text_chars" in description:
            told["description"] = description.format(text_chars=self._text_chars)
            told["maxLength"] = self._text_chars
        if isinstance(pattern, str):
            told["pattern"] = pattern.replace(r"\Z", "$")
        return told


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
        if body is not None:
            operation["requestBody"] = body
    return operation


def _parameter(name: str, where: str, field: FieldInfo, names: _Schemas) -> Schema:
    schema = names.of(field.type)
    # What an address does not hold is absent, and never null.
    schema = next((part for part in schema.get("anyOf", ()) if part.get("type") != "null"), schema)
    parameter: Schema = {"name": name, "in": where, "required": where == "path" or field.required, "schema": schema}
    if "description" in schema:
        parameter["description"] = schema["description"]
    return parameter


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
    answer: Schema = {"description": status.phrase}
    if type_ is not None:
        # Who asks in MessagePack is answered in it.
        media = endpoint.takes if len(endpoint.takes) > 1 else (endpoint.gives,)
        answer["content"] = {name: {"schema": names.of(type_)} for name in media}
    return answer


def _join(known: Schema, other: Schema) -> None:
    """Let an operation tell of another way of answering."""
    named = {parameter["name"] for parameter in known["parameters"]}
    known["parameters"] += [parameter for parameter in other["parameters"] if parameter["name"] not in named]
    known["summary"] += "; " + other["summary"][0].lower() + other["summary"][1:]
    for status, answer in other["responses"].items():
        mine = known["responses"].setdefault(status, answer)
        if "content" in answer:
            mine.setdefault("content", {}).update(answer["content"])


def _name(endpoint: Endpoint) -> str:
    """Such as `postRoomMessages`, for those who make clients out of this."""
    parts = [part.strip("{}") for part in endpoint.path.split("/")[2:]]
    words = [part.removesuffix(".json") for part in parts]
    return endpoint.method.lower() + "".join(word.capitalize() for word in words)
