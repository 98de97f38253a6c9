"""Cash, right to the ten-thousandth after every step, against the journal's text and R17 alone.

Three traders place, amend, cancel and are refused through the web server's forms, while the
matching server, log2db and the web server are killed and come back. After each step the pages' JSON
is held against a computation that knows nothing but the journal's lines: it goes through all of
them from the first on, each time.
"""

import random
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.models.accounts import User
from app.models.products import Product
from matching.config import Var
from matching.order import format_price, parse_price
from tests.app.venue import (
    JSON,
    Browser,
    Response,
    Web,
    running_log2db,
    running_match,
    running_web,
    wait_until_settled,
)
from tests.database import DATABASES, own_database
from tests.waiting import free_port

CASH = 200_000_000
"""20,000.00 a trader: a few orders, and it is tied up."""

STEPS = 80
RESTARTS = {15: "server", 25: "log2db", 35: "web", 45: "server log2db web"}

HAPPENS = {"open", "filled", "canceled", "pending_stop", "insufficient_cash", "bad_tick", "amended"}
"""What a walk is sure to see: several of each."""

ORDER = re.compile(
    r"\[(\d+)\] (\d+) (buy|sell) (\d+)@([\d.]+)/([\d.]+)(?: id=(\S+))?.* s=\d+ b=\d+ x="
)
AMEND = re.compile(r"\[(\d+)\] \d+ mod (\d+)@([\d.]+)/([\d.]+) ")
MATCH = re.compile(r"match (\d+)@([\d.]+) from (\d+)\((\d+)\) to (\d+)\((\d+)\) t=")
ENDED = re.compile(r"canceled \[(\d+)\]")
TRIGGERED = re.compile(r"triggered \[(\d+)\]")
DECREMENTED = re.compile(r"decremented \[(\d+)\] (\d+)")


@dataclass
class Order:
    owner: int
    side: str
    total: int
    price: int
    stop: int
    filled: int = 0
    is_over: bool = False

    @property
    def open(self) -> int:
        return 0 if self.is_over else self.total - self.filled


@dataclass
class Holding:
    """What an owner's trades have come to in one product."""

    cash: int = 0
    shares: int = 0
    cost: int = 0

    def trade(self, shares: int, price: int) -> None:
        """Share by share would be plainer still; but a part of a cost is rounded once a trade."""
        self.cash -= shares * price
        held, self.shares = self.shares, self.shares + shares
        if held * shares >= 0:
            self.cost += abs(shares) * price
        elif abs(shares) < abs(held):
            self.cost -= self.cost * abs(shares) // abs(held)
        else:
            self.cost = abs(self.shares) * price


@dataclass
class Told:
    """What a journal tells, line by line."""

    orders: dict[int, Order] = field(default_factory=dict)
    holdings: defaultdict[int, Holding] = field(default_factory=lambda: defaultdict(Holding))
    ids: list[str] = field(default_factory=list)

    def read(self, line: str) -> None:
        text = line.partition(": ")[2]
        if order := ORDER.match(text):
            oid, owner, side, quantity, price, stop, client_id = order.groups()
            prices = parse_price(price), parse_price(stop)
            self.orders[int(oid)] = Order(int(owner), side, int(quantity), *prices)
            self.ids.append(client_id)
        elif amend := AMEND.match(text):
            changed = self.orders[int(amend[1])]
            changed.total, changed.price = int(amend[2]), parse_price(amend[3])
            changed.stop = parse_price(amend[4])
        elif match := MATCH.match(text):
            quantity, price = int(match[1]), parse_price(match[2])
            seller, sell_oid, buyer, buy_oid = map(int, match.group(3, 4, 5, 6))
            for owner, oid, side in ((buyer, buy_oid, "buy"), (seller, sell_oid, "sell")):
                self.orders[oid].filled += quantity
                if buyer != seller:  # who trades with himself has what he had
                    self.holdings[owner].trade(quantity if side == "buy" else -quantity, price)
        elif ended := ENDED.match(text):
            self.orders[int(ended[1])].is_over = True
        elif triggered := TRIGGERED.match(text):
            self.orders[int(triggered[1])].stop = 0
        elif decremented := DECREMENTED.match(text):
            self.orders[int(decremented[1])].total -= int(decremented[2])

    def open_of(self, owner: int) -> dict[int, Order]:
        return {
            oid: order
            for oid, order in self.orders.items()
            if order.owner == owner and order.open > 0
        }

    def account(self, owner: int) -> dict[str, Any]:
        """R17's cash, as a page tells it."""
        holding, orders = self.holdings[owner], list(self.open_of(owner).values())
        open_buys = sum(order.open * order.price for order in orders if order.side == "buy")
        # A share held covers one of the cheapest shares on sale; a stop that waits counts as much.
        on_sale = sorted(
            max(order.price, order.stop)
            for order in orders
            if order.side == "sell"
            for _ in range(order.open)
        )
        short_orders = sum(on_sale[max(0, holding.shares) :])
        short_positions = 2 * holding.cost if holding.shares < 0 else 0
        actual = CASH + holding.cash
        return {
            "shares": holding.shares,
            "actual_cash": format_price(actual),
            "cash_available": format_price(actual - open_buys - short_orders - short_positions),
            "tied_up": {
                "open_buys": format_price(open_buys),
                "short_orders": format_price(short_orders),
                "short_positions": format_price(short_positions),
                "intents": "0.00",
            },
        }


