"""Which transports are tried when."""

from __future__ import annotations

import pytest

from tornado_chat.client.ladder import SOON, UPGRADE_AFTER, YOUNG, Ladder
from tornado_chat.client.transport import KINDS


def test_two_young_deaths_in_a_row_step_down_until_the_first_one_again() -> None:
    ladder = Ladder(KINDS)
    steps = []
    for _ in range(6):
        ladder.on_opened(ladder.kinds[0], 0.0)
        ladder.on_died(1.0, 0.0, suspect=True)
        steps.append(ladder.kinds[0])
    assert steps == ["websocket", "stream", "stream", "poll", "poll", "websocket"]
    assert ladder.upgrade_at is None


def test_a_life_between_two_young_deaths_forgives() -> None:
    ladder = Ladder(KINDS)
    for age in (1.0, YOUNG, 1.0):
        ladder.on_opened("websocket", 0.0)
        ladder.on_died(age, 0.0, suspect=True)
    assert ladder.kinds == KINDS


def test_a_server_that_says_why_it_closes_is_not_the_transports_fault() -> None:
    ladder = Ladder(KINDS)
    for _ in range(5):
        ladder.on_opened("websocket", 0.0)
        ladder.on_died(1.0, 0.0, suspect=False)
    assert ladder.kinds == KINDS


@pytest.mark.parametrize("behind_a_proxy", [False, True])
def test_a_server_that_is_away_in_between_forgives(behind_a_proxy: bool) -> None:
    ladder = Ladder(KINDS)
    for _ in range(5):
        ladder.on_opened("websocket", 0.0)
        ladder.on_died(1.0, 0.0, suspect=True)
        ladder.on_nothing(suspect=behind_a_proxy)
    assert ladder.kinds == KINDS


def test_what_was_taken_is_kept_until_an_upgrade_is_due() -> None:
    ladder = Ladder(KINDS)
    ladder.on_opened("poll", 10.0)
    assert list(ladder.kinds) == ["poll"]
    assert list(ladder.better) == ["websocket", "stream"]
    assert ladder.upgrade_at == 10.0 + UPGRADE_AFTER
    ladder.on_opened("poll", 50.0)  # after a reconnection
    assert ladder.upgrade_at == 10.0 + UPGRADE_AFTER
    ladder.on_upgrade()
    ladder.on_no_upgrade(700.0)
    assert ladder.upgrade_at == 700.0 + UPGRADE_AFTER
    ladder.on_opened("stream", 1300.0)
    assert list(ladder.better) == ["websocket"]
    assert ladder.upgrade_at == 1300.0 + UPGRADE_AFTER
    ladder.on_opened("websocket", 1900.0)
    assert list(ladder.kinds) == list(KINDS)
    assert ladder.upgrade_at is None


def fail_upgrades(ladder: Ladder) -> list[float]:
    """The pauses before the next upgrades, none of which comes about."""
    pauses = []
    for now in range(0, 7000, 1000):
        ladder.on_upgrade()
        ladder.on_no_upgrade(now)
        assert ladder.upgrade_at is not None
        pauses.append(ladder.upgrade_at - now)
    return pauses


def test_what_was_good_before_is_tried_again_soon_and_ever_later_while_it_is_not() -> None:
    ladder = Ladder(KINDS)
    ladder.on_opened("websocket", 0.0)
    ladder.on_died(YOUNG, 100.0, suspect=True)
    ladder.on_opened("poll", 100.0)
    assert ladder.upgrade_at == 100.0 + SOON
    assert fail_upgrades(ladder) == [15, 45, 135, 405, 600, 600, 600]
    ladder.on_opened("websocket", 8000.0)
    ladder.on_died(YOUNG, 9000.0, suspect=True)
    ladder.on_opened("stream", 9000.0)
    assert ladder.upgrade_at == 9000.0 + SOON


def test_what_nobody_answered_any_way_is_no_news_of_any() -> None:
    ladder = Ladder(KINDS)
    ladder.on_nothing(suspect=True)
    ladder.on_opened("poll", 0.0)
    assert ladder.upgrade_at == SOON


def step_down(ladder: Ladder, *, silent: bool) -> None:
    for _ in range(2):
        ladder.on_opened("websocket", 0.0)
        ladder.on_died(1.0, 0.0, suspect=True, silent=silent)
    ladder.on_opened("stream", 0.0)


def test_what_is_cut_off_young_again_and_again_is_tried_ever_later() -> None:
    ladder = Ladder(KINDS)
    pauses = []
    for _ in range(7):
        step_down(ladder, silent=False)
        pauses.append(ladder.upgrade_at)
        ladder.on_upgrade()
    assert pauses == [5, 15, 45, 135, 405, 600, 600]


def test_what_falls_silent_is_not_tried_again_soon() -> None:
    ladder = Ladder(KINDS)
    step_down(ladder, silent=True)
    assert ladder.upgrade_at == UPGRADE_AFTER


def test_where_nothing_passes_any_more_all_are_tried_again() -> None:
    ladder = Ladder(KINDS)
    ladder.on_opened("stream", 0.0)
    ladder.on_nothing(suspect=True)
    assert (ladder.kinds, ladder.upgrade_at) == (KINDS, None)


def test_a_ladder_of_one_rung_stays_there() -> None:
    ladder = Ladder(["stream"])
    for _ in range(5):
        ladder.on_opened("stream", 0.0)
        ladder.on_died(1.0, 0.0, suspect=True)
    assert list(ladder.kinds) == ["stream"]
    assert ladder.upgrade_at is None
