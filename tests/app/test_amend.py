"""Amends, as forms: what goes to the matching server, what comes back, and the cash that it takes.

The matching servers and log2db are real ones.
"""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.controllers import amend
from app.controllers.base import Answer
from app.models import amends, portfolio
from app.models.accounts import User
from app.models.amends import Amending, Change
from app.models.db import now
from matching.order import Side
from tests.app.venue import (
    CASH,
    JSON,
    Browser,
    Market,
    Response,
    Web,
    Wire,
    on_each_database,
    running_log2db,
    running_match,
    wait_until_settled,
)
from tests.waiting import free_port, wait_until

WINDOW_MS = 6_000
"""More than the 5 s in which a command is taken (PROTOCOL §2)."""

NUMBERS = itertools.count(1)

pytestmark = on_each_database


@pytest.fixture(scope="module")
def market(web: Web) -> Iterator[Market]:
    """One for all tests but those that end its server: each has traders of its own."""
    manager, port = web.add_user("boss", manager=True), free_port()
    with running_match(web.var, "intc", port) as server, running_log2db(web, "intc"):
        product = web.add_product("intc", by=manager, port=port)
        web.wait_until_live(product)
        yield Market(web, product, server)


@pytest.fixture
def trader(web: Web) -> User:
    return web.add_user(f"trader{next(NUMBERS)}")


@pytest.fixture
def browser(web: Web, trader: User) -> Browser:
    return web.browser(trader)


def change(market: Market, browser: Browser, oid: int, text: str, /, **fields: object) -> Response:
    """Amend as a page does: `100@50.25/49.90`, price and stop optional."""
    amount, _, stop = text.partition("/")
    quantity, _, price = amount.partition("@")
    form = {"oid": oid, "quantity": quantity, "price": price, "stop": stop}
    return browser.post("/default/amend", {"product": market.product.id, **form, **fields}, JSON)


def placed(market: Market, browser: Browser, text: str, **options: object) -> int:
    return int(market.order(browser, text, **options).json()["oid"])


def test_quantity_and_price_change_and_the_order_keeps_its_number(
    market: Market, browser: Browser, trader: User
) -> None:
    oid = placed(market, browser, "buy 10@20")
    answer = change(market, browser, oid, "15@20.50").json()
    assert (answer["oid"], answer["status"], answer["remaining"]) == (oid, "open", 15)
    assert answer["events"] == [
        {"event": "amended", "oid": oid, "quantity": 15, "price": "20.50", "stop": None}
    ]
    assert market.available(trader) == CASH - 15 * 205_000
    assert change(market, browser, oid, "5").status == 200
    wait_until_settled(market.web, "intc")
    assert market.available(trader) == CASH - 5 * 205_000, "the price stays if it is left out"
    stop = placed(market, browser, "buy 10/150")
    change(market, browser, stop, "10/160")
    assert market.journaled(f"[{stop}] {trader.id} mod 10@168.00/160.00") == 1


def test_what_asks_for_more_is_covered_before_it_is_sent(
    market: Market, browser: Browser, trader: User
) -> None:
    oid = placed(market, browser, "buy 10@20")
    answer = change(market, browser, oid, "10@10000.01")
    assert (answer.status, answer.error) == (422, "insufficient_cash")
    assert "99,800.00 is available" in answer.json()["error"]["message"]
    assert market.journaled(f"[{oid}] {trader.id} mod") == 0
    assert market.available(trader) == CASH - 10 * 200_000


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("10@20.005", "bad_tick"),
        ("10@20/19", "invalid_order"),
        ("0@20", "invalid_order"),
        ("2000000@0.01", "max_quantity"),
    ],
)
def test_what_the_exchange_refuses_leaves_order_and_cash_as_they_were(
    market: Market, browser: Browser, trader: User, text: str, code: str
) -> None:
    oid = placed(market, browser, "buy 10@20")
    answer = change(market, browser, oid, text)
    assert (answer.status, answer.error) == (422, code)
    wait_until_settled(market.web, "intc")
    assert market.available(trader) == CASH - 10 * 200_000


def test_nobody_amends_an_order_that_is_over_or_not_theirs(
    web: Web, market: Market, browser: Browser
) -> None:
    oid = placed(market, browser, "buy 10@20")
    stranger = web.browser(web.add_user(f"stranger{next(NUMBERS)}"))
    other_page = change(market, stranger, oid, "20@20", owner=1)
    assert (other_page.status, other_page.error) == (403, "not_owner")
    for who, number in ((stranger, oid), (browser, 999_999)):
        answer = change(market, who, number, "20@20")
        assert (answer.status, answer.error) == (422, "order_not_found")
    market.delete(browser, oid)
    answer = change(market, browser, oid, "20@20")
    assert (answer.status, answer.error) == (422, "order_not_found")
    assert "is canceled" in answer.json()["error"]["message"]


def test_a_form_filled_in_wrong_is_told(market: Market, browser: Browser) -> None:
    oid = placed(market, browser, "buy 10@20")
    for name, values in {
        "oid": ("all", "", "-1", "١"),
        "quantity": ("", "1.5", "x"),
        "price": ("50,25", "1e3"),
        "stop": ("x",),
        "tif": ("day",),
    }.items():
        for value in values:
            answer = change(market, browser, oid, "10@20", **{name: value})
            assert (answer.status, answer.error) == (400, "bad_request"), (name, value)


def test_a_plain_form_leads_back_with_a_sentence(market: Market, browser: Browser) -> None:
    oid = placed(market, browser, "buy 10@20")
    form = {"product": market.product.id, "oid": oid, "quantity": "80", "price": "20.30"}
    answer = browser.post("/default/amend", form)
    assert answer.headers["location"] == f"/default/trade/{market.product.id}"
    page = browser.get(answer.headers["location"])
    assert f"Order #{oid} is now 80 at 20.30: 0 filled, 80 open" in page.text
    browser.post("/default/amend", {**form, "price": "20.305", "_next": "/default/positions"})
    assert "20.305 is not a multiple of 0.01" in browser.get("/default/positions").text


