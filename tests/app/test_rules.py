"""What managers want of a market is told to its matching server, and stays told (R3, R12, R16)."""

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.models import rules
from app.models.accounts import User
from app.models.db import execute
from app.models.products import Product
from matching.client import BlockingClient
from tests.app.venue import JSON, Browser, Response, Web, running_match
from tests.processes import Process
from tests.waiting import free_port, wait_until

NUMBERS = itertools.count(1)
RULES = {"collar": "5", "band": "20", "taker_fee": "0.5", "max_quantity": "500"}


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def product(web: Web, manager: User, port: int) -> Product:
    """A product whose matching server is still to start, and has rules."""
    return web.add_product(f"p{next(NUMBERS)}", by=manager, port=port, **RULES)


@contextmanager
def serving(web: Web, product: Product) -> Iterator[Process]:
    with running_match(web.var, product.name, product.port) as server:
        web.wait_until_live(product)
        wait_until_told(web, product)
        yield server


def wait_until_told(web: Web, product: Product) -> None:
    def is_told() -> bool:
        market = web.platform.markets.get(product.id)
        with web.database() as db:
            return market is not None and rules.told(db)[product.id] == market.lineage

    wait_until(is_told, f"{product.name} to be told its rules")


def page_of(product: Product, form: str = "") -> str:
    return f"/default/edit_product{form}/{product.id}"


def edit(browser: Browser, product: Product, **changes: str) -> Response:
    form = {"name": product.name, "unit_price": "100", "port": str(product.port), "active": "on"}
    return browser.post(page_of(product), {**form, "allow_short": "on", **RULES, **changes})


def order(browser: Browser, product: Product, **fields: object) -> Response:
    form = {"product": product.id, "type": "buy", "quantity": 10, "price": "100", **fields}
    return browser.post("/default/order", form, JSON)


def told_lines(web: Web, product: Product) -> list[str]:
    """What the journal holds of rules, without time and frame."""
    lines = web.var.journal_file(product.name).read_text("ascii").splitlines()
    bodies = [line.partition(": [0] 0 ")[2].partition(" s=")[0] for line in lines]
    return [body for body in bodies if body.startswith(("set ", "limit "))]


def test_a_new_journal_is_told_what_differs_from_its_own_rules(
    web: Web, product: Product, trader: User
) -> None:
    with serving(web, product):
        assert told_lines(web, product) == [
            "set collar=5 band=20 breaker=0 maker_fee=0 taker_fee=0.5",
            "limit * max_quantity=500 max_open_orders=0 max_position=0 max_notional=0.00"
            " max_rate=0",
        ]
        browser = web.browser(trader)
        assert order(browser, product, price="79").error == "price_band"
        assert order(browser, product, quantity=501).error == "max_quantity"
        row = next(
            row
            for row in browser.get("/default/products.json").json()["products"]
            if row["id"] == product.id
        )
        assert row["rules"] == (
            "collar 5 % · band 20 % · maker fee 0 bp, taker fee 0.5 bp"
            " · at most 500 shares an order"
        )
        for page in ("/default/products", f"/default/trade/{product.id}"):
            assert row["rules"] in browser.get(page).text


def test_a_restarted_server_knows_its_rules_and_is_told_nothing(
    web: Web, product: Product, trader: User
) -> None:
    with serving(web, product) as server:
        before = told_lines(web, product)
        server.kill()
        server.wait()
    with serving(web, product):
        assert order(web.browser(trader), product, quantity=501).error == "max_quantity"
        assert told_lines(web, product) == before


def test_saved_rules_are_told_at_once_and_what_a_program_set_is_set_again(
    web: Web, product: Product, manager: User, trader: User
) -> None:
    browser = web.browser(manager)
    with serving(web, product):
        before = len(told_lines(web, product))
        assert edit(browser, product, max_quantity="5").status == 303
        assert "its exchange has been told" in browser.get(page_of(product)).text
        assert [line.split()[:3] for line in told_lines(web, product)[before:]] == [
            ["limit", "*", "max_quantity=5"]
        ]
        assert order(web.browser(trader), product, quantity=6).error == "max_quantity"
        with BlockingClient(product.ws_url, ticker=product.name, key=web.venue_key) as program:
            program.send(f"set {product.name} collar=7")
        wait_until(
            lambda: (
                browser.get(page_of(product, ".json")).json()["differences"]
                == [{"name": "collar", "wanted": "5", "in_force": "7"}]
            ),
            "the page to show what is in force",
        )
        assert re.search(
            r"Not in force:.*collar.* is 7 in the market", browser.get(page_of(product)).text
        )
        edit(browser, product, max_quantity="5")
        assert browser.get(page_of(product, ".json")).json()["differences"] == []
        assert "collar=5" in told_lines(web, product)[-1]


