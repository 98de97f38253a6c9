"""Managers pause, resume and close markets; traders are told, and can still cancel (R11)."""

import itertools
import re
from collections.abc import Iterator

import pytest

from app.models.accounts import User
from app.models.products import Product
from matching.order import parse_price
from tests.app.venue import JSON, Browser, Response, Web, running_match
from tests.waiting import free_port, wait_until

PHASE = "/default/phase"
NUMBERS = itertools.count(1)


@pytest.fixture
def product(web: Web, manager: User) -> Iterator[Product]:
    """A product that trades."""
    ticker, port = f"p{next(NUMBERS)}", free_port()
    with running_match(web.var, ticker, port):
        product = web.add_product(ticker, by=manager, port=port)
        web.wait_until_live(product)
        yield product


def set_phase(browser: Browser, product: object, phase: str) -> Response:
    return browser.post(PHASE, {"product": product, "phase": phase}, JSON)


def order(browser: Browser, product: Product, **fields: object) -> Response:
    form = {"product": product.id, "type": "buy", "quantity": 10, "price": "50", **fields}
    return browser.post("/default/order", form, JSON)


def state(web: Web, product: Product) -> str:
    """What the list of products says of one."""
    listed = web.browser().get("/default/index.json").json()["products"]
    return str(next(row["state"] for row in listed if row["id"] == product.id))


def test_in_a_paused_market_orders_are_refused_by_the_rule_and_cancels_work(
    web: Web, manager: User, trader: User, product: Product
) -> None:
    browser = web.browser(trader)
    oid = order(browser, product).json()["oid"]
    answer = set_phase(web.browser(manager), product.id, "halted")
    assert answer.json() == {
        "results": [{"ticker": product.name, "is_done": True, "outcome": "halted"}]
    }
    assert state(web, product) == "halted"
    refused = order(browser, product)
    assert (refused.status, refused.json()["error"]) == (
        422,
        {
            "code": "market_halted",
            "rule": "R11",
            "message": f"trading in {product.name} is halted",
        },
    )
    canceled = browser.post("/default/delete", {"product": product.id, "oid": oid}, JSON)
    assert canceled.json()["status"] == "canceled"
    assert set_phase(web.browser(manager), product.id, "continuous").status == 200
    assert order(browser, product).json()["status"] == "open"


def test_an_auction_collects_orders_and_resuming_trades_them_at_one_price(
    web: Web, manager: User, trader: User, product: Product
) -> None:
    managing, browser = web.browser(manager), web.browser(trader)
    answer = set_phase(managing, product.id, "auction")
    assert answer.json()["results"][0]["outcome"] == "in an auction"
    assert state(web, product) == "auction"
    bid = order(browser, product, price="102", quantity=30).json()
    ask = order(web.browser(manager), product, type="sell", price="98", quantity=20).json()
    assert (bid["status"], ask["status"]) == ("open", "open")
    assert order(browser, product, tif="ioc").error == "not_in_auction"
    set_phase(managing, product.id, "continuous")
    row = next(r for r in browser.get("/default/products.json").json()["products"]
               if r["id"] == product.id)  # fmt: skip
    assert (row["last"], row["bid"], row["ask"]) == ("102.00", "102.00", None)


def test_a_short_sell_in_an_auction_ties_up_what_it_may_trade_at(
    web: Web, manager: User, trader: User, product: Product
) -> None:
    """By what the market says: no log2db runs here, so the database knows of no auction (R17)."""
    browser = web.browser(trader)

    def promised() -> int:
        page = browser.get(f"/default/pandl.json/{product.id}").json()
        return parse_price(page["tied_up"]["intents"])

    before = promised()
    set_phase(web.browser(manager), product.id, "auction")
    assert order(browser, product, type="sell", price="98").json()["status"] == "open"
    assert promised() - before == parse_price("1050"), "5 % above last, 100.00"


