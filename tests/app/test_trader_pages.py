"""The trader's pages: portfolio, profits and losses in all products, own trades, the tape."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.controllers import trades
from app.models.accounts import User
from app.models.db import insert
from app.models.products import Product
from tests.app.venue import JSON, Web, running_web

PAGES = ("positions", "pandl", "my_trades", "all_trades")

PRIVATE = re.compile(r"password|email|owner|buyer|seller|created_by|lineage")


def micros(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A venue whose database has trades of trader1 in two products, one of them switched off."""
    folder: Path = tmp_path_factory.mktemp("trades")
    with running_web(folder) as web:
        yield web


@pytest.fixture(scope="module")
def other(web: Web) -> User:
    return web.add_user("other")


@pytest.fixture(scope="module")
def intc(web: Web, manager: User, trader: User, other: User) -> Product:
    """trader1 bought 10 at 100.00 as a taker, sold 4 at 110.00 as a maker, and has a buy open."""
    intc = web.add_product("intc", by=manager)
    with web.database(write=True) as db:
        key = {"ticker": "intc", "lineage": "a"}
        insert(db, "log_position", **key, seq=120, h="")
        days = (micros("2026-01-30T23:59:59"), micros("2026-01-31T00:00:00"))
        trade = {"buy_oid": 1, "sell_oid": 2, "buyer_fee": 0, "seller_fee": 0, "taker": "buy"}
        for seq, at, fields in (
            (1, days[0], {"buyer": trader.id, "seller": other.id, "buyer_fee": 5_000}),
            (2, days[1], {"buyer": other.id, "seller": trader.id, "seller_fee": -123}),
        ):
            price, quantity = ((1_000_000, 10), (1_100_000, 4))[seq - 1]
            row = trade | {"seq": seq, "tid": seq, "price": price, "quantity": quantity}
            insert(db, "match", **key, **(row | fields), match_time=at)
        holding = {"shares": 6, "cost": 6_000_000, "cash": -10_005_000 + 4_400_123}
        insert(db, "position", **key, owner=trader.id, **holding)
        order = {"buy_sell": "buy", "tif": "gtc", "stp": "taker", "status": "partially_filled"}
        order |= {"oid": 7, "quantity": 9, "filled": 2, "price": 950_000}
        insert(db, "buy_sell_order", **key, **order, created_by=trader.id, created_on=days[1])
    return intc


@pytest.fixture(scope="module")
def gone(web: Web, manager: User, trader: User, other: User) -> Product:
    """A product that is switched off: trader1 has a stop open, and sold 3 short there."""
    gone = web.add_product("gone", by=manager, active="")
    with web.database(write=True) as db:
        key = {"ticker": "gone", "lineage": "g"}
        insert(db, "log_position", **key, seq=33, h="")
        trade = {"buy_oid": 1, "sell_oid": 2, "taker": "none", "price": 500_000, "quantity": 3}
        parties = {"buyer": other.id, "seller": trader.id}
        at = micros("2026-02-01T12:00:00")
        insert(db, "match", **key, **trade, **parties, seq=3, tid=1, match_time=at)
        position = {"shares": -3, "cost": 1_500_000, "cash": 1_500_000}
        insert(db, "position", **key, owner=trader.id, **position)
        order = {"buy_sell": "buy", "tif": "gtc", "stp": "taker", "status": "pending_stop"}
        order |= {"oid": 8, "quantity": 3, "stop_price": 600_000}
        insert(db, "buy_sell_order", **key, **order, created_by=trader.id)
    return gone


@pytest.fixture(scope="module", autouse=True)
def _traded(intc: Product, gone: Product) -> None:
    """Every test of this file sees these trades."""


def ask(web: Web, user: User, path: str) -> Any:
    answer = web.browser(user).get(f"/default/{path}")
    assert answer.status == 200, answer.text
    return answer.json()


def test_the_portfolio_values_what_is_held_and_what_is_owed(
    web: Web, trader: User, intc: Product, gone: Product
) -> None:
    page = ask(web, trader, "positions.json")
    assert page["positions"] == [
        {
            "product": gone.id,
            "ticker": "gone",
            "active": False,
            "shares": -3,
            "average_price": "50.00",
            "last": "50.00",
            "value": "-150.00",
            "unrealised": "0.00",
            "profit": "0.00",
        },
        {
            "product": intc.id,
            "ticker": "intc",
            "active": True,
            "shares": 6,
            "average_price": "100.00",
            "last": "110.00",
            "value": "660.00",
            "unrealised": "60.00",
            "profit": "99.5123",
        },
    ]
    assert (page["value"], page["unrealised"]) == ("510.00", "60.00")
    assert page["as_of"] == {"gone": 33, "intc": 120}
    shown = web.browser(trader).get("/default/positions").text
    assert f'href="/default/trade/{intc.id}"' in shown
    assert f'href="/default/trade/{gone.id}"' not in shown, "it is not traded"
    assert f'href="/default/pandl/{gone.id}"' in shown
    assert "as of seq gone 33 · intc 120" in shown