def test_an_amend_may_trade_and_cash_is_right_after_it(
    web: Web, market: Market, browser: Browser, trader: User
) -> None:
    seller = web.browser(web.add_user(f"seller{next(NUMBERS)}"))
    placed(market, seller, "sell 4@30")
    oid = placed(market, browser, "buy 10@20")
    answer = change(market, browser, oid, "10@30").json()
    assert (answer["filled"], answer["remaining"]) == (4, 6)
    assert [event["event"] for event in answer["events"]] == ["amended", "trade"]
    wait_until_settled(web, "intc")
    assert market.available(trader) == CASH - 10 * 300_000
    answer = change(market, browser, oid, "4").json()
    assert (answer["status"], answer["remaining"]) == ("canceled", 0)
    wait_until_settled(web, "intc")
    assert market.available(trader) == CASH - 4 * 300_000


def test_amends_of_two_tabs_at_once_promise_cash_once(
    web: Web, market: Market, trader: User
) -> None:
    tabs = [web.browser(trader) for _ in range(8)]
    oids = [placed(market, tabs[0], "buy 1@10") for _ in tabs]
    with ThreadPoolExecutor(len(tabs)) as pool:
        answers = list(pool.map(lambda tab, oid: change(market, tab, oid, "300@100"), tabs, oids))
    assert sorted(answer.status for answer in answers) == [200] * 3 + [422] * 5
    wait_until_settled(web, "intc")
    assert market.available(trader) == CASH - (3 * 30_000 + 5 * 10) * 10_000


# -- when the answer does not come


def prepared(web: Web, market: Market, owner: User, oid: int, wanted: Change) -> Amending:
    """An amend that is about to be sent."""
    known = web.platform.markets.get(market.product.id)
    assert known is not None

    async def reserve() -> Amending:
        order, lineage = await amend._find(known, owner.id, oid)
        terms: dict[str, Any] = {
            "lineage": lineage,
            "bids": known.levels(Side.BUY),
            "last": known.quote().value,
            "ts": known.trading.clock.now_ms(),
            "at": now(),
        }
        return await web.platform.transactions.write(
            amend._reserve, owner.id, known.product, order, wanted, **terms
        )

    return web.run(reserve())


@pytest.mark.parametrize("arrives", [True, False])
def test_an_amend_whose_answer_was_lost_is_counted_until_it_is_certain(
    web: Web, trader: User, browser: Browser, arrives: bool
) -> None:
    ticker, port = f"t{next(NUMBERS)}", free_port()
    wire = Wire(port)
    try:
        with running_match(web.var, ticker, port) as server, running_log2db(web, ticker):
            manager = web.add_user(f"boss{next(NUMBERS)}", manager=True)
            product = web.add_product(ticker, by=manager, port=wire.port)
            web.wait_until_live(product)
            market = Market(web, product, server)
            oid = placed(market, browser, "buy 10@50")
            wait_until_settled(web, ticker)
            known = web.platform.markets.get(product.id)
            assert known is not None
            amending = prepared(web, market, trader, oid, Change(quantity=10, price=600_000))
            assert market.available(trader) == CASH - 6_000_000

            def send() -> Answer:
                return web.run(amend._send(web.platform, known, amending))

            with ThreadPoolExecutor(1) as pool:
                wire.is_deaf = True
                if arrives:
                    asked = pool.submit(send)
                    wait_until(lambda: market.journaled(" mod ") == 1, "the amend to be in")
                    wire.cut()
                    answer = asked.result()
                    assert (answer.status, answer.values["unknown"]) == (202, True)
                else:
                    wire.cut()
            wire.is_deaf = False
            web.wait_until_live(product)
            web.run(amend.reconcile(web.platform))
            with web.database() as db:
                assert len(amends.unsettled(db, older_than=now())) == 1, "it may still arrive"
            assert market.available(trader) == CASH - 6_000_000
            clock = known.trading.clock
            right_offset = clock.offset_ms
            clock.offset_ms += WINDOW_MS

            def is_settled() -> bool:
                web.run(amend.reconcile(web.platform))
                with web.database() as db:
                    return not amends.unsettled(db, older_than=now())

            wait_until(is_settled, "the amend to be settled")
            clock.offset_ms = right_offset  # also if the line has begun anew, and measured it
            expected = CASH - (6_000_000 if arrives else 5_000_000)
            wait_until(lambda: market.available(trader) == expected, "the database to follow")
            answer = change(market, browser, oid, "10@40")
            assert answer.status == 200
            wait_until_settled(web, ticker)
            assert market.available(trader) == CASH - 4_000_000
    finally:
        wire.close()


def test_with_the_matching_server_away_nothing_is_sent_or_promised(
    web: Web, trader: User, browser: Browser
) -> None:
    ticker, port = f"t{next(NUMBERS)}", free_port()
    manager = web.add_user(f"boss{next(NUMBERS)}", manager=True)
    with running_match(web.var, ticker, port) as server:
        product = web.add_product(ticker, by=manager, port=port)
        web.wait_until_live(product)
        market = Market(web, product, server)
        oid = placed(market, browser, "buy 10@50")
        server.kill()
        known = web.platform.markets.get(product.id)
        assert known is not None
        wait_until(lambda: not known.can_trade, "the line to be lost")
        answer = change(market, browser, oid, "20@50")
        assert (answer.status, answer.error) == (503, "not_ready")
        with web.database() as db:
            assert portfolio.cash(db, trader.id).available == CASH - 5_000_000
