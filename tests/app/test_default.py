"""The pages as strangers, traders and managers see them, and the forms of products."""

import json
import re

import pytest

from app.models import menu, products
from app.models.accounts import User
from app.models.products import Product
from tests.app.venue import JSON, Response, Web
from tests.waiting import wait_until

PRODUCTS = "/default/products"

FORM = {
    "name": "gs",
    "description": "Goldman Sachs Group Inc.",
    "unit_price": "105.20",
    "tick": "0.01",
    "lot": "1",
    "port": "18881",
    "active": "on",
    "allow_short": "on",
}


def page_data(answer: Response) -> dict[str, object]:
    """The JSON that a page hands to its scripts."""
    block = re.search(r'<script type="application/json" id="page">(.*?)</script>', answer.text)
    assert block, answer.text
    data: dict[str, object] = json.loads(block[1])
    return data


def stored_product(web: Web, name: str) -> Product | None:
    with web.database() as db:
        return products.find(db, name)


def test_the_front_page_shows_strangers_the_markets(web: Web, away: Product) -> None:
    page = web.browser().get("/").text
    assert "Sign up" in page
    assert f'href="/default/trade/{away.id}"' in page
    assert "Away Inc." in page
    listed = web.browser().get("/default/index.json").json()["products"]
    assert [(row["ticker"], row["state"], row["last"]) for row in listed] == [
        ("away", "away", None)
    ]


def test_every_page_begins_with_the_menu(web: Web, trader: User) -> None:
    link = re.compile(r'(?:href|formaction)="([^"]+)"( aria-current="page")?>([^<]+)<')
    for user, account in ((None, menu.user_menu(None)), (trader, menu.user_menu(trader))):
        page = web.browser(user).get("/default/about").text
        header = page.partition('<nav class="menu"')[2].partition("</header>")[0]
        assert link.findall(header) == [
            (entry.url, ' aria-current="page"' if entry.label == "About" else "", entry.label)
            for entry in [*menu.main_menu(user), *account]
        ]


def test_the_menu_marks_where_one_is(web: Web, trader: User, away: Product) -> None:
    browser = web.browser(trader)
    for path, marked in (
        ("/", ("page", "Index")),
        ("/default/index", ("page", "Index")),
        ("/default/products.html", ("page", "Products")),
        (f"/default/trade/{away.id}", ("true", "Products")),
        ("/default/positions", ("page", "Portfolio")),
        (f"/default/pandl/{away.id}", ("true", "Portfolio")),
        ("/default/all_trades", ("true", "Trades")),
        ("/default/nowhere", None),
    ):
        found = re.search(r'aria-current="(\w+)">(\w+)<', browser.get(path).text)
        assert (path, found and found.groups()) == (path, marked)


def test_traders_see_products_without_the_means_of_managers(
    web: Web, trader: User, away: Product
) -> None:
    page = web.browser(trader).get(PRODUCTS).text
    for link in ("trade", "pandl"):
        assert f'href="/default/{link}/{away.id}"' in page
    assert "edit_product" not in page
    assert "Register" not in page


def test_a_product_as_json_is_what_the_list_shows(web: Web, trader: User, away: Product) -> None:
    row = web.browser(trader).get("/default/products.json").json()["products"][0]
    assert row == {
        "id": away.id,
        "ticker": "away",
        "description": "Away Inc.",
        "reference": "100.00",
        "last": None,
        "bid": None,
        "ask": None,
        "spread": None,
        "change": None,
        "change_percent": None,
        "volume": 0,
        "recent": [],
        "state": "away",
        "rules": "",
    }


def test_the_list_as_csv_has_a_line_for_each_product(web: Web, trader: User, away: Product) -> None:
    answer = web.browser(trader).get("/default/products.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    heading, first = answer.text.splitlines()[:2]
    assert heading.startswith("id,ticker,description,reference,last,")
    assert first.startswith(f"{away.id},away,Away Inc.,100.00,")


def test_a_manager_registers_a_product_and_gets_the_line_to_copy(web: Web, manager: User) -> None:
    browser = web.browser(manager)
    assert "Register new product" in browser.get(PRODUCTS).text
    answer = browser.post(PRODUCTS, FORM)
    product = stored_product(web, "gs")
    assert product is not None
    assert (answer.status, answer.headers["location"]) == (
        303,
        f"/default/edit_product/{product.id}",
    )
    assert (product.unit_price, product.tick, product.lot) == (1_052_000, 100, 1)
    assert product.post_url == "http://127.0.0.1:18881/"
    assert product.quote_url == "http://127.0.0.1:18881/quote"
    assert product.ws_url == "ws://127.0.0.1:18881/realtime"
    page = browser.get(answer.headers["location"]).text
    assert "python matchingserver.py -p 18881 -t gs --price 105.20<" in page
    wait_until(lambda: web.platform.markets.find("gs"), "a market for the new product")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "GS"),
        ("name", "all"),
        ("name", "away"),
        ("unit_price", ""),
        ("unit_price", "-1"),
        ("unit_price", "100.005"),
        ("tick", "0"),
        ("lot", "x"),
        ("port", "99999"),
        ("port", ""),
        ("ws_url", "file:///etc/passwd"),
    ],
)
def test_a_wrong_product_is_told_and_not_stored(
    web: Web, manager: User, away: Product, field: str, value: str
) -> None:
    form = {**FORM, "name": "wrong", "port": "18890", field: value}
    browser = web.browser(manager)
    answer = browser.post(PRODUCTS, form)
    assert answer.status == 400
    assert 'aria-invalid="true"' in answer.text
    assert "Goldman Sachs Group Inc." in answer.text, "what was filled in is kept"
    assert browser.post(PRODUCTS, form, JSON).json()["errors"]
    assert stored_product(web, "wrong") is None


