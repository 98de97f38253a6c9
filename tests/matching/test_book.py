"""The order book: queues, ladders, icebergs, changed levels, and a check that finds damage."""

import random

import pytest
from msgspec.structs import replace

from matching.account import CANCELED, Account, Order
from matching.book import Level, OrderBook
from matching.limits import UNLIMITED
from matching.order import NewOrder, Side, Status


def order(oid: int, side: Side, price: int, *, quantity: int = 10, peak: int = 0) -> Order:
    command = NewOrder(ticker="intc", owner=1, side=side, quantity=quantity, price=price, peak=peak)
    return Account(1, UNLIMITED).open(oid, command)


class Book(OrderBook):
    """A book that can be asked for its orders by number."""

    def __init__(self, *orders: Order) -> None:
        super().__init__()
        for resting in orders:
            self.side(resting.side).add(resting)
            self.check()

    @property
    def orders(self) -> dict[int, Order]:
        return {
            resting.oid: resting for side in Side for level in self.side(side) for resting in level
        }

    def fill(self, oid: int, quantity: int) -> Order:
        """So much of an order trades."""
        resting = self.orders[oid]
        assert resting.level is not None
        self.side(resting.side).fill(resting, resting.level, quantity)
        self.check()
        return resting


def book_with(*orders: Order) -> Book:
    return Book(*orders)


def queue(level: Level | None) -> list[int]:
    return [resting.oid for resting in level] if level is not None else []


def test_the_highest_bid_and_the_lowest_ask_are_best() -> None:
    book = book_with(
        order(1, Side.BUY, 99),
        order(2, Side.BUY, 101),
        order(3, Side.BUY, 100),
        order(4, Side.SELL, 104),
        order(5, Side.SELL, 102),
        order(6, Side.SELL, 103),
    )
    assert (book.best_bid, book.best_ask) == (101, 102)
    assert [price for price, _, _ in book.levels(Side.BUY)] == [101, 100, 99]
    assert [price for price, _, _ in book.levels(Side.SELL)] == [102, 103, 104]
    assert book.levels(Side.SELL, depth=2) == [(102, 10, 1), (103, 10, 1)]
    assert book.levels(Side.SELL, depth=0) == []
    assert (len(book.bids), len(book.asks)) == (3, 3)


def test_an_empty_book_has_no_best_price() -> None:
    book = book_with()
    assert (book.best_bid, book.best_ask) == (None, None)
    assert str(book) == "bids -; asks -"


def test_the_book_reads_as_a_trader_writes_it() -> None:
    book = book_with(
        order(1, Side.BUY, 502500, quantity=100),
        order(2, Side.BUY, 502500, quantity=50),
        order(3, Side.BUY, 502000),
        order(4, Side.SELL, 502600, quantity=7),
    )
    assert str(book) == "bids 150@50.25 10@50.20; asks 7@50.26"


@pytest.mark.parametrize(
    ("removed", "left"),
    [
        ([1], [2, 3, 4]),
        ([4], [1, 2, 3]),
        ([2], [1, 3, 4]),
        ([2, 3], [1, 4]),
        ([1, 4, 2], [3]),
        ([3, 1, 2, 4], []),
    ],
)
def test_a_queue_keeps_its_order_whoever_leaves_it(removed: list[int], left: list[int]) -> None:
    book = book_with(*(order(oid, Side.SELL, 100) for oid in (1, 2, 3, 4)))
    for oid in removed:
        book.asks.remove(book.orders[oid])
        book.check()
    assert queue(book.asks.level(100)) == left
    assert sorted(book.orders) == left


def test_the_next_price_is_best_when_the_best_level_goes_and_a_better_one_when_it_comes() -> None:
    book = book_with(order(1, Side.BUY, 100), order(2, Side.BUY, 99))
    book.bids.remove(book.orders[1])
    assert book.best_bid == 99
    book.bids.add(order(3, Side.BUY, 98))
    assert book.best_bid == 99
    book.bids.add(order(4, Side.BUY, 101))
    assert book.best_bid == 101


