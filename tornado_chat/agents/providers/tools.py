"""A function that a model may call: what it takes is told by its type hints, what it is for by its docstring."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import Callable
from typing import Any, get_type_hints

import msgspec

from tornado_chat.agents.providers.deltas import ToolCall, ToolResult
from tornado_chat.agents.providers.limits import RESULT_CHARS

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # what OpenAI and Anthropic take


class Tool:
    """`parameters` is a JSON schema. A parameter is described by `Annotated[str, msgspec.Meta(description="...")]`.

    TypeError: the function has no docstring, or a parameter has no type hint or one that JSON cannot hold.
    """

    __slots__ = ("_arguments", "_function", "description", "name", "parameters")

    def __init__(self, function: Callable[..., object]) -> None:
        self.name = str(getattr(function, "__name__", ""))
        if not _NAME.fullmatch(self.name):
            raise TypeError(f"a tool has to be a function with a name, not {function!r}")
        self.description = inspect.getdoc(function) or ""
        if not self.description:
            raise TypeError(f"the tool {self.name} has to say in its docstring what it is for")
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise TypeError(f"the tool {self.name} has to return its result, not to yield it")
        self._function = function
        self._arguments = msgspec.defstruct(
            self.name, list(_fields(self.name, function)), kw_only=True, forbid_unknown_fields=True
        )
        self.parameters = _schema(self.name, self._arguments)

    async def run(self, call: ToolCall, seconds: float) -> ToolResult:
        """A function that is not asynchronous runs in a thread, which goes on after `seconds` or a cancellation.

        An exception is logged, and the model is told its type alone: its text may hold what is not for a room.
        """
        try:
            given = msgspec.json.decode(call.arguments or "{}", type=self._arguments)
        except ValueError as error:
            return _failed(call, f"These arguments do not fit: {error}")
        named = {field: getattr(given, field) for field in self._arguments.__struct_fields__}
        try:
            async with asyncio.timeout(seconds) as limit:
                if inspect.iscoroutinefunction(self._function):
                    value = await self._function(**named)
                else:
                    value = await asyncio.to_thread(self._function, **named)
            content = value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
        except Exception as error:
            if limit.expired():
                logger.warning("the tool %s did not end within %g s", self.name, seconds)
                return _failed(call, f"{self.name} did not end within {seconds:g} s.")
            logger.exception("the tool %s failed", self.name)
            return _failed(call, f"{self.name} failed: {type(error).__name__}")
        if len(content) > RESULT_CHARS:
            content = f"{content[:RESULT_CHARS]} [{len(content) - RESULT_CHARS:,} characters more are left out]"
        return ToolResult(call.id, call.name, content, error=False)


def no_such_tool(call: ToolCall) -> ToolResult:
    return _failed(call, f"There is no tool {call.name[:64]!r}.")


def _failed(call: ToolCall, content: str) -> ToolResult:
    return ToolResult(call.id, call.name, content, error=True)


def _fields(name: str, function: Callable[..., object]) -> list[tuple[str, Any, Any]]:
    hints = get_type_hints(function, include_extras=True)
    found = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"the tool {name} cannot have the parameter {parameter}: models name what they give")
        if parameter.name not in hints:
            raise TypeError(f"the parameter {parameter.name} of the tool {name} has to have a type hint")
        found.append((parameter.name, hints[parameter.name], _default(parameter.default)))
    return found


def _default(default: Any) -> Any:
    if default is inspect.Parameter.empty:
        return msgspec.NODEFAULT
    if default is None or isinstance(default, bool | int | float | str):
        return msgspec.field(default=default)
    return msgspec.field(default_factory=lambda: default)  # the function's own object, as with any call of it


def _schema(name: str, arguments: type[msgspec.Struct]) -> dict[str, Any]:
    try:
        (_,), parts = msgspec.json.schema_components([arguments], ref_template="#/$defs/{name}")
    except TypeError as error:
        raise TypeError(f"the tool {name} takes what JSON cannot hold: {str(error).splitlines()[-1]}") from error
    # Providers want the object itself at the top.
    schema: dict[str, Any] = parts.pop(name)
    del schema["title"]
    return {**schema, "$defs": parts} if parts else schema
