"""Flatten: no order and no position is left in one product, whatever happens at the same time."""

import itertools
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from app.controllers import flatten, orders
from app.models import intents
from app.models.accounts import User
from app.models.db import DAL, execute, now
from app.models.intents import Intent, State
from app.models.products import Product
from matching import protocol
from matching.order import Side
from tests.app.venue import (
    JSON,
    Market,
    Response,
    Web,
    Wire,
    on_each_database,
    running_log2db,
    running_match,
)
from tests.processes import Process
from tests.waiting import PATIENCE_SECONDS, free_port, wait_until

NUMBERS = itertools.count(1)

pytestmark = on_each_database


class Person:
    """A trader, logged in."""

    def __init__(self, web: Web, kind: str) -> None:
        self.user = web.add_user(f"{kind}{next(NUMBERS)}")
        self.browser = web.browser(self.user)
        self.browser.get("/default/about")


class Floor(Market):
    """A product with its matching server, the line to that, and its log2db."""

    def __init__(
        self, web: Web, product: Product, server: Process, log2db: Process, wire: Wire
    ) -> None:
        super().__init__(web, product, server)
        self.log2db = log2db
        self.wire = wire
        market = web.platform.markets.get(product.id)
        assert market is not None
        self.market = market

    def flatten(self, person: Person, **fields: object) -> Response:
        form = {"product": self.product.id, **fields}
        return person.browser.post("/default/flatten", form, JSON)

    def give(self, person: Person, other: Person, text: str) -> None:
        """Let somebody `buy 40@100` or `sell 40@100` from somebody else."""
        side, _, rest = text.partition(" ")
        offer = f"{Side(side).opposite} {rest}"
        assert self.order(other.browser, offer).json()["status"] == "open"
        assert self.order(person.browser, text).json()["status"] == "filled"

    def rest(self, person: Person, text: str) -> None:
        """Let somebody's order rest in the book, or wait as a stop."""
        answer = self.order(person.browser, text).json()
        assert answer.get("status") in ("open", "pending_stop"), answer

    def standing(self, person: Person) -> tuple[int, int]:
        """The position, and how many orders are open, as the matching server has them."""
        told = self.web.run(self.market.trading.open_orders(owner=person.user.id))
        return told["position"], len(told["orders"])


def open_floor(web: Web, manager: User, stack: ExitStack) -> Floor:
    """A new product, and the line to its matching server, which can be cut."""
    ticker, port = f"f{next(NUMBERS)}", free_port()
    server = stack.enter_context(running_match(web.var, ticker, port))
    log2db = stack.enter_context(running_log2db(web, ticker))
    wire = Wire(port)
    stack.callback(wire.close)
    product = web.add_product(ticker, by=manager, port=wire.port)
    web.wait_until_live(product)
    return Floor(web, product, server, log2db, wire)


