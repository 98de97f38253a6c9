"""The trader's pages in a browser: they follow the market by themselves, on a phone as well."""

import pytest
from playwright.sync_api import Page, expect

from tests.end_to_end.test_pages import OVERFLOW, TOO_SMALL
from tests.end_to_end.venue import PHONE, Market, Trader, Venue, send_form

PAGES = ["positions", "pandl", "my_trades", "all_trades"]


@pytest.fixture(scope="module")
def market(venue: Venue) -> Market:
    return venue.open_market("pages")


def order(trader: Trader, market: Market, side: str, amount: str) -> None:
    """Send an order, `100@99.50`, past the page that the trader looks at."""
    quantity, price = amount.split("@")
    form = {"product": market.product, "type": side, "quantity": quantity, "price": price}
    send_form(trader.context, "/default/order", form)


def row(page: Page, table: str, words: str) -> list[str]:
    """The cells of the row that has these words, once it is there."""
    line = page.locator(f'[data-table="{table}"] tbody tr', has_text=words).first
    expect(line).to_be_visible()
    return line.locator("th, td").all_inner_texts()


def test_orders_and_trades_come_to_the_portfolio_and_go_by_themselves(
    venue: Venue, market: Market
) -> None:
    with venue.trader() as buyer, venue.trader() as seller:
        page = buyer.page
        page.goto("/default/positions")
        expect(page.get_by_text("No open orders.")).to_be_visible()
        page.evaluate("window.stays = true")
        order(buyer, market, "buy", "60@101")
        assert row(page, "orders", "pages")[2:6] == ["buy", "60", "0", "101.00"]
        order(seller, market, "sell", "40@101")
        assert row(page, "positions", "pages")[:5] == [
            "pages",
            "40",
            "101.00",
            "101.00",
            "4,040.00",
        ]
        expect(page.locator('[data-table="orders"]')).to_contain_text("40")
        expect(page.locator("#as-of")).to_have_text(f"as of seq {_seq(page)}")
        assert page.evaluate("window.stays"), "the page was loaded again"
        page.get_by_role("button", name="Cancel order").click()
        expect(page.get_by_text("canceled, 40 filled")).to_be_visible()
        expect(page.get_by_text("No open orders.")).to_be_visible()
        assert page.url.endswith("/default/positions")


def _seq(page: Page) -> int:
    answer = page.request.get("/default/positions.json").json()
    seq: int = answer["as_of"]["pages"]
    return seq


def test_a_trade_comes_to_the_lists_of_trades_by_itself(venue: Venue, market: Market) -> None:
    with venue.trader() as buyer, venue.trader() as seller, venue.trader() as watcher:
        buyer.page.goto("/default/my_trades")
        watcher.page.goto(f"/default/all_trades?product={market.product}")
        order(seller, market, "sell", "7@102.50")
        order(buyer, market, "buy", "7@103")
        mine = row(buyer.page, "trades", "102.50")
        assert mine[1:8] == ["pages", "buy", "7", "102.50", "717.50", "0.00", "taker"]
        assert row(watcher.page, "trades", "102.50")[1:5] == ["pages", "102.50", "7", "buy"]
        buyer.page.get_by_label("Side").select_option("sell")
        buyer.page.get_by_role("button", name="Show", exact=True).click()
        expect(buyer.page.get_by_text("No trades of yours are like this.")).to_be_visible()
        buyer.page.get_by_role("link", name="Show all").click()
        row(buyer.page, "trades", "102.50")


def test_the_trader_finds_the_way_from_page_to_page(venue: Venue, market: Market) -> None:
    with venue.trader() as trader:
        page = trader.page
        for link, heading in (
            ("Portfolio", "Portfolio"),
            ("Profits/loss", "Profits/loss all products"),
            ("My trades", "My trades"),
            ("All trades", "All trades"),
        ):
            if page.url == "about:blank" or link == "Portfolio":
                page.goto("/default/products")
            page.get_by_role("link", name=link).first.click()
            expect(page.get_by_role("heading", level=1)).to_have_text(heading)
        page.goto(f"/default/trade/{market.product}")
        page.get_by_role("link", name="All trades in pages").click()
        expect(page.get_by_label("Product")).to_have_value(str(market.product))


def test_the_pages_fit_a_phone_with_what_is_on_them(venue: Venue, market: Market) -> None:
    with venue.trader(**PHONE) as trader, venue.trader() as other:
        order(trader, market, "buy", "30@90")
        order(other, market, "sell", "10@90")
        page = trader.page
        for name in PAGES:
            page.goto(f"/default/{name}")
            row(page, {"pandl": "products", "positions": "positions"}.get(name, "trades"), "pages")
            fits = page.evaluate(OVERFLOW)
            assert (name, fits) == (name, {"scrolls": False, "beyond": []})
        page.goto("/default/positions")
        page.get_by_role("button", name="Cancel order").tap()  # it would trade with what follows
        expect(page.get_by_text("No open orders.")).to_be_visible()


