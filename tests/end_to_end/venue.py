"""A whole venue under test, and traders who use it as people do: Chromium, real processes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect

from tests.processes import Process, running
from tests.waiting import free_port, wait_until

DESKTOP = {"viewport": {"width": 1440, "height": 900}}
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
PASSWORD = "correct horse battery"
CASH = "50000"


def send_form(context: BrowserContext, path: str, form: dict[str, Any]) -> str:
    """Send a form as its page would, but show no page; the address that it leads to."""

    def tokens() -> list[str]:
        return [cookie["value"] for cookie in context.cookies() if cookie["name"] == "_xsrf"]

    if not tokens():
        context.request.get("/default/about")
    [token] = tokens()
    answer = context.request.post(path, form={"_xsrf": token, **form})
    assert answer.ok, answer.text()
    return answer.url


def join(context: BrowserContext, username: str, *, manager: bool = False) -> None:
    """Sign somebody up; whoever signs up is logged in. `Trader.sign_up` fills in the form."""
    form = {
        "username": username,
        "first_name": "Ada",
        "last_name": "Lovelace",
        "email": f"{username}@example.com",
        "password": PASSWORD,
        "password_two": PASSWORD,
        "manager": "on" if manager else "",
        "actual_cash": CASH,
    }
    send_form(context, "/default/user/register", form)


class Market:
    """One product: its page's number, its ticker, its matching server and log2db."""

    def __init__(self, venue: "Venue", product: int, ticker: str, port: int) -> None:
        self.product = product
        self.ticker = ticker
        self._venue = venue
        self._port = port
        self.start()
        venue.run("-m", "log2db", "-A", ticker)

    def start(self) -> None:
        """Start its matching server, for the first time or again."""
        arguments = ("-m", "matching.matchingserver", "-p", str(self._port), "-t", self.ticker)
        self.server = self._venue.run(*arguments)
        self.server.wait_for_line("listening on")


class Venue:
    """A web app with its database, and the markets that managers open on it.

    `url`: of a web app that runs already; else one is started.
    """

    def __init__(
        self, browser: Browser, var: Path, stack: ExitStack, *options: str, url: str = ""
    ) -> None:
        self._browser = browser
        self._var = var
        self._stack = stack
        self._traders = 0
        self.url = url
        if not url:
            self.web = self.run("-m", "app.webserver", "--port", "0", *options)
            # The last one that it names: in the network, if it listens there.
            self.url = self.web.wait_for_line(r"listening on .*(http://[^/ ]+)")[1]

    def run(self, *arguments: str) -> Process:
        """Start a program in this venue's var/; it ends with the venue."""
        return self._stack.enter_context(running(*arguments, var=self._var))

    @contextmanager
    def trader(self, *, manager: bool = False, **options: Any) -> Iterator["Trader"]:
        """Somebody new, signed up and logged in, in an empty browser window of their own."""
        self._traders += 1
        with self.visitor(**options) as visitor:
            join(visitor.context, f"trader{self._traders}", manager=manager)
            yield visitor

    @contextmanager
    def visitor(self, **options: Any) -> Iterator["Trader"]:
        """A browser window of somebody who is not logged in; it must show no error."""
        context = self._browser.new_context(base_url=self.url, **(options or DESKTOP))
        try:
            visitor = Trader(context)
            yield visitor
            assert visitor.errors == []
        finally:
            context.close()

    @cached_property
    def _manager(self) -> BrowserContext:
        """Who opens the markets."""
        context = self._browser.new_context(base_url=self.url)
        self._stack.callback(context.close)
        join(context, "boss", manager=True)
        return context

    def open_market(self, ticker: str, *, tick: str = "0.01", description: str = "") -> Market:
        """A manager registers the product, and its matching server and log2db are started."""
        port = free_port()
        form = {
            "name": ticker,
            "description": description or f"Shares of {ticker}",
            "unit_price": "100.00",
            "tick": tick,
            "port": str(port),
            "active": "on",
            "allow_short": "on",
            **dict.fromkeys(("collar", "band"), "0"),  # tests trade at any price
        }
        url = send_form(self._manager, "/default/products", form)
        return Market(self, int(urlsplit(url).path.rpartition("/")[2]), ticker, port)