class Venue:
    """A product with its three processes, each of which can be killed and started anew."""

    def __init__(self, stack: ExitStack, folder: Path, uri: str | None) -> None:
        self.stack = stack
        self.var = Var(folder)
        self.uri = uri
        self.port = free_port()
        self.web = self._web()
        self.product: Product = self.web.add_product(
            "intc", by=self.web.add_user("boss", manager=True), port=self.port
        )
        self.traders: list[User] = [
            self.web.add_user(name, cash=CASH) for name in ("ada", "bob", "eve")
        ]
        self.start("server")
        self.start("log2db")
        self.web.wait_until_live(self.product)
        self.log_in()

    def _web(self) -> Web:
        return self.stack.enter_context(running_web(self.var.root, self.uri))

    def start(self, what: str) -> None:
        if what == "server":
            starting = running_match(self.var, "intc", self.port)
            self.server = self.stack.enter_context(starting)
        elif what == "log2db":
            self.log2db = self.stack.enter_context(running_log2db(self.web, "intc"))
        else:
            self.web = self._web()

    def restart(self, what: str) -> None:
        if what == "web":
            self.web.stop()
        else:
            getattr(self, what).kill()
        self.start(what)

    def log_in(self) -> None:
        self.browsers: dict[int, Browser] = {
            trader.id: self.web.browser(trader) for trader in self.traders
        }

    def told(self) -> Told:
        told = Told()
        for line in self.var.journal_file("intc").read_text("ascii").splitlines():
            told.read(line)
        return told

    def check(self) -> Told:
        """The pages of all traders say what the journal says."""
        wait_until_settled(self.web, "intc")
        told = self.told()
        for owner, browser in self.browsers.items():
            expected = told.account(owner)
            page = browser.get(f"/default/pandl.json/{self.product.id}").json()
            assert {name: page[name] for name in expected} == expected
            portfolio = browser.get("/default/positions.json").json()
            assert portfolio["cash_available"] == expected["cash_available"]
            shown = {order["oid"] for order in portfolio["orders"]}
            assert shown == set(told.open_of(owner))
            assert parse_price(page["actual_cash"]) >= 0, "no order asks for more than is there"
        assert len(told.ids) == len(set(told.ids)), "an order is in once"
        return told


class Dice:
    """The next thing that a trader does."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def order(self) -> dict[str, object]:
        side = self.random.choice(("buy", "sell"))
        low = 9_700 if side == "buy" else 9_850  # cents: the sides overlap
        price = f"{self.random.randrange(low, low + 450, 25) / 100:.2f}"
        away = self.random.choice((25, 50, 150))
        stop = f"{(10_000 + away if side == 'buy' else 10_000 - away) / 100:.2f}"
        kinds = (
            *((price, ""),) * 6,
            *(("", ""),) * 2,
            *((price, stop), ("", stop)),
            *((f"{price}5", ""), ("0.01", "")),
        )
        wanted, waits_for = self.random.choice(kinds)
        return {
            "type": side,
            "quantity": self.random.choice((1, 3, 10, 25, 60, 150)),
            "price": wanted,
            "stop": waits_for,
            "tif": self.random.choice(("gtc", "gtc", "gtc", "day", "ioc", "fok")),
            "stp": self.random.choice(("taker", "maker", "both", "decrement", "none")),
            "post": self.random.choice(("", "", "", "on")),
            "peak": self.random.choice(("", "", "", "1", "2", "10")),
        }

    def change(self, order: Order) -> dict[str, object]:
        away = self.random.choice((0, 0, 2_500, -2_500, 10_000, 1_000_000))
        price = max(100, order.price + away)
        return {
            "quantity": max(1, order.total + self.random.choice((0, -1, -5, 2, 20, 100))),
            "price": format_price(price) if order.price and self.random.random() < 0.8 else "",
        }


@pytest.fixture(params=DATABASES)
def venue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Venue]:
    with own_database(request.param) as uri, ExitStack() as stack:
        yield Venue(stack, tmp_path, uri)


def test_cash_is_right_after_every_step(venue: Venue) -> None:
    dice = Dice(DATABASES.index("postgres" if venue.uri else "sqlite"))
    answers: defaultdict[str, int] = defaultdict(int)
    told = venue.check()
    for step in range(STEPS):
        for what in RESTARTS.get(step, "").split():
            venue.restart(what)
        if step in RESTARTS:
            venue.web.wait_until_live(venue.product)
            venue.log_in()
            venue.check()
        trader = dice.random.choice(venue.traders)
        browser, open_orders = venue.browsers[trader.id], told.open_of(trader.id)
        chance = dice.random.random()
        answer: Response
        if open_orders and chance < 0.12:
            oid = dice.random.choice(sorted(open_orders))
            form: dict[str, object] = {"oid": oid if chance > 0.02 else "all"}
            answer = browser.post("/default/delete", {"product": venue.product.id, **form}, JSON)
            answers["canceled"] += 1
        elif open_orders and chance < 0.4:
            oid = dice.random.choice(sorted(open_orders))
            form = {"product": venue.product.id, "oid": oid, **dice.change(open_orders[oid])}
            answer = browser.post("/default/amend", form, JSON)
            answers["amended" if answer.status == 200 else answer.error] += 1
        else:
            form = dice.order() | {"product": venue.product.id, "id": f"web-{step}"}
            answer = browser.post("/default/order", form, JSON)
            answers[answer.json().get("status") or answer.error] += 1
        assert answer.status in (200, 422), answer.text
        told = venue.check()
    assert set(answers) >= HAPPENS
