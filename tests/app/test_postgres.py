"""The platform on PostgreSQL: what a server that is killed means to traders, and odd text."""

from collections.abc import Iterator

import pytest

from app.models.products import Product
from tests.app.venue import JSON, Browser, Response, Web, running_log2db, running_match, running_web
from tests.cluster import Cluster, running_cluster
from tests.waiting import free_port, wait_until


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def web(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with running_web(tmp_path_factory.mktemp("var"), cluster.uri) as web:
        yield web


def _order(browser: Browser, product: Product, price: str) -> Response:
    form = {"product": product.id, "type": "buy", "quantity": "10", "price": price}
    return browser.post("/default/order", form, JSON)


@pytest.mark.parametrize("username", ["no\0body", "\0", "\0" * 50])
def test_a_nul_in_a_name_is_a_wrong_name(web: Web, username: str) -> None:
    answer = web.browser().post("/default/user/login", {"username": username, "password": "x"})
    assert answer.status == 403
    assert "Wrong username or password" in answer.text


def test_while_the_database_is_killed_pages_say_503_and_then_go_on(
    web: Web, cluster: Cluster
) -> None:
    manager, buyer = web.add_user("manager1", manager=True), web.add_user("buyer1")
    port = free_port()
    with running_match(web.var, "intc", port):
        product = web.add_product("intc", by=manager, port=port)
        web.wait_until_live(product)
        pandl, browser = f"/default/pandl.json/{product.id}", web.browser(buyer)
        journal = web.var.journal_file("intc")
        with running_log2db(web, "intc") as log2db:
            assert _order(browser, product, "50").status == 200
            wait_until(lambda: browser.get(pandl).json()["as_of"] > 0, "the order to be settled")
            cluster.kill()
            for answer in (
                browser.get(pandl),
                browser.get("/default/products", JSON),
                _order(browser, product, "51"),
            ):
                assert (answer.status, answer.error) == (503, "busy")
            assert (
                web.run(web.platform.markets.get(product.id).trading.send("0:buy intc 5@1"))["oid"]
                == 2
            )
            log2db.wait_for_line("the database is away")
            cluster.start()
            assert _order(browser, product, "52").json()["oid"] == 3
            wait_until(
                lambda: browser.get(pandl).json()["tied_up"]["open_buys"] == "1020.00",
                "what came meanwhile to be settled",
            )
    assert " buy 10@51" not in journal.read_text(), "refused is not sent"
