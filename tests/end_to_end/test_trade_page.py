"""What surrounds a trade on its page: who is logged in, what fits, what the ticket proposes."""

import os
import signal

import pytest
from playwright.sync_api import Locator, expect

from tests.end_to_end.venue import PASSWORD, Market, Trader, Venue
from tests.waiting import PATIENCE_SECONDS


@pytest.fixture(scope="module")
def market(venue: Venue) -> Market:
    return venue.open_market("desk")


def expect_logged_out(trader: Trader) -> None:
    trader.wait_for_line("ended")
    expect(trader.page.locator("#ticket [type=submit]")).to_be_disabled()
    expect(trader.page.get_by_role("link", name="Log in", exact=True)).to_be_visible()
    # The browser itself notes the answer's status.
    assert [error for error in trader.errors if "401" not in error] == []
    trader.errors.clear()


def in_doubt(trader: Trader) -> Locator:
    return trader.page.get_by_role("cell", name="unknown, being checked")


def test_a_log_out_in_another_tab_ends_this_one(venue: Venue, market: Market) -> None:
    with venue.visitor() as trader:
        trader.sign_up("leaver")
        trader.open_trade_page(market)
        other = trader.context.new_page()
        other.goto("/default/products")
        other.get_by_role("button", name="Log Out").click()
        expect_logged_out(trader)
        trader.page.get_by_role("link", name="Log in", exact=True).click()
        trader.page.get_by_label("Username").fill("leaver")
        trader.page.get_by_label("Password").fill(PASSWORD)
        trader.page.get_by_role("button", name="Log in").click()
        trader.wait_for_line("live")


def test_a_page_ends_when_somebody_else_logs_in_beside_it(venue: Venue, market: Market) -> None:
    with venue.visitor() as trader:
        trader.sign_up("first")
        trader.open_trade_page(market)
        other = Trader(trader.context)
        other.page.goto("/default/products")
        other.log_out()
        other.sign_up("second")
        expect_logged_out(trader)


def test_an_order_in_doubt_is_shown_and_resolved_on_the_pages_of_two_web_servers(
    venue: Venue,
) -> None:
    market = venue.open_market("doubt")
    second = venue.run("-m", "app.webserver", "--port", "0")
    url = second.wait_for_line(r"listening on .*(http://[^/ ]+)")[1]
    with venue.trader() as trader:
        trader.open_trade_page(market)
        other = Trader(trader.context)
        other.page.goto(f"{url}/default/trade/{market.product}")
        other.wait_for_line("live")
        os.kill(market.server.pid, signal.SIGSTOP)
        trader.fill_ticket(3, "99.00")
        trader.page.locator("#ticket [type=submit]").click()
        expect(in_doubt(other)).to_be_visible()  # as soon as it takes long
        expect(in_doubt(trader)).to_have_count(0)  # here it is still waited for
        market.server.kill()
        expect(in_doubt(trader)).to_be_visible()
        market.start()
        for window in (trader, other):
            arrival = window.page.locator(".toast", has_text="never arrived")
            expect(arrival).to_be_visible(timeout=PATIENCE_SECONDS * 1000)
            expect(in_doubt(window)).to_have_count(0)
        assert trader.state("unknown") == other.state("unknown") == []


def test_the_ticket_shows_no_value_that_its_kind_does_not_use(venue: Venue, market: Market) -> None:
    with venue.trader() as trader:
        trader.open_trade_page(market)
        price, stop = (trader.page.get_by_label(name, exact=True) for name in ("Price", "Stop"))
        kind = trader.page.get_by_label("Kind", exact=True)
        expect(price).to_have_value("100.00")
        expect(stop).to_have_value("")
        kind.select_option("Stop limit")
        expect(stop).to_have_value("100.10")
        price.fill("100.40")
        kind.select_option("Market")
        expect(price).to_have_value("")
        expect(stop).to_have_value("")
        kind.select_option("Limit")
        expect(price).to_have_value("100.40")  # what was typed comes back


def test_a_stop_market_is_one_in_the_table_too(venue: Venue, market: Market) -> None:
    with venue.trader() as trader:
        trader.open_trade_page(market)
        trader.page.get_by_label("Kind", exact=True).select_option("Stop market")
        trader.page.get_by_label("Stop", exact=True).fill("103.33")
        trader.page.get_by_role("button", name="Buy 100 at market, stop 103.33").click()
        trader.wait_for_orders(1)
        row = trader.page.locator("#open-orders tr")
        expect(row).to_contain_text("buy stop market")
        trader.page.reload()
        expect(row).to_contain_text("buy stop market")
        expect(row).to_contain_text("103.33")


def test_all_that_one_trades_with_is_in_sight(venue: Venue, market: Market) -> None:
    with venue.trader() as trader:
        trader.open_trade_page(market)
        trader.page.get_by_label("Kind", exact=True).select_option("Stop limit")
        for width, height in ((1440, 900), (1280, 720), (1366, 625)):
            trader.page.set_viewport_size({"width": width, "height": height})
            for part in ("#ticket [type=submit]", "#help-open", ".kind >> nth=7", "#open-orders"):
                expect(trader.page.locator(part)).to_be_in_viewport(ratio=1)


def test_a_long_description_pushes_nothing_aside(venue: Venue) -> None:
    market = venue.open_market("words", description="A very long description " * 20)
    with venue.trader() as trader:
        trader.open_trade_page(market)
        for target in ("#last", "#available", "#line"):
            expect(trader.page.locator(target)).to_be_in_viewport(ratio=1)
        overlap = trader.page.evaluate(
            "() => document.querySelector('#available').getBoundingClientRect().right"
            " - document.querySelector('#line').getBoundingClientRect().left"
        )
        assert overlap < 0