@pytest.fixture(autouse=True)
def database_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long log2db takes on a busy machine: what cancels free is free when it counts."""
    monkeypatch.setattr(flatten, "FOLLOW_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(orders, "FOLLOW_SECONDS", PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def shared_floor(web: Web, manager: User) -> Iterator[Floor]:
    with ExitStack() as stack:
        yield open_floor(web, manager, stack)


@pytest.fixture
def maker(web: Web) -> Person:
    """Somebody with whom the others trade."""
    return Person(web, "maker")


@pytest.fixture
def trader(web: Web) -> Person:
    return Person(web, "trader")


@pytest.fixture
def floor(shared_floor: Floor, maker: Person, trader: Person) -> Iterator[Floor]:
    """One product for all tests that leave its processes alone; the book is empty afterwards."""
    yield shared_floor
    for person in (maker, trader):
        assert shared_floor.delete(person.browser, "all").status == 200


@pytest.fixture
def own_floor(web: Web, manager: User) -> Iterator[Floor]:
    """A product whose processes the test may end."""
    with ExitStack() as stack:
        yield open_floor(web, manager, stack)


# -- the way out


def test_a_long_position_is_sold_once_everything_that_is_open_is_canceled(
    floor: Floor, maker: Person, trader: Person
) -> None:
    floor.give(trader, maker, "buy 40@100")
    for bid in ("buy 25@99", "buy 100@98"):
        floor.rest(maker, bid)
    for text in ("buy 10@99.50", "sell 40@110", "sell 10@0/90"):  # the best bid is their own
        floor.rest(trader, text)
    answer = floor.flatten(trader, id="web-long")
    assert answer.status == 200
    told, ticker = answer.json(), floor.product.name
    assert (told["canceled"], told["position"]) == (3, 0)
    assert told["message"] == (
        f"3 open orders canceled. Sold 40 {ticker} at 98.625 on average. The position is closed"
    )
    assert (told["order"]["status"], told["order"]["filled"]) == ("filled", 40)
    assert floor.journaled(f"{trader.user.id} sell 40@0/0 id=web-long stp=maker") == 1
    assert floor.standing(trader) == (0, 0)
    assert floor.standing(maker) == (0, 1), "nobody else's order is canceled"
    again = floor.flatten(trader).json()
    assert (again["canceled"], again["position"], again["order"]) == (0, 0, None)
    assert again["message"] == f"You hold no {ticker}, and owe none: there is nothing to close"


def test_a_short_position_is_bought_back_though_it_ties_up_all_the_cash(
    web: Web, floor: Floor, maker: Person, trader: Person
) -> None:
    floor.give(trader, maker, "sell 990@100")
    floor.rest(trader, "buy 9@100")  # what else was available is promised
    floor.rest(Person(web, "seller"), "sell 990@101")
    answer = floor.flatten(trader, id="web-short").json()
    assert answer["message"].endswith(
        "Bought 990 " + floor.product.name + " at 101.00. The position is closed"
    )
    assert (answer["canceled"], answer["position"]) == (1, 0)
    # The worst price of R17: what the shown book would cost, and 5 %.
    assert floor.journaled(f"{trader.user.id} buy 990@106.05/0 id=web-short tif=ioc stp=maker") == 1


def test_a_market_buy_is_priced_by_the_book_without_the_orders_that_were_canceled(
    floor: Floor, maker: Person, trader: Person
) -> None:
    floor.give(trader, maker, "sell 10@100")
    floor.rest(maker, "sell 50@120")
    floor.rest(trader, "sell 50@101")
    answer = floor.flatten(trader).json()
    assert (answer["canceled"], answer["position"]) == (1, 0)
    assert "Bought 10" in answer["message"]
    assert "at 120.00" in answer["message"]


def test_the_position_is_the_matching_servers_and_not_what_the_database_has_yet(
    floor: Floor, maker: Person, trader: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flatten, "FOLLOW_SECONDS", 0.1)
    os.kill(floor.log2db.pid, signal.SIGSTOP)
    try:
        floor.give(trader, maker, "buy 40@100")
        floor.rest(maker, "buy 100@99")
        assert floor.flatten(trader).json()["position"] == 0
    finally:
        os.kill(floor.log2db.pid, signal.SIGCONT)
    assert floor.standing(trader) == (0, 0)


@pytest.mark.parametrize(
    ("bids", "position", "words"),
    [
        ([], 40, "Sold none of 40 TICKER: nobody buys at present (R2)"),
        (["buy 25@99"], 15, "Sold 25 of 40 TICKER at 99.00: nobody buys more at present (R2)"),
    ],
)
def test_what_finds_no_counterparty_is_still_open_and_that_is_said(
    floor: Floor, maker: Person, trader: Person, bids: list[str], position: int, words: str
) -> None:
    floor.give(trader, maker, "buy 40@100")
    for bid in bids:
        floor.rest(maker, bid)
    answer = floor.flatten(trader).json()
    ticker = floor.product.name
    rest = f"; your position of {position} {ticker} is still open"
    assert answer["message"] == words.replace("TICKER", ticker) + rest
    assert answer["position"] == position
    assert floor.standing(trader) == (position, 0)


def test_a_position_larger_than_one_order_may_be_is_to_be_closed_in_parts(
    floor: Floor, maker: Person, trader: Person
) -> None:
    for _ in range(2):
        floor.give(trader, maker, "buy 600000@0.01")
    answer = floor.flatten(trader)
    assert (answer.status, answer.error) == (422, "max_quantity")
    message = answer.json()["error"]["message"]
    assert f"position of 1,200,000 {floor.product.name} is still open" in message
    assert "in smaller parts" in message
    assert floor.standing(trader) == (1_200_000, 0)


# -- when the order is refused


@pytest.mark.parametrize(
    ("phase", "code", "rule"),
    [
        ("halted", "market_halted", "R11"),
        ("closed", "market_closed", "R11"),
    ],
)
def test_in_a_market_that_does_not_trade_the_orders_go_and_the_position_stays(
    web: Web, floor: Floor, maker: Person, trader: Person, phase: str, code: str, rule: str
) -> None:
    ticker, send = floor.product.name, floor.market.trading.send
    floor.give(trader, maker, "buy 40@100")
    floor.rest(trader, "sell 40@110")
    floor.rest(maker, "buy 100@99")
    web.run(send(f"phase {ticker} {phase}"))
    try:
        answer = floor.flatten(trader)
    finally:
        web.run(send(f"phase {ticker} continuous"))
    assert (answer.status, answer.error) == (422, code)
    told = answer.json()["error"]
    assert told["rule"] == rule
    start = f"1 open order canceled, but your position of 40 {ticker} is still open: "
    assert told["message"].startswith(start)
    assert floor.standing(trader) == (40, 0)
    assert floor.flatten(trader).json()["position"] == 0


def test_a_product_that_is_switched_off_lets_go_of_orders_only(
    web: Web, own_floor: Floor, manager: User, maker: Person, trader: Person
) -> None:
    own_floor.give(trader, maker, "buy 40@100")
    own_floor.rest(maker, "buy 100@99")
    own_floor.rest(trader, "sell 40@110")
    with web.database(write=True) as db:  # and the web server has not noticed yet
        execute(db, "UPDATE product SET active = 'F' WHERE id = ?", own_floor.product.id)
    answer = own_floor.flatten(trader)
    assert (answer.status, answer.error) == (404, "unknown_ticker")
    assert "1 open order canceled, but" in answer.json()["error"]["message"]
    assert own_floor.standing(trader) == (40, 0)


def test_a_form_filled_in_wrong_is_told_and_changes_nothing(
    web: Web, floor: Floor, trader: Person, maker: Person
) -> None:
    floor.rest(trader, "buy 1@50")
    for fields, status, code in (
        ({"id": "f1"}, 400, "bad_request"),
        ({"quantity": "5"}, 400, "bad_request"),
        ({"owner": maker.user.id}, 403, "not_owner"),
        ({"product": 99999}, 404, "unknown_ticker"),
        ({"product": "1 OR 1=1"}, 404, "unknown_ticker"),
    ):
        answer = floor.flatten(trader, **fields)
        assert (answer.status, answer.error) == (status, code), fields
    form = {"product": floor.product.id}
    assert web.browser().post("/default/flatten", form, JSON).error == "login_required"
    assert floor.standing(trader) == (0, 1)


def test_a_plain_form_leads_back_to_its_page_with_a_sentence(
    floor: Floor, maker: Person, trader: Person
) -> None:
    floor.give(trader, maker, "buy 40@100")
    floor.rest(maker, "buy 30@99")
    browser, page = trader.browser, "/default/positions"
    form = {"product": floor.product.id, "id": "web-plain", "_next": page}
    for sentence in ("Sold 30 of 40", "This was sent before: Sold 30 of 40", "is 10 "):
        answer = browser.post("/default/flatten", form)
        assert (answer.status, answer.headers["location"]) == (303, page)
        assert sentence in browser.get(page).text
    answer = browser.post("/default/flatten", {"product": floor.product.id})
    assert answer.headers["location"] == f"/default/trade/{floor.product.id}"
    assert "Sold none of 10" in browser.get(page).text


# -- twice at once


def test_the_same_form_sent_many_times_at_once_is_one_order(
    floor: Floor, maker: Person, trader: Person
) -> None:
    floor.give(trader, maker, "buy 40@100")
    floor.rest(maker, "buy 100@99")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: floor.flatten(trader, id="web-many"), range(8)))
    assert {answer.status for answer in answers} == {200}
    assert {answer.json()["order"]["oid"] for answer in answers} == {
        answers[0].json()["order"]["oid"]
    }
    assert floor.standing(trader) == (0, 0)


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_many_tabs_and_two_web_servers_flatten_once(
    web: Web, floor: Floor, maker: Person, trader: Person, side: str
) -> None:
    floor.give(trader, maker, f"{side} 40@100")
    for text in ("buy 100@99", "sell 100@101"):
        floor.rest(maker, text)
    other = Web(web.var, web.database_uri)
    other.start()
    try:
        other.wait_until_live(floor.product)
        tabs = [web.browser(trader.user), other.browser(trader.user)] * 4
        for tab in tabs:
            tab.get("/default/about")
        form = {"product": floor.product.id}
        with ThreadPoolExecutor(len(tabs)) as pool:
            sent = [pool.submit(tab.post, "/default/flatten", form, JSON) for tab in tabs]
            answers = [future.result() for future in sent]
    finally:
        other.stop()
    assert floor.standing(trader) == (0, 0)
    said = [answer.json() for answer in answers]
    assert [told["order"]["filled"] for told in said if told.get("order")] == [40], said


def test_an_order_from_another_tab_between_the_look_and_the_sale_is_counted(
    web: Web, floor: Floor, maker: Person, trader: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor.give(trader, maker, "buy 40@100")
    floor.rest(maker, "buy 100@99")
    sell = intents.Request(side=Side.SELL, quantity=30, client_id="web-other-tab")

    async def sell_in_between(*_: Any) -> None:
        await orders.send_once(web.platform, floor.market, trader.user.id, sell)

    monkeypatch.setattr(flatten, "_follow", sell_in_between)  # the second round's is a duplicate
    answer = floor.flatten(trader).json()
    assert (answer["order"]["filled"], answer["position"]) == (10, 0)
    assert floor.standing(trader) == (0, 0)


def test_orders_that_keep_coming_in_between_are_no_way_to_a_short_position(
    web: Web, floor: Floor, maker: Person, trader: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor.give(trader, maker, "buy 40@100")
    floor.rest(maker, "buy 100@99")
    numbers = itertools.count()

    async def sell_in_between(*_: Any) -> None:
        sell = intents.Request(side=Side.SELL, quantity=2, client_id=f"web-{next(numbers)}")
        await orders.send_once(web.platform, floor.market, trader.user.id, sell)

    monkeypatch.setattr(flatten, "_follow", sell_in_between)
    answer = floor.flatten(trader)
    assert (answer.status, answer.error) == (503, "busy")
    assert floor.standing(trader) == (40 - 2 * flatten.ROUNDS, 0)


def test_an_order_on_its_way_is_waited_for(
    web: Web, floor: Floor, maker: Person, trader: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sale that was promised and not sent yet, as another web server would have it."""
    floor.give(trader, maker, "buy 40@100")
    floor.rest(maker, "buy 100@99")
    sell = intents.Request(side=Side.SELL, quantity=30, client_id="web-elsewhere")
    with web.database(write=True) as db:
        intent = intents.reserve(
            db,
            trader.user.id,
            floor.product,
            sell,
            bids=(),
            asks=(),
            last=1_000_000,
            ts=now() // 1000,
            at=now(),
        )
    looks: list[int] = []
    on_their_way = intents.on_their_way

    def look(db: DAL, owner: int, ticker: str) -> list[Intent]:
        looks.append(owner)
        return on_their_way(db, owner, ticker)

    monkeypatch.setattr(intents, "on_their_way", look)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(floor.flatten, trader)
        wait_until(lambda: len(looks) > 1, "the flatten to wait")
        web.run(floor.market.trading.send(protocol.format(intent.command)))
        assert not asked.done(), "the sale's outcome is not noted yet"
        with web.database(write=True) as db:
            intents.accepted(db, intent.id, oid=1, at=now())
        answer = asked.result().json()
    assert (answer["order"]["filled"], answer["position"]) == (10, 0)
    assert floor.standing(trader) == (0, 0)