def test_closing_a_market_ends_the_day_orders_and_refuses_new_ones(
    web: Web, manager: User, trader: User, product: Product
) -> None:
    browser = web.browser(trader)
    order(browser, product, tif="day")
    order(browser, product)
    set_phase(web.browser(manager), product.id, "closed")
    assert order(browser, product).error == "market_closed"
    path = f"/default/trade/{product.id}"
    market = web.platform.markets.get(product.id)
    assert market is not None
    wait_until(
        lambda: [kept["tif"] for kept in market.orders_of(trader.id)["orders"]] == ["gtc"],
        "the day order to be gone",
    )
    assert "closed" in browser.get(path).text


def test_the_phase_that_a_market_is_in_is_no_mistake(
    web: Web, manager: User, product: Product
) -> None:
    answer = set_phase(web.browser(manager), product.id, "continuous").json()["results"][0]
    assert (answer["is_done"], answer["outcome"]) == (True, "already trading")


def test_a_market_whose_exchange_is_away_says_so(web: Web, manager: User, away: Product) -> None:
    answer = set_phase(web.browser(manager), away.id, "halted").json()["results"][0]
    assert answer["is_done"] is False
    assert answer["outcome"] == "not reached, its exchange is away"


def test_all_markets_at_once_and_each_is_reported(
    web: Web, manager: User, away: Product, product: Product
) -> None:
    browser = web.browser(manager)
    results = set_phase(browser, "all", "halted").json()["results"]
    outcomes = {row["ticker"]: row["outcome"] for row in results}
    assert outcomes["away"] == "not reached, its exchange is away"
    assert outcomes[product.name] == "halted"
    assert state(web, product) == "halted"
    answer = browser.post(PHASE, {"product": "all", "phase": "continuous"})
    assert (answer.status, answer.headers["location"]) == (303, "/default/products")
    page = browser.get("/default/products").text
    assert re.search(r"away(, p\d+)*: not reached, its exchange is away\.", page)
    assert f"{product.name}: trading." in page


def test_the_buttons_are_on_the_pages_of_managers(
    web: Web, manager: User, trader: User, product: Product
) -> None:
    browser = web.browser(manager)
    page = browser.get("/default/products").text
    assert all(f"{words} all" in page for words in ("Pause", "Resume", "Auction", "Close"))
    path = f"/default/edit_product/{product.id}"
    assert all(f'value="{phase}"' in browser.get(path).text for phase in ("halted", "closed"))
    answer = browser.post(PHASE, {"product": product.id, "phase": "halted"})
    assert (answer.status, answer.headers["location"]) == (303, path)
    page = browser.get(path).text
    assert f"{product.name}: halted." in page
    assert '<span class="state halted">halted</span>' in page
    assert "Pause all" not in web.browser(trader).get("/default/products").text


def test_only_managers_with_our_form_set_a_phase(
    web: Web, manager: User, trader: User, product: Product
) -> None:
    assert set_phase(web.browser(trader), product.id, "halted").error == "managers_only"
    assert set_phase(web.browser(), product.id, "halted").error == "login_required"
    body = f"product={product.id}&phase=halted".encode()
    form = {"Content-Type": "application/x-www-form-urlencoded", **JSON}
    answer = web.browser(manager).request("POST", PHASE, body=body, headers=form)
    assert (answer.status, answer.error) == (403, "bad_xsrf")
    assert web.browser(manager).get(PHASE).status == 405
    assert state(web, product) == "continuous"


def test_what_is_no_phase_and_no_product_is_told(web: Web, manager: User, product: Product) -> None:
    browser = web.browser(manager)
    for phase in ("", "HALTED", "pause", "halted ts=1"):
        assert set_phase(browser, product.id, phase).error == "bad_request", phase
    for key in ("", "99999", "x", "١", "all "):
        assert set_phase(browser, key, "halted").error == "unknown_ticker", key
    assert state(web, product) == "continuous"
