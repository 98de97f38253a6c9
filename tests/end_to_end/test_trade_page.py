"""What surrounds a trade on its page: who is logged in, what fits, what the ticket proposes."""

import pytest
from playwright.sync_api import expect

from tests.end_to_end.venue import PASSWORD, Market, Trader, Venue


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