def test_too_many_at_once_are_throttled(
    floor: Floor, trader: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flatten, "AT_ONCE", 0)
    answer = floor.flatten(trader)
    assert (answer.status, answer.error) == (429, "throttled")
    assert answer.headers["retry-after"] == "1"


# -- matching servers that go away


def test_a_cancel_without_an_answer_sends_no_order(
    web: Web, own_floor: Floor, maker: Person, trader: Person
) -> None:
    own_floor.give(trader, maker, "buy 40@100")
    own_floor.rest(trader, "sell 40@110")
    os.kill(own_floor.server.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(own_floor.flatten, trader, id="web-once")
        own_floor.wait_until_something_is_sent()
        own_floor.server.kill()
        answer = asked.result()
    assert (answer.status, answer.json().get("unknown")) == (202, True), answer.text
    assert "whether your open orders are canceled is not known" in answer.json()["message"]
    assert own_floor.state(trader.user, "web-once") is None, "nothing was promised"
    wait_until(lambda: not own_floor.market.can_trade, "the line to be lost")
    answer = own_floor.flatten(trader, id="web-once")
    assert (answer.status, answer.error) == (503, "not_ready")
    assert "is away; nothing was sent" in answer.json()["error"]["message"]
    with running_match(web.var, own_floor.product.name, own_floor.wire.target_port):
        web.wait_until_live(own_floor.product)
        own_floor.rest(maker, "buy 100@99")
        assert own_floor.flatten(trader, id="web-once").json()["position"] == 0


def test_a_line_that_is_lost_between_the_cancel_and_the_order_is_told(
    web: Web, own_floor: Floor, maker: Person, trader: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_floor.give(trader, maker, "buy 40@100")
    own_floor.rest(trader, "sell 40@110")

    async def lose(*_: Any) -> None:
        own_floor.server.kill()
        await own_floor.market.trading.wait_until_lost()

    monkeypatch.setattr(flatten, "_follow", lose)
    answer = own_floor.flatten(trader)
    assert (answer.status, answer.error) == (503, "not_ready")
    assert answer.json()["error"]["message"] == (
        f"1 open order canceled, but your position of 40 {own_floor.product.name} is still open:"
        f" The exchange of {own_floor.product.name} is away; nothing was sent. Try again soon"
    )
    assert own_floor.journaled(" sell ") == 2, "the maker's, and the trader's that was canceled"


def test_an_order_whose_answer_was_lost_is_not_sent_again(
    web: Web, own_floor: Floor, maker: Person, trader: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_floor.give(trader, maker, "buy 40@100")
    own_floor.rest(maker, "buy 100@99")
    follow = flatten._follow

    async def go_deaf(*arguments: Any) -> None:
        await follow(*arguments)
        own_floor.wire.is_deaf = True

    monkeypatch.setattr(flatten, "_follow", go_deaf)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(own_floor.flatten, trader, id="web-once")
        wait_until(lambda: own_floor.journaled("id=web-once") == 1, "the order to be journaled")
        own_floor.wire.cut()
        answer = asked.result()
    assert (answer.status, answer.json().get("id")) == (202, "web-once"), answer.text
    assert "whether the order is in is being checked" in answer.json()["message"]
    own_floor.wire.is_deaf = False
    web.wait_until_live(own_floor.product)
    assert own_floor.state(trader.user, "web-once") in (State.ACCEPTED, State.JOURNALED)
    again = own_floor.flatten(trader, id="web-once").json()
    assert again["message"].startswith("This was sent before: Sold 40")
    assert own_floor.flatten(trader, id="web-twice").json()["order"] is None
    assert own_floor.journaled(f"{trader.user.id} sell") == 1
    assert own_floor.standing(trader) == (0, 0)


def test_after_an_order_that_never_arrived_the_next_one_is_the_only_one(
    web: Web, own_floor: Floor, maker: Person, trader: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intents, "TS_WINDOW", 1_000_000)  # a killed server takes nothing late
    own_floor.give(trader, maker, "buy 40@100")
    own_floor.rest(maker, "buy 100@99")

    async def stop(*_: Any) -> None:
        os.kill(own_floor.server.pid, signal.SIGSTOP)

    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(flatten, "_follow", stop)
        asked = pool.submit(own_floor.flatten, trader, id="web-once")
        wait_until(lambda: own_floor.state(trader.user, "web-once"), "the order to be promised")
        own_floor.wait_until_something_is_sent()
        own_floor.server.kill()
        assert asked.result().status == 202
    with running_match(web.var, own_floor.product.name, own_floor.wire.target_port):
        web.wait_until_live(own_floor.product)
        answer = own_floor.flatten(trader, id="web-twice").json()
        assert (answer["order"]["filled"], answer["position"]) == (40, 0)
        assert own_floor.state(trader.user, "web-once") is State.NEVER
        assert own_floor.journaled(f"{trader.user.id} sell") == 1
