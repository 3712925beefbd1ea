"""The query of an address is read as the standard library reads it."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tornado_chat.web.gate import MAX_ARGUMENTS, Arguments
from tornado_chat.wire.refusals import RequestError


@given(st.text(st.sampled_from("ab=&;+%2541é/"), max_size=30))
@example("a=b&&c&=d&e=f=g&a=")
def test_the_query_is_read_as_the_library_reads_it(query: str) -> None:
    assert Arguments(query).pairs == parse_qsl(query, keep_blank_values=True)


def test_the_last_value_counts_or_all_of_them() -> None:
    arguments = Arguments("join=a&name=x&join=b")
    assert (arguments.get("join"), arguments.all("join"), arguments.get("none"), arguments.all("none")) == (
        "b",
        ["a", "b"],
        None,
        [],
    )


def test_there_may_be_only_so_many() -> None:
    assert len(Arguments("&".join(["a=b"] * MAX_ARGUMENTS)).pairs) == MAX_ARGUMENTS
    with pytest.raises(RequestError, match=f"{MAX_ARGUMENTS} arguments"):
        Arguments("&".join(["a=b"] * (MAX_ARGUMENTS + 1)))