def test_a_fill_shrinks_order_and_level_and_removes_what_is_filled() -> None:
    book = book_with(order(1, Side.SELL, 100), order(2, Side.SELL, 100, quantity=5))
    first = book.fill(1, 4)
    assert book.levels(Side.SELL) == [(100, 11, 2)]
    assert (first.filled, first.open_quantity, first.status) == (4, 6, Status.PARTIALLY_FILLED)
    book.fill(1, 6)
    assert book.levels(Side.SELL) == [(100, 5, 1)]
    assert (first.filled, first.remaining, first.status) == (10, 0, Status.FILLED)
    assert 1 not in book.orders


def test_a_reduction_takes_off_what_is_open_and_at_nothing_the_order_leaves() -> None:
    book = book_with(order(1, Side.BUY, 100))
    reduced = book.orders[1]
    book.bids.reduce(reduced, 4)
    book.check()
    assert reduced.open_quantity == 6
    assert book.levels(Side.BUY) == [(100, 6, 1)]
    book.bids.reduce(reduced, 6)
    book.check()
    assert book.levels(Side.BUY) == []


def test_r9_a_used_up_peak_comes_again_behind_all_others_at_its_price() -> None:
    book = book_with(
        order(1, Side.SELL, 100, quantity=25, peak=10),
        order(2, Side.SELL, 100, quantity=7),
    )
    assert book.levels(Side.SELL) == [(100, 17, 2)]
    assert list(book.asks.quantities()) == [(100, 32)]
    iceberg = book.fill(1, 10)
    assert queue(book.asks.level(100)) == [2, 1]
    assert (iceberg.open_quantity, iceberg.shown, iceberg.hidden) == (15, 10, 5)
    book.fill(2, 7)
    book.fill(1, 10)
    assert (iceberg.open_quantity, iceberg.shown, iceberg.hidden) == (5, 5, 0)
    book.fill(1, 5)
    assert (iceberg.status, len(book.asks)) == (Status.FILLED, 0)


def test_r9_a_peak_comes_again_in_front_where_there_are_no_others() -> None:
    book = book_with(order(1, Side.BUY, 100, quantity=30, peak=10))
    book.fill(1, 10)
    assert queue(book.bids.level(100)) == [1]
    assert book.levels(Side.BUY) == [(100, 10, 1)]


def test_r6_a_reduction_takes_the_hidden_part_first_and_refills_nothing() -> None:
    book = book_with(order(1, Side.BUY, 100, quantity=30, peak=10))
    iceberg = book.fill(1, 4)
    book.bids.reduce(iceberg, 15)
    book.check()
    assert (iceberg.shown, iceberg.hidden) == (6, 5)
    book.bids.reduce(iceberg, 8)
    book.check()
    assert (iceberg.shown, iceberg.hidden) == (3, 0)


def test_r10_an_iceberg_that_traded_in_an_auction_shows_a_full_peak_in_its_old_place() -> None:
    book = book_with(
        order(1, Side.BUY, 100, quantity=30, peak=10),
        order(2, Side.BUY, 100, quantity=5),
    )
    iceberg = book.fill(1, 4)
    book.bids.uncross(iceberg, 12)
    book.check()
    assert (iceberg.open_quantity, iceberg.shown, iceberg.hidden) == (14, 10, 4)
    assert queue(book.bids.level(100)) == [1, 2]
    book.bids.uncross(iceberg, 6)
    book.check()
    assert (iceberg.open_quantity, iceberg.shown, iceberg.hidden) == (8, 8, 0)


def test_changed_levels_are_the_present_ones_best_first_and_told_once() -> None:
    book = book_with(
        order(1, Side.BUY, 99),
        order(2, Side.BUY, 100),
        order(3, Side.SELL, 102),
        order(4, Side.SELL, 101),
    )
    assert book.take_changed_levels() == [
        (Side.BUY, 100, 10, 1),
        (Side.BUY, 99, 10, 1),
        (Side.SELL, 101, 10, 1),
        (Side.SELL, 102, 10, 1),
    ]
    assert book.take_changed_levels() == []
    book.fill(4, 3)
    book.bids.reduce(book.orders[1], 1)
    book.bids.remove(book.orders[2])
    book.asks.remove(book.orders[3])
    book.asks.add(order(5, Side.SELL, 102, quantity=8))
    assert book.take_changed_levels() == [
        (Side.BUY, 100, 0, 0),
        (Side.BUY, 99, 9, 1),
        (Side.SELL, 101, 7, 1),
        (Side.SELL, 102, 8, 1),
    ]


