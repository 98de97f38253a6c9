"""R16's limits as data: which values count, and what is in force for whom."""

import pytest

from matching.limits import OFF, BadLimit, LimitRules, read_limit
from matching.order import parse_price


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_quantity", "5", 5),
        ("max_rate", "0", 0),
        ("max_position", "999999999", 999_999_999),
        ("max_notional", "100000.25", 1_000_002_500),
        ("max_notional", "999999999.9999", 9_999_999_999_999),
    ],
)
def test_money_limits_are_prices_and_the_others_whole_numbers(
    name: str, text: str, value: int
) -> None:
    assert read_limit(name, parse_price(text), is_of_owner=False) == value


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("max_orders", 10_000, "there is no limit max_orders"),
        ("max_rate", -10_000, "cannot be below 0"),
        ("max_rate", 5_000, "a whole number"),
        ("max_notional", 10**9 * 10_000, "a price, below 1000000000.00"),
        ("max_rate", None, "for one owner; 0 switches a limit off"),
    ],
)
def test_a_limit_that_cannot_be_says_why(name: str, value: int | None, words: str) -> None:
    with pytest.raises(BadLimit, match=words):
        read_limit(name, value, is_of_owner=False)


def test_an_exception_counts_in_place_of_the_product_s_limit_until_it_is_removed() -> None:
    rules = LimitRules()
    rules.change(None, {"max_rate": 10, "max_quantity": 50})
    rules.change(7, {"max_rate": 2, "max_open_orders": 3})
    assert (rules.of(7).max_rate, rules.of(7).max_quantity, rules.of(7).max_open_orders) == (
        2,
        50,
        3,
    )
    assert (rules.of(8).max_rate, rules.of(8).max_open_orders) == (10, OFF)
    rules.change(7, {"max_rate": None})
    assert rules.of(7).max_rate == 10
    rules.change(7, {"max_open_orders": None})
    assert rules.exceptions == {}


def test_an_exception_of_0_lifts_the_product_s_limit_and_the_house_has_none() -> None:
    rules = LimitRules()
    rules.change(None, {"max_rate": 1})
    rules.change(7, {"max_rate": 0, "max_quantity": 0})
    assert (rules.of(7).max_rate, rules.of(7).max_quantity, rules.of(7).is_more) == (
        OFF,
        OFF,
        False,
    )
    assert (rules.of(0).max_rate, rules.of(0).max_quantity) == (OFF, OFF)
