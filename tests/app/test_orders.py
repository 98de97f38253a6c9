"""The way of an order from a form to the matching server, with real processes that are killed."""

import asyncio
import html
import itertools
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from app.controllers import orders
from app.controllers.base import Answer
from app.models import intents, products
from app.models.accounts import User
from app.models.db import DAL, Invalid, close, execute, now, open_database, transaction
from app.models.intents import State
from app.models.products import Product
from matching.config import Var
from matching.order import Side
from tests.app.venue import (
    CASH,
    JSON,
    Market,
    Response,
    Web,
    Wire,
    on_each_database,
    running_log2db,
    running_match,
    running_web,
    wait_until_settled,
)
from tests.waiting import PATIENCE_SECONDS, free_port, wait_until

NUMBERS = itertools.count(1)

pytestmark = on_each_database


@pytest.fixture
def market(web: Web, manager: User) -> Iterator[Market]:
    ticker, port = f"t{next(NUMBERS)}", free_port()
    with running_match(web.var, ticker, port) as server:
        product = web.add_product(ticker, by=manager, port=port)
        web.wait_until_live(product)
        yield Market(web, product, server)


@pytest.fixture
def buyer(web: Web) -> User:
    return web.add_user(f"buyer{next(NUMBERS)}")


@pytest.fixture
def seller(web: Web) -> User:
    return web.add_user(f"seller{next(NUMBERS)}")


# -- how many at once