def test_the_portfolio_has_every_open_order_with_the_means_to_cancel_it(
    web: Web, trader: User, intc: Product, gone: Product
) -> None:
    orders = ask(web, trader, "positions.json")["orders"]
    assert [(o["ticker"], o["oid"], o["side"], o["quantity"], o["filled"]) for o in orders] == [
        ("gone", 8, "buy", 3, 0),
        ("intc", 7, "buy", 9, 2),
    ]
    assert [(order["price"], order["stop"]) for order in orders] == [
        (None, "60.00"),
        ("95.00", None),
    ]
    shown = web.browser(trader).get("/default/positions").text
    form = shown.partition('aria-label="Cancel order 8 in gone"')[0].rpartition("<form")[2]
    for name, value in (("product", gone.id), ("oid", 8), ("_next", "/default/positions")):
        assert f'name="{name}" value="{value}"' in form


def test_the_trade_page_of_a_product_switched_off_leads_to_the_orders_in_it(
    web: Web, trader: User, other: User, gone: Product
) -> None:
    browser = web.browser(trader)
    answer = browser.get(f"/default/trade/{gone.id}")
    assert (answer.status, answer.headers["location"]) == (303, "/default/positions")
    assert "gone is not traded at present" in browser.get("/default/positions").text
    assert web.browser(other).get(f"/default/trade/{gone.id}").status == 404


def test_the_portfolio_of_who_never_traded_is_empty_and_says_so(web: Web, manager: User) -> None:
    page = ask(web, manager, "positions.json")
    assert (page["positions"], page["orders"], page["as_of"]) == ([], [], {})
    assert page["equity"] == page["cash_available"] == "100000.00"
    shown = web.browser(manager).get("/default/positions").text
    assert "You hold no shares" in shown
    assert "No open orders" in shown


def test_profits_and_losses_in_all_products_add_up(web: Web, trader: User) -> None:
    page = ask(web, trader, "pandl.json")
    rows = {row["ticker"]: row for row in page["products"]}
    assert rows["intc"]["realised"] == "39.5123"
    assert (page["realised"], page["unrealised"]) == ("39.5123", "60.00")
    assert page["equity"] == "100510.00"
    assert page["tied_up"]["short_positions"] == "300.00"
    assert page["tied_up"]["open_buys"] == "854.00", "7 at 95.00, and 3 at the stop and 5 %"
    for row in rows.values():
        one = ask(web, trader, f"pandl.json/{row['product']}")
        for name in ("shares", "realised", "unrealised"):
            assert one[name] == row[name], "as the product's own page has it"
        assert one["cash_available"] == page["cash_available"]


def test_own_trades_are_told_with_role_and_fee(web: Web, trader: User, intc: Product) -> None:
    page = ask(web, trader, "my_trades.json")
    assert [
        (row["ticker"], row["side"], row["quantity"], row["price"], row["role"], row["fee"])
        for row in page["trades"]
    ] == [
        ("gone", "sell", 3, "50.00", "auction", "0.00"),
        ("intc", "sell", 4, "110.00", "maker", "-0.0123"),
        ("intc", "buy", 10, "100.00", "taker", "0.50"),
    ]
    assert page["trades"][2] == {
        "time": "2026-01-30T23:59:59.000000Z",
        "product": intc.id,
        "ticker": "intc",
        "active": True,
        "tid": 1,
        "quantity": 10,
        "price": "100.00",
        "side": "buy",
        "value": "1000.00",
        "fee": "0.50",
        "role": "taker",
        "oid": 1,
    }
    assert page["older"] is None


@pytest.mark.parametrize(
    ("query", "quantities"),
    [
        ("", [3, 4, 10]),
        ("product={intc}", [4, 10]),
        ("side=sell", [3, 4]),
        ("product={intc}&side=buy&from=&to=", [10]),
        ("from=2026-01-31", [3, 4]),
        ("to=2026-01-30", [10]),
        ("from=2026-01-31&to=2026-01-31", [4]),
        ("to=9999-12-31", None),
        ("from=0001-01-01", [3, 4, 10]),
        ("side=give", None),
        ("from=yesterday", None),
        ("to=2026-02-30", None),
        ("before=now", None),
        ("product=99", None),
        ("product=x", None),
    ],
)
def test_own_trades_are_filtered_by_product_side_and_day(
    web: Web, trader: User, intc: Product, query: str, quantities: list[int] | None
) -> None:
    browser = web.browser(trader)
    answer = browser.get(f"/default/my_trades.json?{query.format(intc=intc.id)}")
    if quantities is None:
        assert answer.status in (400, 404), answer.text
        assert len(answer.json()["error"]["message"]) > 10
    else:
        assert [row["quantity"] for row in answer.json()["trades"]] == quantities