def test_rules_saved_while_the_server_is_away_are_told_when_it_is_back(
    web: Web, product: Product, manager: User
) -> None:
    browser = web.browser(manager)
    edit(browser, product, breaker="3.25")
    assert "is told as soon as it is back" in browser.get(page_of(product)).text
    with serving(web, product):
        assert "breaker=3.25" in told_lines(web, product)[0]


def test_exceptions_are_made_told_and_taken_back_on_the_products_page(
    web: Web, product: Product, manager: User, trader: User
) -> None:
    browser, trading = web.browser(manager), web.browser(trader)
    made = {"except": "on", "owner": trader.username, "limit": "max_quantity", "value": "5"}
    with serving(web, product):
        answer = browser.post(page_of(product), made)
        assert (answer.status, answer.headers["location"]) == (
            303,
            f"{page_of(product)}#exceptions",
        )
        page = browser.get(page_of(product)).text
        assert f"{trader.username}: at most 5 shares an order; its exchange has been told" in page
        assert f'value="{trader.id} max_quantity"' in page
        assert order(trading, product, quantity=6).error == "max_quantity"
        removed = {"remove": f"{trader.id} max_quantity"}
        answer = browser.post(page_of(product), removed, JSON)
        assert answer.json() == {
            "message": "The exception is removed; its exchange has been told",
            "exceptions": [],
        }
        assert told_lines(web, product)[-2:] == [
            f"limit {trader.id} max_quantity=5",
            f"limit {trader.id} max_quantity=*",
        ]
        assert order(trading, product, quantity=6).json()["status"] == "open"
        again = browser.post(page_of(product), removed, JSON).json()["message"]
        assert again.startswith("There is no such exception any more")


def test_a_wrong_exception_is_told_at_its_field_and_kept_in_the_form(
    web: Web, product: Product, manager: User, trader: User
) -> None:
    browser = web.browser(manager)
    good = {"except": "on", "owner": trader.username, "limit": "max_rate", "value": "5"}
    for field, text in (("owner", "nobody"), ("owner", "0"), ("limit", "collar"), ("value", "x")):
        form = {**good, field: text}
        answer = browser.post(page_of(product), form, JSON)
        assert (answer.status, set(answer.json()["exception_errors"])) == (400, {field})
        page = browser.post(page_of(product), form).text
        assert f'id="{field}-note"' in page
        assert 'value="nobody"' in page or field != "owner" or text == "0"
    for remove in ("", "x", "1", f"{trader.id} nothing", "9" * 19 + " max_rate", "٣ max_rate"):
        answer = browser.post(page_of(product), {"remove": remove}, JSON)
        assert answer.json()["message"].startswith("There is no such exception"), remove
    trading = web.browser(trader)
    assert trading.post(page_of(product), good, JSON).error == "managers_only"
    with web.database() as db:
        assert rules.exceptions(db, product.id) == []


def test_another_web_server_tells_what_one_that_was_killed_has_stored(
    web: Web, product: Product, manager: User
) -> None:
    with serving(web, product):
        with web.database(write=True) as db:  # stored, and killed before it told anybody
            execute(
                db, "UPDATE product SET collar = 0, rules_lineage = '' WHERE id = ?", product.id
            )
        web.run(_wake(web))
        wait_until_told(web, product)
        assert told_lines(web, product)[-1].startswith("set collar=0 ")


async def _wake(web: Web) -> None:
    web.platform.markets.went_live.set()


def test_the_form_of_a_new_product_proposes_a_collar_and_a_band(web: Web, manager: User) -> None:
    form = web.browser(manager).get("/default/products.json").json()["form"]
    proposed = {name: form[name] for name in (*rules.SETTINGS, *rules.LIMITS)}
    assert proposed == {
        **dict.fromkeys((*rules.SETTINGS, *rules.LIMITS), "0"),
        "collar": "10",
        "band": "20",
        "max_quantity": "1000000",
    }