def test_one_trader_leaves_room_for_the_orders_of_others(
    web: Web, manager: User, buyer: User, seller: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All database threads wait for its one writer: a flood would hold up every page."""
    slow = threading.Event()

    async def send_slowly(*_: object, **__: object) -> Answer:
        while not slow.is_set():
            await asyncio.sleep(0.01)
        return Answer(200, {"oid": 1})

    monkeypatch.setattr(orders, "_reserve_and_send", send_slowly)
    product = web.add_product(f"t{next(NUMBERS)}", by=manager)
    wait_until(lambda: web.platform.markets.get(product.id), "its market")
    market = web.platform.markets.get(product.id)
    assert market is not None
    form = {"product": product.id, "type": "buy", "quantity": 1, "price": "1"}

    def order(user: User, number: int) -> Response:
        return web.browser(user).post("/default/order", {**form, "id": f"web-{number}"}, JSON)

    with ThreadPoolExecutor(orders.ORDERS_AT_ONCE + 2) as pool:
        try:
            first = [pool.submit(order, buyer, number) for number in range(orders.ORDERS_AT_ONCE)]
            wait_until(lambda: len(market.being_sent) == len(first), "all of them on their way")
            one_more = order(buyer, 99)
            assert (one_more.status, one_more.error) == (429, "throttled")
            assert one_more.headers["retry-after"] == "1"
            change = {"product": product.id, "oid": 1, "quantity": 1}
            assert web.browser(buyer).post("/default/amend", change, JSON).status == 429
            sent_again, of_another = pool.submit(order, buyer, 0), pool.submit(order, seller, 0)
            wait_until(lambda: len(market.being_sent) == len(first) + 1, "the other trader's order")
        finally:
            slow.set()
        assert {answer.result().status for answer in (*first, sent_again, of_another)} == {200}
    assert order(buyer, 99).status == 200


# -- what comes back


def test_a_limit_order_rests_and_is_the_loggedin_owners(
    web: Web, market: Market, buyer: User
) -> None:
    answer = market.order(web.browser(buyer), "buy 100@50.25", id="web-a1", tif="day")
    assert answer.status == 200
    assert answer.json() | {"seq": 0} == {
        "seq": 0,
        "oid": 1,
        "status": "open",
        "filled": 0,
        "remaining": 100,
        "events": [{"event": "accepted", "oid": 1}],
    }
    assert market.journaled(f"[1] {buyer.id} buy 100@50.25/0 id=web-a1 tif=day") == 1
    assert market.state(buyer, "web-a1") is State.ACCEPTED
    assert market.available(buyer) == CASH - 100 * 502_500


def test_two_traders_meet_and_neither_learns_who_the_other_is(
    web: Web, market: Market, buyer: User, seller: User
) -> None:
    market.order(web.browser(seller), "sell 60@101")
    answer = market.order(web.browser(buyer), "buy 100@101.30").json()
    assert (answer["status"], answer["filled"], answer["remaining"]) == ("partially_filled", 60, 40)
    trade = answer["events"][1]
    assert (trade["price"], trade["quantity"], trade["taker"]) == ("101.00", 60, "buy")
    assert not {"owner", "buyer", "seller"} & set(trade)


def test_the_answer_tells_of_the_order_and_not_of_other_peoples_stops(
    web: Web, market: Market, buyer: User, seller: User
) -> None:
    other = web.browser(web.add_user(f"other{next(NUMBERS)}"))
    market.order(web.browser(buyer), "buy 100@50")
    assert market.order(other, "sell 10@0/60").json()["status"] == "pending_stop"
    answer = market.order(web.browser(seller), "sell 5").json()
    assert market.journaled("triggered [2]") == 1
    assert [event["event"] for event in answer["events"]] == ["accepted", "trade"]
    assert answer["events"][1]["sell"] == answer["oid"]


def test_a_stop_waits(web: Web, market: Market, buyer: User) -> None:
    answer = market.order(web.browser(buyer), "buy 10@110/105", stp="maker").json()
    assert (answer["status"], answer["remaining"]) == ("pending_stop", 10)
    assert market.journaled("buy 10@110.00/105.00") == 1
    assert market.journaled("stp=maker") == 1


def test_an_iceberg_and_a_post_only_order_are_sent_as_such(
    web: Web, market: Market, buyer: User, seller: User
) -> None:
    browser = web.browser(buyer)
    answer = market.order(browser, "buy 100@50", id="web-ice", peak="10", post="on").json()
    assert (answer["status"], answer["remaining"]) == ("open", 100)
    assert market.journaled("buy 100@50.00/0 id=web-ice post peak=10") == 1
    assert market.available(buyer) == CASH - 50_000_000, "the hidden part is paid for, too"
    for text, options, code in (
        ("sell 5@50", {"post": "on"}, "would_take"),
        ("sell 5@51", {"post": "on", "tif": "ioc"}, "invalid_order"),
        ("sell 50", {"peak": "10"}, "invalid_order"),
        ("buy 50", {"peak": "10"}, "invalid_order"),
        ("buy 50@1", {"peak": "50"}, "invalid_order"),
        ("buy 50@60/60", {"post": "on"}, "invalid_order"),
    ):
        refused = market.order(web.browser(seller), text, **options)
        assert (refused.status, refused.error) == (422, code), (text, options)
    assert market.available(seller) == CASH


def test_a_market_buy_is_bounded_by_what_the_shown_book_would_cost(
    web: Web, market: Market, buyer: User, seller: User
) -> None:
    browser = web.browser(seller)
    market.order(browser, "sell 5@100")
    market.order(browser, "sell 5@101")
    feed = web.platform.markets.get(market.product.id)
    assert feed is not None
    wait_until(lambda: len(feed.levels(Side.SELL)) == 2, "the book to be shown")
    answer = market.order(web.browser(buyer), "buy 10", id="web-m").json()
    assert (answer["status"], answer["filled"]) == ("filled", 10)
    # (5 × 100 + 5 × 101) and 5 %, a share: 105.525, down to the grid.
    assert market.journaled("buy 10@105.52/0 id=web-m tif=ioc") == 1


def test_a_refused_order_has_its_code_and_frees_its_cash(
    web: Web, market: Market, buyer: User, seller: User
) -> None:
    market.order(web.browser(seller), "sell 1@45")
    market.order(web.browser(seller), "buy 1@45", stp="none")  # last is 45 now
    browser = web.browser(buyer)
    for text, code in (
        ("buy 100@50.255", "bad_tick"),
        ("buy 2000000@0.01", "max_quantity"),
        ("buy 10@50/40", "stop_would_trigger"),
        ("buy 0@50", "invalid_order"),
        ("buy 10000@50", "insufficient_cash"),
    ):
        answer = market.order(browser, text)
        assert (answer.status, answer.error) == (422, code), text
        assert len(answer.json()["error"]["message"]) > 10
        assert market.available(buyer) == CASH, text


def test_a_form_filled_in_wrong_is_told_and_sends_nothing(
    web: Web, market: Market, buyer: User
) -> None:
    browser = web.browser(buyer)
    form = {"product": market.product.id, "type": "buy", "quantity": "1", "price": "50"}
    for name, values in {
        "type": ("give", "", "BUY"),
        "quantity": ("", "1.5", "-1", "١", "1" * 13),
        "price": ("50,25", "-1", "1e3", "50.12345", "nan"),
        "stop": ("x",),
        "tif": ("forever",),
        "stp": ("me",),
        "id": ("a1", "web-", "web-" + "x" * 33, "web-a b", "web-ä"),
        "peak": ("1.5", "-1", "١", "1" * 13),
        "post": ("1", "yes"),
        "hidden": ("1",),
    }.items():
        for value in values:
            answer = browser.post("/default/order", {**form, name: value}, JSON)
            assert (answer.status, answer.error) == (400, "bad_request"), (name, value)
    assert market.journaled("buy") == 0


def test_a_product_that_is_not_there(web: Web, buyer: User) -> None:
    browser = web.browser(buyer)
    for product in ("99999", "", "x", "1 OR 1=1"):
        form = {"product": product, "type": "buy", "quantity": "1", "price": "1"}
        assert browser.post("/default/order", form, JSON).error == "unknown_ticker"
        assert browser.post("/default/delete", {"product": product, "oid": 1}, JSON).status == 404


def test_a_web_server_that_has_just_started_takes_no_product_for_a_missing_one(
    web: Web, buyer: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_asked = threading.Event()
    served = products.served

    def slowly(db: DAL) -> list[Product]:
        assert is_asked.wait(PATIENCE_SECONDS)
        return served(db)

    monkeypatch.setattr(products, "served", slowly)
    with running_web(web.var.root, web.database_uri) as other:
        browser = other.browser(buyer)
        form = {"product": "99999", "type": "buy", "quantity": "1", "price": "1"}
        answer = browser.post("/default/order", form, JSON)
        assert (answer.status, answer.error) == (503, "not_ready")
        is_asked.set()
        wait_until(lambda: other.platform.markets.are_known, "the products to be read")
        assert browser.post("/default/order", form, JSON).error == "unknown_ticker"


def test_a_plain_form_leads_back_to_the_trade_page_with_a_sentence(
    web: Web, market: Market, buyer: User
) -> None:
    browser = web.browser(buyer)
    form = {"product": market.product.id, "type": "buy", "quantity": "7", "price": "50"}
    trade_page = f"/default/trade/{market.product.id}"
    for change, typed, sentence in (
        ({}, "", "Order #1: open, 0 filled, 7 open"),
        ({"quantity": "many"}, "?type=buy&quantity=many&price=50", "Quantity is a whole number"),
        ({"price": "50.255"}, "?type=buy&quantity=7&price=50.255", "50.255 is not a multiple"),
    ):
        answer = browser.post("/default/order", {**form, **change})
        assert (answer.status, answer.headers["location"]) == (303, trade_page + typed)
        assert sentence in browser.get(trade_page).text
    answer = browser.post("/default/delete", {"product": market.product.id, "oid": "all"})
    assert (answer.status, answer.headers["location"]) == (303, trade_page)
    assert "1 order canceled" in browser.get(trade_page).text
    for target, leads_to in (
        ("/default/positions", "/default/positions"),
        ("https://evil.example/", trade_page),
    ):
        form = {"product": market.product.id, "oid": "all", "_next": target}
        assert browser.post("/default/delete", form).headers["location"] == leads_to


@pytest.mark.parametrize(
    ("typed", "kind"),
    [
        ({"type": "sell", "quantity": "7", "price": "50.255", "tif": "day"}, "sell-limit"),
        ({"type": "buy", "quantity": "many"}, "buy-market"),
        ({"type": "sell", "quantity": "9", "stop": "x", "tif": "fok"}, "sell-stop-market"),
        (
            {"type": "buy", "quantity": "9", "price": "1", "stop": "-", "post": "on"},
            "buy-stop-limit",
        ),
        ({"type": "buy", "quantity": "9", "price": "50", "peak": '"><script>'}, "buy-limit"),
    ],
)
def test_a_plain_form_that_is_refused_comes_back_as_it_was_written(
    web: Web, market: Market, buyer: User, typed: dict[str, str], kind: str
) -> None:
    browser = web.browser(buyer)
    answer = browser.post("/default/order", {"product": market.product.id, **typed})
    page = browser.get(answer.headers["location"]).text
    assert 'class="error' in page
    form = page.partition('action="/default/order"')[2].partition("</form>")[0]
    for name in ("quantity", "price", "stop", "peak"):
        [value] = re.findall(rf'name="{name}" [^>]*value="([^"]*)"', form)
        assert html.unescape(value) == typed.get(name, ""), name
    assert re.findall(r'value="(\w+)" checked>', form) == [typed["type"]]
    assert re.findall(r'value="(\w+)" selected>[a-z]{3}:', form) == (
        [typed["tif"]] if "tif" in typed else []
    )
    assert ('value="on" checked' in form) == ("post" in typed)
    assert re.findall(r'name="canvas-kind" value="([a-z-]+)" checked', page) == [kind]


def test_a_form_of_a_page_drawn_for_somebody_else_sends_nothing(
    web: Web, market: Market, buyer: User, seller: User
) -> None:
    browser = web.browser(seller)
    trade_page = f"/default/trade/{market.product.id}"
    page = browser.get(trade_page).text
    forms = re.findall(r'action="/default/(order|delete|flatten)"', page)
    assert set(forms) == {"order", "delete", "flatten"}
    assert page.count(f'name="owner" value="{seller.id}"') == len(forms)
    assert market.order(browser, "sell 1@101", owner=seller.id).status == 200
    browser.session = web.browser(buyer).session  # they log in in another tab
    form = {"product": market.product.id, "owner": seller.id}
    for path, fields in (
        ("/default/order", {"type": "buy", "quantity": 1, "price": "50"}),
        ("/default/delete", {"oid": "all"}),
    ):
        answer = browser.post(path, {**form, **fields}, JSON)
        assert (answer.status, answer.error) == (403, "not_owner")
        assert browser.post(path, {**form, **fields}).headers["location"].startswith(trade_page)
        assert f"You are logged in as {buyer.username} now" in browser.get(trade_page).text
    assert market.journaled(" buy ") == 0
    assert market.journaled(" del ") == 0


# -- canceling


def test_traders_cancel_their_own_orders_only(
    web: Web, market: Market, buyer: User, seller: User
) -> None:
    mine, other = web.browser(buyer), web.browser(seller)
    assert market.order(mine, "buy 10@50").json()["oid"] == 1
    assert market.order(mine, "buy 10@51").json()["oid"] == 2
    assert market.order(other, "buy 10@52").json()["oid"] == 3
    for browser, oid in ((other, 1), (mine, 99)):
        answer = market.delete(browser, oid)
        assert (answer.status, answer.error) == (422, "order_not_found")
    canceled = market.delete(mine, 1).json()
    assert (canceled["oid"], canceled["status"]) == (1, "canceled")
    all_of_mine = market.delete(mine, "all").json()
    assert [event["oid"] for event in all_of_mine["events"]] == [2]
    assert market.delete(mine, "all").json()["events"] == []
    assert market.delete(other, 3).status == 200


def test_an_oid_is_a_number_or_all(web: Web, market: Market, buyer: User) -> None:
    browser = web.browser(buyer)
    for oid in ("", "x", "-1", "1.5", "everything", "1" * 13):
        answer = market.delete(browser, oid)
        assert (answer.status, answer.error) == (400, "bad_request"), oid


# -- never twice


def test_the_same_id_again_is_answered_and_not_sent(web: Web, market: Market, buyer: User) -> None:
    first = market.order(web.browser(buyer), "buy 10@50", id="web-1").json()
    again = market.order(web.browser(buyer), "buy 10@50", id="web-1")
    assert (again.status, again.json()["oid"]) == (200, first["oid"])
    assert again.json()["status"] == "open"
    assert again.json()["events"] == [{"event": "duplicate", "oid": first["oid"]}]
    assert market.journaled(" buy ") == 1


def test_the_same_id_a_minute_later_is_answered_and_keeps_its_cash(
    web: Web, market: Market, buyer: User
) -> None:
    first = market.order(web.browser(buyer), "buy 10@50", id="web-1").json()
    with web.database(write=True) as db:  # so that to send it once more would be stale_timestamp
        execute(db, "UPDATE order_intent SET ts = ts - 60000 WHERE owner = ?", buyer.id)
    again = market.order(web.browser(buyer), "buy 10@50", id="web-1")
    assert (again.status, again.json()["oid"]) == (200, first["oid"])
    assert market.available(buyer) == CASH - 10 * 500_000


def test_a_plain_form_sent_twice_is_one_order(web: Web, market: Market, buyer: User) -> None:
    browser = web.browser(buyer)
    page = browser.get(f"/default/trade/{market.product.id}").text
    form = page.partition('action="/default/order"')[2].partition("</form>")[0]
    hidden = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form)
    fields = [*hidden, ("type", "buy"), ("quantity", "1"), ("price", "50"), ("stop", "")]
    for _ in range(2):
        answer = browser.request("POST", "/default/order", body=urlencode(fields).encode())
        assert answer.headers["location"] == f"/default/trade/{market.product.id}"
    assert "Order #1: open" in browser.get(f"/default/trade/{market.product.id}").text
    assert market.journaled(" buy ") == 1


def test_many_clicks_at_once_are_one_order(web: Web, market: Market, buyer: User) -> None:
    browsers = [web.browser(buyer) for _ in range(8)]
    for browser in browsers:
        browser.get("/default/about")
    with ThreadPoolExecutor(len(browsers)) as pool:
        answers = list(
            pool.map(lambda browser: market.order(browser, "buy 10@50", id="web-1"), browsers)
        )
    assert {(answer.status, answer.json()["oid"]) for answer in answers} == {(200, 1)}
    assert market.journaled(" buy ") == 1


def test_an_id_is_of_one_order(web: Web, market: Market, buyer: User, seller: User) -> None:
    assert market.order(web.browser(buyer), "buy 10@50", id="web-1").status == 200
    answer = market.order(web.browser(buyer), "buy 11@50", id="web-1")
    assert (answer.status, answer.error) == (422, "duplicate_id")
    assert market.order(web.browser(seller), "buy 11@50", id="web-1").status == 200


def test_a_refused_orders_id_may_be_used_again(web: Web, market: Market, buyer: User) -> None:
    browser = web.browser(buyer)
    assert market.order(browser, "buy 10@50.255", id="web-1").error == "bad_tick"
    assert market.order(browser, "buy 10@50.25", id="web-1").json()["status"] == "open"


def test_cash_is_promised_once_however_many_ask_at_the_same_time(
    web: Web, market: Market, buyer: User
) -> None:
    browsers = [web.browser(buyer) for _ in range(4)]
    for browser in browsers:
        browser.get("/default/about")
    with ThreadPoolExecutor(len(browsers)) as pool:
        # Each wants 60 % of the cash.
        answers = list(pool.map(lambda browser: market.order(browser, "buy 600@100"), browsers))
    assert sorted(answer.status for answer in answers) == [200, 422, 422, 422]
    assert market.available(buyer) == CASH - 600 * 1_000_000


# -- matching servers that go away


def test_with_the_matching_server_away_nothing_is_sent_or_promised(
    web: Web, market: Market, buyer: User
) -> None:
    market.server.kill()
    known = web.platform.markets.get(market.product.id)
    assert known is not None
    wait_until(lambda: not known.can_trade, "the line to be lost")
    answer = market.order(web.browser(buyer), "buy 10@50", id="web-1")
    assert (answer.status, answer.error) == (503, "not_ready")
    assert answer.headers["retry-after"] == "2"
    assert market.state(buyer, "web-1") is None
    assert market.available(buyer) == CASH
    assert market.delete(web.browser(buyer), "all").error == "not_ready"


def test_an_order_that_never_arrived_frees_its_cash_once_that_is_sure(
    web: Web, market: Market, buyer: User
) -> None:
    with running_log2db(web, market.product.name):
        os.kill(market.server.pid, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(market.order, web.browser(buyer), "buy 10@50", id="web-1")
            wait_until(lambda: market.available(buyer) < CASH, "the cash to be promised")
            market.wait_until_something_is_sent()
            market.server.kill()
            answer = asked.result()
        assert (answer.status, answer.json()["unknown"]) == (202, True)
        assert answer.json()["id"] == "web-1"
        assert market.state(buyer, "web-1") is State.UNKNOWN
        assert market.available(buyer) == CASH - 10 * 500_000
        assert market.order(web.browser(buyer), "buy 10@50", id="web-1").status == 202
        with running_match(web.var, market.product.name, market.product.port):
            web.wait_until_live(market.product)
            wait_until(
                lambda: market.state(buyer, "web-1") is State.NEVER, "the order to be given up"
            )
            assert market.available(buyer) == CASH
            assert market.journaled(" buy ") == 0
            again = market.order(web.browser(buyer), "buy 10@50", id="web-1")
            assert (again.status, again.json()["status"]) == (200, "open")
            assert market.journaled(" buy ") == 1


def test_an_order_whose_answer_was_lost_is_found_again(
    web: Web, manager: User, buyer: User
) -> None:
    ticker, port = f"t{next(NUMBERS)}", free_port()
    wire = Wire(port)
    try:
        with running_match(web.var, ticker, port) as server:
            product = web.add_product(ticker, by=manager, port=wire.port)
            web.wait_until_live(product)
            market = Market(web, product, server)
            with ThreadPoolExecutor(1) as pool:
                wire.is_deaf = True
                asked = pool.submit(market.order, web.browser(buyer), "buy 10@50", id="web-1")
                wait_until(lambda: market.journaled(" buy ") == 1, "the order to be journaled")
                wire.cut()
                answer = asked.result()
            assert (answer.status, answer.json()["unknown"]) == (202, True)
            wire.is_deaf = False
            web.wait_until_live(product)
            assert market.state(buyer, "web-1") is State.ACCEPTED
            again = market.order(web.browser(buyer), "buy 10@50", id="web-1")
            assert (again.status, again.json()["oid"]) == (200, 1)
            assert market.journaled(" buy ") == 1
            assert market.available(buyer) == CASH - 10 * 500_000
    finally:
        wire.close()


def test_what_a_stopped_web_server_promised_is_taken_up_by_the_next(
    web: Web, market: Market, buyer: User
) -> None:
    request = intents.Request(side=Side.BUY, quantity=10, price=500_000, client_id="web-1")
    with running_log2db(web, market.product.name):
        with web.database(write=True) as db:
            intents.reserve(
                db,
                buyer.id,
                market.product,
                request,
                bids=(),
                asks=(),
                last=1_000_000,
                ts=now() // 1000 - 10_000,  # it stopped ten seconds ago, before it sent
                at=now() - 10_000_000,
            )
        assert market.available(buyer) < CASH
        wait_until(lambda: market.state(buyer, "web-1") is State.NEVER, "the reconciler")
        assert market.available(buyer) == CASH


@pytest.mark.parametrize("age_seconds", [10, -3600], ids=["", "our clock was set back since"])
def test_an_order_that_never_arrived_is_given_up_although_the_database_lags(
    web: Web,
    market: Market,
    buyer: User,
    seller: User,
    monkeypatch: pytest.MonkeyPatch,
    age_seconds: int,
) -> None:
    monkeypatch.setattr(orders, "FOLLOW_SECONDS", PATIENCE_SECONDS)
    request = intents.Request(side=Side.BUY, quantity=10, price=500_000, client_id="web-1")
    with running_log2db(web, market.product.name) as log2db:
        market.order(web.browser(seller), "sell 1@99")
        wait_until(lambda: market.as_of() > 0, "log2db")
        os.kill(log2db.pid, signal.SIGSTOP)
        market.order(web.browser(seller), "sell 1@98")  # a busy market: always a record ahead
        with web.database(write=True) as db:
            intents.reserve(
                db,
                buyer.id,
                market.product,
                request,
                bids=(),
                asks=(),
                last=1_000_000,
                ts=now() // 1000 - 10_000,
                at=now() - age_seconds * 1_000_000,
            )
        threading.Timer(0.3, os.kill, (log2db.pid, signal.SIGCONT)).start()
        assert market.state(buyer, "web-1") is State.NEVER, "one round of the reconciler is enough"


def test_an_outcome_that_came_while_the_reconciler_asked_stays(
    web: Web, market: Market, buyer: User
) -> None:
    def reserve(ts: int) -> intents.Intent:
        request = intents.Request(side=Side.BUY, quantity=10, price=500_000, client_id="web-1")
        shown: intents.Levels = ()
        with web.database(write=True) as db:
            return intents.reserve(
                db,
                buyer.id,
                market.product,
                request,
                bids=shown,
                asks=shown,
                last=1_000_000,
                ts=ts,
                at=now(),
            )

    def resolve(intent: intents.Intent) -> State:
        later = now() + 60_000_000
        with web.database(write=True) as db:
            return intents.resolve(
                db, intent, found_oid=None, seq=0, lineage="", asked_at=later, at=later
            )

    first = reserve(ts=1_000)
    with web.database(write=True) as db:
        intents.rejected(db, first.id, code="bad_tick", message="off the grid", at=now())
    assert resolve(first) is State.REJECTED
    again = reserve(ts=2_000)
    assert again.fresh
    assert resolve(first) is State.RESERVED, "what was asked about is not what is on its way now"
    assert resolve(again) is State.NEVER


def test_an_accepted_order_whose_journal_is_lost_frees_its_cash(
    web: Web, market: Market, buyer: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "UNSEEN_SECONDS", 0.0)
    ticker, port = market.product.name, market.product.port
    assert market.order(web.browser(buyer), "buy 10@50", id="web-1").json()["oid"] == 1
    assert market.state(buyer, "web-1") is State.ACCEPTED
    market.server.kill()
    for path in web.var.journal_dir.glob(f"{ticker}.*"):
        path.unlink()
    with running_match(web.var, ticker, port), running_log2db(web, ticker):
        wait_until(lambda: market.state(buyer, "web-1") is State.NEVER, "the order to be given up")
    assert market.available(buyer) == CASH


def test_the_pages_of_every_web_server_tell_what_became_of_an_order_in_doubt(
    web: Web, market: Market, buyer: User
) -> None:
    trade_page = f"/default/trade/{market.product.id}"
    account = f"/default/account/{market.product.id}"
    request = intents.Request(side=Side.BUY, quantity=10, price=500_000, client_id="web-lost")
    shown: dict[str, Any] = {"bids": (), "asks": (), "last": 1_000_000, "at": now() - 10_000_000}
    with running_web(web.var.root, web.database_uri) as other:
        market.order(web.browser(buyer), "sell 7@101", id="web-in")
        with web.database(write=True) as db:  # as if its answer had been lost, and another order
            execute(db, "UPDATE order_intent SET state = 'unknown' WHERE owner = ?", buyer.id)
            ts = now() // 1000 - 10_000
            intents.reserve(db, buyer.id, market.product, request, **shown, ts=ts)
        # Until log2db runs nobody can know that an order never arrived.
        browser = other.browser(buyer)
        doubts = {order["id"]: order for order in browser.get(account).json()["in_doubt"]}
        assert doubts["web-lost"] == {
            "id": "web-lost",
            "state": doubts["web-lost"]["state"],
            "oid": None,
            "message": "",
            "side": "buy",
            "quantity": 10,
            "price": "50.00",
            "stop": None,
        }
        assert doubts["web-lost"]["state"] in ("reserved", "unknown")
        assert "unknown, being checked" in browser.get(trade_page).text
        with running_log2db(web, market.product.name):
            other.wait_until_live(market.product)
            wait_until(
                lambda: market.state(buyer, "web-lost") is State.NEVER, "a web server to know"
            )
        asked = browser.get(f"{account}?waiting=web-in,web-lost,web-none,x").json()["in_doubt"]
        fates = {order["id"]: (order["state"], order["oid"]) for order in asked}
        assert fates["web-lost"] == ("never", None)
        assert fates["web-in"] in (("accepted", 1), ("journaled", 1))
        assert set(fates) == {"web-in", "web-lost"}
        assert browser.get(account).json()["in_doubt"] == []
        assert "unknown, being checked" not in browser.get(trade_page).text


# -- products that are switched off


def test_an_inactive_product_takes_no_new_orders_and_lets_go_of_those_it_has(
    web: Web, market: Market, manager: User, buyer: User
) -> None:
    product = market.product
    browser = web.browser(buyer)
    with running_log2db(web, product.name):
        assert market.order(browser, "buy 10@50", id="web-1").json()["oid"] == 1
        web.edit_product(product, by=manager, active="")
        for text in ("buy 10@50", "sell 1@99"):
            answer = market.order(browser, text)
            assert (answer.status, answer.error) == (404, "unknown_ticker")
        again = market.order(browser, "buy 10@50", id="web-1").json()
        assert (again["oid"], again["status"]) == (1, "open"), "that one is in"
        assert f"/default/trade/{product.id}" not in browser.get("/").text
        assert market.available(buyer) == CASH - 10 * 500_000
        canceled = market.delete(browser, 1).json()
        assert (canceled["oid"], canceled["status"]) == (1, "canceled")
        wait_until(lambda: market.available(buyer) == CASH, "the cash to be free again")
        wait_until(lambda: web.platform.markets.get(product.id) is None, "the line to end")
        assert browser.get(f"/default/pandl/{product.id}").status == 200


def test_an_order_without_an_answer_is_found_out_about_in_an_inactive_product(
    web: Web, market: Market, manager: User, buyer: User
) -> None:
    browser = web.browser(buyer)
    market.order(browser, "buy 10@50", id="web-1")
    with web.database(write=True) as db:  # as if its answer had been lost
        execute(db, "UPDATE order_intent SET state = 'unknown', oid = 0 WHERE owner = ?", buyer.id)
    web.edit_product(market.product, by=manager, active="")
    wait_until(lambda: market.state(buyer, "web-1") is State.ACCEPTED, "the reconciler")


# -- products that are changed


def test_a_product_moves_with_its_orders_and_only_its_own_journal_speaks_for_them(
    web: Web, market: Market, manager: User, buyer: User, tmp_path: Path
) -> None:
    product, sentence = market.product, "its matching server has to run at the new address"
    form = {"name": product.name, "unit_price": "100.00", "active": "on", "allow_short": "on"}
    edit_page = f"/default/edit_product/{product.id}"
    by = web.browser(manager)
    request = intents.Request(side=Side.BUY, quantity=10, price=500_000, client_id="web-2")
    shown: dict[str, Any] = {"bids": (), "asks": (), "last": 1_000_000, "at": now() - 10_000_000}
    with running_log2db(web, product.name):
        market.order(web.browser(buyer), "buy 10@50", id="web-1")
        wait_until_settled(web, product.name)
        stranger, new = free_port(), free_port()
        (elsewhere := Var(tmp_path)).make()
        shutil.copy(web.var.root / "venue.key", elsewhere.root)
        with running_match(elsewhere, product.name, stranger):  # the same name, another journal
            assert by.post(edit_page, {**form, "port": stranger}).status == 303
            assert sentence in by.get(edit_page).text
            wait_until(lambda: served_at(web, product) == stranger, "the market to move")
            web.wait_until_live(product)
            with web.database(write=True) as db:
                ts = now() // 1000 - 10_000
                intents.reserve(db, buyer.id, product, request, **shown, ts=ts)
            assert market.state(buyer, "web-2") is State.UNKNOWN
        market.server.terminate()
        with running_match(web.var, product.name, new):
            assert by.post(edit_page, {**form, "port": new}).status == 303
            wait_until(lambda: served_at(web, product) == new, "the market to move")
            web.wait_until_live(product)
            wait_until(lambda: market.state(buyer, "web-2") is State.NEVER, "its own journal")
            assert market.delete(web.browser(buyer), 1).json()["status"] == "canceled"
            wait_until(lambda: market.available(buyer) == CASH, "the cash to be free again")
            assert by.post(edit_page, {**form, "port": stranger}).status == 303
            assert sentence not in by.get(edit_page).text, "nothing is open any more"


def served_at(web: Web, product: Product) -> int:
    """The port where the platform looks for a product's matching server; 0: nowhere."""
    market = web.platform.markets.get(product.id)
    return market.product.port if market else 0


@pytest.mark.parametrize("change", [{"name": "renamed"}, {"active": ""}])
@pytest.mark.parametrize("first", ["order", "edit"])
def test_a_product_is_not_changed_between_an_orders_check_and_its_promise(
    web: Web, manager: User, buyer: User, first: str, change: dict[str, str]
) -> None:
    product = web.add_product(f"t{next(NUMBERS)}", by=manager)
    if "name" in change:
        change = {"name": f"renamed{next(NUMBERS)}"}
    wanted = intents.Request(side=Side.BUY, quantity=10, price=500_000, client_id="web-1")
    other = open_database(web.database_uri)

    def reserve(db: DAL) -> intents.Intent:
        shown: dict[str, Any] = {"bids": (), "asks": (), "last": 1_000_000}
        return orders._reserve(db, buyer.id, product, wanted, **shown, ts=1, at=now())

    def edit(db: DAL) -> None:
        form = {"name": product.name, "unit_price": "100.00", "port": str(product.port)}
        form |= {"active": "on", "allow_short": "on", **change}
        products.edit(db, product.id, products.validate(form), by=manager, at=now())

    def second(work: Callable[[DAL], object]) -> object:
        try:
            with transaction(other, write=True):
                return work(other)
        finally:
            close(other)

    works = {"order": reserve, "edit": edit}
    begun = works.pop(first)
    (waiting,) = works.values()
    with ThreadPoolExecutor(1) as pool:
        with web.database(write=True) as db:
            begun(db)
            result = pool.submit(second, waiting)
            with suppress(TimeoutError):  # it cannot end before this transaction does
                result.result(0.3)
        if first == "edit":
            assert isinstance(result.exception(), intents.Refused)
        elif "name" in change:
            assert isinstance(result.exception(), Invalid)
        else:
            assert result.exception() is None
    with web.database() as db:
        assert products.find(db, product.name) in products.served(db) or first == "edit"


# -- to the P&L page


def test_a_trade_comes_to_the_profit_and_loss_pages_of_both(
    web: Web, market: Market, buyer: User, seller: User
) -> None:
    path = f"/default/pandl.json/{market.product.id}"
    with running_log2db(web, market.product.name):
        market.order(web.browser(seller), "sell 100@101")
        market.order(web.browser(buyer), "buy 60@101.50")
        of_buyer, of_seller = web.browser(buyer), web.browser(seller)
        wait_until(lambda: of_buyer.get(path).json()["shares"] == 60, "the trade to be settled")
    bought, sold = of_buyer.get(path).json(), of_seller.get(path).json()
    assert (bought["actual_cash"], bought["amount_spent"]) == ("93940.00", "6060.00")
    assert (sold["actual_cash"], sold["shares"]) == ("106060.00", -60)
    row = bought["rows"][0]
    assert (row["quantity_buy"], row["quantity_sell"], row["price"]) == (60, 0, "101.00")
    assert (bought["now"]["price"], bought["now"]["balance"]) == ("101.00", "0.00")
    assert sold["tied_up"]["short_positions"] == "12120.00"
    assert sold["tied_up"]["short_orders"] == "4040.00"
    assert bought["as_of"] > 0
    page = of_buyer.get(f"/default/pandl/{market.product.id}").text
    assert "93,940.00" in page
    csv = of_buyer.get(f"/default/pandl.csv/{market.product.id}").text
    assert csv.splitlines()[0] == "time,quantity_buy,quantity_sell,price,total_shares,balance"