def test_an_order_that_rests_nowhere_cannot_be_removed() -> None:
    book = book_with(order(1, Side.BUY, 100))
    for stranger in (order(2, Side.BUY, 100), order(1, Side.BUY, 100)):
        with pytest.raises(AssertionError, match="does not rest"):
            book.bids.remove(stranger)
        with pytest.raises(AssertionError, match="does not rest"):
            book.bids.reduce(stranger, 1)
    book.check()


def test_a_book_of_many_orders_agrees_with_a_sorted_list() -> None:
    dice = random.Random(1)
    book = OrderBook()
    expected: list[Order] = []
    for oid in range(1, 2_000):
        if expected and dice.random() < 0.45:
            book.bids.remove(expected.pop(dice.randrange(len(expected))))
        else:
            resting = order(oid, Side.BUY, dice.randrange(1, 60), quantity=dice.randrange(1, 9))
            book.bids.add(resting)
            expected.append(resting)
    book.check()
    by_priority = sorted(expected, key=lambda resting: (-resting.price, resting.oid))
    assert [resting for level in book.bids for resting in level] == by_priority


def test_check_finds_a_level_whose_quantity_is_wrong() -> None:
    book = book_with(order(1, Side.BUY, 100))
    level = book.bids.best
    assert level is not None
    level.quantity += 1
    with pytest.raises(
        AssertionError, match=r"0\.01: 11 and 0 hidden, 1 of \[#1 1:buy 10 of 10@0\.01 open\]"
    ):
        book.check()


def test_check_finds_a_level_whose_count_is_wrong() -> None:
    book = book_with(order(1, Side.BUY, 100))
    level = book.bids.best
    assert level is not None
    level.count += 1
    with pytest.raises(AssertionError):
        book.check()


def test_check_finds_an_order_at_another_price_or_side() -> None:
    book = book_with(order(1, Side.BUY, 100))
    resting = book.orders[1]
    resting.terms = replace(resting.terms, price=101)
    with pytest.raises(AssertionError, match=r"0\.01: 10 and 0 hidden, 1 of"):
        book.check()
    resting.terms = replace(resting.terms, price=100, side=Side.SELL)
    with pytest.raises(AssertionError, match="among the buys"):
        book.check()


def test_check_finds_a_level_that_is_found_by_another_price_than_its_own() -> None:
    book = book_with(order(1, Side.BUY, 100), order(2, Side.BUY, 99))
    levels = book.bids._levels
    levels[98] = levels.pop(99)
    with pytest.raises(AssertionError, match="98"):
        book.check()


def test_check_finds_a_level_on_the_other_sides_place() -> None:
    book = book_with(order(1, Side.SELL, 100))
    level = book.asks.best
    assert level is not None
    level.key = 100
    book.asks._keys[:] = [100]
    with pytest.raises(AssertionError, match="10 and 0 hidden, 1 of"):
        book.check()


def test_check_finds_a_hidden_part_that_the_level_does_not_know() -> None:
    book = book_with(order(1, Side.BUY, 100, quantity=30, peak=10))
    book.orders[1].hidden -= 1
    with pytest.raises(AssertionError, match="10 and 20 hidden"):
        book.check()


def test_check_finds_a_broken_queue() -> None:
    book = book_with(order(1, Side.BUY, 100), order(2, Side.BUY, 100))
    book.orders[2].previous = None
    with pytest.raises(AssertionError):
        book.check()


def test_check_finds_a_wrong_best_price() -> None:
    book = book_with(order(1, Side.BUY, 100), order(2, Side.BUY, 99))
    book.bids.best = book.bids.level(99)
    with pytest.raises(AssertionError):
        book.check()


def test_check_finds_an_ended_order_in_the_book() -> None:
    book = book_with(order(1, Side.BUY, 100))
    book.orders[1].hidden = CANCELED
    with pytest.raises(AssertionError, match="10 and 0 hidden"):
        book.check()