class Trader:
    """One browser window; `errors` are what its pages complained of."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.page: Page = context.new_page()
        self.errors: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.type}: {message.text} ({message.location['url']})")

    def sign_up(self, username: str, *, manager: bool = False) -> None:
        """Fill in the form and send it; whoever signs up is logged in."""
        page = self.page
        page.goto("/default/user/register")
        page.get_by_label("Username").fill(username)
        page.get_by_label("First name").fill("Ada")
        page.get_by_label("Last name").fill("Lovelace")
        page.get_by_label("Email").fill(f"{username}@example.com")
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_label("Confirm password").fill(PASSWORD)
        if manager:
            page.get_by_label("Manager").check()
        page.get_by_label("Actual Cash Balance").fill(CASH)
        page.get_by_role("button", name="Sign up").click()
        expect(page.get_by_text(f"Welcome {username}")).to_be_visible()

    def log_out(self) -> None:
        self.page.get_by_role("button", name="Log Out").click()
        expect(self.page.get_by_role("link", name="Log In").first).to_be_visible()

    def log_in(self, username: str) -> None:
        page = self.page
        page.goto("/default/user/login")
        page.get_by_label("Username").fill(username)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_text(f"Welcome {username}")).to_be_visible()

    def open_trade_page(self, market: Market) -> None:
        """Go to the trade page and wait until the market is live on it."""
        self.page.goto(f"/default/trade/{market.product}")
        self.wait_for_line("live")

    # -- what the page says of itself

    def state(self, name: str) -> Any:
        """A value of the page's read-only `window.emte`."""
        return self.page.evaluate("(name) => window.emte && window.emte[name]", name)

    def wait_for(self, name: str, is_right: Callable[[Any], object], what: str) -> Any:
        """The value of `window.emte[name]` once it is right."""

        def right() -> list[Any]:
            value = self.state(name)
            return [value] if is_right(value) else []

        return wait_until(right, f"{what}; {name} is {self.state(name)!r}")[0]

    def wait_for_line(self, state: str) -> None:
        self.wait_for("line", lambda line: line == state, f"the line to be {state}")

    def wait_for_level(self, side: str, price: str, quantity: int) -> None:
        """Wait until a price level of the book ("bids", "asks") shows this quantity; 0: is gone."""

        def shows(levels: list[list[Any]]) -> bool:
            return {level[0]: level[1] for level in levels}.get(price, 0) == quantity

        self.wait_for(side, shows, f"{quantity} at {price} among the {side}")

    def wait_for_orders(self, count: int) -> list[dict[str, Any]]:
        """The own open orders, once there are as many."""
        orders: list[dict[str, Any]] = self.wait_for(
            "orders", lambda orders: len(orders) == count, f"{count} own open orders"
        )
        return orders

    def mark(self, oid: int) -> dict[str, float]:
        """Where the mark of an own order is on the screen."""
        ask = "(oid) => window.emte.mark(oid)"
        place: dict[str, float] = wait_until(
            lambda: self.page.evaluate(ask, oid), f"the mark of order #{oid}"
        )
        return place

    # -- the hand

    def point(self, price: str, quantity: int) -> tuple[float, float]:
        """Move the mouse to a price and a quantity of the canvas; where that is."""
        self.page.hover("#overlay")  # the view stands still from now on
        ask = "([price, quantity]) => window.emte.point(price, quantity)"
        place = self.page.evaluate(ask, [price, quantity])
        self.page.mouse.move(place["x"], place["y"])
        aim = self.state("aim")
        assert aim["quantity"] == quantity
        return place["x"], place["y"]

    def click(self, price: str, quantity: int) -> None:
        """Point at a price and a quantity, and click."""
        self.page.mouse.click(*self.point(price, quantity))

    def fill_ticket(self, quantity: int, price: str) -> None:
        """Write a quantity and a price into the plain order form."""
        self.page.get_by_label("Quantity", exact=True).fill(str(quantity))
        self.page.get_by_label("Price", exact=True).fill(price)

    def arm(self) -> None:
        """Say yes to the question that the first click of a visit asks."""
        self.page.get_by_role("button", name="Arm, and send this order").click()
