"""serve.py as a process: the venue follows its database, comes back from kills, and ends whole."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.models import products
from app.models.db import DAL, now, transaction
from app.models.products import Product
from matching.client import Away, post_order, quote
from matching.config import Var, load_venue_key
from scripts.serve import unsettled
from tests.database import add_user, make_database, make_var
from tests.processes import ROOT, running
from tests.scripts.venue import pid_of, processes_of
from tests.waiting import free_port, wait_until


class Market:
    """A database with a manager, who registers products; and the venue that serves it."""

    def __init__(self, var: Var) -> None:
        self.var = var
        self.db: DAL = make_database(var)
        self.manager = add_user(self.db, "boss", manager=True)
        self.web_port = free_port()
        self.command = ("scripts/serve.py", "--port", str(self.web_port))

    def register(self, name: str, *, tick: str = "0.01", active: bool = True) -> Product:
        form = products.validate(
            {
                "name": name,
                "unit_price": "50",
                "tick": tick,
                "port": str(free_port()),
                "active": "on" if active else "",
            }
        )
        with transaction(self.db, write=True):
            return products.register(self.db, form, by=self.manager, at=now())

    def edit(self, product: Product, **fields: str) -> Product:
        form = {"name": product.name, "unit_price": "50", "active": "on", **fields}
        with transaction(self.db, write=True):
            return products.edit(
                self.db, product.id, products.validate(form), by=self.manager, at=now()
            )

    def pid(self, name: str) -> int | None:
        return pid_of(self.var.root, name)

    def wait_for(self, *names: str) -> None:
        for name in names:
            wait_until(lambda name=name: self.pid(name), name)

    def wait_for_quote(self, product: Product, price: int) -> None:
        wait_until(lambda: _quote(product) == price, f"the quote of {product.name}")

    def trade(self, product: Product, orders: int = 1) -> None:
        """Post pairs of orders that meet."""
        key = load_venue_key(self.var)

        async def post() -> None:
            for number in range(orders):
                for owner, side in ((7, "sell"), (8, "buy")):
                    text = f"{owner}:{side} {product.name} 10@{40 + number % 20}"
                    await post_order(product.post_url, text, key)

        asyncio.run(post())


def _quote(product: Product) -> int | None:
    try:
        return asyncio.run(quote(product.quote_url))
    except Away:
        return None


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    market = Market(make_var(tmp_path))
    yield market
    wait_until(lambda: processes_of(market.var.root) == {}, "the end of every process")


def test_each_active_product_is_served_from_the_database(market: Market) -> None:
    intc, gone = market.register("intc"), market.register("gone", active=False)
    with running(*market.command, var=market.var.root) as serve:
        market.wait_for("web", "match-intc", "log2db-intc")
        market.wait_for_quote(intc, 500_000)
        with socket.create_connection(("127.0.0.1", market.web_port)):
            pass
        market.trade(intc)
        wait_until(lambda: unsettled(market.var, "intc") == 0, "the settlement")
        assert _quote(gone) is None
        assert serve.terminate() == 0
        assert processes_of(market.var.root) == {}
    assert list(market.var.run_dir.glob("*.pid")) == []


def test_products_may_be_named_as_the_programs_that_serve_them(market: Market) -> None:
    """A matching server's lock is `<ticker>.lock` (PROTOCOL §5): no other may be called like it."""
    named = [market.register(name) for name in ("web", "serve", "migrate")]
    with running(*market.command, var=market.var.root) as serve:
        market.wait_for("web", *(f"match-{product.name}" for product in named))
        for product in named:
            market.wait_for_quote(product, 500_000)
        web = market.pid("web")
        assert web is not None
        os.kill(web, signal.SIGKILL)
        wait_until(lambda: market.pid("web") not in (None, web), "the web server again")
        assert serve.interrupt() == 0
        assert "match-web ended" not in serve.output


