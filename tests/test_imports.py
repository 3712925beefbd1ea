"""The imports of the package, those under TYPE_CHECKING included: no circle but the one that is meant."""

from __future__ import annotations

import grimp

HONEST = {"tornado_chat.live.room", "tornado_chat.live.catching_up"}
"""A room feeds those who are behind out of what it holds, and they go live in it."""


def test_no_circle_but_room_and_catching_up() -> None:
    graph = grimp.build_graph("tornado_chat", exclude_type_checking_imports=False)
    left = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    assert left["tornado_chat.live.catching_up"] & HONEST, "the imports under TYPE_CHECKING are seen"
    while ends := [module for module, imported in left.items() if not imported & left.keys()]:
        for module in ends:
            del left[module]
    # What remains is on a circle, or imports what is.
    while starts := [module for module in left if not any(module in left[other] for other in left)]:
        for module in starts:
            del left[module]
    assert set(left) == HONEST
