"""demo.py as a process: what it makes, what it prints, and that it ends whole."""

import asyncio
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.models import accounts, products
from app.models.db import now, open_database, transaction
from app.models.products import Product
from matching import config
from matching.client import Away, BlockingClient, Unanswered, post_order
from matching.config import Var
from matching.order import HOUSE
from scripts.serve import unsettled
from tests.database import uri_of
from tests.processes import ROOT, Process, running
from tests.scripts.venue import pid_of, processes_of
from tests.waiting import free_port, wait_until

TRADERS = [f"trader{number}" for number in range(1, 10)]


@pytest.fixture
def var(tmp_path: Path) -> Iterator[Var]:
    var = Var(tmp_path / "var")
    yield var
    wait_until(lambda: processes_of(var.root) == {}, "the end of every process")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Var, Process]:
    """A var/ in which a demo of two tickers has run, and that demo."""
    var = Var(tmp_path_factory.mktemp("demo") / "var")
    return var, _run_once(var, "--tickers", "2", "--seed", "1")


def _command(*arguments: str) -> tuple[str, ...]:
    return ("scripts/demo.py", "--port", str(free_port()), *arguments)


def _products(var: Var) -> list[Product]:
    db = open_database(uri_of(var))
    with transaction(db):
        return products.every(db, active_only=True)


def _journal_lines(var: Var, ticker: str) -> list[str]:
    return var.journal_file(ticker).read_text().splitlines()


def _run_once(var: Var, *arguments: str) -> Process:
    with running(*_command("--once", *arguments), var=var.root) as demo:
        assert demo.wait(patience_seconds=150) == 0, demo.output
        return demo


def test_a_demo_makes_a_venue_that_trades(first: tuple[Var, Process]) -> None:
    var, demo = first
    for name in ("manager1", *TRADERS):
        assert demo.lines.count(f"Register user:  {name}") == 1
    for product in _products(var):
        assert re.fullmatch("[a-z]{4}", product.name)
        assert 9000 <= product.port <= 10000
        assert 1_000_000 <= product.unit_price <= 2_000_000
        assert (product.collar, product.band, product.breaker) == (100_000, 0, 0)
        for line in (
            f"Register ticker: {product.name} at port {product.port}",
            f"Running matchingserver for {product.name} at port {product.port}",
            f"Running logging utilities for  {product.name}",
        ):
            assert demo.lines.count(line) == 1
        assert unsettled(var, product.name) == 0
        assert any("match " in line for line in _journal_lines(var, product.name))
    for number in (1, 2):
        assert demo.lines.count(f"Running robot trader {number}") == 2
    assert "EMTE is at http://127.0.0.1:" in demo.output
    assert processes_of(var.root) == {}
    assert list(var.run_dir.glob("*.pid")) == []


def test_everybodys_password_is_the_username(first: tuple[Var, Process]) -> None:
    db = open_database(uri_of(first[0]))
    for name in ("manager1", "trader1", "trader9"):
        with transaction(db):
            credentials = accounts.find_credentials(db, name)
            user = accounts.get(db, credentials.owner or 0)
        assert accounts.check_password(credentials, name).right
        assert user is not None
        assert user.manager == (name == "manager1")


def test_the_robots_leave_trader1_alone(first: tuple[Var, Process]) -> None:
    db = open_database(uri_of(first[0]))
    with transaction(db):
        robots = {accounts.find_credentials(db, name).owner for name in TRADERS[1:]}
    for product in _products(first[0]):
        owners = {
            int(match[1])
            for line in _journal_lines(first[0], product.name)
            if (match := re.search(r"\] (\d+) (?:buy|sell) ", line))
        }
        assert len(owners) > 1
        assert owners <= {HOUSE} | robots


def test_a_second_demo_goes_on_where_the_first_one_ended(first: tuple[Var, Process]) -> None:
    var, _ = first
    known = _products(var)
    lines = {product.name: len(_journal_lines(var, product.name)) for product in known}
    again = _run_once(var, "--tickers", "2")
    assert "Register" not in again.output
    assert _products(var) == known
    for product in known:
        journal = _journal_lines(var, product.name)
        assert len(journal) > lines[product.name]
        ids = re.findall(r" id=(demo-\S+)", "\n".join(journal))
        assert len(ids) >= 20
        assert len(set(ids)) == len(ids)


def test_whoever_empties_a_side_finds_ten_levels_again_and_ctrl_c_ends_all(var: Var) -> None:
    with running(*_command("--tickers", "1"), var=var.root) as demo:
        demo.wait_for_line("Running robot trader 2")
        (product,) = _products(var)
        venue_key = config.load_venue_key(var)
        with BlockingClient(product.ws_url, ticker=product.name, key=venue_key) as venue:
            for side in ("buy", "sell"):
                answer = venue.send(f"999:{side} 500000")
                assert answer["status"] == "canceled"  # there was not so much on that side
                wait_until(
                    lambda venue=venue: _house_levels(venue) >= 20,
                    f"ten levels a side after a {side}",
                )
        assert demo.interrupt() == 0
        assert demo.lines[-1] == "stopped"
        assert processes_of(var.root) == {}


