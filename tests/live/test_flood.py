"""Who is cut off for going on although it is refused, with a clock of the test's own."""

from __future__ import annotations

from tornado_chat.live.flood import BURST, RATE, UNHEARD, UNHEARD_SECONDS, Flood


def refusals(flood: Flood, count: int, start: float, every: float) -> int:
    """How many of `count` refusals, one each `every` seconds, are let pass before the first that is not."""
    return next((number for number in range(count) if flood.goes_on(start + number * every)), count)


def test_what_was_sent_before_the_first_refusal_was_heard_does_not_count() -> None:
    assert refusals(Flood(), UNHEARD, 100.0, every=0.0) == UNHEARD


def test_a_burst_beyond_it_is_borne_and_then_no_more() -> None:
    assert refusals(Flood(), 10 * UNHEARD, 100.0, every=0.0) == UNHEARD + BURST


def test_who_goes_on_after_the_first_second_has_the_burst_and_the_rate() -> None:
    every = 1 / (4 * RATE)
    unheard = UNHEARD_SECONDS / every
    allowed = refusals(Flood(), 10 * UNHEARD, 100.0, every)
    assert unheard + BURST < allowed < unheard + BURST * 4 / 3 + 2


def test_who_is_refused_now_and_then_stays() -> None:
    assert refusals(Flood(), 5000, 100.0, every=1.01 / RATE) == 5000


def test_who_is_taken_as_often_as_refused_stays() -> None:
    flood = Flood()
    for number in range(5000):
        assert not flood.goes_on(100.0 + number * 0.001)
        flood.forgive()
    assert refusals(flood, 10 * UNHEARD, 106.0, every=0.0) <= BURST, "no more is saved than the burst"


def test_after_a_rest_all_begins_anew() -> None:
    flood = Flood()
    assert refusals(flood, 10 * UNHEARD, 100.0, every=0.0) == UNHEARD + BURST
    rested = 100.0 + UNHEARD_SECONDS + BURST / RATE
    assert flood.goes_on(100.0)
    assert refusals(flood, 10 * UNHEARD, rested + 3 * UNHEARD_SECONDS, every=0.0) == UNHEARD + BURST
