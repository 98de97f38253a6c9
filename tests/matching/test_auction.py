"""R10's price: the most trades, then the least surplus, then the side that is left over."""

import pytest

from matching.auction import Uncross, uncross_price

Side = list[tuple[int, int]]


@pytest.mark.parametrize(
    ("bids", "asks", "reference", "expected"),
    [
        pytest.param([], [(100, 1)], 100, None, id="nobody buys"),
        pytest.param([(99, 5)], [(100, 5)], 100, None, id="nothing crosses"),
        pytest.param([(101, 5)], [(101, 5)], 1, Uncross(101, 5, 0), id="one price"),
        pytest.param(
            [(103, 10), (101, 30)],
            [(100, 20), (102, 30)],
            100,
            Uncross(101, 20, 20),
            id="the largest volume",
        ),
        pytest.param(
            [(103, 10), (102, 10)],
            [(100, 10), (101, 5)],
            103,
            Uncross(102, 15, 5),
            id="the smallest surplus of equal volumes",
        ),
        pytest.param(
            [(105, 20)], [(100, 10)], 1, Uncross(105, 10, 10), id="surplus of buyers: the highest"
        ),
        pytest.param(
            [(105, 10)], [(100, 20)], 999, Uncross(100, 10, -10), id="of sellers: the lowest"
        ),
        pytest.param(
            [(105, 10)],
            [(100, 10)],
            104,
            Uncross(105, 10, 0),
            id="else the nearest to the reference",
        ),
        pytest.param([(104, 10)], [(100, 10)], 102, Uncross(100, 10, 0), id="else the lower"),
    ],
)
def test_the_uncross_price(
    bids: Side, asks: Side, reference: int, expected: Uncross | None
) -> None:
    assert uncross_price(bids, asks, reference=reference) == expected


def test_of_a_deep_book_only_what_crosses_is_looked_at() -> None:
    bids = iter([(103, 10), (101, 30), (99, 1), (98, 1)])
    asks = iter([(100, 20), (102, 30), (104, 1), (105, 1)])
    assert uncross_price(bids, asks, reference=100) == Uncross(101, 20, 20)
    assert (next(bids), next(asks)) == ((98, 1), (105, 1))
