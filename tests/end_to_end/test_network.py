"""The platform for a whole network: a phone that trades at this machine's own address."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.end_to_end.venue import PHONE, Venue


def test_a_phone_in_the_network_signs_up_and_trades(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EMTE_DATABASE", raising=False)
    monkeypatch.delenv("EMTE_HMAC_KEY", raising=False)
    with ExitStack() as stack:
        venue = Venue(browser, tmp_path, stack, "--host", "0.0.0.0")
        assert not venue.url.startswith("http://127.0.0.1")
        market = venue.open_market("afar")
        with venue.visitor(**PHONE) as trader:
            trader.sign_up("guest")
            trader.open_trade_page(market)
            trader.page.get_by_role("tab", name="Ticket").tap()
            trader.fill_ticket(10, "99")
            trader.page.get_by_role("button", name="Buy 10 at 99.00").tap()
            trader.wait_for_orders(1)
            trader.page.get_by_role("tab", name="Orders").tap()
            trader.page.get_by_role("button", name="Cancel", exact=True).last.tap()
            trader.wait_for_orders(0)
            trader.log_out()
            expect(trader.page.get_by_role("link", name="Sign Up").first).to_be_visible()
