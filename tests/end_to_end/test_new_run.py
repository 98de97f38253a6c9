"""A manager starts a new run in the browser; a trade page that is open lives through it."""

from contextlib import ExitStack
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.database import make_var
from tests.end_to_end.venue import PHONE, Venue
from tests.processes import running
from tests.scripts.test_serve import Market
from tests.scripts.venue import processes_of
from tests.waiting import wait_until


def test_a_new_run_is_followed_without_reload_and_trading_goes_on(
    browser: Browser, tmp_path: Path
) -> None:
    served = Market(make_var(tmp_path))
    product = served.register("intc")
    with ExitStack() as stack:
        serve = stack.enter_context(running(*served.command, var=served.var.root))
        served.wait_for("web", "match-intc", "log2db-intc")
        url = f"http://127.0.0.1:{served.web_port}"
        venue = Venue(browser, served.var.root, stack, url=url)
        with venue.trader(manager=True, **PHONE) as manager, venue.trader() as trader:
            trader.page.goto(f"/default/trade/{product.id}")
            trader.wait_for_line("live")
            trader.fill_ticket(10, "40")
            trader.page.keyboard.press("Enter")
            trader.wait_for_orders(1)
            page = manager.page
            page.goto("/default/products")
            page.get_by_role("link", name="Start a new run").tap()
            page.get_by_label("Type the word zap").fill("zap")
            page.get_by_role("button", name="Start a new run").tap()
            expect(page.get_by_text("asked for a new run at")).to_be_visible()
            page.evaluate("window.isTheSame = true")
            begun = page.locator('[data-step="begun"]')
            expect(begun).to_have_attribute("data-state", "done")
            expect(page.locator("#run")).to_have_text("2")
            expect(page.locator('[data-table="past"] tbody')).to_contain_text("trader1")
            assert page.evaluate("window.isTheSame")
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            trader.wait_for_orders(0)
            expect(trader.page.get_by_text("intc begins a new run").first).to_be_visible()
            trader.wait_for_line("live")  # the new run's: before its news the line was stale
            trader.fill_ticket(10, "41")
            trader.page.keyboard.press("Enter")
            assert [order["oid"] for order in trader.wait_for_orders(1)] == [1]
        assert serve.terminate() == 0
    wait_until(lambda: processes_of(served.var.root) == {}, "the end of every process")