def test_the_venue_follows_its_products(market: Market) -> None:
    with running(*market.command, var=market.var.root) as serve:
        market.wait_for("web")
        intc = market.register("intc")
        market.wait_for_quote(intc, 500_000)
        moved = market.edit(intc, port=str(free_port()))
        market.wait_for_quote(moved, 500_000)
        assert _quote(intc) is None
        market.trade(moved)
        market.edit(moved, port=str(moved.port), active="")
        wait_until(lambda: market.pid("match-intc") is None, "the end of the matching server")
        wait_until(lambda: market.pid("log2db-intc") is None, "the end of log2db")
        assert unsettled(market.var, "intc") == 0
        assert "ended with" not in serve.output
        assert serve.interrupt() == 0


def test_a_product_switched_off_is_served_until_no_trader_has_an_order_in_it(
    market: Market,
) -> None:
    intc = market.register("intc")
    with running(*market.command, var=market.var.root) as serve:
        market.wait_for_quote(intc, 500_000)
        key = load_venue_key(market.var)

        def post(text: str) -> None:
            asyncio.run(post_order(intc.post_url, text, key))

        post("7:buy intc 10@40")
        wait_until(lambda: unsettled(market.var, "intc") == 0, "the settlement")
        market.edit(intc, port=str(intc.port), active="")
        other = market.register("other")
        market.wait_for_quote(other, 500_000)  # so the products have been looked at since
        assert _quote(intc) == 500_000
        post("7:del intc 1")
        wait_until(lambda: market.pid("match-intc") is None, "the end of the matching server")
        assert serve.interrupt() == 0


def test_a_unit_price_may_be_edited_after_the_journal_has_begun(market: Market) -> None:
    intc = market.register("intc")
    with running(*market.command, var=market.var.root) as serve:
        market.wait_for_quote(intc, 500_000)
        assert serve.terminate() == 0
    with transaction(market.db, write=True):
        market.db(market.db.product.id == intc.id).update(unit_price=600_000)
    with running(*market.command, var=market.var.root) as serve:
        market.wait_for_quote(intc, 500_000)
        assert serve.terminate() == 0


def test_a_product_of_another_machine_is_not_served_here(market: Market) -> None:
    far = {
        f"{name}_url": url
        for name, url in (
            ("post", "http://192.0.2.7:9123/"),
            ("quote", "http://192.0.2.7:9123/quote"),
            ("ws", "ws://192.0.2.7:9123/realtime"),
        )
    }
    market.edit(market.register("far"), **far)
    near = market.register("near")
    with running(*market.command, var=market.var.root):
        market.wait_for_quote(near, 500_000)
        assert not any("-t far" in command for command in processes_of(market.var.root).values())


@pytest.mark.parametrize("name", ["match-intc", "log2db-intc", "web"])
def test_a_killed_child_comes_back(market: Market, name: str) -> None:
    intc = market.register("intc")
    with running(*market.command, var=market.var.root) as serve:
        market.wait_for("web", "match-intc", "log2db-intc")
        market.wait_for_quote(intc, 500_000)
        market.trade(intc)
        before = market.pid(name)
        assert before is not None
        os.kill(before, signal.SIGKILL)
        serve.wait_for_line(rf"serve WARNING {name} ended with SIGKILL; next start in \d\.\d s$")
        wait_until(lambda: market.pid(name) not in (None, before), f"another {name}")
        market.wait_for_quote(intc, 400_000)
        market.trade(intc, 2)
        wait_until(lambda: unsettled(market.var, "intc") == 0, "the settlement")
        assert serve.terminate() == 0


def test_what_a_child_refuses_is_told_and_not_tried_again_soon(market: Market) -> None:
    intc = market.register("intc", tick="0.05")
    market.register("gs")
    with running(
        *("-m", "matching.matchingserver", "-p", str(intc.port), "-t", "intc", "--tick", "0.01"),
        var=market.var.root,
    ) as server:
        server.wait_for_line("listening")
        assert server.terminate() == 0
    with running(*market.command, var=market.var.root) as serve:
        line = serve.wait_for_line(
            r"match-intc ended with exit code 78 \(configuration\): matchingserver: .*tick.*; "
            r"next start in (\d+)\.\d s$"
        )
        assert int(line[1]) >= 30
        market.wait_for("match-gs", "log2db-gs")
        assert serve.terminate() == 0