def _house_levels(venue: BlockingClient) -> int:
    """How many levels of the house there are, counting no more than ten a side."""
    orders = venue.open_orders(owner=HOUSE)["orders"]
    prices = {side: {o["price"] for o in orders if o["side"] == side} for side in ("buy", "sell")}
    return sum(min(10, len(levels)) for levels in prices.values())


def test_a_product_that_is_registered_meanwhile_is_traded_too(first: tuple[Var, Process]) -> None:
    var, _ = first
    db = open_database(uri_of(var))
    with transaction(db):
        manager = accounts.get(db, accounts.find_credentials(db, "manager1").owner or 0)
    assert manager is not None
    form = {"name": "intc", "unit_price": "50", "port": str(free_port()), "active": "on"}
    with running(*_command("--tickers", "2"), var=var.root) as demo:
        demo.wait_for_line("EMTE is at http://")
        with transaction(db, write=True):
            intc = products.register(db, products.validate(form), by=manager, at=now())
        demo.wait_for_line(f"^Running matchingserver for intc at port {intc.port}$")
        wait_until(lambda: pid_of(var.root, "robot-intc-2"), "its robots")
        form["active"] = ""
        with transaction(db, write=True):
            products.edit(db, intc.id, products.validate(form), by=manager, at=now())
        for robot in ("robot-intc-1", "robot-intc-2"):
            wait_until(lambda name=robot: pid_of(var.root, name) is None, f"the end of {robot}")
        # For whom they traded may have orders open, and still cancel them.
        key = config.load_venue_key(var)
        for owner in range(2, 11):
            cancel = f"{owner}:del intc all"
            with suppress(Away, Unanswered):  # it ends as soon as there are none
                asyncio.run(post_order(intc.post_url, cancel, key))
        wait_until(
            lambda: not any("intc" in command for command in processes_of(var.root).values()),
            "the end of its processes",
        )
        assert demo.terminate() == 0
    assert processes_of(var.root) == {}


def test_on_a_terminal_it_keeps_a_table_up_to_date(var: Var) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *_command("--tickers", "1", "--once")],
        cwd=ROOT,
        env={**os.environ, "EMTE_VAR": str(var.root)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        shown += data
    os.close(ours)
    assert process.wait() == 0
    assert shown.count(b"ticker ") > 2
    assert b"\x1b[2A\r\x1b[J" in shown


def test_a_demo_that_nobody_looks_at_any_more_goes_on_and_ends_whole(var: Var) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *_command("--tickers", "1")],
        cwd=ROOT,
        env={**os.environ, "EMTE_VAR": str(var.root)},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    while b"ticker " not in os.read(ours, 65536):
        pass
    os.close(ours)
    wait_until(lambda: pid_of(var.root, "web"), "the web app")
    (product,) = _products(var)
    wait_until(lambda: pid_of(var.root, f"robot-{product.name}-2"), "the robots")
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    assert processes_of(var.root) == {}


def test_a_taken_port_is_told_in_one_line_before_anything_is_made(var: Var) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with running("scripts/demo.py", "--port", str(port), var=var.root) as demo:
            assert demo.wait() == 69
            assert demo.lines == [
                f"demo: cannot listen on 127.0.0.1:{port}: address already in use"
            ]
    assert not var.database_file.exists()


def test_a_port_on_which_somebody_listens_is_not_given_to_a_product(
    first: tuple[Var, Process], var: Var
) -> None:
    """The same seed would give the same ports."""
    one, two = _products(first[0])
    with socket.create_server(("127.0.0.1", one.port)):
        _run_once(var, "--tickers", "2", "--seed", "1")
    again = {product.name: product.port for product in _products(var)}
    assert set(again) == {one.name, two.name}
    assert one.port not in again.values()


def test_a_ticker_that_cannot_trade_is_named(first: tuple[Var, Process]) -> None:
    var, _ = first
    product, _ = _products(var)
    program = "import sys; from scripts import demo; demo.ONCE_SECONDS = 4.0; demo.main()"
    with (
        socket.create_server(("127.0.0.1", product.port)),
        running("-c", program, *_command("--once", "--tickers", "2")[1:], var=var.root) as demo,
    ):
        assert demo.wait() == 69
        assert re.match(rf"demo: not traded within 4 s: .*\b{product.name}\b", demo.lines[-1])
        assert "exit code 69 (unavailable): matchingserver: cannot listen" in demo.output


@pytest.mark.parametrize("arguments", [("--tickers", "0"), ("--tickers", "x"), ("--port", "x")])
def test_usage(var: Var, arguments: tuple[str, ...]) -> None:
    with running("scripts/demo.py", *arguments, var=var.root) as demo:
        assert demo.wait() == 2


def test_its_help_has_two_examples(var: Var) -> None:
    with running("scripts/demo.py", "-h", var=var.root) as demo:
        assert demo.wait() == 0
        assert demo.output.count("python scripts/demo.py") == 2