@pytest.mark.parametrize(
    ("wrong", "status", "sentence"),
    [
        ("side=give", 400, "side is buy or sell, or empty for both"),
        ("from=31.1.2026", 400, "from is a day, like 2026-01-31"),
        ("to=2026-02-30", 400, "to is a day, like 2026-01-31"),
        ("product=99", 404, "There is no product 99"),
        ("before=now&from=never", 400, "from is a day, like 2026-01-31"),
    ],
)
def test_a_filter_that_is_written_wrong_is_told_above_what_the_rest_asks_for(
    web: Web, trader: User, intc: Product, wrong: str, status: int, sentence: str
) -> None:
    rest = "side=sell" if "from" in wrong else "from=2026-01-31"
    answer = web.browser(trader).get(f"/default/my_trades?{rest}&{wrong}")
    good = web.browser(trader).get(f"/default/my_trades?{rest}")
    told = f'<p class="error" role="alert">{sentence}. It is left out here.</p>\n'
    assert (answer.status, told in answer.text) == (status, True)
    token = r'"2\|[^"]+"'  # of the forms, another each time
    assert re.sub(token, "", answer.text.replace(told, "")) == re.sub(token, "", good.text)


def test_the_filter_stays_in_the_form_and_in_its_links(
    web: Web, trader: User, intc: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trades, "PAGE_ROWS", 1)
    browser = web.browser(trader)
    page = browser.get(f"/default/my_trades?product={intc.id}&from=2026-01-01").text
    assert f'<option value="{intc.id}" selected>' in page
    assert 'type="date" value="2026-01-01"' in page
    older = re.search(r'href="(/default/my_trades\?[^"]*before=[^"]*)"', page)
    assert older
    second = browser.get(older[1].replace("&amp;", "&")).text
    assert ("100.00" in second, "110.00" in second) == (True, False)
    assert f'href="/default/my_trades.csv?product={intc.id}&amp;from=2026-01-01"' in second
    assert 'id="older"' in second
    assert "portfolio.js" not in second, "what is past does not change"
    everything = browser.get("/default/my_trades.csv").text.splitlines()
    assert len(everything) == 4, "the .csv has them all"


def test_the_tape_tells_what_was_traded_and_not_by_whom(
    web: Web, trader: User, other: User, manager: User, intc: Product
) -> None:
    answers = [ask(web, user, "all_trades.json") for user in (trader, other, manager)]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["trades"][0] == {
        "time": "2026-01-31T00:00:00.000000Z",
        "product": intc.id,
        "ticker": "intc",
        "active": True,
        "tid": 2,
        "quantity": 4,
        "price": "110.00",
        "taker": "buy",
    }
    assert {row["ticker"] for row in answers[0]["trades"]} == {"intc"}, "gone is not listed"
    assert answers[0]["as_of"] == {"intc": 120}


def test_what_is_not_listed_is_shown_to_those_only_who_traded_it(
    web: Web, trader: User, manager: User, gone: Product
) -> None:
    for path in ("all_trades", "my_trades", "positions", "pandl"):
        assert "gone" not in web.browser(manager).get(f"/default/{path}").text
        assert ("gone" in web.browser(trader).get(f"/default/{path}").text) == (
            path != "all_trades"
        )
    page = web.browser(trader).get(f"/default/pandl/{gone.id}").text
    assert f"/default/trade/{gone.id}" not in page


@pytest.mark.parametrize(
    ("path", "heading", "lines"),
    [
        ("positions", "product,ticker,active,shares,average_price,", 3),
        ("pandl", "product,ticker,active,shares,last,", 3),
        ("my_trades", "time,product,ticker,active,tid,quantity,price,side,value,fee,role,oid", 4),
        ("all_trades", "time,product,ticker,active,tid,quantity,price,taker", 3),
    ],
)
def test_each_is_a_table_too(web: Web, trader: User, path: str, heading: str, lines: int) -> None:
    answer = web.browser(trader).get(f"/default/{path}.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.text.startswith(heading)
    assert len(answer.text.splitlines()) == lines


@pytest.mark.parametrize("path", PAGES)
def test_nobody_learns_from_them_who_the_others_are(web: Web, trader: User, path: str) -> None:
    browser = web.browser(trader)
    for form in ("json", "csv"):
        assert PRIVATE.search(browser.get(f"/default/{path}.{form}").text) is None
    assert "other" not in re.findall(r"\w+", browser.get(f"/default/{path}.json").text)


@pytest.mark.parametrize("path", PAGES)
def test_strangers_are_led_to_the_log_in(web: Web, path: str) -> None:
    answer = web.browser().get(f"/default/{path}?product=1")
    assert answer.headers["location"] == (
        f"/default/user/login?_next=%2Fdefault%2F{path}%3Fproduct%3D1"
    )
    assert web.browser().get(f"/default/{path}.csv").error == "login_required"


def test_the_old_trade_page_leads_to_the_order_form(web: Web, trader: User, intc: Product) -> None:
    browser = web.browser(trader)
    answer = browser.get(f"/default/old_trade/{intc.id}")
    form = f"/default/trade/{intc.id}#ticket-panel"
    assert (answer.status, answer.headers["location"]) == (303, form)
    assert 'id="ticket-panel"' in browser.get(f"/default/trade/{intc.id}").text
    as_json = browser.get(f"/default/old_trade/{intc.id}", JSON).headers["location"]
    assert as_json == f"/default/trade.json/{intc.id}#ticket-panel"