def test_what_a_finger_must_hit_in_the_portfolio_is_44_pixels_high(
    venue: Venue, market: Market
) -> None:
    with venue.trader(**PHONE) as trader:
        order(trader, market, "sell", "30@150")
        trader.page.goto("/default/positions")
        row(trader.page, "orders", "pages")
        small = [element for element, _ in trader.page.evaluate(TOO_SMALL) if "button" in element]
        assert small == []


def test_a_position_is_flattened_from_the_portfolio_with_and_without_scripts(venue: Venue) -> None:
    market = venue.open_market("flat")
    with venue.trader(**PHONE) as trader, venue.trader() as other:
        order(other, market, "sell", "30@70")
        order(trader, market, "buy", "30@70")
        order(other, market, "buy", "20@69")
        order(trader, market, "sell", "30@95")
        page = trader.page
        page.goto("/default/positions")
        row(page, "positions", "flat")
        page.get_by_role("button", name="Flatten flat").click()
        question = page.get_by_role("dialog", name="Flatten flat?")
        expect(page.locator("#as-of")).not_to_have_text(page.locator("#as-of").inner_text())
        expect(question).to_be_visible()  # whatever the table has learned meanwhile
        question.get_by_role("button", name="Not now").click()
        expect(question).to_be_hidden()
        page.get_by_role("button", name="Flatten flat").click()
        question.get_by_role("button", name="Flatten flat").click()
        expect(page.get_by_role("status")).to_have_text(
            "1 open order canceled. Sold 20 of 30 flat at 69.00: nobody buys more at present (R2);"
            " your position of 10 flat is still open"
        )
        assert page.url.endswith("/default/positions")
        order(other, market, "buy", "20@69")
        state = trader.context.storage_state()
        with venue.visitor(storage_state=state, java_script_enabled=False) as plain:
            plain.page.goto("/default/positions")
            plain.page.get_by_role("button", name="Flatten flat").click()
            plain.page.get_by_role("dialog").get_by_role("button", name="Flatten flat").click()
            expect(plain.page.get_by_role("status")).to_contain_text("The position is closed")


def test_the_old_trade_page_leads_to_the_ticket(venue: Venue, market: Market) -> None:
    with venue.trader(**PHONE) as trader:
        trader.page.goto(f"/default/old_trade/{market.product}")
        expect(trader.page.locator("#ticket button[type=submit]")).to_be_in_viewport()
        assert trader.page.url.endswith(f"/default/trade/{market.product}#ticket-panel")


def test_the_portfolio_works_without_scripts(venue: Venue, market: Market) -> None:
    with venue.trader() as trader:
        order(trader, market, "buy", "30@50")
        state = trader.context.storage_state()
    with venue.visitor(storage_state=state, java_script_enabled=False) as plain:
        page = plain.page
        page.goto("/default/positions")
        page.reload()  # log2db may need a moment
        expect(page.get_by_role("button", name="Cancel order")).to_be_visible()
        page.get_by_role("button", name="Cancel order").click()
        expect(page.get_by_text("canceled, 0 filled")).to_be_visible()
        assert page.url.endswith("/default/positions")


def test_an_order_in_a_product_that_is_switched_off_can_still_be_canceled(venue: Venue) -> None:
    market = venue.open_market("asleep")
    with venue.trader() as trader, venue.trader(manager=True) as manager:
        order(trader, market, "buy", "30@50")
        trader.page.goto("/default/positions")
        row(trader.page, "orders", "asleep")
        manager.page.goto(f"/default/edit_product/{market.product}")
        manager.page.get_by_label("Active").uncheck()
        manager.page.get_by_role("button", name="Save").click()
        expect(manager.page.get_by_text("asleep is changed")).to_be_visible()
        page = trader.page
        page.goto(f"/default/trade/{market.product}")
        expect(page.get_by_text("asleep is not traded at present")).to_be_visible()
        assert row(page, "orders", "asleep")[2:4] == ["buy", "30"]
        expect(page.get_by_role("link", name="asleep")).to_have_count(0)
        page.get_by_role("button", name="Cancel order").click()
        expect(page.get_by_text("canceled, 0 filled")).to_be_visible()
        expect(page.get_by_text("No open orders.")).to_be_visible()
        expect(page.locator("[data-money=cash_available]")).to_have_text("50,000.00")
