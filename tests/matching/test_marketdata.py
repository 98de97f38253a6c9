"""What watchers see: levels by depth, trades, and messages that rebuild the same state."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matching.marketdata import Changes, Feed, format_time
from matching.order import Phase, Side, parse_price


def feed_with(*levels: tuple[Side, int, int, int]) -> Feed:
    feed = Feed(reference=1_000_000)
    feed.apply(Changes(seq=1, levels=levels))
    return feed


def trade(tid: int, price: str = "100.00") -> dict[str, Any]:
    return {"tid": tid, "seq": tid, "time": "…", "price": price, "quantity": 1, "taker": "buy"}


def test_a_snapshot_shows_the_best_levels_best_first() -> None:
    feed = feed_with(
        (Side.BUY, 990_000, 5, 1),
        (Side.BUY, 999_000, 7, 2),
        (Side.BUY, 998_000, 1, 1),
        (Side.SELL, 1_020_000, 3, 1),
        (Side.SELL, 1_010_000, 4, 1),
    )
    snapshot = feed.snapshot(depth=2)
    assert snapshot == {
        "type": "snapshot",
        "seq": 1,
        "phase": "continuous",
        "last": None,
        "reference": "100.00",
        "bids": [["99.90", 7, 2], ["99.80", 1, 1]],
        "asks": [["101.00", 4, 1], ["102.00", 3, 1]],
        "trades": [],
        "indicative": None,
        "rules": {},
    }


def test_a_snapshot_shows_only_the_channels_asked_for() -> None:
    feed = feed_with((Side.BUY, 990_000, 5, 1))
    assert "trades" not in feed.snapshot(trades=False)
    assert "bids" not in feed.snapshot(book=False)


def test_the_last_fifty_trades_are_kept_and_the_newest_is_last() -> None:
    feed = Feed(reference=1_000_000)
    feed.apply(Changes(seq=60, trades=[trade(tid, f"{tid}.00") for tid in range(1, 61)]))
    assert [each["tid"] for each in feed.trades] == list(range(11, 61))
    assert feed.last == 600_000


def test_quantity_zero_removes_a_level() -> None:
    feed = feed_with((Side.BUY, 990_000, 5, 1))
    feed.apply(Changes(seq=2, levels=[(Side.BUY, 990_000, 0, 0), (Side.SELL, 1, 0, 0)]))
    assert feed.levels(Side.BUY, None) == []


def test_a_level_pushed_out_of_the_depth_is_gone_and_comes_back_when_it_enters_again() -> None:
    feed = feed_with((Side.BUY, 990_000, 5, 1), (Side.BUY, 980_000, 6, 1))
    window = feed.window(2)
    feed.apply(Changes(seq=2, levels=[(Side.BUY, 985_000, 1, 1)]))
    assert window.take_changes() == ([["98.50", 1, 1], ["98.00", 0, 0]], [])
    feed.apply(Changes(seq=3, levels=[(Side.BUY, 980_000, 9, 2)]))
    assert window.take_changes() == ([], [])
    feed.apply(Changes(seq=4, levels=[(Side.BUY, 990_000, 0, 0)]))
    assert window.take_changes() == ([["98.00", 9, 2], ["99.00", 0, 0]], [])


LEVELS = st.tuples(
    st.sampled_from(Side),
    st.integers(1, 12).map(lambda ticks: ticks * 100),
    st.integers(0, 3),
    st.just(1),
)


@given(batches=st.lists(st.lists(LEVELS, max_size=6), max_size=20), depth=st.integers(1, 6))
def test_whoever_follows_a_window_holds_the_best_levels(
    batches: list[list[tuple[Side, int, int, int]]], depth: int
) -> None:
    feed = Feed(reference=1_000_000)
    window = feed.window(depth)
    held: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for seq, levels in enumerate(batches, start=1):
        feed.apply(Changes(seq=seq, levels=levels))
        for mine, changed in zip(held, window.take_changes(), strict=True):
            for price, quantity, _ in changed:
                assert quantity or price in mine, "a level goes that never was there"
                mine[price] = quantity
                if not quantity:
                    del mine[price]
        for mine, side in zip(held, Side, strict=True):
            best = {price: quantity for price, quantity, _ in feed.levels(side, depth)}
            assert mine == best


def test_a_feed_loaded_from_messages_is_the_same_feed() -> None:
    feed = feed_with((Side.BUY, 990_000, 5, 1), (Side.SELL, 1_010_000, 4, 1))
    copy = Feed(reference=1)
    copy.load(feed.snapshot())
    update = {
        "type": "update",
        "prev": 1,
        "seq": 4,
        "last": "101.00",
        "bids": [["99.00", 0, 0]],
        "asks": [["101.00", 3, 1]],
        "trades": [trade(9, "101.00")],
        "phase": "halted",
        "rules": {"collar": "5"},
    }
    changes = copy.update(update)
    assert changes.phase is Phase.HALTED
    feed.apply(changes)
    assert copy.snapshot() == feed.snapshot()
    assert copy.last == parse_price("101.00")


def test_an_update_that_does_not_follow_is_refused() -> None:
    feed = feed_with((Side.BUY, 990_000, 5, 1))
    before = feed.snapshot()
    with pytest.raises(ValueError, match="does not follow"):
        feed.update({"prev": 2, "seq": 3, "bids": [["1.00", 1, 1]], "asks": [], "trades": []})
    assert feed.snapshot() == before


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_700_000_000_999_999, "2023-11-14T22:13:20.999999Z"),
    ],
)
def test_times_are_rfc_3339_with_six_decimals(microseconds: int, text: str) -> None:
    assert format_time(microseconds) == text