def test_only_managers_register_and_edit(web: Web, trader: User, away: Product) -> None:
    browser = web.browser(trader)
    for path in (PRODUCTS, f"/default/edit_product/{away.id}"):
        answer = browser.post(path, {**FORM, "name": "mine", "port": "18891"}, JSON)
        assert (answer.status, answer.error) == (403, "managers_only")
    assert stored_product(web, "mine") is None


def test_a_manager_edits_a_product(web: Web, manager: User) -> None:
    product = web.add_product("edited", by=manager, port=18892)
    browser = web.browser(manager)
    path = f"/default/edit_product/{product.id}"
    assert 'value="Edited Inc."' in browser.get(path).text
    assert 'value="18892"' in browser.get(path).text, "the port of its addresses"
    form = {**FORM, "name": "edited", "description": "New words", "port": "18893"}
    del form["active"]
    assert browser.post(path, form).status == 303
    changed = stored_product(web, "edited")
    assert changed is not None
    assert (changed.description, changed.ws_url) == (
        "New words",
        "ws://127.0.0.1:18893/realtime",
    )
    assert not changed.active
    assert "edited is changed" in browser.get(path).text
    wrong = browser.post(path, {**form, "unit_price": "free"})
    assert (wrong.status, 'value="free"' in wrong.text) == (400, True)


def test_an_inactive_product_is_the_managers_only(web: Web, manager: User, trader: User) -> None:
    product = web.add_product("asleep", by=manager, active="")
    assert "asleep" in web.browser(manager).get(PRODUCTS).text
    assert "asleep" not in web.browser(trader).get(PRODUCTS).text
    assert web.browser(trader).get(f"/default/trade/{product.id}").status == 404
    assert web.browser().get("/realtime/asleep").status == 404
    assert web.browser(trader).get(f"/default/pandl/{product.id}").status == 200
    order = {"type": "buy", "product": product.id, "quantity": 1, "price": "1"}
    answer = web.browser(trader).post("/default/order", order, JSON)
    assert (answer.status, answer.error) == (404, "unknown_ticker")


def test_editing_a_product_that_is_not_there(web: Web, manager: User) -> None:
    assert web.browser(manager).get("/default/edit_product/99").status == 404
    assert web.browser(manager).post("/default/edit_product/99", FORM).status == 404


def test_the_trade_page_tells_its_scripts_what_they_need(
    web: Web, trader: User, away: Product
) -> None:
    page = page_data(web.browser(trader).get(f"/default/trade/{away.id}"))
    token = page.pop("xsrf")
    assert page == {
        "kind": "buy-limit",
        "product": away.id,
        "name": "Away Inc.",
        "ticker": "away",
        "tick": 100,
        "lot": 1,
        "reference": 1_000_000,
        "owner": trader.id,
    }
    assert isinstance(token, str)
    assert token.startswith("2|")


def test_names_cannot_break_out_of_a_page(web: Web, manager: User, trader: User) -> None:
    evil = "</script><script>alert(1)</script>"
    product = web.add_product("evil", by=manager, description=evil)
    trade = web.browser(trader).get(f"/default/trade/{product.id}")
    assert "<script>alert" not in trade.text
    assert page_data(trade)["name"] == evil
    assert "<script>alert" not in web.browser(trader).get(PRODUCTS).text


def test_profits_and_losses_before_the_first_trade(web: Web, trader: User, away: Product) -> None:
    browser = web.browser(trader)
    page = browser.get(f"/default/pandl.json/{away.id}").json()
    assert page.pop("chart")["line"] == ""
    assert page == {
        "product": away.id,
        "ticker": "away",
        "active": True,
        "as_of": 0,
        "actual_cash": "100000.00",
        "cash_available": "100000.00",
        "tied_up": {
            "open_buys": "0.00",
            "short_orders": "0.00",
            "short_positions": "0.00",
            "intents": "0.00",
        },
        "shares": 0,
        "last": "100.00",
        "amount_spent": "0.00",
        "realised": "0.00",
        "unrealised": "0.00",
        "equity": "100000.00",
        "curve": [],
        "rows": [],
        "now": {
            "time": None,
            "quantity_buy": 0,
            "quantity_sell": 0,
            "price": "100.00",
            "total_shares": 0,
            "balance": "0.00",
        },
    }
    page = browser.get(f"/default/pandl/{away.id}").text
    for words in ("Actual Cash Balance", "100,000.00", "Completed Trades", "NOW", "Amount Spent"):
        assert words in page
    assert browser.get(f"/default/pandl.csv/{away.id}").status == 200


def test_an_account_is_the_figures_of_the_profit_and_loss_without_its_trades(
    web: Web, trader: User, away: Product
) -> None:
    browser = web.browser(trader)
    whole = browser.get(f"/default/pandl.json/{away.id}").json()
    lean = browser.get(f"/default/account/{away.id}").json()
    assert (lean.pop("owner"), lean.pop("in_doubt")) == (trader.id, [])
    assert {"actual_cash", "cash_available", "shares", "realised", "equity"} <= set(lean)
    assert lean == {name: whole[name] for name in lean}
    assert not {"rows", "now"} & set(lean)
