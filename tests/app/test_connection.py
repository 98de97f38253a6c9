"""[Test connection]: a product's form is compared with what stands behind its addresses."""

import asyncio
import gzip
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from app.controllers import connection
from app.models import products
from app.models.accounts import User
from app.models.products import Product
from matching import client
from matching.config import load_venue_key
from tests.app.venue import JSON, Browser, Web, running_match
from tests.waiting import free_port

PRODUCTS = "/default/products"


@pytest.fixture(scope="module")
def port(web: Web) -> Iterator[int]:
    """Where a matching server for `proof` listens: tick 0.05, lot 10, at 101.50."""
    port = free_port()
    terms = ("--tick", "0.05", "--lot", "10", "--price", "101.50")
    with running_match(web.var, "proof", port, *terms):
        yield port


@contextmanager
def answering(reply: bytes | None) -> Iterator[int]:
    """The port of a server that says the same to everybody, or (None) nothing."""
    listener = socket.create_server(("127.0.0.1", 0))
    clients: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            clients.append(client)
            if reply is not None:
                with suppress(OSError):  # who asked may have heard enough, and gone
                    client.recv(65536)
                    client.sendall(reply)
                    client.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for one in (listener, *clients):
            one.close()


def form(port: int, **changes: str) -> dict[str, str]:
    """The form that agrees with the matching server, but for `changes`."""
    right = {"name": "proof", "unit_price": "101.50", "tick": "0.05", "lot": "10"}
    return {**right, "port": str(port), "active": "on", "test": "connection", **changes}


def report(browser: Browser, fields: dict[str, str]) -> tuple[bool, list[str]]:
    answer = browser.post(PRODUCTS, fields, JSON)
    assert answer.status == 200, answer.text
    told = answer.json()["report"]
    return told["is_well"], told["lines"]


def test_a_form_that_agrees_with_its_matching_server_is_told_so(
    web: Web, manager: User, port: int
) -> None:
    told = report(web.browser(manager), form(port))
    line = f"All is well: proof answers at 127.0.0.1:{port}, with tick 0.05, lot 10, at 101.50"
    assert told == (True, [line])


def test_the_alarms_of_a_matching_server_are_shown(web: Web, manager: User) -> None:
    port = free_port()
    (web.var.journal_dir / "alarm.rejected").mkdir()
    with running_match(web.var, "alarm", port) as match:
        url = f"http://127.0.0.1:{port}"
        with suppress(client.Refused):
            asyncio.run(client.post_order(url, "7:del alarm 99", load_venue_key(web.var)))
        match.wait_for_line("alarm.rejected cannot be written")
        fields = form(port, name="alarm", unit_price="100", tick="0.01", lot="1")
        is_well, (line, alarm) = report(web.browser(manager), fields)
    assert not is_well
    assert line.endswith("at 100.00. Its operator is needed:")
    assert alarm.endswith("alarm.rejected cannot be written: Is a directory; trading goes on")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"name": "prof"}, "The ticker is proof there, and prof in this form"),
        ({"tick": "0.01"}, "The tick is 0.05 there, and 0.01 in this form"),
        ({"lot": "1"}, "The lot is 10 there, and 1 in this form"),
        ({"unit_price": "100"}, "The reference price is 101.50 there, and 100.00 in this form"),
    ],
)
def test_each_difference_has_its_sentence(
    web: Web, manager: User, port: int, changes: dict[str, str], line: str
) -> None:
    told = report(web.browser(manager), form(port, **changes))
    assert told[0] is False
    assert told[1][0] == line


def test_rules_that_differ_are_told_and_are_no_fault(web: Web, manager: User, port: int) -> None:
    is_well, lines = report(web.browser(manager), form(port, collar="5", max_position="9"))
    assert is_well
    assert lines[1:] == [
        "In force there: collar 0, max_position 0; it is told this form's when that is stored"
    ]


def test_a_test_stores_nothing_and_keeps_what_was_filled_in(
    web: Web, manager: User, port: int
) -> None:
    browser = web.browser(manager)
    page = browser.post(PRODUCTS, form(port, description="Not yet"))
    assert (page.status, 'value="Not yet"' in page.text) == (200, True)
    assert "✓ All is well" in page.text
    with web.database() as db:
        assert products.find(db, "proof") is None
    wrong = browser.post(PRODUCTS, form(port, tick="0"), JSON)
    assert (wrong.status, set(wrong.json()["errors"])) == (400, {"tick"})


def test_a_stored_product_is_tested_as_its_form_says(
    web: Web, manager: User, away: Product, port: int
) -> None:
    browser = web.browser(manager)
    path = f"/default/edit_product/{away.id}"
    assert "Test connection" in browser.get(path).text
    assert "✓ All is well" in browser.post(path, form(port)).text
    with web.database() as db:
        assert products.get(db, away.id) == away


def test_only_managers_test(web: Web, trader: User, port: int) -> None:
    answer = web.browser(trader).post(PRODUCTS, form(port), JSON)
    assert (answer.status, answer.error) == (403, "managers_only")


def test_who_does_not_answer_is_named(
    web: Web, manager: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = web.browser(manager)
    nobody = free_port()
    told = report(browser, form(nobody))
    assert told == (
        False,
        [f"http://127.0.0.1:{nobody}/quote gives no answer: connection refused"],
    )
    monkeypatch.setattr(connection, "WAIT_SECONDS", 0.2)
    with answering(None) as silent:
        told = report(browser, form(silent))
    assert told[1] == [f"http://127.0.0.1:{silent}/quote gives no answer: nothing within 0.2 s"]


BOMB = gzip.compress(b"1" * 50_000_000)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: "


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: /query\r\nContent-Length: 0\r\n\r\n", "status 302"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "status 404"),
        (OK + b"5000000\r\n\r\n" + b"1" * 100_000, "closes the connection"),
        (OK + b"%d\r\nContent-Encoding: gzip\r\n\r\n" % len(BOMB) + BOMB, "with a price"),
        (OK + b"5\r\n\r\n<scri", "with a price"),
        (OK + b"6\r\n\r\n100.00", "with the state of a product"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "speaks no HTTP"),
    ],
)
def test_strange_servers_are_neither_followed_nor_believed(
    web: Web, manager: User, reply: bytes, words: str
) -> None:
    with answering(reply) as port:
        is_well, lines = report(web.browser(manager), form(port))
    assert not is_well
    assert len(lines) == 1
    assert words in lines[0]
