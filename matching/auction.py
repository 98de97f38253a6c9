"""The call auction's price (R10): the one price at which the most trades, a pure function.

A side is what is wanted at each price, whole quantities, best price first; only what crosses can
trade, so only that is looked at.

>>> bids = [(1_020_000, 30), (1_000_000, 20)]
>>> asks = [(980_000, 10), (1_000_000, 25), (1_030_000, 50)]
>>> uncross_price(bids, asks, reference=1_000_000)
Uncross(price=1000000, volume=35, surplus=15)
"""

from collections.abc import Iterable
from itertools import chain, takewhile

import msgspec


class Uncross(msgspec.Struct, frozen=True, gc=False):
    """What an auction would do now: so much trades at one price; `surplus` is what buyers want
    there beyond that (negative: sellers)."""

    price: int
    volume: int
    surplus: int


def uncross_price(
    bids: Iterable[tuple[int, int]], asks: Iterable[tuple[int, int]], *, reference: int
) -> Uncross | None:
    """The uncross by R10; None if no buyer meets a seller. Prices in ten-thousandths.

    `bids` and `asks` are (price, quantity) with the whole quantity, hidden parts too, best first.
    """
    buying, selling = iter(bids), iter(asks)
    bid, ask = next(buying, None), next(selling, None)
    if bid is None or ask is None or bid[0] < ask[0]:
        return None
    high, low = bid[0], ask[0]
    wanted = dict(takewhile(lambda level: level[0] >= low, chain((bid,), buying)))
    offered = dict(takewhile(lambda level: level[0] <= high, chain((ask,), selling)))
    demand, supply = sum(wanted.values()), 0
    candidates: list[Uncross] = []
    for price in sorted(wanted.keys() | offered.keys()):
        supply += offered.get(price, 0)
        candidates.append(Uncross(price, min(demand, supply), demand - supply))
        demand -= wanted.get(price, 0)
    most = max(each.volume for each in candidates)
    candidates = [each for each in candidates if each.volume == most]
    least = min(abs(each.surplus) for each in candidates)
    candidates = [each for each in candidates if abs(each.surplus) == least]
    if all(each.surplus > 0 for each in candidates):
        return candidates[-1]
    if all(each.surplus < 0 for each in candidates):
        return candidates[0]
    return min(candidates, key=lambda each: (abs(each.price - reference), each.price))
