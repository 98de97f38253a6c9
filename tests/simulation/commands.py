"""Random command texts of every kind, from a world so small that orders meet, ids repeat and limits
are reached."""

import random

from matching.order import Phase, format_price

REFERENCE = 1_000_000
"""The reference price of every story's product (ten-thousandths)."""

TICKER = "intc"

OWNERS = (1, 2, 3)
"""Who trades, beside the house and the venue."""


class CommandWriter:
    """Writes texts without `ts=`; quantities and prices are of the product's grid, mostly."""

    def __init__(self, rng: random.Random, *, tick: int, lot: int) -> None:
        self._rng = rng
        self._tick = tick
        self._lot = lot

    def order(self, owner: int, client_id: str = "") -> str:
        rng = self._rng
        quantity = rng.randint(1, 9) * self._lot
        kind = rng.random()
        price = self._price() if kind > 0.08 else ""
        stop = f"/{self._price()[1:]}" if rng.random() < 0.1 else ""
        options = [f"id={client_id}"] if client_id else []
        if kind > 0.9:
            quantity = rng.choice((10, 20, 100)) * self._lot
            options += [f"peak={2 * self._lot}"]
        elif kind > 0.86:
            options += ["post"]
        elif kind > 0.74:
            options += [rng.choice(("tif=ioc", "tif=day", "tif=day", "tif=ioc", "tif=fok"))]
        if rng.random() < 0.2:
            options += [f"stp={rng.choice(('maker', 'both', 'decrement', 'none'))}"]
        side = rng.choice(("buy", "sell"))
        return " ".join([f"{owner}:{side} {TICKER} {quantity}{price}{stop}", *options])

    def cancel(self, owner: int, target: str) -> str:
        """Of one order, `812` or `id=a1`, or of `all`."""
        return f"{owner}:del {TICKER} {target}"

    def amend(self, owner: int, target: str) -> str:
        rng = self._rng
        price = self._price() if rng.random() < 0.5 else ""
        stop = f"/{self._price()[1:]}" if rng.random() < 0.1 else ""
        return f"{owner}:mod {TICKER} {target} {rng.randint(1, 9) * self._lot}{price}{stop}"

    def venue(self, phase: Phase) -> str:
        """A venue command, in the phase that the product is in; a closed market opens again."""
        rng = self._rng
        kind = rng.random()
        if phase in (Phase.HALTED, Phase.CLOSED) or kind < 0.3:
            following = rng.choice((*Phase, *[Phase.CONTINUOUS] * 4))
            return f"phase {TICKER} {following}"
        if kind < 0.6:
            name = rng.choice(("collar", "band", "breaker", "maker_fee", "taker_fee"))
            return f"set {TICKER} {name}={rng.choice(('0', '1', '2.5', '4', '10'))}"
        if kind < 0.9:
            name, values = rng.choice(LIMITS)
            owner = rng.choice(("*", "*", *map(str, OWNERS)))
            value = rng.choice(values) if owner == "*" else rng.choice((*values, "*"))
            return f"limit {TICKER} {owner} {name}={value}"
        return f"key {TICKER} {rng.choice(OWNERS)} {rng.randint(2, 4)}"

    def _price(self) -> str:
        price = REFERENCE + self._rng.randint(-5, 5) * self._tick
        if self._rng.random() < 0.02:
            price += 1
        return f"@{format_price(price)}"


LIMITS = (
    ("max_quantity", ("0", "100", "1000000")),
    ("max_open_orders", ("0", "4", "8")),
    ("max_position", ("0", "20", "60")),
    ("max_notional", ("0", "900", "2000.50")),
    ("max_rate", ("0", "2", "3")),
)