def test_at_the_end_all_that_was_traded_is_settled(market: Market) -> None:
    intc = market.register("intc")
    with running(*market.command, var=market.var.root) as serve:
        market.wait_for("log2db-intc")
        market.wait_for_quote(intc, 500_000)
        follower = market.pid("log2db-intc")
        assert follower is not None
        os.kill(follower, signal.SIGSTOP)
        market.trade(intc, 5)
        assert unsettled(market.var, "intc") > 0
        serve._popen.send_signal(signal.SIGTERM)
        wait_until(lambda: market.pid("match-intc") is None, "the end of the matching server")
        os.kill(follower, signal.SIGCONT)
        assert serve.wait() == 0
    assert unsettled(market.var, "intc") == 0
    assert "not yet settled" not in serve.output


def test_nothing_is_left_of_a_killed_venue_and_the_next_goes_on(market: Market) -> None:
    intc = market.register("intc")
    with running(*market.command, var=market.var.root) as serve:
        market.wait_for("web", "match-intc", "log2db-intc")
        market.wait_for_quote(intc, 500_000)
        market.trade(intc)
        serve.kill()
    with running(*market.command, var=market.var.root) as serve:
        market.wait_for("web", "match-intc", "log2db-intc")
        market.wait_for_quote(intc, 400_000)
        assert serve.terminate() == 0


def test_stop_all_stops_a_venue_before_what_it_would_start_again(market: Market) -> None:
    market.register("intc")
    with running(*market.command, var=market.var.root) as serve:
        market.wait_for("web", "match-intc", "log2db-intc")
        stopped = subprocess.run(
            ["bash", str(ROOT / "stop_all.sh")],
            env={**os.environ, "EMTE_VAR": str(market.var.root)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert stopped.stdout == f"stopped serve (pid {serve.pid})\n"
        assert serve.wait() == 0
        assert processes_of(market.var.root) == {}


def test_a_second_venue_on_the_same_var_is_refused(market: Market) -> None:
    with running(*market.command, var=market.var.root):
        market.wait_for("web")
        for script in ("scripts/serve.py", "scripts/demo.py"):
            with running(script, "--port", str(free_port()), var=market.var.root) as second:
                assert second.wait() == 69
                assert len(second.lines) == 1
                assert "runs in" in second.output


def test_a_port_that_is_taken_is_told_in_one_line(market: Market) -> None:
    with (
        socket.create_server(("127.0.0.1", market.web_port)),
        running(*market.command, var=market.var.root) as serve,
    ):
        assert serve.wait() == 69
        assert serve.lines == [
            f"serve: cannot listen on 127.0.0.1:{market.web_port}: address already in use"
        ]


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "words"),
    [
        (("--port", "x"), {}, 2, "invalid int value"),
        (("--var", "/proc/no"), {}, 78, "cannot make /proc/no"),
        ((), {"EMTE_DATABASE": "mysql://nobody"}, 78, "mysql"),
    ],
)
def test_what_it_cannot_use_ends_it_with_one_line(
    tmp_path: Path,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    code: int,
    words: str,
) -> None:
    command = ("scripts/serve.py", "--port", str(free_port()), *arguments)
    with running(*command, var=tmp_path / "var", **environment) as serve:
        assert serve.wait() == code
        assert words in serve.lines[-1]
        assert code == 2 or len(serve.lines) == 1


def test_its_help_has_two_examples(tmp_path: Path) -> None:
    with running("scripts/serve.py", "-h", var=tmp_path) as serve:
        assert serve.wait() == 0
        assert serve.output.count("python scripts/serve.py") == 2
