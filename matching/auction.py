"""The call auction's price (R10): the one price at which the most trades, a pure function.

A side is what is wanted at each price, whole quantities, best price first; only what crosses can
trade, so only that is looked at.

>>> bids = [(1_020_000, 30), (1_000_000, 20)]
>>> asks = [(980_000, 10), (1_000_000, 25), (1_030_000, 50)]
>>> uncross_price(bids, asks, reference=1_000_000)
Uncross(price=1000000, volume=35, surplus=15)
"""

from collections.abc import Iterable

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
    buying, selling = list(bids), list(asks)
    if not buying or not selling or buying[0][0] < selling[0][0]:
        return None
    low, high = selling[0][0], buying[0][0]
    wanted = {price: quantity for price, quantity in buying if price >= low}
    offered = {price: quantity for price, quantity in selling if price <= high}
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
